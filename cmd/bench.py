"""pyarchiver bench [DIR]"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.files import AnyPath


@click.command("bench", epilog="\b\nExample:\n  pyarchiver bench ~/Photos")
@click.argument(
    "folder", metavar="[DIR]", required=False,
    type=AnyPath(file_okay=False, exists=True),
)  # fmt: skip
@with_console
def command(console: Console, folder: Path | None) -> int:
    """Tell how fast an archive of DIR would run here, by suite and compression level.

    Reads a sample of 64 MiB at most, writes nothing, and takes less than a minute. Without DIR the
    sample is made up. The speed of the storage is not in it.
    """
    from pyarchiver.cas.speed import speed

    found = speed(folder, console)
    best = found.recommended
    suites = list(dict.fromkeys(row.suite for row in found.rates))
    levels = list(dict.fromkeys(row.level for row in found.rates))
    by = {(row.level, row.suite): row for row in found.rates}
    table = console.table(
        (">compression", ">stored", *(f">{suite}" for suite in suites)),
        [
            (
                str(level),
                f"{100 * by[level, suites[0]].stored:.1f} %",
                *(f"{size_text(int(by[level, suite].rate))}/s" for suite in suites),
            )
            for level in levels
        ],
    )
    return console.result(
        asdict(found),
        f"{count_text(found.files, 'file')}, {size_text(found.size)}; "
        f"sampled {size_text(found.sampled)}, read at {size_text(int(found.reading))}/s",
        *table,
        f"recommended: suite = {best.suite}, compression = {best.level}",
        asked=True,
    )
