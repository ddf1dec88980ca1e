"""Entries: one path of the archived tree each, and the content it points to.

An entry is the msgpack array `[path, run, sequence, fields]`. Of several entries of a path the
one with the highest (run, sequence) is the newest. The content of a file is a list of *runs*
`[object id, ordinal of the first chunk, count]` and holes (an integer: that many zero bytes).
Because it names objects, a file that cannot be restored can say what it lacks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, NamedTuple

import zstandard
from blake3 import blake3

from pyarchiver.formats import wire
from pyarchiver.formats.aead import Buffer
from pyarchiver.formats.errors import DamagedError, FormatError
from pyarchiver.formats.keys import ID_SIZE
from pyarchiver.formats.payload import CHUNK_ID_SIZE, RECORD_MAX, Type

PART_SIZE = 1 << 20
PARTS_MAX = 64
ENTRY_MAX = PARTS_MAX * PART_SIZE
ENTRIES_RAW = 1 << 20
PATH_MAX = 32768
SIZE_MAX = 1 << 62
NUMBER_END = 1 << 56
# Impossible entries in one record before the rest of it is not worth a look.
_BAD_MAX = 100
_SIZE, _HOLE, _CHUNK = struct.Struct("<Q"), struct.Struct("<BQ"), struct.Struct("<BI")
CHUNK_PART = _CHUNK.size + CHUNK_ID_SIZE
_FIELDS = frozenset((
    "kind", "mode", "mtime", "uid", "gid", "user", "group",
    "size", "hash", "runs", "link", "hardlink", "xattr",
))  # fmt: skip


class EntryKind(IntEnum):
    """What stands at a path."""

    FILE = 1
    FOLDER = 2
    SYMLINK = 3
    GONE = 4


# Named tuples rather than dataclasses, here and below: some are made for every file, and cost a
# fifth.
class Run(NamedTuple):
    """So many chunks of one object, from ordinal `first` on."""

    object_id: bytes
    first: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Hole:
    """`length` zero bytes that are not stored."""

    length: int


Content = tuple[Run | Hole, ...]


class Node(NamedTuple):
    """What stands at a path: all of an entry but path, run and sequence.

    `mtime` is in nanoseconds since 1970 and may be negative; `hardlink` is equal for the names
    of one file (0: it has one name); `file_hash` is that of `hash_content`.
    """

    kind: EntryKind
    mode: int = 0
    mtime: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    size: int = 0
    file_hash: bytes = b""
    content: Content = ()
    link: bytes = b""
    hardlink: int = 0
    xattrs: Mapping[bytes, bytes] = MappingProxyType({})


class Entry(NamedTuple):
    """One state of one path."""

    path: bytes
    run: int
    sequence: int
    node: Node


def encode_node(node: Node) -> bytes:
    """The fields of an entry as a msgpack map; equal nodes give equal bytes."""
    kind = node.kind
    if kind == EntryKind.GONE:
        return wire.pack({"kind": kind})
    fields: dict[str, Any] = {
        "kind": kind, "mode": node.mode, "mtime": node.mtime, "uid": node.uid, "gid": node.gid,
    }  # fmt: skip
    if node.user:
        fields["user"] = node.user
    if node.group:
        fields["group"] = node.group
    if kind == EntryKind.FILE:
        fields["size"] = node.size
        fields["hash"] = node.file_hash
        # A run is a tuple, and so becomes an array.
        fields["runs"] = [p.length if isinstance(p, Hole) else p for p in node.content]
    elif kind == EntryKind.SYMLINK:
        fields["link"] = node.link
    if node.hardlink:
        fields["hardlink"] = node.hardlink
    if node.xattrs:
        fields["xattr"] = [[name, node.xattrs[name]] for name in sorted(node.xattrs)]
    return wire.pack(fields)


def decode_node(data: bytes) -> Node:
    """The node in the bytes of an entry's fields."""
    return _node(wire.unpack(data))


def encode_entry(path: bytes, run: int, sequence: int, fields: bytes) -> bytes:
    """An entry, from fields already encoded."""
    # The array's head says four: the fields, packed before, are the last of them.
    return b"\x94" + wire.pack((path, run, sequence))[1:] + fields


def _entry(value: object) -> Entry:
    if not isinstance(value, list) or len(value) < 4:
        raise DamagedError("impossible entry")
    path, run, sequence = value[:3]
    if type(path) is not bytes or type(run) is not int or type(sequence) is not int:
        raise DamagedError("impossible entry")
    if len(path) > PATH_MAX or not 0 < run < NUMBER_END or not 0 < sequence < NUMBER_END:
        raise DamagedError("impossible entry")
    return Entry(path, run, sequence, _node(value[3]))


def _node(value: object) -> Node:
    fields = wire.fields(value, _FIELDS)
    try:
        kind = EntryKind(wire.need(fields, "kind", int))
    except ValueError:
        raise DamagedError("entry of unknown kind") from None
    if kind == EntryKind.GONE:
        return Node(kind)
    common: dict[str, Any] = {
        "mode": wire.number(fields, "mode", 0, 0o7777),
        "mtime": wire.number(fields, "mtime", -(1 << 63), (1 << 63) - 1),
        "uid": wire.number(fields, "uid", 0, (1 << 32) - 1),
        "gid": wire.number(fields, "gid", 0, (1 << 32) - 1),
        "user": wire.need(fields, "user", str) if "user" in fields else "",
        "group": wire.need(fields, "group", str) if "group" in fields else "",
        "hardlink": wire.number(fields, "hardlink", 1, (1 << 64) - 1)
        if "hardlink" in fields
        else 0,
        "xattrs": _xattrs(fields["xattr"]) if "xattr" in fields else {},
    }
    if kind == EntryKind.FILE:
        common["size"] = wire.number(fields, "size", 0, SIZE_MAX)
        common["file_hash"] = wire.sized(fields, "hash", 32)
        common["content"] = tuple(_part(part) for part in wire.need(fields, "runs", list))
    elif kind == EntryKind.SYMLINK:
        common["link"] = wire.need(fields, "link", bytes)
    return Node(kind, **common)


def _xattrs(value: object) -> dict[bytes, bytes]:
    if not isinstance(value, list):
        raise DamagedError("impossible extended attributes")
    found: dict[bytes, bytes] = {}
    for pair in value:
        if not isinstance(pair, list) or [type(item) for item in pair] != [bytes, bytes]:
            raise DamagedError("impossible extended attributes")
        if pair[0] in found:
            raise DamagedError("an extended attribute stands twice")
        found[pair[0]] = pair[1]
    return found


def _part(value: object) -> Run | Hole:
    if type(value) is int and 0 < value <= SIZE_MAX:
        return Hole(value)
    if isinstance(value, list) and [type(item) for item in value] == [bytes, int, int]:
        object_id, first, count = value
        if len(object_id) == ID_SIZE and 0 <= first < 1 << 32 and 0 < count < 1 << 32:
            return Run(object_id, first, count)
    raise DamagedError("impossible content of a file")


def chunks_max(size: int) -> int:
    """How many chunks a file of that size may have: what reading it takes is bounded by its size.

    Ours has chunks of 2 KiB at least, but for the last.
    """
    return 1024 + size // 256


def hash_content(file_key: bytes, size: int, parts: Iterable[tuple[bytes, int] | int]) -> bytes:
    """The file hash: keyed BLAKE3 of the size, then chunks (id, length) and holes (length).

    Covers every byte through the chunk ids, and needs none of them read again.
    """
    packed: list[Buffer] = []
    for part in parts:
        if isinstance(part, int):
            packed.append(hole_part(part))
        else:
            packed += (_CHUNK.pack(1, part[1]), part[0])
    return hash_parts(file_key, size, (b"".join(packed),))


def hash_parts(file_key: bytes, size: int, parts: Iterable[Buffer]) -> bytes:
    """The file hash of parts that are packed already; several may come as one."""
    hasher = blake3(_SIZE.pack(size), key=file_key)
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def hole_part(length: int) -> bytes:
    """What a hole is in a file hash."""
    return _HOLE.pack(0, length)


def chunk_parts(lengths: Sequence[int], ids: Buffer) -> bytes:
    """What chunks are in a file hash: CHUNK_PART bytes each, the id at the end of them."""
    packed: list[Buffer] = []
    for number, length in enumerate(lengths):
        packed += (
            _CHUNK.pack(1, length),
            ids[number * CHUNK_ID_SIZE : (number + 1) * CHUNK_ID_SIZE],
        )
    return b"".join(packed)


def entry_records(
    entries: Iterable[bytes], compressor: zstandard.ZstdCompressor
) -> Iterator[tuple[Type, list[bytes]]]:
    """Records for encoded entries: several together up to 1 MiB, a larger one in parts.

    The bodies that come together must stand one after another in one object.
    """
    together: list[bytes] = []
    size = 0
    for entry in entries:
        if together and size + len(entry) > ENTRIES_RAW:
            yield Type.ENTRIES, [compressor.compress(b"".join(together))]
            together, size = [], 0
        if len(entry) > ENTRIES_RAW:
            yield Type.PART, list(encode_parts(entry))
        else:
            together.append(entry)
            size += len(entry)
    if together:
        yield Type.ENTRIES, [compressor.compress(b"".join(together))]


def decode_entries(body: memoryview, skipped: list[str]) -> Iterator[Entry]:
    """The entries of a record; decompression is bounded at 4 MiB.

    An entry that is impossible or of a later version is passed over; `skipped` says why.
    """
    try:
        size = zstandard.frame_content_size(body)
        if not 0 < size <= RECORD_MAX:
            raise DamagedError("an entries record that is too large, or does not tell its size")
        data = zstandard.ZstdDecompressor(max_window_size=RECORD_MAX).decompress(
            body, max_output_size=size, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise DamagedError(f"an entries record does not decompress ({error})") from None
    bad = 0
    for value in wire.unpack_each(data, RECORD_MAX):
        try:
            yield _entry(value)
        except FormatError as error:
            skipped.append(str(error))
            bad += 1
            if bad == _BAD_MAX:
                raise DamagedError("an entries record of impossible entries") from None


def encode_parts(entry: bytes) -> Iterator[bytes]:
    """The bodies of the part records of an entry too large for an entries record."""
    total = -(-len(entry) // PART_SIZE)
    if total > PARTS_MAX:
        raise ValueError(f"an entry of {len(entry)} bytes")
    for number in range(total):
        piece = entry[number * PART_SIZE : (number + 1) * PART_SIZE]
        yield wire.pack([number, total, piece])


class PartJoiner:
    """Puts entries together that came as numbered parts, one after another."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._total = 0

    def add(self, body: memoryview) -> Entry | None:
        """Take the next part; returns the entry when it was the last one."""
        value = wire.unpack(body)
        if not isinstance(value, list) or [type(item) for item in value[:3]] != [int, int, bytes]:
            raise DamagedError("impossible part of an entry")
        number, total, piece = value[:3]
        if number == 0:
            self._parts, self._total = [], total
        if not 0 <= number < total <= PARTS_MAX or len(piece) > PART_SIZE:
            raise DamagedError("impossible part of an entry")
        if number != len(self._parts) or total != self._total:
            self._parts = []
            raise DamagedError("parts of an entry are missing")
        self._parts.append(piece)
        if number + 1 < total:
            return None
        data, self._parts = b"".join(self._parts), []
        return _entry(wire.unpack(data))
