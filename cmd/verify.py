"""pyarchiver verify ARCHIVE"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.files import ARCHIVE

if TYPE_CHECKING:
    from pyarchiver.cas.verify import VerifyResult


def _share(ctx: click.Context, param: click.Parameter, value: str | None) -> Fraction | None:
    """A percentage such as 5 or 2.5%, as a part of 1."""
    if value is None:
        return None
    try:
        share = Fraction(value.strip().removesuffix("%")) / 100
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise click.BadParameter(f"{value!r} is no part such as 5%", ctx, param)
    return share


@click.command(
    "verify",
    epilog="\b\nExamples:\n"
    "  pyarchiver verify photos.archive\n"
    "  pyarchiver verify photos.archive --sample 5%\n"
    "  pyarchiver verify photos.archive --deep",
)
@click.argument("archive", type=ARCHIVE)
@click.option("--deep", is_flag=True, help="Read every object too, and check its BLAKE3.")
@click.option(
    "--sample", callback=_share, metavar="N%", help="Read so much, what was not for longest first."
)
@with_console
def command(console: Console, archive: Path, deep: bool, sample: Fraction | None) -> int:
    """See whether all objects are in the storage, and are what was sent.

    Compares names, sizes, and the checksums that the storage tells of by itself with the catalogue,
    in one listing: nothing is read or thawed. --deep and --sample read objects as well; what is
    cold is left out, unless pyarchiver thaw or a restore asked for it and it can be read now. Needs
    no password. Exit status 3 where anything is missing, different or foreign.
    """
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.settings import settings_of
    from pyarchiver.cas.storage import open_storage
    from pyarchiver.cas.verify import verify

    share = sample if sample is not None else Fraction(1) if deep else None
    with (
        Catalogue.open(archive, write=False) as catalogue,
        closing(open_storage(settings_of(catalogue), write=False, tell=console.notice)) as storage,
    ):
        result = verify(catalogue, storage, console, share)
    return console.result(
        {"archive": str(archive), **asdict(result)},
        f"{archive}: {_findings(result)}",
        *_compared(result),
        *_read(result, share, console.elapsed()),
    )


def _findings(result: VerifyResult) -> str:
    found = {
        "missing": result.missing, "different": result.differing, "damaged": result.damaged,
        "foreign": result.foreign,
    }  # fmt: skip
    told = ", ".join(f"{count:,} {what}" for what, count in found.items() if count)
    return told or "nothing is missing, different or foreign"


def _compared(result: VerifyResult) -> list[str]:
    """What was compared, and what was not."""
    by = [f"{result.sizes:,} by size"]
    by += [f"{count:,} by {algorithm}" for algorithm, count in result.checksums.items()]
    lines = [
        f"compared with one listing: {count_text(result.names, 'object')}, "
        f"{size_text(result.size)}, by name; " + ", ".join(by)
    ]
    if result.staged:
        lines.append(f"yet to be sent by a resume: {count_text(result.staged, 'object')}")
    if result.others:
        lines.append(f"of other archives, left alone: {count_text(result.others, 'object')}")
    return lines


def _read(result: VerifyResult, share: Fraction | None, seconds: float) -> list[str]:
    if share is None:
        return ["no object was read: --sample 5% or --deep does"]
    rate = size_text(int(result.read_size / seconds))
    lines = [f"read {count_text(result.read, 'object')}, {size_text(result.read_size)} ({rate}/s)"]
    if result.cold:
        cold = count_text(result.cold, "object")
        lines.append(f"cold and left out: {cold}, {size_text(result.cold_size)}")
    if result.unread:
        lines.append(f"never read by any verify so far: {count_text(result.unread, 'object')}")
    return lines
