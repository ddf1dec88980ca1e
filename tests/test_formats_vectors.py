"""The golden objects: opened by every key, read on every path, and no flipped byte unnoticed."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from blake3 import blake3

from helpers_formats import (
    Json,
    Record,
    authentic,
    decode_all,
    describe_bytes,
    describe_record,
    framed,
    read_at_of,
)
from pyarchiver.formats import recovery
from pyarchiver.formats.block import read_block
from pyarchiver.formats.entry import EntryKind, hash_content
from pyarchiver.formats.errors import FormatError
from pyarchiver.formats.header import Header, Kind
from pyarchiver.formats.keys import ReadKeys, open_slot
from pyarchiver.formats.names import ObjectName, parse_name
from pyarchiver.formats.payload import Index, Type, read_index, read_record, read_records
from pyarchiver.formats.sealed import SEGMENT, Opener, find_header

FOLDER = Path(__file__).parent / "vectors"
VECTORS: Json = json.loads((FOLDER / "vectors.json").read_text(encoding="ascii"))
OBJECTS: dict[str, Json] = {item["file"]: item for item in VECTORS["objects"]}
SMALL = [name for name, item in OBJECTS.items() if item["segments"] == 1]
LARGE = [name for name, item in OBJECTS.items() if item["segments"] > 1]
KEYS = ReadKeys(
    bytes.fromhex(VECTORS["archive_id"]),
    bytes.fromhex(VECTORS["archive_key"]),
    bytes.fromhex(VECTORS["seed"]),
)

every_object = pytest.mark.parametrize("name", OBJECTS)


@dataclass(frozen=True)
class Golden:
    """A golden object as it should be read; `records` are checked against vectors.json."""

    said: Json
    data: bytes
    header: Header
    key: bytes
    payload: bytes
    records: list[Record]

    @property
    def header_size(self) -> int:
        return len(self.header.raw)


@cache
def golden(name: str) -> Golden:
    said = OBJECTS[name]
    data = (FOLDER / name).read_bytes()
    found = find_header(read_at_of(data), len(data))
    key = bytes.fromhex(said["object_key"])
    payload = bytes(Opener(found, key, read_at_of(data), len(data)).read(0, len(data)))
    assert blake3(payload).hexdigest() == said["payload_blake3"]
    return Golden(said, data, found.header, key, payload, list(framed(payload)))


def opener_of(name: str) -> Opener:
    this = golden(name)
    read_at = read_at_of(this.data)
    return Opener(find_header(read_at, len(this.data)), this.key, read_at, len(this.data))


def unlock(header: Header, secret: str | bytes) -> ReadKeys:
    opened = [open_slot(slot, header.archive_id, secret) for slot in header.slots]
    (found,) = [keys for keys in opened if keys is not None]
    return found


# --- what the vectors hold together -------------------------------------------------------


def test_vectors_show_everything_the_format_has() -> None:
    objects = VECTORS["objects"]
    records = {record["type"] for item in objects for record in item["records"]}
    entries = [entry for item in objects for entry in item["entries"]]
    methods = {
        body[0] for name in OBJECTS for kind, _, body in golden(name).records if kind == Type.BLOCK
    }
    assert {(item["suite"], item["kind"]) for item in objects} == {
        (suite, kind) for suite in ("aegis256", "xchacha20poly1305") for kind in (1, 2, 3)
    }
    assert records == {int(kind) for kind in Type}
    assert methods == {0, 1}
    assert {entry["kind"] for entry in entries} == {kind.name.lower() for kind in EntryKind}
    assert any("hole" in part for entry in entries for part in entry["content"])
    assert any(entry["kind"] == "file" and not entry["size"] for entry in entries)
    assert any(entry["xattrs"] for entry in entries)
    assert any(entry["hardlink"] for entry in entries)
    assert any(b"\xff" in bytes.fromhex(entry["path"]) for entry in entries)
    assert LARGE
    assert SMALL


# --- keys -------------------------------------------------------------------------------


@every_object
def test_password_opens_every_object(name: str) -> None:
    keys = unlock(golden(name).header, VECTORS["password"])
    assert keys == KEYS
    assert golden(name).header.object_key(keys) == golden(name).key


@every_object
def test_password_opens_in_its_normalised_form_too(name: str) -> None:
    normal = bytes.fromhex(VECTORS["password_nfkc_utf8"]).decode()
    assert normal != VECTORS["password"]
    assert unlock(golden(name).header, normal) == KEYS


@every_object
def test_recovery_code_opens_every_object(name: str) -> None:
    secret = recovery.decode(VECTORS["recovery_code"])
    assert secret == bytes.fromhex(VECTORS["recovery_secret"])
    assert unlock(golden(name).header, secret) == KEYS


@every_object
def test_seed_opens_every_object(name: str) -> None:
    assert golden(name).header.object_key(KEYS) == golden(name).key


def test_derived_keys_are_the_published_ones() -> None:
    assert KEYS.writer().public_key.hex() == VECTORS["public_key"]
    assert KEYS.chunk_key.hex() == VECTORS["chunk_key"]
    assert KEYS.file_key.hex() == VECTORS["file_key"]
    assert KEYS.chunker_seed == VECTORS["chunker_seed"]
    assert recovery.encode(bytes.fromhex(VECTORS["recovery_secret"])) == VECTORS["recovery_code"]


# --- reading ----------------------------------------------------------------------------


@every_object
def test_header_says_what_the_vectors_say(name: str) -> None:
    this = golden(name)
    found = find_header(read_at_of(this.data), len(this.data))
    assert found.whole
    assert not found.notices
    assert this.header.suite.name == this.said["suite"]
    assert this.header.kind == this.said["kind"]
    assert this.header.archive_id == KEYS.archive_id
    assert this.header.object_id.hex() == this.said["object_id"]
    assert this.header.hash.hex() == this.said["header_hash"]
    assert this.header_size == this.said["header_length"]
    assert len(this.data) == this.said["size"]
    assert blake3(this.data).hexdigest() == this.said["blake3"]


@every_object
def test_name_repeats_what_the_header_says(name: str) -> None:
    this = golden(name)
    taken_apart = parse_name(this.said["name"])
    tag = KEYS.archive_id[:6].hex()
    number = this.said["about"]["number"]
    assert taken_apart == ObjectName(tag, Kind(this.header.kind), number, this.header.object_id)
    assert str(taken_apart) == this.said["name"]


@every_object
def test_records_from_front_to_back(name: str) -> None:
    read = [(kind, at, bytes(body)) for kind, at, body in read_records(opener_of(name))]
    said = golden(name).said
    assert [describe_record(record) for record in read] == said["records"]
    assert_says(said, read)


@every_object
def test_records_by_index(name: str) -> None:
    opener, said = opener_of(name), golden(name).said
    indexes = [Index.decode(body) for body in read_index(opener)]
    placed = [record for index in indexes for record in index.records]
    assert [
        {"record": r.type, "offset": r.offset, "length": r.length, "chunks": r.chunks}
        for r in placed
    ] == said["index"]
    assert [length for index in indexes for length in index.lengths] == [
        chunk["length"] for chunk in said["chunks"]
    ]
    ids = b"".join(index.ids for index in indexes)
    assert ids == b"".join(bytes.fromhex(chunk["id"]) for chunk in said["chunks"])
    read = [(r.type, r.offset, bytes(read_record(opener, r))) for r in placed]
    assert [describe_record(record) for record in read] == [
        record
        for record in said["records"]
        if record["type"] not in (Type.PADDING, Type.INDEX, Type.TAIL)
    ]
    assert_says(said, read)


@every_object
def test_arbitrary_ranges(name: str) -> None:
    this, opener = golden(name), opener_of(name)
    assert opener.length == this.said["payload_length"]
    chance = random.Random(name)
    borders = [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, opener.length - 1, opener.length]
    for _ in range(200):
        start, end = sorted(
            chance.choice([*borders, chance.randrange(opener.length)]) for _ in range(2)
        )
        if end <= opener.length:
            assert opener.read(start, end - start) == this.payload[start:end]


def assert_says(said: Json, records: list[Record]) -> None:
    """Decoded, the records say what vectors.json says."""
    decoded = decode_all(KEYS, records)
    for part in ("about", "settings", "packs", "runs", "chunks", "entries"):
        assert decoded[part] == said[part], part


@pytest.mark.parametrize("name", [name for name in OBJECTS if "pack" in name])
def test_files_of_a_pack_restore(name: str) -> None:
    """Put together from runs and holes, each file has its bytes and its hash."""
    this = golden(name)
    chunks: list[bytes] = []
    for kind, _, body in this.records:
        if kind == Type.BLOCK:
            block = read_block(memoryview(body))
            chunks += [
                bytes(block.data[start : start + length])
                for start, length in zip(block.starts, block.lengths, strict=True)
            ]
    expected = {item["path"]: item for item in this.said["files"]}
    files = [entry for entry in this.said["entries"] if entry["kind"] == "file"]
    assert {entry["path"] for entry in files} == set(expected)
    for entry in files:
        restored = bytearray()
        parts: list[tuple[bytes, int] | int] = []
        for part in entry["content"]:
            if "hole" in part:
                restored += bytes(part["hole"])
                parts.append(part["hole"])
                continue
            assert part["object"] == this.said["object_id"]
            for chunk in chunks[part["first"] : part["first"] + part["count"]]:
                restored += chunk
                parts.append((KEYS.chunk_id(chunk), len(chunk)))
        assert len(restored) == entry["size"] == expected[entry["path"]]["size"]
        assert blake3(restored).hexdigest() == expected[entry["path"]]["blake3"]
        assert hash_content(KEYS.file_key, entry["size"], parts).hex() == entry["hash"]


@pytest.mark.parametrize("name", [name for name in OBJECTS if "pack" not in name])
def test_log_objects_describe_the_packs(name: str) -> None:
    packs = {item["object_id"]: item for item in VECTORS["objects"] if item["kind"] == Kind.PACK}
    for info in golden(name).said["packs"]:
        pack = golden(packs[info["object_id"]]["file"])
        assert info["size"] == pack.said["size"]
        assert info["blake3"] == pack.said["blake3"]
        assert info["header"] == describe_bytes(pack.header.raw)


# --- flips ------------------------------------------------------------------------------


def front_to_back(opener: Opener, this: Golden) -> None:
    read = []
    for kind, at, body in read_records(opener):
        read.append((kind, at, bytes(body)))
        assert read == this.records[: len(read)]
    assert len(read) == len(this.records)


def by_index(opener: Opener, this: Golden) -> None:
    known = {at: body for _, at, body in this.records}
    for body in read_index(opener):
        assert body in [found for kind, _, found in this.records if kind == Type.INDEX]
        for placed in Index.decode(body).records:
            assert read_record(opener, placed) == known[placed.offset]


def by_ranges(opener: Opener, this: Golden) -> None:
    """Every range is right or refused; returns only if all were right, and all is there."""
    size = len(this.payload)
    failed: FormatError | None = None
    pieces = 0
    cuts = [0, 1, size // 3, SEGMENT - 1, SEGMENT, SEGMENT + 1, size - 1, size]
    cuts = sorted(cut for cut in cuts if cut <= size)
    for start, end in itertools.pairwise(cuts):
        try:
            read = opener.read(start, end - start)
        except FormatError as error:
            failed = error
            continue
        assert read == this.payload[start : start + len(read)]
        pieces += len(read)
    rest = opener.intact_from(0)
    assert rest == this.payload[: len(rest)]
    if failed:
        raise failed
    if pieces < size:
        raise FormatError("the object is shorter")


PATHS: tuple[Callable[[Opener, Golden], None], ...] = (front_to_back, by_index, by_ranges)


def paths_blind_to(data: bytearray, this: Golden) -> list[str]:
    """The read paths that noticed nothing. What any path returns must be right all the same."""
    read_at = read_at_of(data)
    try:
        found = find_header(read_at, len(data))
        if found.header.raw == this.header.raw:
            key = this.key
        else:
            found, key = authentic(found, KEYS)
    except FormatError:
        return []
    assert key == this.key
    opener = Opener(found, key, read_at, len(data))
    blind = []
    for path in PATHS:
        try:
            path(opener, this)
        except FormatError:
            continue
        if not found.notices:
            blind.append(path.__name__)
    return blind


@every_object
def test_paths_read_the_whole_object_unaltered(name: str) -> None:
    """The flip tests below would prove nothing if the paths failed on sound objects."""
    this = golden(name)
    assert paths_blind_to(bytearray(this.data), this) == [path.__name__ for path in PATHS]


def assert_flips_noticed(this: Golden, positions: list[int]) -> None:
    chance = random.Random(this.said["file"])
    data = bytearray(this.data)
    for number, at in enumerate(positions):
        mask = 0xFF if number % 2 else 1 << chance.randrange(8)
        data[at] ^= mask
        assert not paths_blind_to(data, this), f"byte {at} xor {mask:#x}"
        data[at] ^= mask
    assert data == this.data


@pytest.mark.parametrize("name", SMALL)
def test_every_flipped_byte_is_noticed_on_every_path(name: str) -> None:
    assert_flips_noticed(golden(name), list(range(len(golden(name).data))))


@pytest.mark.parametrize("name", LARGE)
def test_flips_are_noticed_in_any_segment(name: str) -> None:
    this = golden(name)
    size, header, tag = len(this.data), this.header_size, this.header.suite.tag
    first_end = header + SEGMENT + tag
    last_end = size - header
    near = [
        *range(header, header + 20),
        *range(first_end - tag - 20, first_end + 20),
        *range(last_end - tag - 20, last_end),
    ]
    sample = random.Random(name).sample(range(header, last_end), 60)
    # Every byte of a header is flipped in the small objects; each of these reads 1 MiB.
    headers = [*range(0, header, 16), *range(last_end, size, 16)]
    assert_flips_noticed(this, [*headers, *near, *sample])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("bit", range(8))
def test_every_bit_of_the_mac_counts(name: str, bit: int) -> None:
    this = golden(name)
    for at in range(this.header_size - 44, this.header_size - 12):
        data = bytearray(this.data)
        data[at] ^= 1 << bit
        assert not paths_blind_to(data, this)
