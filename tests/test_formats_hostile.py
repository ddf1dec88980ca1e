"""Bytes from strangers: every decoder refuses them with a FormatError, and spends little on it."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from helpers_formats import (
    PASSWORD,
    SECRET,
    Block,
    entries_in,
    examples,
    noise,
    open_bytes,
    read_at_of,
    sealed_bytes,
    sealed_records,
    slots,
    unpack_all,
    write_keys,
)
from pyarchiver.formats import recovery, wire
from pyarchiver.formats.aead import AEGIS256
from pyarchiver.formats.block import (
    STORED,
    ZSTD,
    block_head,
    compressor,
    read_block,
    read_cut_block,
)
from pyarchiver.formats.entry import (
    ENTRIES_RAW,
    EntryKind,
    Hole,
    Node,
    PartJoiner,
    Run,
    decode_entries,
    decode_node,
    encode_entry,
    encode_node,
    encode_parts,
)
from pyarchiver.formats.errors import CodeError, DamagedError, FormatError
from pyarchiver.formats.header import END_MAGIC, HEADER_MAX, MAGIC, Kind, new_header
from pyarchiver.formats.header import parse_back as header_back
from pyarchiver.formats.header import parse_front as header_front
from pyarchiver.formats.keys import open_slot
from pyarchiver.formats.names import parse_name
from pyarchiver.formats.payload import (
    BLOCK_MAX,
    BLOCK_RAW_MAX,
    RECORD_MAX,
    Index,
    Placed,
    Type,
    read_index,
    read_record,
    read_records,
)
from pyarchiver.formats.records import About, PackInfo, RunComplete, Settings
from pyarchiver.formats.sealed import Opener, find_header

MIB = 1 << 20
Decoder = Callable[[bytes], object]


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fails if the block allocates more than `limit` bytes at any moment."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak} bytes allocated, {limit} allowed"


def all_entries(data: bytes) -> object:
    skipped: list[str] = []
    return list(decode_entries(memoryview(data), skipped)), skipped


def all_of_object(data: bytes) -> object:
    """An object through every path, whoever's it is."""
    opener = open_bytes(data)
    opener.intact_from(0)
    read_index(opener)
    return list(read_records(opener))


def any_slot(data: bytes) -> object:
    slot = wire.unpack(data)
    if not isinstance(slot, dict):
        raise DamagedError("no slot")
    # What a reader may spend is tested elsewhere; here it must be quick.
    for name, limit in (("ops", 1), ("mem", MIB)):
        value = slot.get(name)
        if type(value) is int and value > limit:
            slot[name] = limit
    return [open_slot(slot, bytes(16), secret) for secret in (PASSWORD, SECRET)]


def joined(data: bytes) -> object:
    return PartJoiner().add(memoryview(data))


FILE = Node(
    EntryKind.FILE,
    0o644,
    size=9,
    file_hash=bytes(32),
    content=(Run(bytes(16), 0, 4), Hole(5)),
    xattrs={b"user.a": b"b"},
    hardlink=3,
    user="me",
)
ENTRY = encode_entry(b"photos/one.raw", 1, 2, encode_node(FILE))
HEADER, _ = new_header(AEGIS256, write_keys(), slots(), Kind.PACK)
CHUNKS = [b"chunk one", noise("two", 50), b"three" * 20]
INDEX = Index((Placed(2, 0, 99, 2), Placed(3, 104, 5, 0)), (9, 50), bytes(64))
OBJECT = sealed_records(
    AEGIS256,
    [
        (Type.ABOUT, About(1, 0, bytes(32)).encode()),
        Block([9], [bytes(32)], block_head(STORED, [9]) + CHUNKS[0]),
        (Type.ENTRIES, compressor(3, ENTRIES_RAW).compress(ENTRY)),
    ],
)


def block(method: int) -> bytes:
    data = b"".join(CHUNKS)
    head = block_head(method, [len(chunk) for chunk in CHUNKS])
    return head + (compressor(3, len(data)).compress(data) if method == ZSTD else data)


def of_memoryview(decode: Callable[[memoryview], object]) -> Decoder:
    return lambda data: decode(memoryview(data))


DECODERS: dict[str, tuple[Decoder, list[bytes]]] = {
    "parse_front": (header_front, [HEADER.raw]),
    "parse_back": (header_back, [HEADER.raw]),
    "object": (all_of_object, [OBJECT.data]),
    "wire.unpack": (wire.unpack, [encode_node(FILE), ENTRY]),
    "wire.unpack_each": (lambda data: unpack_all(data, RECORD_MAX), [ENTRY * 3]),
    "index": (Index.decode, [INDEX.encode()]),
    "node": (decode_node, [encode_node(FILE), encode_node(Node(EntryKind.GONE))]),
    "entries": (all_entries, [compressor(3, ENTRIES_RAW).compress(ENTRY * 3)]),
    "part": (joined, list(encode_parts(ENTRY))),
    "block": (of_memoryview(read_block), [block(STORED), block(ZSTD)]),
    "cut block": (of_memoryview(read_cut_block), [block(STORED), block(ZSTD)]),
    "about": (of_memoryview(About.decode), [About(1, 2, bytes(32), 3, 4, 5, "p").encode()]),
    "run": (of_memoryview(RunComplete.decode), [RunComplete(1, 2, 3, 4, 5).encode()]),
    "pack": (
        of_memoryview(PackInfo.decode),
        [PackInfo(bytes(16), 1, 2, bytes(32), b"header", 1).encode()],
    ),
    "settings": (of_memoryview(Settings.decode), [Settings({"source": "/photos"}).encode()]),
    "slot": (any_slot, [wire.pack(slot) for slot in slots()]),
}
every_decoder = pytest.mark.parametrize("name", DECODERS)


@st.composite
def mutated(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    """A sound encoding with bytes changed, inserted, removed, repeated or cut off."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 5)):
            case 0 if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case 1:
                data[at:at] = draw(st.binary(min_size=1, max_size=9))
            case 2:
                del data[at : at + draw(st.integers(1, 9))]
            case 3:
                del data[at:]
            case 4:
                data[at:at] = data[: draw(st.integers(0, len(data)))]
            case _:
                data[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff" * 2]))
    return bytes(data)


def refuse_or_decode(name: str, data: bytes) -> None:
    """Anything but a value or a FormatError fails the test."""
    decode, _ = DECODERS[name]
    with suppress(FormatError):
        decode(data)


@every_decoder
def test_sound_encodings_are_decoded(name: str) -> None:
    """Otherwise the mutations below would test nothing but the first check."""
    decode, sound = DECODERS[name]
    for data in sound:
        decode(data)


@every_decoder
@given(data=st.binary(max_size=200))
@examples(100)
def test_arbitrary_bytes(name: str, data: bytes) -> None:
    refuse_or_decode(name, data)


@every_decoder
@given(data=st.data())
@examples(150)
def test_mutated_encodings(name: str, data: st.DataObject) -> None:
    refuse_or_decode(name, data.draw(mutated(DECODERS[name][1])))


@every_decoder
def test_every_prefix(name: str) -> None:
    for sound in DECODERS[name][1]:
        for size in range(0, len(sound), 1 + len(sound) // 400):
            refuse_or_decode(name, sound[:size])


SCALARS: list[object] = [
    None,
    True,
    -1,
    0,
    1,
    1 << 63,
    1.5,
    "",
    "a",
    b"",
    bytes(16),
    bytes(32),
    [],
    {},
    [[]],
]


@every_decoder
@given(data=st.data())
@examples(80)
def test_maps_with_fields_of_any_type(name: str, data: st.DataObject) -> None:
    """Well-formed msgpack whose fields are exchanged for others."""
    try:
        sound = wire.unpack(DECODERS[name][1][0])
    except FormatError:
        return
    if not isinstance(sound, dict):
        return
    changed: dict[Any, Any] = dict(sound)
    for field in data.draw(st.lists(st.sampled_from(sorted(sound)), min_size=1, max_size=3)):
        changed[field] = data.draw(st.sampled_from(SCALARS))
    refuse_or_decode(name, wire.pack(changed))


@given(st.binary(max_size=300).map(lambda body: MAGIC + body) | st.binary(max_size=50))
@examples(200)
def test_find_header_on_arbitrary_bytes(data: bytes) -> None:
    for candidate in (data, data + END_MAGIC, data + struct.pack("<I", len(data)) + END_MAGIC):
        with pytest.raises(FormatError):
            find_header(read_at_of(candidate), len(candidate))


@given(st.text(max_size=80))
@examples(200)
def test_any_text_as_a_name(name: str) -> None:
    assert parse_name(name) is None


@given(st.text(max_size=60) | st.text("0123456789ABCOIL \u0130\u00df\ufb03-", max_size=60))
@examples(300)
def test_any_text_as_a_recovery_code(typed: str) -> None:
    with suppress(CodeError):
        assert len(recovery.decode(typed)) == 16


# --- payloads from someone who has the keys, or a writer gone wrong -----------------------


@given(st.binary(min_size=1, max_size=200))
@examples(150)
def test_arbitrary_payload(payload: bytes) -> None:
    opener = open_bytes(sealed_bytes(AEGIS256, payload).data)
    for read in (lambda: list(read_records(opener)), lambda: read_index(opener)):
        with pytest.raises(FormatError):
            read()
    assert opener.intact_from(0) == payload


@given(st.data())
@examples(150)
def test_mutated_payload(data: st.DataObject) -> None:
    payload = data.draw(mutated([OBJECT.payload]))
    if not payload:
        return
    opener = open_bytes(sealed_bytes(AEGIS256, payload).data)
    try:
        for _, at, body in read_records(opener):
            assert body == payload[at + 5 : at + 5 + len(body)]
    except FormatError:
        pass
    try:
        for index in map(Index.decode, read_index(opener)):
            for placed in index.records:
                body = read_record(opener, placed)
                assert body == payload[placed.offset + 5 :][: placed.length]
    except FormatError:
        pass


@given(st.integers(0, 255), st.integers(0, 1 << 62), st.integers(0, BLOCK_MAX))
@examples(100)
def test_rows_that_point_anywhere(kind: int, offset: int, length: int) -> None:
    opener = open_bytes(OBJECT.data)
    with memory_below(MIB), pytest.raises(DamagedError):
        read_record(opener, Placed(kind, offset + len(OBJECT.payload), length, 0))


# --- bombs ----------------------------------------------------------------------------------


def zstd_bomb(size: int, declared: bool) -> bytes:
    """`size` zero bytes in a small frame."""
    params = zstandard.ZstdCompressionParameters.from_level(
        19, window_log=20, write_content_size=declared
    )
    return zstandard.ZstdCompressor(compression_params=params).compress(bytes(size))


def declared_frame(size: int) -> bytes:
    """A frame that declares `size` bytes of content and holds a few."""
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x01\x00\x00"


HUGE = [RECORD_MAX + 1, BLOCK_RAW_MAX + 1, 1 << 31, 1 << 32, 1 << 60, (1 << 63) - 1, (1 << 64) - 3]


@pytest.mark.parametrize("size", HUGE)
def test_declared_sizes_are_not_believed(size: int) -> None:
    frame = declared_frame(size)
    with memory_below(BLOCK_RAW_MAX + MIB):
        with pytest.raises(DamagedError):
            all_entries(frame)
        for lengths in ([1], [size % (1 << 32)], [BLOCK_RAW_MAX]):
            with pytest.raises(DamagedError):
                read_block(memoryview(block_head(ZSTD, lengths) + frame))


@pytest.mark.parametrize("declared", [True, False])
def test_zstd_bomb_in_an_entries_record(declared: bool) -> None:
    bomb = zstd_bomb(64 * MIB, declared)
    assert len(bomb) < 10_000
    with memory_below(2 * MIB), pytest.raises(DamagedError):
        all_entries(bomb)


@pytest.mark.parametrize("declared", [True, False])
def test_zstd_bomb_in_a_block(declared: bool) -> None:
    bomb = zstd_bomb(64 * MIB, declared)
    body = memoryview(block_head(ZSTD, [1000]) + bomb)
    with memory_below(2 * MIB):
        with pytest.raises(DamagedError):
            read_block(body)
        # Cut or not, a block gives no more than its lengths say.
        assert bytes(read_cut_block(body).data) == bytes(1000)


def test_frame_that_lies_about_its_size() -> None:
    """Declared as 1,000 bytes, it decompresses to 64 MiB."""
    bomb = zstd_bomb(64 * MIB, True)
    assert zstandard.frame_content_size(bomb) == 64 * MIB
    # Single-segment flag off, 4-byte content size behind the window descriptor.
    assert bomb[4] & 0b11100000 == 0b10000000
    liar = bomb[:6] + struct.pack("<I", 1000) + bomb[10:]
    assert zstandard.frame_content_size(liar) == 1000
    with memory_below(4 * MIB):
        with pytest.raises(DamagedError):
            read_block(memoryview(block_head(ZSTD, [1000]) + liar))
        with pytest.raises(DamagedError):
            all_entries(liar)


def test_window_larger_than_readers_allow() -> None:
    """Decompressing must not need the 128 MiB that the frame asks for."""
    params = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    data = zstandard.ZstdCompressor(compression_params=params).compressobj().compress(b"x" * MIB)
    stream = zstandard.ZstdCompressor(compression_params=params).compressobj()
    frame = stream.compress(noise("window", 300_000)) + stream.flush()
    assert not data or zstandard.get_frame_parameters(frame).window_size == 1 << 27
    body = memoryview(block_head(ZSTD, [300_000]) + frame)
    with memory_below(2 * MIB):
        with pytest.raises(DamagedError):
            read_block(body)
        assert len(read_cut_block(body).data) == 0


@pytest.mark.parametrize("count", [(1 << 32) - 1, 1 << 31, 1 << 24, 16385, 16384])
def test_count_of_chunks_is_not_believed(count: int) -> None:
    for method in (STORED, ZSTD):
        body = memoryview(struct.pack("<BI", method, count) + bytes(100))
        for read in (read_block, read_cut_block):
            with memory_below(MIB), pytest.raises(DamagedError):
                read(body)


@pytest.mark.parametrize(
    "head",
    [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"],
    ids=["array", "map", "bin", "str", "ext"],
)
@pytest.mark.parametrize("count", [(1 << 32) - 1, 1 << 31, 1 << 24])
def test_lengths_in_msgpack_are_not_believed(head: bytes, count: int) -> None:
    for before in (b"", b"\x92", b"\x81\xa1a"):
        data = before + head + struct.pack(">I", count) + bytes(20)
        with memory_below(MIB):
            with pytest.raises(DamagedError):
                wire.unpack(data)
            with pytest.raises(DamagedError):
                unpack_all(data, 1000)


@pytest.mark.parametrize("unit", [b"\x91", b"\x81\xa1a", b"\x92\xc0", b"\x81\x91"])
@pytest.mark.parametrize("depth", [2000, 10_000, 1_000_000])
def test_deep_nesting_is_refused(unit: bytes, depth: int) -> None:
    data = unit * depth + b"\xc0"
    with memory_below(8 * len(data) + MIB):
        with pytest.raises(DamagedError):
            wire.unpack(data)
        with pytest.raises(DamagedError):
            unpack_all(data, len(data))


def test_nested_arrays_that_claim_all_the_rest() -> None:
    """Each level may claim as many items as there are bytes; none may be paid in advance."""
    size = HEADER_MAX - 2000
    data = b"".join(b"\xdd" + struct.pack(">I", size - 5 * 500) for _ in range(500))
    with memory_below(64 * MIB), pytest.raises(DamagedError):
        wire.unpack(data.ljust(size, b"\xc0"))


def test_sizes_of_2_to_the_60_in_entries_cost_nothing() -> None:
    node = Node(EntryKind.FILE, size=1 << 60, file_hash=bytes(32), content=(Hole(1 << 60),) * 3)
    entry = encode_entry(b"p", 1, 1, encode_node(node))
    with memory_below(MIB):
        (read,) = entries_in(memoryview(compressor(3, ENTRIES_RAW).compress(entry)))
    assert read.node == node


def test_sizes_of_2_to_the_60_in_an_index_cost_nothing() -> None:
    rows = [[int(Type.BLOCK), (1 << 60) + at, BLOCK_MAX, 16384] for at in range(1000)]
    body = wire.pack({"records": rows, "lengths": b"", "ids": b""})
    with memory_below(2 * MIB), pytest.raises(DamagedError):
        Index.decode(body)


def test_index_of_many_empty_rows_is_bounded_by_its_bytes() -> None:
    rows = [[128, 0, 0, 0]] * 100_000
    body = wire.pack({"records": rows, "lengths": b"", "ids": b""})
    with memory_below(80 * len(body)):
        assert len(Index.decode(body).records) == 100_000


@pytest.mark.parametrize("value", [b"\x80", b"\x90", b"\x01"], ids=bytes.hex)
def test_entries_record_of_nothing_but_tiny_values_is_bounded(value: bytes) -> None:
    """Not one of them is an entry, and a record may hold 4 MiB of them in 200 bytes."""
    raw = value * (RECORD_MAX // 16)
    body = compressor(3, RECORD_MAX).compress(raw)
    assert len(body) < 200
    with memory_below(32 * len(raw)), suppress(FormatError):
        all_entries(body)


@pytest.mark.parametrize("value", [b"\x80", b"\x90", b"\x91\x90", b"\xa1\xff", b"\x81\xa1x\1"])
def test_one_entry_of_nothing_but_tiny_values_is_bounded(value: bytes) -> None:
    """What they take as Python's values: some 75 bytes for each, hence 300 MB for 4 MiB."""
    count = (RECORD_MAX // 16) // len(value)
    entry = b"\x95\xc4\1p\1\1\x81\xa4kind\4\xdd" + struct.pack(">I", count) + value * count
    body = compressor(3, RECORD_MAX).compress(entry)
    assert len(body) < 250
    with memory_below(90 * len(entry)):
        assert len(entries_in(memoryview(body))) == 1


def test_part_larger_than_a_part_may_be_is_refused() -> None:
    """64 parts of 1 MiB bound an entry; pieces of any size would make it 256 MiB."""
    body = wire.pack([0, 2, bytes(2 * MIB)])
    with pytest.raises(DamagedError):
        PartJoiner().add(memoryview(body))


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 62, (1 << 64) - 1])
def test_storage_that_lies_about_the_size(size: int) -> None:
    """The size comes from the storage; nothing may be allocated by it before it was read."""
    read_at = read_at_of(OBJECT.data)
    with memory_below(4 * MIB):
        try:
            found = find_header(read_at, size)
        except FormatError:
            return
        opener = Opener(found, OBJECT.key, read_at, size)
        for read in (lambda: list(read_records(opener)), lambda: read_index(opener)):
            with pytest.raises(FormatError):
                read()


def test_header_is_read_within_64_kib() -> None:
    """However large the object, no more than its ends is read to find the header."""
    asked: list[int] = []
    whole = read_at_of(OBJECT.data)

    def read_at(offset: int, into: memoryview) -> int:
        asked.append(len(into))
        return whole(offset, into)

    find_header(read_at, len(OBJECT.data))
    find_header(read_at, 1 << 40)
    assert max(asked) <= HEADER_MAX
    assert len(asked) == 4
