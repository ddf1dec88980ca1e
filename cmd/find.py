"""pyarchiver find ARCHIVE PATTERN"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.files import ARCHIVE
from pyarchiver.formats.errors import SettingsError

if TYPE_CHECKING:
    from pyarchiver.cas.find import Found

_DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from pyarchiver.cas.units import parse_size

        try:
            return parse_size(value)
        except SettingsError as error:
            self.fail(str(error), param, ctx)


_Date = click.DateTime(_DATES)


@click.command(
    "find",
    epilog="\b\nExamples:\n"
    "  pyarchiver find photos.archive 'IMG_04*.CR3'\n"
    "  pyarchiver find photos.archive '*.mov' --larger 1GB --newer 2019-06-01",
)
@click.argument("archive", type=ARCHIVE)
@click.argument("pattern")
@click.option("--larger", type=_Size(), metavar="SIZE", help="Of at least SIZE, such as 10MB.")
@click.option("--smaller", type=_Size(), metavar="SIZE", help="Of at most SIZE.")
@click.option("--newer", type=_Date, metavar="DATE", help="Modified on DATE or later.")
@click.option("--older", type=_Date, metavar="DATE", help="Modified before DATE.")
@with_console
def command(
    console: Console, archive: Path, pattern: str, larger: int | None, smaller: int | None,
    newer: datetime | None, older: datetime | None,
) -> int:  # fmt: skip
    """Find files in all snapshots of ARCHIVE, and the packs in which they lie.

    PATTERN is one of gitignore: a name finds it in any folder, a folder all that is in it. Each
    version is told with the snapshots that have it. Needs neither the password nor the storage.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.find import Filters, find

    filters = Filters(larger, smaller, _nanoseconds(newer), _nanoseconds(older))
    with Catalogue.open(archive, write=False) as catalogue:
        found = console.rows(
            (_fields(state), _text(state)) for state in find(catalogue, pattern, filters)
        )
    if not console.printed and not found:
        console.notice(f"nothing found: no version of any file matches {pattern} and the options")
    return console.result({"archive": str(archive), "found": found})


def _nanoseconds(date: datetime | None) -> int | None:
    return None if date is None else int(date.timestamp()) * 10**9


def _fields(state: Found) -> dict[str, Any]:
    from pyarchiver.cmd.listing import node_fields, path_fields

    return {
        **path_fields(state.path), **node_fields(state.node),
        "first_snapshot": state.first, "last_snapshot": state.last, "packs": state.packs,
    }  # fmt: skip


def _text(state: Found) -> str:
    from pyarchiver.cas.progress import show
    from pyarchiver.cmd.listing import time_text

    if state.last is None:
        snapshots = f"snapshot {state.first} on"
    elif state.last == state.first:
        snapshots = f"snapshot {state.first}"
    else:
        snapshots = f"snapshots {state.first} to {state.last}"
    line = (
        f"{show(state.path)}  {size_text(state.node.size)}  {time_text(state.node.mtime)}"
        f"  {snapshots}"
    )
    return "\n".join([line, *(f"    in {pack}" for pack in state.packs)])
