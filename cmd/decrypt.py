"""pyarchiver decrypt SOURCE DEST [PASSWORD]"""

from __future__ import annotations

from pathlib import Path

import click

from pyarchiver.cmd.console import Console, with_console
from pyarchiver.cmd.files import AnyPath
from pyarchiver.cmd.restore import privileges_option, report
from pyarchiver.cmd.secrets import read_secret, reading_options
from pyarchiver.formats import recovery


@click.command("decrypt", epilog="\b\nExample:\n  pyarchiver decrypt ~/downloads ~/restored")
@click.argument("source", type=AnyPath())
@click.argument("dest", type=AnyPath())
@click.argument("password", required=False)
@click.option("--overwrite", is_flag=True, help="Replace files that are there and differ.")
@privileges_option
@reading_options
@with_console
def command(
    console: Console, source: Path, dest: Path, password: str | None, overwrite: bool,
    privileges: bool, password_file: Path | None, recovery_code: bool,
) -> int:  # fmt: skip
    """Get files back from downloaded objects, with nothing but them and the password.

    SOURCE is a folder of objects (packs, and manifests if there are any), or one object. Whatever
    can be restored is; each file that cannot names the objects that are missing. A PASSWORD given
    as an argument can be seen by other users of this machine: the prompt is better.
    """
    from pyarchiver.cas.decrypt import decrypt
    from pyarchiver.cas.planner import Request

    if password is None:
        secret = read_secret(password_file, recovery_code)
    else:
        secret = recovery.decode(password) if recovery_code else password
        console.notice("a secret on the command line can be seen by others: better be asked")
    request = Request(overwrite=overwrite, privileges=privileges)
    result = decrypt(source, dest, secret, request, console)
    return report(console, dest, result)
