"""pyarchiver thaw ARCHIVE [PATH...]"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.files import ARCHIVE
from pyarchiver.cmd.listing import time_text


@click.command(
    "thaw", epilog="\b\nExample:\n  pyarchiver thaw photos.archive 2019/wedding --max-cost 5"
)
@click.argument("archive", type=ARCHIVE)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--snapshot", type=click.IntRange(1), metavar="N", help="As of snapshot N.")
@click.option("--exact", is_flag=True, help="Leave out what was deleted from the source.")
@click.option(
    "--max-cost",
    type=click.FloatRange(0),
    metavar="AMOUNT",
    help="Refuse where it would cost more, before anything is asked for.",
)
@with_console
def command(
    console: Console, archive: Path, paths: tuple[str, ...], snapshot: int | None, exact: bool,
    max_cost: float | None,
) -> int:  # fmt: skip
    """Ask cold storage for what a restore of PATHs would need, and restore nothing.

    Asks for as much as can be fetched while it is readable; what is thawed or asked for already is
    not asked for again. Needs no password. `restore` goes on from there. Exit code 4 as long as
    anything is not readable yet.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.planner import Request
    from pyarchiver.cas.readback import thaw

    with Catalogue.open(archive, write=False) as catalogue:
        result = thaw(catalogue, Request(snapshot, exact, paths), console, max_cost)
    lines = [
        f"{count_text(result.objects, 'object')}, {size_text(result.size)}: "
        f"{result.readable:,} can be read now, {count_text(result.under_way, 'is', 'are')} "
        f"thawing, {result.asked:,} of them asked for just now"
    ]
    if result.later:
        lines.append(f"{result.later:,} will be asked for as the others are fetched")
    if result.ready:
        lines.append(f"the first can be read about {time_text(int(result.ready * 10**9))}")
    waiting = result.readable < result.objects
    return console.result({"archive": str(archive), **asdict(result)}, *lines, waiting=waiting)
