"""Shared by the tests of formats/: fixed keys, objects in memory, values as JSON."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from blake3 import blake3
from hypothesis import HealthCheck, settings

from pyarchiver.formats import keys, wire
from pyarchiver.formats.aead import Buffer, Suite
from pyarchiver.formats.block import read_block
from pyarchiver.formats.entry import Entry, Hole, Node, PartJoiner, decode_entries
from pyarchiver.formats.errors import DamagedError
from pyarchiver.formats.header import Header, Kind, new_header
from pyarchiver.formats.keys import ReadKeys, Slot, WriteKeys
from pyarchiver.formats.payload import PayloadWriter, Type
from pyarchiver.formats.records import About, PackInfo, RunComplete, Settings
from pyarchiver.formats.sealed import Found, Layout, Opener, ReadAt, find_header, seal_object

PASSWORD = "cold storage"
SECRET = bytes(range(16))
Json = dict[str, Any]
Record = tuple[int, int, bytes]


@cache
def read_keys() -> ReadKeys:
    """The same archive in every test."""
    return ReadKeys(bytes(range(100, 116)), bytes(range(32)), bytes(range(200, 232)))


@cache
def write_keys() -> WriteKeys:
    return read_keys().writer()


def cheap_slots(
    owner: ReadKeys, password: str = PASSWORD, secret: bytes = SECRET
) -> tuple[Slot, ...]:
    """A password slot and a recovery slot that take a millisecond to open."""
    ops, memory = keys.ARGON2_OPS, keys.ARGON2_MEMORY
    keys.ARGON2_OPS, keys.ARGON2_MEMORY = 1, 1 << 20
    try:
        return (keys.password_slot(owner, password), keys.recovery_slot(owner, secret))
    finally:
        keys.ARGON2_OPS, keys.ARGON2_MEMORY = ops, memory


@cache
def slots() -> tuple[Slot, ...]:
    return cheap_slots(read_keys())


def noise(label: str, size: int) -> bytes:
    """Bytes that look random and are the same everywhere: BLAKE3's output for `label`."""
    return blake3(label.encode()).digest(length=size)


def read_at_of(data: bytes | bytearray | memoryview) -> ReadAt:
    """`data` as a storage."""
    view = memoryview(data)

    def read_at(offset: int, into: memoryview) -> int:
        piece = view[offset : offset + len(into)]
        into[: len(piece)] = piece
        return len(piece)

    return read_at


@dataclass(frozen=True)
class Sealed:
    """An object in memory, and what went into it."""

    header: Header
    key: bytes
    payload: bytes
    data: bytes

    @property
    def layout(self) -> Layout:
        return Layout(len(self.header.raw), self.header.suite.tag)


def sealed_bytes(suite: Suite, payload: bytes, kind: Kind = Kind.PACK) -> Sealed:
    """An object whose payload is `payload`, without any structure."""
    header, key = new_header(suite, write_keys(), slots(), kind)
    return Sealed(header, key, payload, seal_object(header, key, [payload]))


@dataclass(frozen=True)
class Block:
    """A block record to be written."""

    lengths: list[int]
    ids: list[bytes]
    body: bytes


def write_payload(
    layout: Layout, records: Iterable[tuple[Type, bytes] | Block]
) -> tuple[bytes, list[bytes]]:
    """(a whole payload of these records, the bodies of its index records)."""
    writer = PayloadWriter()
    pieces: list[Buffer] = []
    for record in records:
        if isinstance(record, Block):
            pieces += writer.add_block(record.lengths, record.ids, record.body)
        else:
            pieces += writer.add(*record)
    closing, indexes = writer.close(layout)
    return b"".join([*pieces, *closing]), indexes


def sealed_records(
    suite: Suite, records: Iterable[tuple[Type, bytes] | Block], kind: Kind = Kind.PACK
) -> Sealed:
    """A whole object of these records."""
    header, key = new_header(suite, write_keys(), slots(), kind)
    payload, _ = write_payload(Layout(len(header.raw), suite.tag), records)
    return Sealed(header, key, payload, seal_object(header, key, [payload]))


def open_bytes(data: bytes | bytearray | memoryview, owner: ReadKeys | None = None) -> Opener:
    """An Opener on an object in memory, its key taken from whichever header is authentic."""
    read_at = read_at_of(data)
    found, key = authentic(find_header(read_at, len(data)), owner or read_keys())
    return Opener(found, key, read_at, len(data))


def authentic(found: Found, owner: ReadKeys) -> tuple[Found, bytes]:
    """The copy of the header that the owner wrote, and the object key in it."""
    try:
        return found, found.header.object_key(owner)
    except DamagedError:
        other = found.swapped()
        if other is None:
            raise
        return other, other.header.object_key(owner)


def entries_in(body: memoryview) -> list[Entry]:
    """The entries of a record, none of which may be passed over."""
    skipped: list[str] = []
    entries = list(decode_entries(body, skipped))
    assert not skipped
    return entries


def framed(payload: bytes) -> Iterator[Record]:
    """(type, offset, body) of each record: a second, independent reader of the frames."""
    at = 0
    while at < len(payload):
        kind, length = struct.unpack_from("<BI", payload, at)
        body = payload[at + 5 : at + 5 + length]
        assert len(body) == length
        yield kind, at, body
        at += 5 + length


def describe_bytes(value: bytes) -> Json:
    """Short values in full, long ones by length and BLAKE3."""
    if len(value) <= 64:
        return {"hex": value.hex()}
    return {"length": len(value), "blake3": blake3(value).hexdigest()}


def describe_record(record: Record) -> Json:
    kind, offset, body = record
    name = Type(kind).name
    digest = blake3(body).hexdigest()
    return {"type": kind, "name": name, "offset": offset, "length": len(body), "blake3": digest}


def describe_entry(entry: Entry) -> Json:
    node: Node = entry.node
    return {
        "path": entry.path.hex(),
        "run": entry.run,
        "sequence": entry.sequence,
        "kind": node.kind.name.lower(),
        "mode": node.mode,
        "mtime": node.mtime,
        "uid": node.uid,
        "gid": node.gid,
        "user": node.user,
        "group": node.group,
        "size": node.size,
        "hash": node.file_hash.hex(),
        "content": [
            {"hole": part.length}
            if isinstance(part, Hole)
            else {"object": part.object_id.hex(), "first": part.first, "count": part.chunks}
            for part in node.content
        ],
        "link": node.link.hex(),
        "hardlink": node.hardlink,
        "xattrs": [
            {"name": name.hex(), "value": describe_bytes(node.xattrs[name])}
            for name in sorted(node.xattrs)
        ],
    }


def describe_value(value: About | RunComplete | PackInfo) -> Json:
    """A small record as JSON: bytes in hex, a long header by length and BLAKE3."""
    return {
        name: describe_bytes(item) if name == "header" else _plain(item)
        for name, item in asdict(value).items()
    }


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def describe_chunk(
    owner: keys.ArchiveKeys, block_offset: int, start: int, ordinal: int, data: bytes
) -> Json:
    return {
        "ordinal": ordinal,
        "block": block_offset,
        "start": start,
        "id": owner.chunk_id(data).hex(),
        "length": len(data),
        "data": describe_bytes(data),
    }


def decode_all(owner: keys.ArchiveKeys, records: Iterable[Record]) -> Json:
    """Everything that the records of an object say, in the form of vectors.json."""
    said: Json = {"chunks": [], "entries": [], "packs": [], "runs": [], "settings": {}}
    joiner = PartJoiner()
    for kind, offset, body in records:
        view = memoryview(body)
        if kind == Type.ABOUT:
            said["about"] = describe_value(About.decode(view))
        elif kind == Type.BLOCK:
            block = read_block(view)
            for start, length in zip(block.starts, block.lengths, strict=True):
                data = bytes(block.data[start : start + length])
                ordinal = len(said["chunks"])
                said["chunks"].append(describe_chunk(owner, offset, start, ordinal, data))
        elif kind == Type.ENTRIES:
            said["entries"] += [describe_entry(entry) for entry in entries_in(view)]
        elif kind == Type.PART:
            entry = joiner.add(view)
            if entry is not None:
                said["entries"].append(describe_entry(entry))
        elif kind == Type.PACK:
            said["packs"].append(describe_value(PackInfo.decode(view)))
        elif kind == Type.SETTINGS:
            said["settings"] = Settings.decode(view).values
        elif kind == Type.RUN:
            said["runs"].append(describe_value(RunComplete.decode(view)))
    return said


def examples(count: int) -> settings:
    """Hypothesis settings without time limits, which would fail on a slow machine."""
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def unpack_all(data: bytes, limit: int) -> list[object]:
    """All that `wire.unpack_each` gives, at once."""
    return list(wire.unpack_each(data, limit))
