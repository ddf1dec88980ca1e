"""pyarchiver kit ARCHIVE DIR"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyarchiver.cmd.console import Console, with_console
from pyarchiver.cmd.files import ARCHIVE, AnyPath
from pyarchiver.cmd.secrets import CODE_VARIABLE, ask

if TYPE_CHECKING:
    from pyarchiver.cas.catalogue import Catalogue


@click.command("kit", epilog="\b\nExample:\n  pyarchiver kit photos.archive ~/for-the-drawer")
@click.argument("archive", type=ARCHIVE)
@click.argument("folder", metavar="DIR", type=AnyPath(file_okay=False))
@click.option("--no-code", is_flag=True, help="Leave a blank for the recovery code; do not ask.")
@click.option("--force", is_flag=True, help="Overwrite a kit that is in DIR.")
@with_console
def command(console: Console, archive: Path, folder: Path, no_code: bool, force: bool) -> int:
    """Write into DIR what gives the files back without pyarchiver, to be kept in a drawer.

    READ-ME.html is a page to print: where the objects are, the recovery code as text and QR code,
    and what to do. rescue.py restores downloaded objects by itself, FORMAT.md specifies them. The
    recovery code is asked for, or taken from $PYARCHIVER_RECOVERY_CODE; ARCHIVE does not know it.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.kit import PAGE, write_kit

    with Catalogue.open(archive, write=False) as catalogue:
        catalogue.refuse_deleted()
        code = "" if no_code else _code(console, catalogue)
        files = write_kit(catalogue, folder, code, overwrite=force)
    todo = (
        "print it, delete it here: it shows the recovery code"
        if code
        else "print it, and write the recovery code in"
    )
    return console.result(
        {"archive": str(archive), "files": [str(path) for path in files], "code": bool(code)},
        f"wrote {', '.join(path.name for path in files)} into {folder}",
        f"next: open {folder / PAGE} in a browser, {todo}",
    )


def _code(console: Console, catalogue: Catalogue) -> str:
    """The recovery code as it is printed, once it has opened the archive; empty for a blank."""
    from pyarchiver.cas.unlock import unlock
    from pyarchiver.formats import recovery

    text = os.environ.get(CODE_VARIABLE)
    if text is None and sys.stdin.isatty():
        text = ask("recovery code (empty: a blank to write it in by hand)")
    if not text:
        console.notice(
            f"no recovery code was given (${CODE_VARIABLE}): the page has a blank for it"
        )
        return ""
    secret = recovery.decode(text)
    unlock(catalogue, secret)
    return recovery.encode(secret)
