"""Compresses blocks in worker threads, in memory that is used again and again.

Fresh memory costs more than hashing it (page faults), so blocks live in a fixed set of slots:
when all are under way the producer must wait. That bounds the pipeline's memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import zstandard

from pyarchiver.cas.intake import RawBlock, Slot
from pyarchiver.formats.block import STORED, ZSTD, block_head, compressor
from pyarchiver.formats.payload import BLOCK_RAW_MAX

WORKERS = max(1, min(8, os.cpu_count() or 1))
SLOTS = WORKERS + 4
_SAMPLE = 4096
_SAMPLES_MAX = 64
_NICENESS = 5


@dataclass(frozen=True, slots=True)
class Pressed:
    """A block ready to be packed: `head` and `data` side by side are the body of its record."""

    raw: RawBlock
    head: bytes
    data: memoryview


class Press:
    """A fixed set of slots, and the threads that compress from one half of each to the other."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._made = 0
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(WORKERS, "press", initializer=_step_back)

    def take(self) -> Slot | None:
        """A free slot, or None while all are under way."""
        try:
            return self._free.get_nowait()
        except queue.Empty:
            if self._made == SLOTS:
                return None
            self._made += 1
            return _slot()

    def give_back(self, slot: Slot) -> None:
        """The block in this slot has been written."""
        self._free.put(slot)

    def submit(self, raw: RawBlock) -> Future[Pressed]:
        """Compress a block in a worker."""
        return self._pool.submit(self._press, raw)

    def close(self) -> None:
        """Stop the workers."""
        self._pool.shutdown(cancel_futures=True)

    def _press(self, raw: RawBlock) -> Pressed:
        lengths = [ref.length for ref in raw.refs]
        plain = raw.slot.raw[: raw.used]
        return Pressed(raw, *press_block(self._compressor(), plain, lengths, raw.slot.out))

    def _compressor(self) -> zstandard.ZstdCompressor:
        found: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if found is None:
            found = self._local.compressor = compressor(self._level, BLOCK_RAW_MAX)
        return found


def press_block(
    compressor: zstandard.ZstdCompressor, plain: memoryview, lengths: list[int], out: memoryview
) -> tuple[bytes, memoryview]:
    """(head, data) of a block's record; data lie in `out`, or are `plain` where that is best."""
    if _worth_trying(plain, lengths):
        # Gains under 1/64 are not worth decompressing; a full buffer means there was less.
        out = out[: len(plain) - (len(plain) >> 6)]
        size = compressor.stream_reader(plain, size=len(plain)).readinto(out)
        if size < len(out):
            return block_head(ZSTD, lengths), out[:size]
    return block_head(STORED, lengths), plain


def _slot() -> Slot:
    memory = mmap.mmap(-1, 2 * BLOCK_RAW_MAX)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)
    return Slot(view[:BLOCK_RAW_MAX], view[BLOCK_RAW_MAX:])


def _step_back() -> None:
    """Let the producer, which feeds all others, go first where there are too few cores.

    A sixth less time for 50,000 small files on two cores. Linux has priorities by thread.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # Only root may step forward again, should all of the program have been called nice.
        already = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, already))


def _worth_trying(plain: memoryview, lengths: list[int]) -> bool:
    """Whether the block will shrink, by a sample from the middle of each chunk.

    Photographs and films do not, though the metadata at the front of each would by itself.
    """
    if len(lengths) > _SAMPLES_MAX:
        return True
    quick = zstandard.ZstdCompressor(level=1)
    saved, at = 0.0, 0
    for length in lengths:
        size = min(length, _SAMPLE)
        middle = at + (length - size) // 2
        shrunk = len(quick.compress(plain[middle : middle + size]))
        saved += length * max(0, size - shrunk) / size
        at += length
    return saved > len(plain) >> 6
