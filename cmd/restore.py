"""pyarchiver restore ARCHIVE DEST [PATH...]"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.secrets import read_secret, reading_options

if TYPE_CHECKING:
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
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("dest", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--snapshot", type=click.IntRange(1), metavar="N", help="As of snapshot N.")
@click.option("--exact", is_flag=True, help="Leave out what was deleted from the source.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be read; read nothing.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there and differ.")
@privileges_option
@reading_options
@with_console
def command(
    console: Console, archive: Path, dest: Path, paths: tuple[str, ...], snapshot: int | None,
    exact: bool, plan_only: bool, overwrite: bool, privileges: bool, password_file: Path | None,
    recovery_code: bool,
) -> int:  # fmt: skip
    """Get files back from the storage into the folder DEST, which mirrors the source.

    Restores the latest state of every path ever archived, deleted ones included. PATHs select
    files, folders, or patterns. What is in DEST already and equal is kept.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.planner import Request, plan, select
    from pyarchiver.cas.restore import restore
    from pyarchiver.cas.settings import settings_of
    from pyarchiver.cas.storage import open_storage
    from pyarchiver.cas.unlock import unlock

    request = Request(snapshot, exact, paths, overwrite, privileges)
    with Catalogue.open(archive, write=False) as catalogue:
        if plan_only:
            return _report_plan(console, plan(catalogue, request, console))
        select(catalogue, request)
        keys = unlock(catalogue, read_secret(password_file, recovery_code))
        with closing(open_storage(settings_of(catalogue))) as storage:
            storage.check()
            result = restore(catalogue, storage, keys, dest, request, console)
    return report(console, dest, result)


def report(console: Console, dest: Path, result: RestoreResult) -> int:
    """Print what a restore did."""
    rate = size_text(int(result.written / console.elapsed()))
    kept = f"; {result.kept:,} were there already" if result.kept else ""
    return console.result(
        {"destination": str(dest), **asdict(result)},
        f"{dest}: restored {result.restored:,} files, {size_text(result.written)} ({rate}/s){kept}",
        f"read {size_text(result.read)} from {result.objects} objects",
    )


def _report_plan(console: Console, result: PlanResult) -> int:
    objects = [
        {"name": need.row.name, "size": need.row.size, "read": need.read, "wanted": need.wanted}
        for need in result.needed
    ]
    read = sum(need.read for need in result.needed)
    return console.result(
        {"files": result.files, "size": result.size, "read": read, "objects": objects},
        f"would write {result.files:,} files, {size_text(result.size)}",
        f"would read {size_text(read)} from {len(objects)} objects:",
        *(f"  {need.row.name}  {size_text(need.read)} of {size_text(need.row.size)}"
          for need in result.needed),
    )  # fmt: skip
