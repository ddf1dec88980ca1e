"""How fast an archive of some files would run on this machine, by suite and compression level.

A sample, spread evenly over the bytes of a folder, is read into blocks as a run does; each stage
of a run then works on it alone, for a bounded time. What the stages take together, shared by the
processors, is what a run takes: the storage and its network come on top.
"""

from __future__ import annotations

import os
import random
import stat
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from blake3 import blake3

from pyarchiver.cas.cutter import Cutter
from pyarchiver.cas.press import WORKERS, press_block
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.walk import Walker
from pyarchiver.formats.aead import SUITES, Suite
from pyarchiver.formats.block import compressor
from pyarchiver.formats.errors import SourceError
from pyarchiver.formats.payload import BLOCK_RAW_MAX
from pyarchiver.formats.sealed import SEGMENT

_CHUNK_SIZE = 512 << 10
LEVELS = (1, 3, 6, 9, 15)
BLOCKS = 8
# A level that takes longer is judged by the blocks done until then.
_SECONDS = 3.0
_FILES_MAX = 200_000
# What a file costs besides its bytes: measured with 50,000 files on one core of 2025.
_FILE_SECONDS = 60e-6
# A gigabit line: nothing is gained by being faster than what most storages take.
_FAST_ENOUGH = 125e6
_GAIN_MIN = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """Blocks of real bytes, and the files and bytes that they stand for."""

    blocks: list[memoryview]
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A run's speed in bytes of source a second, and what it stores of each byte."""

    suite: str
    level: int
    rate: float
    stored: float


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured: the sample, the speed of reading it, and a row for each setting."""

    files: int
    size: int
    sampled: int
    reading: float
    rates: list[Rate]
    recommended: Rate


def speed(folder: Path | None, observer: Observer) -> Speed:
    """Measure with the files of a folder, or with made-up ones: half of them shrink.

    Raises SourceError where the folder cannot be read or holds nothing.
    """
    observer.begin("reading a sample", None, None)
    began = time.perf_counter()
    sample = read_sample(folder, observer) if folder else made_up()
    sampled = sum(map(len, sample.blocks))
    reading = sampled / max(1e-9, time.perf_counter() - began)
    rates = list(_rates(sample, observer))
    return Speed(sample.files, sample.size, sampled, reading, rates, recommended(rates))


def read_sample(folder: Path, observer: Observer) -> Sample:
    """Up to 64 MiB from places evenly apart, files in the order of a run."""
    walker = Walker(folder.resolve(), (), set(), observer)
    walker.root_stat()
    paths: list[bytes] = []
    sizes: list[int] = []
    for found in walker.folders():
        for name, status in found.found:
            if stat.S_ISREG(status.st_mode) and status.st_size:
                paths.append(b"/".join(filter(None, (walker.root, found.path, name))))
                sizes.append(status.st_size)
        if len(paths) >= _FILES_MAX:
            break
    ends = list(accumulate(sizes))
    if not ends:
        raise SourceError(f"{folder} holds no file with anything in it")
    count = min(BLOCKS, -(-ends[-1] // BLOCK_RAW_MAX))
    blocks = []
    for number in range(count):
        start = ends[-1] * number // count
        at = bisect_right(ends, start)
        skip = start - (ends[at - 1] if at else 0)
        if block := _read_block(paths, at, skip):
            blocks.append(block)
    if not blocks:
        raise SourceError(f"{folder} holds no file that can be read")
    return Sample(blocks, len(paths), ends[-1])


def _read_block(paths: list[bytes], at: int, skip: int) -> memoryview:
    """One block's worth of bytes from the middle of a file on, and from those that follow."""
    memory, filled = memoryview(bytearray(BLOCK_RAW_MAX)), 0
    for path in paths[at:]:
        try:
            with Path(os.fsdecode(path)).open("rb", buffering=0) as file:
                file.seek(skip)
                while filled < len(memory) and (count := file.readinto(memory[filled:])):
                    filled += count
        except OSError:
            pass
        skip = 0
        if filled == len(memory):
            break
    return memory[:filled]


def made_up() -> Sample:
    """As many blocks of noise as of text, as if they were files of 1 MiB."""
    seeded = random.Random(1)
    words = [seeded.randbytes(3).hex() for _ in range(2000)]
    blocks = []
    for number in range(BLOCKS):
        if number % 2:
            text = " ".join(seeded.choices(words, k=BLOCK_RAW_MAX // 7 + 1))
            blocks.append(memoryview(text.encode())[:BLOCK_RAW_MAX])
        else:
            blocks.append(memoryview(seeded.randbytes(BLOCK_RAW_MAX)))
    size = sum(map(len, blocks))
    return Sample(blocks, size >> 20, size)


def recommended(rates: list[Rate]) -> Rate:
    """The fastest suite, at the level that stores least among those that keep up with a line.

    A higher level must store 1 % less; where none keeps up, the fastest.
    """
    suite = max(rates, key=lambda row: row.rate).suite
    rows = sorted((row for row in rates if row.suite == suite), key=lambda row: row.level)
    best = max(rows, key=lambda row: row.rate)
    quick = [row for row in rows if row.rate >= _FAST_ENOUGH]
    if quick:
        best = quick[0]
    for row in quick[1:]:
        if row.stored < best.stored * (1 - _GAIN_MIN):
            best = row
    return best


def _rates(sample: Sample, observer: Observer) -> Iterator[Rate]:
    observer.begin("measuring", None, None)
    cutter = Cutter(_CHUNK_SIZE, 1)
    lengths = {id(block): list(cutter.cut(block, 0, True)) for block in sample.blocks}

    def intake(block: memoryview) -> int:
        at = 0
        for length in cutter.cut(block, 0, True):
            blake3(block[at : at + length]).digest()
            at += length
        return len(block)

    taken, _ = _seconds_a_byte(intake, sample.blocks)
    seals = {suite.name: _sealing(suite, sample.blocks[0]) for suite in SUITES.values()}
    per_file = _FILE_SECONDS * sample.files / sample.size
    out = memoryview(bytearray(BLOCK_RAW_MAX))
    for level in LEVELS:
        observer.begin(f"measuring level {level}", None, None)
        made = compressor(level, BLOCK_RAW_MAX)

        def press(block: memoryview) -> int:
            return len(press_block(made, block, lengths[id(block)], out)[1])  # noqa: B023

        pressing, stored = _seconds_a_byte(press, sample.blocks)
        for name, sealing in seals.items():
            together = taken + per_file + pressing + stored * sealing
            yield Rate(name, level, 1 / max(taken + per_file, together / WORKERS), stored)


def _sealing(suite: Suite, block: memoryview) -> float:
    """Seconds a byte for sealing, and hashing what comes out of it."""
    out = memoryview(bytearray(SEGMENT + suite.tag))

    def seal(block: memoryview) -> int:
        for at in range(0, len(block), SEGMENT):
            size = suite.seal(block[at : at + SEGMENT], b"", bytes(suite.nonce), bytes(32), out)
            blake3(out[:size]).digest()
        return len(block)

    seal(block)
    return _seconds_a_byte(seal, [block])[0]


def _seconds_a_byte(
    work: Callable[[memoryview], int], blocks: list[memoryview]
) -> tuple[float, float]:
    """(seconds for each byte, bytes that come out for each that goes in) of one stage."""
    began, size, came = time.perf_counter(), 0, 0
    for block in blocks:
        came += work(block)
        size += len(block)
        if time.perf_counter() - began > _SECONDS:
            break
    return (time.perf_counter() - began) / size, came / size
