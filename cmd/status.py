"""pyarchiver status ARCHIVE"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyarchiver.cas.progress import show
from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.files import ARCHIVE

if TYPE_CHECKING:
    from pyarchiver.cas.status import Status


@click.command("status", epilog="\b\nExample:\n  pyarchiver status photos.archive")
@click.argument("archive", type=ARCHIVE)
@with_console
def command(console: Console, archive: Path) -> int:
    """Tell what ARCHIVE holds: its snapshots, its objects, and what a resume would complete.

    Works during a run. Needs neither the password, nor the source, nor the storage.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.status import status

    with Catalogue.open(archive, write=False) as catalogue:
        found = status(catalogue)
    fields = {
        "archive": str(archive), **asdict(found),
        "deduplication": found.deduplication, "compression": found.compression,
    }  # fmt: skip
    return console.result(fields, *_lines(console, archive, found), asked=True)


def _lines(console: Console, archive: Path, found: Status) -> Iterator[str]:
    yield f"{archive}: {show(os.fsencode(found.source))} in {found.url}"
    if found.deletion:
        yield {
            "begun": "it is being deleted: pyarchiver delete goes on",
            "deleted": "it is deleted: its objects are gone",
        }[found.deletion]
    yield from _snapshots(console, found)
    if found.objects:
        yield f"{size_text(found.versions_size)} in all versions of all files"
        chunks = f"{size_text(found.chunks_size)} in {count_text(found.chunks, 'distinct chunk')}"
        yield chunks + _ratio("deduplication", found.deduplication)
        yield f"{size_text(found.stored)} stored" + _ratio("compression", found.compression)
        yield ""
        yield from console.table(
            ("objects", "state", ">number", ">size"),
            [(row.kind, row.state, f"{row.count:,}", size_text(row.size)) for row in found.objects],
        )
    yield from _to_do(found)
    yield from _thaws(console, found)


def _ratio(name: str, value: float | None) -> str:
    return "" if value is None else f": {name} {value:.2f}"


def _snapshots(console: Console, found: Status) -> Iterator[str]:
    from pyarchiver.cmd.listing import time_text

    if not found.snapshots:
        yield "no snapshot yet"
        return
    yield ""
    yield from console.table(
        (">snapshot", "ended", ">files", ">size", ">new or changed", ">gone", ">stored"),
        [
            (
                str(row.snapshot), time_text(row.ended), f"{row.files:,}", size_text(row.size),
                f"{row.new:,}", f"{row.gone:,}", size_text(row.stored),
            )
            for row in found.snapshots
        ],
    )  # fmt: skip
    yield ""


def _to_do(found: Status) -> Iterator[str]:
    staged = [row for row in found.objects if row.state == "staged"]
    if staged:
        count, size = sum(row.count for row in staged), sum(row.size for row in staged)
        what = f"{count_text(count, 'object')}, {size_text(size)}"
        yield f"to be sent: {what}: pyarchiver resume does that"
    if found.interrupted:
        yield f"run {found.interrupted} is not complete: pyarchiver resume completes it"
    if found.slots_unsent:
        yield "the new password or recovery code is in no object yet: pyarchiver resume sends it"
    if found.settings_unsent:
        yield "the changed settings are in no object yet: pyarchiver resume sends them"


def _thaws(console: Console, found: Status) -> Iterator[str]:
    from pyarchiver.cmd.listing import time_text

    words = {
        "thawing": "thawing until about", "thawed": "thawed until",
        "readable": "can be read since about",
    }  # fmt: skip
    rows = [
        (row.name, size_text(row.size), words[row.state],
         time_text(int((row.until or row.ready) * 10**9)))
        for row in found.thaws
    ]  # fmt: skip
    if rows:
        yield ""
        yield from console.table(("thaw", ">size", "state", "time"), rows)
