"""The payload of an object: a sequence of framed records, the same grammar in all kinds.

::

    record   = type (1) | length of body (4) | body
    payload  = about record... padding* index* tail

Record types below 128 are critical: a reader that meets an unknown one stops. Others may be
skipped. The *index* lists every record but padding, and each chunk's length and id in the order
of their ordinals. The *tail* is the payload's last 21 bytes and says where the index begins;
it counts only because the last segment opens as the last.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from pyarchiver.formats import wire
from pyarchiver.formats.aead import Buffer
from pyarchiver.formats.errors import DamagedError, UnsupportedError
from pyarchiver.formats.sealed import Layout, Opener

FRAME_SIZE = 5
RECORD_MAX = 4 << 20
BLOCK_RAW_MAX = 8 << 20
BLOCK_CHUNKS_MAX = 16384
BLOCK_MAX = BLOCK_RAW_MAX + 4 * BLOCK_CHUNKS_MAX + 16
TAIL_SIZE = FRAME_SIZE + 16
CHUNK_ID_SIZE = 32
_INDEX_CHUNKS_MAX = 98304
_INDEX_RECORDS_MAX = 16384


class Type(IntEnum):
    """Record types."""

    ABOUT = 1
    BLOCK = 2
    ENTRIES = 3
    PART = 4
    PACK = 5
    PACK_INDEX = 6
    SETTINGS = 7
    RUN = 8
    PADDING = 9
    INDEX = 10
    TAIL = 11


_KNOWN = frozenset(int(kind) for kind in Type)


def body_limit(kind: int) -> int:
    """The largest body a record of this type may have, in bytes."""
    return BLOCK_MAX if kind == Type.BLOCK else RECORD_MAX


@dataclass(frozen=True, slots=True)
class Placed:
    """One record of an index: its type, offset of its frame, body length, chunks in it."""

    type: int
    offset: int
    length: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Index:
    """What an index record says: records, and the lengths and ids of the chunks in them."""

    records: tuple[Placed, ...]
    lengths: tuple[int, ...]
    ids: bytes

    def encode(self) -> bytes:
        """The body of an index record."""
        return wire.pack(
            {
                "records": [[r.type, r.offset, r.length, r.chunks] for r in self.records],
                "lengths": struct.pack(f"<{len(self.lengths)}I", *self.lengths),
                "ids": self.ids,
            }
        )

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Index:
        """The index in `body`; raises DamagedError where its parts do not agree."""
        fields = wire.fields(wire.unpack(body), ("records", "lengths", "ids"))
        packed, ids = wire.need(fields, "lengths", bytes), wire.need(fields, "ids", bytes)
        records = tuple(_placed(row) for row in wire.need(fields, "records", list))
        chunks = sum(record.chunks for record in records)
        if len(packed) != 4 * chunks or len(ids) != CHUNK_ID_SIZE * chunks:
            raise DamagedError("the index contradicts itself")
        return cls(records, struct.unpack(f"<{chunks}I", packed), ids)


def _placed(row: object) -> Placed:
    if not isinstance(row, list) or len(row) < 4:
        raise DamagedError("impossible record in the index")
    kind, offset, length, chunks = row[:4]
    if not all(type(value) is int for value in row[:4]):
        raise DamagedError("impossible record in the index")
    if not (0 <= kind < 256 and 0 <= offset < 1 << 62 and 0 <= length <= body_limit(kind)):
        raise DamagedError("impossible record in the index")
    if not 0 <= chunks <= (BLOCK_CHUNKS_MAX if kind == Type.BLOCK else 0):
        raise DamagedError("impossible record in the index")
    return Placed(kind, offset, length, chunks)


class PayloadWriter:
    """Frames records one after another, remembers where each stands, and closes the payload.

    Holds no data: each method returns the buffers to feed to a Sealer, in order.
    """

    def __init__(self) -> None:
        self.length = 0
        self.chunks = 0
        self._records: list[Placed] = []
        self._lengths: list[int] = []
        self._ids: list[bytes] = []

    def add(self, kind: Type, *body: Buffer) -> list[Buffer]:
        """A record whose body is the given buffers side by side."""
        return self._add(kind, 0, body)

    def add_block(self, lengths: list[int], ids: list[bytes], *body: Buffer) -> list[Buffer]:
        """A block record, with the lengths and ids of its chunks for the index."""
        if len(ids) > BLOCK_CHUNKS_MAX:
            raise ValueError(f"a block of {len(ids)} chunks")
        self._lengths += lengths
        self._ids += ids
        self.chunks += len(ids)
        return self._add(Type.BLOCK, len(ids), body)

    def _add(self, kind: Type, chunks: int, body: tuple[Buffer, ...]) -> list[Buffer]:
        length = sum(len(piece) for piece in body)
        if length > body_limit(kind):
            raise ValueError(f"a record of {length} bytes")
        self._records.append(Placed(kind, self.length, length, chunks))
        self.length += FRAME_SIZE + length
        return [struct.pack("<BI", kind, length), *body]

    def closed_size(self, layout: Layout, more: int = 0, more_chunks: int = 0) -> int:
        """Upper bound of the object's size if `more` bytes were added and then it were closed."""
        chunks = self.chunks + more_chunks
        records = len(self._records) + 4
        parts = 2 + chunks // _INDEX_CHUNKS_MAX + records // _INDEX_RECORDS_MAX
        index = chunks * (4 + CHUNK_ID_SIZE) + records * 22 + parts * 64
        payload = self.length + more + index + TAIL_SIZE
        return layout.padding(payload, FRAME_SIZE)[1]

    def close(self, layout: Layout) -> tuple[list[Buffer], list[bytes]]:
        """(padding, index and tail; the bodies of the index records alone)."""
        bodies = [index.encode() for index in self._indexes()]
        indexed = sum(FRAME_SIZE + len(body) for body in bodies) + TAIL_SIZE
        pad, _ = layout.padding(self.length + indexed, FRAME_SIZE)
        out: list[Buffer] = []
        length = self.length
        while pad:
            size = min(pad, FRAME_SIZE + RECORD_MAX)
            if 0 < pad - size < FRAME_SIZE:
                size -= FRAME_SIZE
            out += [struct.pack("<BI", Type.PADDING, size - FRAME_SIZE), bytes(size - FRAME_SIZE)]
            pad -= size
            length += size
        index_at = length
        for body in bodies:
            out += [struct.pack("<BI", Type.INDEX, len(body)), body]
            length += FRAME_SIZE + len(body)
        length += TAIL_SIZE
        out.append(struct.pack("<BIQQ", Type.TAIL, TAIL_SIZE - FRAME_SIZE, index_at, length))
        return out, bodies

    def _indexes(self) -> Iterator[Index]:
        start = chunk = 0
        while start < len(self._records):
            end, count = start, 0
            while end < len(self._records) and end - start < _INDEX_RECORDS_MAX:
                if count + self._records[end].chunks > _INDEX_CHUNKS_MAX:
                    break
                count += self._records[end].chunks
                end += 1
            yield Index(
                tuple(self._records[start:end]),
                tuple(self._lengths[chunk : chunk + count]),
                b"".join(self._ids[chunk : chunk + count]),
            )
            start, chunk = end, chunk + count


def read_index(opener: Opener) -> list[bytes]:
    """The bodies of an object's index records, found through its tail.

    Raises DamagedError where the object was cut, or tail or index are altered.
    """
    if not opener.whole or opener.length < TAIL_SIZE:
        raise DamagedError("the object's end is missing")
    tail = bytes(opener.read(opener.length - TAIL_SIZE, TAIL_SIZE))
    kind, size, index_at, length = struct.unpack("<BIQQ", tail)
    if kind != Type.TAIL or size != TAIL_SIZE - FRAME_SIZE or length != opener.length:
        raise DamagedError("the object's tail is impossible")
    bodies = []
    for found, _, body in read_records(opener, index_at):
        if found == Type.INDEX:
            bodies.append(bytes(body))
        elif found != Type.TAIL:
            raise DamagedError("the object's tail points to no index")
    return bodies


def read_record(opener: Opener, placed: Placed) -> memoryview:
    """The body of one record of an index; DamagedError where its frame says otherwise."""
    data = opener.read(placed.offset, FRAME_SIZE + placed.length)
    if len(data) < FRAME_SIZE + placed.length:
        raise DamagedError("the object was cut before this record's end")
    if bytes(data[:FRAME_SIZE]) != struct.pack("<BI", placed.type, placed.length):
        raise DamagedError("the index does not match the record")
    return data[FRAME_SIZE:]


def read_records(opener: Opener, start: int = 0) -> Iterator[tuple[int, int, memoryview]]:
    """(type, offset, body) of each record from front to back, the tail included.

    Raises DamagedError at the first record that is cut or altered; what came before is good.
    A record of an unknown critical type raises UnsupportedError.
    """
    while start < opener.length:
        frame = opener.read(start, FRAME_SIZE)
        if len(frame) < FRAME_SIZE:
            raise DamagedError("the object was cut")
        kind, size = struct.unpack("<BI", frame)
        if size > body_limit(kind):
            raise DamagedError("a record is larger than the format allows")
        if kind < 128 and kind not in _KNOWN:
            raise UnsupportedError(f"record of unknown type {kind}: a newer pyarchiver wrote it")
        body = opener.read(start + FRAME_SIZE, size)
        if len(body) < size:
            raise DamagedError("the object was cut")
        yield kind, start, body
        start += FRAME_SIZE + size
        if kind == Type.TAIL:
            if start != opener.length:
                raise DamagedError("bytes follow the tail")
            return
    raise DamagedError("the object's tail is missing")
