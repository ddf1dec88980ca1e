"""A catalogue of many chunks and files: what it takes on disk, and a run that finds nothing new.

    python bench/catalogue.py [--chunks 1000000] [--files 100000] [--data FOLDER]

The target is 20 million chunks and 2 million files (`--chunks 20000000 --files 2000000`, a quarter
of an hour and 6 GB). The files are real and empty, archived as ever; the packs are made up.
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import measure
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.rows import Batch, NewObject
from pyarchiver.formats.aead import AEGIS256
from pyarchiver.formats.header import Kind, new_header
from pyarchiver.formats.names import object_name
from pyarchiver.formats.payload import CHUNK_ID_SIZE, FRAME_SIZE, Index, Placed, Type
from tools import PROGRAM, Job

# Photos at the default settings: 232 MiB in chunks of 470 KB.
_PACK_BLOCKS, _BLOCK_CHUNKS = 29, 17
_PACK_CHUNKS = _PACK_BLOCKS * _BLOCK_CHUNKS
_CHUNK = 470_000
_FOLDER_FILES = 100


def make_tree(folder: Path, files: int) -> None:
    """Empty files, a hundred in each folder."""
    for first in range(0, files, _FOLDER_FILES):
        below = folder / f"{first // 100_000:03}" / f"{first:08}"
        below.mkdir(parents=True)
        for number in range(first, min(first + _FOLDER_FILES, files)):
            (below / f"IMG_{number:08}.CR3").touch()


def add_packs(catalogue: Catalogue, chunks: int) -> None:
    """Packs of chunks that never were, each with its two commits, as if a manifest named them."""
    for _ in range(-(-chunks // _PACK_CHUNKS)):
        block = _BLOCK_CHUNKS * _CHUNK
        size = _PACK_BLOCKS * block
        records = tuple(
            Placed(Type.BLOCK, at * (block + FRAME_SIZE), block, _BLOCK_CHUNKS)
            for at in range(_PACK_BLOCKS)
        )
        ids = os.urandom(_PACK_CHUNKS * CHUNK_ID_SIZE)
        index = Index(records, (_CHUNK,) * _PACK_CHUNKS, ids).encode()
        header, _ = new_header(AEGIS256, catalogue.keys, catalogue.slots, Kind.PACK)
        name = object_name(header.archive_id, Kind.PACK, 0, header.object_id)
        new = NewObject(
            header.object_id, name, Kind.PACK, 0, 1, size, os.urandom(32),
            header.raw, (index,),
        )  # fmt: skip
        row = catalogue.stage(new, Batch(), lambda: None)
        catalogue.stored(row)
    with catalogue.transaction():
        catalogue.set_head(replace(catalogue.head, object=row))


def main() -> None:
    """Make it, measure it, and print a line of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data")
    given = parser.parse_args()
    work = given.data.resolve() / "catalogue"
    shutil.rmtree(work, ignore_errors=True)
    job = Job(work / "source", work, work, Path())
    try:
        make_tree(job.source, given.files)
        places = ["--source", str(job.source), "--storage", str(work / "store")]
        for command in (["init", "a.ini", "--name", "a", *places], ["start", "a.ini"]):
            measure.run([PROGRAM, *command, "-q"], job.environment, work)
        before = (work / "a.archive").stat().st_size
        with Catalogue.open(work / "a.archive", write=True) as catalogue:
            add_packs(catalogue, given.chunks)
        size = (work / "a.archive").stat().st_size
        taken = measure.run([PROGRAM, "resume", "a.archive", "-q"], job.environment, work)
    finally:
        shutil.rmtree(work)
    print("| chunks | files | bytes a chunk | of all, with files | nothing new | CPU | memory |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {given.chunks:,} | {given.files:,} | {(size - before) / given.chunks:.0f}"
        f" | {size / given.chunks:.0f} | {taken.wall:.1f} s | {taken.cpu:.1f} s"
        f" | {taken.peak / 1e6:.0f} MB |"
    )


if __name__ == "__main__":
    main()
