"""pyarchiver list ARCHIVE [PATH...]"""

from __future__ import annotations

from pathlib import Path

import click

from pyarchiver.cmd.console import Console, with_console
from pyarchiver.cmd.files import ARCHIVE
from pyarchiver.formats.errors import SettingsError


@click.command(
    "list",
    epilog="\b\nExamples:\n"
    "  pyarchiver list photos.archive\n"
    "  pyarchiver list photos.archive 2019 '*.xmp' --long --snapshot 3",
)
@click.argument("archive", type=ARCHIVE)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--snapshot", type=click.IntRange(1), metavar="N", help="As of snapshot N.")
@click.option("-l", "--long", is_flag=True, help="Mode, owner, size and time too.")
@click.option("--deleted", is_flag=True, help="What was deleted from the source too, marked.")
@with_console
def command(
    console: Console, archive: Path, paths: tuple[str, ...], snapshot: int | None,
    long: bool, deleted: bool,
) -> int:  # fmt: skip
    """List what is in ARCHIVE: all that was in the source at the last run.

    PATHs select files, folders, or patterns. Names that cannot be printed are escaped. Needs
    neither the password nor the storage.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.listing import listing
    from pyarchiver.cas.planner import unmatched
    from pyarchiver.cas.progress import show
    from pyarchiver.cas.select import Selection
    from pyarchiver.cmd.listing import long_text, node_fields, path_fields

    if deleted and snapshot:
        raise SettingsError("--deleted lists all that ever was: leave out --snapshot")
    with Catalogue.open(archive, write=False) as catalogue:
        selection = Selection(catalogue, snapshot, True, paths)
        listed = console.rows(
            (
                {**path_fields(row.path), **node_fields(row.node), "deleted": row.deleted},
                (long_text(row.path, row.node) if long else show(row.path))
                + ("  (deleted)" if row.deleted else ""),
            )
            for row in listing(catalogue, selection, deleted=deleted)
        )
    for text in sorted(selection.unmatched):
        console.problem(unmatched(text))
    return console.result({"archive": str(archive), "snapshot": snapshot, "paths": listed})
