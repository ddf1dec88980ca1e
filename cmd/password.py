"""pyarchiver password ARCHIVE"""

from __future__ import annotations

from pathlib import Path

import click

from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, with_console
from pyarchiver.cmd.files import ARCHIVE, AnyPath
from pyarchiver.cmd.secrets import (
    NEW_PASSWORD_VARIABLE,
    new_password,
    read_secret,
    reading_options,
)
from pyarchiver.formats.errors import SettingsError


@click.command(
    "password",
    epilog="\b\nExamples:\n"
    "  pyarchiver password photos.archive\n"
    "  pyarchiver password photos.archive --recovery-code\n"
    "  pyarchiver password photos.archive --new-recovery-code",
)
@click.argument("archive", type=ARCHIVE)
@click.option(
    "--new-password-file",
    type=AnyPath(dir_okay=False),
    metavar="FILE",
    help=f"Read the new password from FILE; otherwise from ${NEW_PASSWORD_VARIABLE} or a prompt.",
)
@click.option("--weak-password", is_flag=True, help="Accept a password that can be guessed.")
@click.option(
    "--new-recovery-code", is_flag=True,
    help="Make a new recovery code instead, and print it once; the password stays.",
)  # fmt: skip
@reading_options
@with_console
def command(
    console: Console, archive: Path, new_password_file: Path | None, weak_password: bool,
    new_recovery_code: bool, password_file: Path | None, recovery_code: bool,
) -> int:  # fmt: skip
    """Change the password of ARCHIVE, for all objects that are written from now on.

    Asks for the present password first, or with --recovery-code for the recovery code. Objects
    that are stored already cannot be changed: they still open with what opened them before, for
    whoever has them. If that is known to somebody who must not read them, make a new archive.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.password import change_password, change_recovery_code
    from pyarchiver.cas.unlock import unlock

    with Catalogue.open(archive, write=True) as catalogue:
        catalogue.refuse_deleted()
        secret = read_secret(password_file, recovery_code, "present password")
        own = unlock(catalogue, secret)
        before = catalogue.count_sealed()
        fields = {"archive": str(archive), "objects_before": before}
        if new_recovery_code:
            code = change_recovery_code(catalogue, own, console.recovery_code)
            fields["recovery_code"] = code
        else:
            password = new_password(
                console, new_password_file, weak_password,
                "new password", NEW_PASSWORD_VARIABLE, "--new-password-file",
            )  # fmt: skip
            if password == secret:
                raise SettingsError("that is the present password: nothing was changed")
            change_password(catalogue, own, password)
    what = "recovery code" if new_recovery_code else "password"
    return console.result(
        fields,
        f"{archive}: the new {what} opens it, and all objects written from now on",
        f"{count_text(before, 'object')} written before: still open with the old {what}, for "
        "whoever has them",
        f"next: pyarchiver resume {archive} (until then only {archive.name} has the new {what}, "
        "and no object)",
    )
