"""pyarchiver diff ARCHIVE [N [M]]"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyarchiver.cmd.console import Console, with_console
from pyarchiver.cmd.files import ARCHIVE

if TYPE_CHECKING:
    from pyarchiver.cas.diff import Difference

_WORDS = {
    "added": "added", "deleted": "deleted", "modified": "modified",
    "properties": "with other properties", "type": "of another type",
}  # fmt: skip


@click.command(
    "diff",
    epilog="\b\nExamples:\n  pyarchiver diff photos.archive\n  pyarchiver diff photos.archive 3 4",
)
@click.argument("archive", type=ARCHIVE)
@click.argument("old", metavar="[N]", type=click.IntRange(1), required=False)
@click.argument("new", metavar="[M]", type=click.IntRange(1), required=False)
@with_console
def command(console: Console, archive: Path, old: int | None, new: int | None) -> int:
    """Tell what differs from snapshot N to snapshot M, or to the source as it is now.

    Without N and M: what a resume would archive. Each line is a letter and a path: A added,
    D deleted, M modified, P properties (mode, owner, time, attributes) only, T another type. In
    the source no file is read: M is what has another size or time there. Needs neither the
    password nor the storage; exit code 0 whatever is found.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.diff import against_source, between

    counts: Counter[str] = Counter()

    def counted(found: Iterable[Difference]) -> Iterator[tuple[dict[str, Any], str]]:
        from pyarchiver.cas.progress import show
        from pyarchiver.cmd.listing import path_fields

        for path, change in found:
            counts[change.name.lower()] += 1
            yield {"change": change.value, **path_fields(path)}, f"{change.value} {show(path)}"

    with Catalogue.open(archive, write=False) as catalogue:
        if old is not None and new is not None:
            found: Iterable[Difference] = between(catalogue, old, new)
        else:
            found = against_source(catalogue, old, console)
        differences = console.rows(counted(found))
    told = ", ".join(f"{counts[kind]:,} {words}" for kind, words in _WORDS.items() if counts[kind])
    console.line(told or "no difference")
    return console.result(
        {"archive": str(archive), "from": old, "to": new, "counts": dict(counts),
         "differences": differences},
    )  # fmt: skip
