"""Reads files into blocks, cutting and hashing where the bytes lie.

A file is read straight into the memory of the block being filled. What turns out to be known is
simply overwritten by what comes next, so a new byte is never copied between disk and zstd::

    memory  | chunks of this block        | being read             | free |
            0                          used          used + carried      8 MiB
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from pyarchiver.cas.cutter import Cutter
from pyarchiver.formats.entry import Hole
from pyarchiver.formats.keys import ArchiveKeys
from pyarchiver.formats.payload import BLOCK_CHUNKS_MAX, BLOCK_RAW_MAX

SPARSE_MIN = 1 << 16


class FileChanged(Exception):
    """A file had other bytes than its size said: it is being written to."""


class Ref:
    """A chunk that a file needs. Its place is known once its block has been packed."""

    __slots__ = ("block", "id", "length", "object_id", "ordinal")

    def __init__(self, id_: bytes, length: int, block: int) -> None:
        self.id = id_
        self.length = length
        self.block = block
        self.object_id = b""
        self.ordinal = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """Memory of one block on its way: 8 MiB for its chunks, 8 MiB for what zstd makes of them."""

    raw: memoryview
    out: memoryview


@dataclass(slots=True)
class RawBlock:
    """A block being filled: `used` bytes of the slot hold the chunks of `refs`, side by side."""

    number: int
    slot: Slot
    used: int = 0
    refs: list[Ref] = field(default_factory=list)

    @property
    def memory(self) -> memoryview:
        """Where the chunks are."""
        return self.slot.raw


class Intake:
    """Turns files into chunk references, and new chunks into full blocks.

    `find(id)` is asked for (object id, ordinal) of a chunk; `take()` gives memory for a block,
    `hand_over(block)` receives each full one, and `on_read(bytes)` is told of each read.
    """

    def __init__(
        self,
        keys: ArchiveKeys,
        chunk_size: int,
        find: Callable[[bytes], tuple[bytes, int] | None],
        take: Callable[[], Slot],
        hand_over: Callable[[RawBlock], None],
        on_read: Callable[[int], None],
    ) -> None:
        self._chunk_key = keys.chunk_key
        self._cutter = Cutter(chunk_size, keys.chunker_seed)
        self._min = chunk_size // 4
        self._small = min(self._min, SPARSE_MIN - 1)
        self._find = find
        self._take = take
        self._hand_over = hand_over
        self._on_read = on_read
        self._pending: dict[bytes, Ref] = {}
        self._block = RawBlock(1, take())

    def read(self, descriptor: int, found: os.stat_result) -> list[Ref | Hole]:
        """The content of an open file of the size that `found` says.

        Raises FileChanged where it has fewer bytes, OSError where it cannot be read.
        """
        size = found.st_size
        if 0 < size <= self._small:
            return [self._whole(descriptor, 0, size)]
        content: list[Ref | Hole] = []
        for start, end, data in _extents(descriptor, found):
            if not data:
                content.append(Hole(end - start))
            elif end - start <= self._min:
                content.append(self._whole(descriptor, start, end - start))
            else:
                self._cut(descriptor, start, end, content)
        return content

    def flush(self) -> None:
        """Hand over the block being filled, if there is anything in it."""
        if self._block.refs:
            self._next_block(0)

    def forget(self, ids: list[bytes]) -> None:
        """These chunks are in the catalogue now: `find` knows them."""
        for id_ in ids:
            self._pending.pop(id_, None)

    def _next_block(self, carried: int) -> None:
        full = self._block
        self._block = RawBlock(full.number + 1, self._take())
        self._block.memory[:carried] = full.memory[full.used : full.used + carried]
        self._hand_over(full)

    def _whole(self, descriptor: int, start: int, size: int) -> Ref:
        """A range small enough to be one chunk."""
        block = self._block
        if size > BLOCK_RAW_MAX - block.used or len(block.refs) == BLOCK_CHUNKS_MAX:
            self._next_block(0)
            block = self._block
        view = block.memory[block.used : block.used + size]
        if os.preadv(descriptor, [view], start) != size:
            raise FileChanged
        self._on_read(size)
        return self._keep(view, block.used)

    def _cut(self, descriptor: int, start: int, end: int, content: list[Ref | Hole]) -> None:
        """A larger range, cut into chunks by what is in it."""
        at, carried = start, 0
        while at < end or carried:
            block = self._block
            left = BLOCK_RAW_MAX - block.used
            most = BLOCK_CHUNKS_MAX - BLOCK_RAW_MAX // self._cutter.least
            if left < min(self._cutter.most, end - at + carried) or len(block.refs) > most:
                self._next_block(carried)
                block, left = self._block, BLOCK_RAW_MAX
            base = block.used
            wanted = min(left - carried, end - at)
            gap = block.memory[base + carried : base + carried + wanted]
            if os.preadv(descriptor, [gap], at) != wanted:
                raise FileChanged
            self._on_read(wanted)
            at += wanted
            window = block.memory[base : base + carried + wanted]
            cut = 0
            for length in self._cutter.cut(window, at - start - len(window), at == end):
                content.append(self._keep(window[cut : cut + length], base + cut))
                cut += length
            carried = len(window) - cut
            if carried and block.used != base + cut:
                block.memory[block.used : block.used + carried] = window[cut:]

    def _keep(self, data: memoryview, at: int) -> Ref:
        """The reference of the chunk at `at` in the block's memory; a new one becomes its own."""
        id_ = blake3(data, key=self._chunk_key).digest()
        ref = self._pending.get(id_)
        if ref is not None:
            return ref
        length = len(data)
        place = self._find(id_)
        if place is not None:
            ref = Ref(id_, length, 0)
            ref.object_id, ref.ordinal = place
            return ref
        block = self._block
        ref = Ref(id_, length, block.number)
        if at != block.used:
            block.memory[block.used : block.used + length] = data
        block.used += length
        block.refs.append(ref)
        self._pending[id_] = ref
        return ref


def _extents(descriptor: int, found: os.stat_result) -> Iterator[tuple[int, int, bool]]:
    """(start, end, is data) from the file's beginning to its end; holes as the system has them."""
    size = found.st_size
    if not size:
        return
    if size < SPARSE_MIN or found.st_blocks * 512 >= size or not hasattr(os, "SEEK_HOLE"):
        yield 0, size, True
        return
    at = 0
    while at < size:
        try:
            data = min(os.lseek(descriptor, at, os.SEEK_DATA), size)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = size
        if data > at:
            yield at, data, False
        if data < size:
            at = min(os.lseek(descriptor, data, os.SEEK_HOLE), size)
            yield data, at, True
        else:
            at = size
