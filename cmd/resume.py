"""pyarchiver resume ARCHIVE"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.files import ARCHIVE

if TYPE_CHECKING:
    from pyarchiver.cas.archiver import RunResult


@click.command("resume", epilog="\b\nExample:\n  pyarchiver resume photos.archive")
@click.argument("archive", type=ARCHIVE)
@click.option("--rehash", is_flag=True, help="Read every file again, unchanged ones too.")
@click.option("--allow-empty", is_flag=True, help="Accept a source that has become empty.")
@with_console
def command(console: Console, archive: Path, rehash: bool, allow_empty: bool) -> int:
    """Complete an interrupted run, and add what is new or changed.

    Needs no password. If nothing has changed, nothing is written to the storage.
    """
    from pyarchiver.cas import archiver
    from pyarchiver.cas.catalogue import Catalogue

    with Catalogue.open(archive, write=True) as catalogue:
        result = archiver.resume(catalogue, console, rehash=rehash, allow_empty=allow_empty)
    return report(console, archive, result)


def report(console: Console, archive: Path, result: RunResult, **more: str) -> int:
    """Print what a run did."""
    rate = size_text(int(result.read / console.elapsed()))
    did = (
        f"read {count_text(result.changed, 'new or changed file')}, {size_text(result.read)} "
        f"({rate}/s); "
        f"stored {size_text(result.stored)} in {count_text(result.objects, 'object')}"
        if result.new
        else "nothing new"
    )
    return console.result(
        {"archive": str(archive), **asdict(result), **more},
        f"{archive}: {count_text(result.files, 'file')}, {size_text(result.size)}",
        did,
        f"snapshot {result.snapshot}:{result.head}",
    )
