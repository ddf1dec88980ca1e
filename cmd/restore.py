"""pyarchiver restore ARCHIVE DEST [PATH...]"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.files import ARCHIVE, AnyPath
from pyarchiver.cmd.listing import time_text
from pyarchiver.cmd.secrets import read_secret, reading_options

if TYPE_CHECKING:
    from pyarchiver.cas.cost import Estimate
    from pyarchiver.cas.planner import PlanResult, RestoreResult

privileges_option = click.option(
    "--privileges",
    is_flag=True,
    help="Restore set-id bits and security attributes too; with root's rights only.",
)


@click.command(
    "restore",
    epilog="\b\nExamples:\n"
    "  pyarchiver restore photos.archive ~/restored\n"
    "  pyarchiver restore photos.archive ~/restored 2019/wedding '*.xmp'\n"
    "  pyarchiver restore photos.archive ~/as-it-was --snapshot 3",
)
@click.argument("archive", type=ARCHIVE)
@click.argument("dest", type=AnyPath())
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--snapshot", type=click.IntRange(1), metavar="N", help="As of snapshot N.")
@click.option("--exact", is_flag=True, help="Leave out what was deleted from the source.")
@click.option(
    "--plan",
    "plan_only",
    is_flag=True,
    help="Say what would be read, how long it takes and what it costs; ask the storage nothing.",
)
@click.option(
    "--wait", is_flag=True, help="Stay until cold objects are thawed, for days if need be."
)
@click.option(
    "--max-cost",
    type=click.FloatRange(0),
    metavar="AMOUNT",
    help="Refuse where it would cost more, before anything is asked for.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there and differ.")
@privileges_option
@reading_options
@with_console
def command(
    console: Console, archive: Path, dest: Path, paths: tuple[str, ...], snapshot: int | None,
    exact: bool, plan_only: bool, wait: bool, max_cost: float | None, overwrite: bool,
    privileges: bool, password_file: Path | None, recovery_code: bool,
) -> int:  # fmt: skip
    """Get files back from the storage into the folder DEST, which mirrors the source.

    Restores the latest state of every path ever archived, deleted ones included. PATHs select
    files, folders, or patterns. What is in DEST already and equal is kept.

    From cold storage: what is cold is asked for, as much at a time as can be fetched while it is
    readable; then the command ends with exit code 4 and says when to run it again. It goes on
    where it was, into whatever DEST, and no thaw is paid twice.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.planner import Request, select
    from pyarchiver.cas.readback import plan_back, restore_back
    from pyarchiver.cas.unlock import unlock

    request = Request(snapshot, exact, paths, overwrite, privileges)
    with Catalogue.open(archive, write=False) as catalogue:
        if plan_only:
            return _report_plan(console, *plan_back(catalogue, request, console))
        select(catalogue, request)
        keys = unlock(catalogue, read_secret(password_file, recovery_code))
        result = restore_back(catalogue, keys, dest, request, console, wait=wait, max_cost=max_cost)
    return report(console, dest, result)


def report(console: Console, dest: Path, result: RestoreResult) -> int:
    """Print what a restore did."""
    rate = size_text(int(result.written / console.elapsed()))
    kept = f"; {count_text(result.kept, 'was', 'were')} there already" if result.kept else ""
    links = f" and {count_text(result.symlinks, 'symbolic link')}" if result.symlinks else ""
    return console.result(
        {"destination": str(dest), **asdict(result)},
        f"{dest}: restored {count_text(result.restored - result.symlinks, 'file')}{links}, "
        f"{size_text(result.written)} ({rate}/s){kept}",
        f"read {size_text(result.read)} from {count_text(result.objects, 'object')}",
        *waiting_lines(result.waiting, result.waiting_size, result.ready),
        waiting=result.waiting > 0,
    )


def waiting_lines(count: int, size: int, ready: float | None) -> list[str]:
    """What is not readable yet, and when to come back."""
    if not count:
        return []
    about = f"; the first can be read about {time_text(int(ready * 10**9))}" if ready else ""
    return [
        f"waiting for the thaw of {count_text(count, 'object')}, {size_text(size)}{about}",
        "run the same command again then: it goes on where it was",
    ]


def _report_plan(console: Console, result: PlanResult, takes: Estimate) -> int:
    objects: list[dict[str, Any]] = [
        # Headers are read apart from the rest: more may be fetched than there is.
        {"name": need.row.name, "size": need.row.size, "read": min(need.read, need.row.size),
         "wanted": need.wanted}
        for need in result.needed
    ]  # fmt: skip
    deleted = (
        f"{size_text(result.deleted)} of it belong to deleted paths, " if result.deleted else ""
    )
    fields = {
        "files": result.files, "size": result.size, "read": takes.download, "objects": objects,
        "lost": result.lost, "deleted": result.deleted, "deleted_shared": result.deleted_shared,
        "estimate": {**asdict(takes), "amplification": takes.amplification},
    }  # fmt: skip
    return console.result(
        fields,
        f"would write {count_text(result.files, 'file')}, {size_text(result.size)}",
        *([f"{deleted}{size_text(result.deleted_shared)} of that are also elsewhere"]
          if deleted else []),
        *(estimate_lines(takes) if objects else []),
        *(f"  {need['name']}  {size_text(need['read'])} of {size_text(need['size'])}"
          for need in objects),
        asked=True,
    )  # fmt: skip


def estimate_lines(takes: Estimate) -> list[str]:
    """What is thawed, how long it takes, what it costs."""
    import humanize

    from pyarchiver.cas.cost import money

    cost = f"{'about ' if takes.cost else ''}{money(takes.cost, takes.currency)}"
    thawed = f"would thaw {count_text(takes.thaws, 'object')}, {_each(takes, takes.thaw_size)}; "
    minutes = 60 * max(1, round(takes.seconds / 60))
    return [
        f"{thawed if takes.thaws else ''}would download {_each(takes, takes.download)} from "
        f"{count_text(takes.objects, 'object')}",
        f"expected time: {humanize.precisedelta(minutes, minimum_unit='minutes')}; cost: {cost}",
    ]


def _each(takes: Estimate, size: int) -> str:
    each = f" ({size / takes.wanted:.2f} bytes for each that is wanted)" if takes.wanted else ""
    return size_text(size) + each
