"""pyarchiver update ARCHIVE"""

from __future__ import annotations

from pathlib import Path

import click

from pyarchiver.cmd.console import Console, with_console
from pyarchiver.cmd.files import ARCHIVE


@click.command("update", epilog="\b\nExample:\n  pyarchiver update photos.archive")
@click.argument("archive", type=ARCHIVE)
@with_console
def command(console: Console, archive: Path) -> int:
    """Bring an ARCHIVE that an older pyarchiver made up to date.

    Keeps a copy of it as it was, such as photos.archive.v1. Nothing in the storage changes.
    """
    from pyarchiver.cas.migrations import update

    result = update(archive, console)
    copy = str(result.copy) if result.copy else None
    fields = {"archive": str(archive), "from": result.before, "to": result.after, "copy": copy}
    if copy is None:
        return console.result(
            fields, f"{archive} is of version {result.after} already: nothing to do"
        )
    return console.result(
        fields,
        f"{archive}: updated from version {result.before} to {result.after}",
        f"as it was: {copy}",
    )
