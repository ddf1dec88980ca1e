"""Reads objects of a storage: opened by their header, found by their index, or salvaged."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from blake3 import blake3

from pyarchiver.cas.storage import Readable
from pyarchiver.formats.block import read_block, read_cut_block
from pyarchiver.formats.entry import (
    CHUNK_PART,
    Entry,
    PartJoiner,
    chunk_parts,
    decode_entries,
)
from pyarchiver.formats.errors import (
    AccessError,
    ColdError,
    DamagedError,
    FormatError,
    StorageError,
)
from pyarchiver.formats.header import Header
from pyarchiver.formats.keys import ReadKeys
from pyarchiver.formats.payload import (
    CHUNK_ID_SIZE,
    FRAME_SIZE,
    Index,
    Placed,
    Type,
    body_limit,
    read_index,
    read_record,
    read_records,
)
from pyarchiver.formats.records import About
from pyarchiver.formats.sealed import Found, Opener, find_header


@dataclass(frozen=True)
class OpenObject:
    """An object that can be read: what its header says, and what is wrong with its copies."""

    name: str
    header: Header
    keys: ReadKeys
    opener: Opener
    notices: tuple[str, ...]


def open_object(
    storage: Readable,
    name: str,
    unlock: Callable[[Header], ReadKeys | None],
    size: int | None = None,
) -> OpenObject | None:
    """Open an object of `size` bytes (None: ask the storage); None where there are no keys for it.

    Raises ForeignError for what is no object, DamagedError where both headers are lost,
    AccessError where its keys could not be tried, StorageError where it cannot be read.
    """
    length = storage.size(name) if size is None else size

    def read_at(offset: int, into: memoryview) -> int:
        return storage.get_into(name, offset, into)

    unable: AccessError | None = None
    candidate: Found | None = find_header(read_at, length)
    while candidate is not None:
        other = candidate.swapped()
        try:
            keys = unlock(candidate.header)
            if keys is not None:
                opener = Opener(candidate, candidate.header.object_key(keys), read_at, length)
                return OpenObject(name, candidate.header, keys, opener, candidate.notices)
        except AccessError as error:
            unable = error
        except DamagedError:
            if other is None:
                raise
        # The front may parse and yet be altered, its slots too: then the copy at the end counts.
        candidate = other
    if unable:
        raise unable
    return None


class ChunkMap:
    """Where the chunks of a pack are, from the bodies of its index; 50 bytes a chunk."""

    def __init__(self, indexes: Iterable[Index]) -> None:
        self.blocks: list[Placed] = []
        self.firsts: list[int] = []
        self._ends = array("Q", [0])
        parts = []
        for index in indexes:
            at = self.chunks
            for record in index.records:
                if record.type == Type.BLOCK:
                    self.blocks.append(record)
                    self.firsts.append(at)
                    at += record.chunks
            # The first is where the last of the one before ends.
            ends = accumulate(index.lengths, initial=self._ends.pop())
            self._ends.extend(ends)
            parts.append(chunk_parts(index.lengths, index.ids))
        self._parts = b"".join(parts)

    @property
    def chunks(self) -> int:
        """How many there are."""
        return len(self._ends) - 1

    def chunk_id(self, ordinal: int) -> bytes:
        """The id of a chunk."""
        end = (ordinal + 1) * CHUNK_PART
        return self._parts[end - CHUNK_ID_SIZE : end]

    def size(self, first: int, count: int = 1) -> int:
        """Bytes of chunks one after another."""
        return self._ends[first + count] - self._ends[first]

    def starts(self, first: int, count: int) -> list[int]:
        """Where chunks begin that stand one after another from 0, and where the last ends."""
        return [end - self._ends[first] for end in self._ends[first : first + count + 1]]

    def parts(self, first: int, count: int) -> memoryview:
        """What a run is in a file hash. Raises DamagedError where the pack has no such chunks."""
        self._check(first, count)
        return memoryview(self._parts)[first * CHUNK_PART : (first + count) * CHUNK_PART]

    def _check(self, first: int, count: int) -> None:
        if first + count > self.chunks:
            raise DamagedError("content beyond the end of its pack")

    def pieces(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """A run cut at block borders: (block, first ordinal, count) of each piece.

        Raises DamagedError where the pack has no such chunks.
        """
        self._check(first, count)
        while count:
            block = bisect_right(self.firsts, first) - 1
            here = min(count, self.firsts[block] + self.blocks[block].chunks - first)
            yield block, first, here
            first += here
            count -= here


@dataclass
class Chunks:
    """What could be read of a block, whose first chunk has ordinal `first`.

    `starts` are the chunks' offsets in `data`; `bad` ordinals are missing or do not verify.
    """

    first: int
    data: memoryview
    starts: list[int]
    bad: dict[int, str] = field(default_factory=dict)


def read_chunks(found: OpenObject, chunk_map: ChunkMap, block: int, wanted: set[int]) -> Chunks:
    """The chunks of one block; each wanted ordinal is verified against its id.

    A block that is cut or altered yields the chunks before the damage.
    """
    first, placed = chunk_map.firsts[block], chunk_map.blocks[block]
    failure = "does not match its id"
    try:
        read = read_block(read_record(found.opener, placed))
    except ColdError:
        raise
    except (FormatError, StorageError) as error:
        failure = str(error)
        rest = found.opener.intact_from(placed.offset)[FRAME_SIZE : FRAME_SIZE + placed.length]
        try:
            read = read_cut_block(rest)
        except FormatError:
            return Chunks(first, memoryview(b""), [], dict.fromkeys(wanted, failure))
    starts = chunk_map.starts(first, placed.chunks)
    chunks = Chunks(first, memoryview(read.data), starts)
    for ordinal in wanted:
        start, end = starts[ordinal - first], starts[ordinal - first + 1]
        chunk = chunks.data[start:end]
        if len(chunk) < end - start or found.keys.chunk_id(chunk) != chunk_map.chunk_id(ordinal):
            chunks.bad[ordinal] = failure
    return chunks


_DAMAGES = 1000
LOST = -1
"""The type of a record that could not be read: what stands beside it does not belong together."""


@dataclass
class Contents:
    """What was read of an object apart from its blocks' data."""

    records: list[tuple[int, memoryview]] = field(default_factory=list)
    indexes: list[bytes] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)


def read_contents(found: OpenObject) -> Contents:
    """All records but blocks, through the index where there is one, front to back otherwise."""
    contents = Contents()
    try:
        contents.indexes = read_index(found.opener)
        indexes = [Index.decode(body) for body in contents.indexes]
    except (FormatError, StorageError) as error:
        contents.damage.append(str(error))
        _salvage(found, contents)
        return contents
    for placed in (record for index in indexes for record in index.records):
        if placed.type == Type.BLOCK:
            continue
        try:
            contents.records.append((placed.type, read_record(found.opener, placed)))
        except (FormatError, StorageError) as error:
            contents.damage.append(str(error))
            contents.records.append((LOST, memoryview(b"")))
    return contents


def _salvage(found: OpenObject, contents: Contents) -> None:
    """Read front to back until the damage; the index is made anew from the blocks themselves."""
    placed: list[Placed] = []
    lengths: list[int] = []
    ids: list[bytes] = []

    def add(offset: int, size: int, body: memoryview, whole: bool) -> None:
        block = read_block(body) if whole else read_cut_block(body)
        view = memoryview(block.data)
        at = chunks = 0
        for length in block.lengths:
            if at + length > len(view):
                break
            ids.append(found.keys.chunk_id(view[at : at + length]))
            lengths.append(length)
            at += length
            chunks += 1
        placed.append(Placed(Type.BLOCK, offset, size, chunks))

    end = 0
    try:
        for kind, offset, body in read_records(found.opener):
            if kind == Type.BLOCK:
                add(offset, len(body), body, True)
            elif kind not in (Type.PADDING, Type.INDEX, Type.TAIL):
                contents.records.append((kind, body))
            end = offset + FRAME_SIZE + len(body)
    except (FormatError, StorageError):
        rest = found.opener.intact_from(end)
        if len(rest) > FRAME_SIZE and rest[0] == Type.BLOCK:
            size = int.from_bytes(rest[1:FRAME_SIZE], "little")
            try:
                if size <= body_limit(Type.BLOCK):
                    add(end, size, rest[FRAME_SIZE : FRAME_SIZE + size], False)
            except FormatError:
                pass
    contents.indexes = [Index(tuple(placed), tuple(lengths), b"".join(ids)).encode()]


def read_about(opener: Opener) -> About | None:
    """The first record of an object; None where it is damaged."""
    try:
        for kind, _, body in read_records(opener):
            return About.decode(body) if kind == Type.ABOUT else None
    except (FormatError, StorageError):
        pass
    return None


def hash_object(storage: Readable, name: str) -> bytes:
    """BLAKE3 of a whole object."""
    hasher, buffer, at = blake3(), memoryview(bytearray(1 << 20)), 0
    while count := storage.get_into(name, at, buffer):
        hasher.update(buffer[:count])
        at += count
    return hasher.digest()


def entries_of(contents: Contents) -> Iterator[Entry]:
    """The entries in an object's records; those that are impossible are added to its damage."""
    joiner = PartJoiner()
    for kind, body in contents.records:
        skipped: list[str] = []
        try:
            if kind == Type.ENTRIES:
                yield from decode_entries(body, skipped)
            elif kind == Type.PART:
                entry = joiner.add(body)
                if entry is not None:
                    yield entry
            elif kind == LOST:
                joiner = PartJoiner()
        except FormatError as error:
            skipped.append(str(error))
        # Each word is reported; a record that is all wrong has up to a hundred.
        contents.damage += skipped[: max(1, _DAMAGES - len(contents.damage))]
