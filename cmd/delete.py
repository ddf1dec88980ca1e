"""pyarchiver delete ARCHIVE"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.files import ARCHIVE
from pyarchiver.formats.errors import ArchiverError, SettingsError

if TYPE_CHECKING:
    from pyarchiver.cas.cost import Fee


@click.command("delete", epilog="\b\nExample:\n  pyarchiver delete photos.archive")
@click.argument("archive", type=ARCHIVE)
@click.option("--yes", is_flag=True, help="Do not ask for the archive's name.")
@with_console
def command(console: Console, archive: Path, yes: bool) -> int:
    """Delete from the storage all objects that ARCHIVE lists, for good.

    The source folder is never touched, and neither is anything else in the storage. ARCHIVE stays,
    and says that it is deleted. If interrupted, run it again. Cold storage may bill a minimum time
    for what is deleted early: how much, is said first.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.delete import DeleteResult, delete, fee

    with Catalogue.open(archive, write=True) as catalogue:
        fields = {"archive": str(archive), "name": catalogue.name}
        if catalogue.deleted:
            none = asdict(DeleteResult())
            return console.result(
                {**fields, **none}, f"{archive} is deleted already: nothing to do"
            )
        count, size = catalogue.remaining_size()
        what = f"{count_text(count, 'object')}, {size_text(size)}, in {catalogue.url}"
        early = fee(catalogue)
        what += _fee_text(early)
        if yes:
            console.notice(f"deleting for good: {what}")
        else:
            _ask(catalogue.name, f"to be deleted for good: {what}")
        result = delete(catalogue, console)
    return console.result(
        {**fields, **asdict(result), "early_deletion": asdict(early)},
        f"{archive}: deleted {count_text(result.objects, 'object')}, {size_text(result.size)}",
    )


def _fee_text(fee: Fee) -> str:
    if not fee.objects:
        return ""
    from pyarchiver.cas.cost import money

    young = count_text(fee.objects, "of them is", "of them are")
    return (
        f"; {young} younger than the storage's minimum and charged for up to "
        f"{count_text(round(fee.days), 'day')} more; what that costs: "
        f"{money(fee.cost, fee.currency)}"
    )


def _ask(name: str, what: str) -> None:
    if not sys.stdin.isatty():
        raise SettingsError("cannot ask for the archive's name without a terminal: use --yes")
    click.echo(what, err=True)
    try:
        answer = click.prompt(f"type the archive's name, {name}, to delete it", err=True)
    except click.Abort:
        click.echo(err=True)  # What is said then does not begin behind the ^C.
        raise
    if answer.strip() != name:
        raise ArchiverError(f"that is not {name}: nothing was deleted")
