"""pyarchiver start INI"""

from __future__ import annotations

from pathlib import Path

import click

from pyarchiver.cmd.console import Console, with_console
from pyarchiver.cmd.files import INI
from pyarchiver.cmd.resume import report
from pyarchiver.cmd.secrets import new_password, password_file


@click.command("start", epilog="\b\nExample:\n  pyarchiver start photos.ini")
@click.argument("ini", type=INI)
@password_file
@click.option("--weak-password", is_flag=True, help="Accept a password that can be guessed.")
@with_console
def command(console: Console, ini: Path, password_file: Path | None, weak_password: bool) -> int:
    """Make a new archive from INI, and archive its source.

    Makes NAME.archive beside INI, which is then no longer needed. Prints the recovery code, once:
    it opens the archive if the password is lost. A weak password is refused at the prompt, unless
    with --weak-password; one from a file or the environment is taken, with a warning.
    """
    from pyarchiver.cas import create
    from pyarchiver.cas.ini import read_ini

    settings = read_ini(ini)
    archive = create.archive_path(settings, ini.resolve().parent)
    settings = create.check(settings, archive)
    password = new_password(console, password_file, weak_password)
    catalogue, code = create.create(settings, archive, password, console.recovery_code)
    with catalogue:
        # While the password's key is being derived: this takes long as well.
        from pyarchiver.cas import archiver

        result = archiver.resume(catalogue, console)
    return report(console, archive, result, recovery_code=code)
