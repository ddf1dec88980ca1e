"""The payload: records framed, found again by index, closed at a Padmé size; and blocks."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from helpers_formats import (
    Block as BlockRecord,
)
from helpers_formats import (
    Sealed,
    examples,
    framed,
    noise,
    open_bytes,
    sealed_bytes,
    sealed_records,
    write_payload,
)
from pyarchiver.formats import wire
from pyarchiver.formats.aead import AEGIS256, SUITES, Buffer
from pyarchiver.formats.block import (
    STORED,
    ZSTD,
    block_head,
    compressor,
    read_block,
    read_cut_block,
)
from pyarchiver.formats.errors import DamagedError, FormatError, UnsupportedError
from pyarchiver.formats.padme import padme
from pyarchiver.formats.payload import (
    BLOCK_CHUNKS_MAX,
    BLOCK_MAX,
    BLOCK_RAW_MAX,
    FRAME_SIZE,
    RECORD_MAX,
    TAIL_SIZE,
    Index,
    PayloadWriter,
    Placed,
    Type,
    body_limit,
    read_index,
    read_record,
    read_records,
)
from pyarchiver.formats.sealed import SEGMENT, Layout

PLAIN_TYPES = [kind for kind in Type if kind not in (Type.BLOCK, Type.INDEX, Type.TAIL)]
ZEROS = memoryview(bytes(BLOCK_MAX))

layouts = st.builds(Layout, st.integers(1216, 65536), st.sampled_from([16, 32]))
lengths_near_a_segment = st.builds(
    lambda segments, off: max(0, segments * SEGMENT + off),
    st.integers(0, 2),
    st.integers(-30, 30),
)


@st.composite
def records(draw: st.DrawFn) -> list[tuple[Type, bytes] | BlockRecord]:
    """Records of any length, and some that end near the border of a segment."""
    found: list[tuple[Type, bytes] | BlockRecord] = []
    for number in range(draw(st.integers(0, 6))):
        size = draw(st.integers(0, 300) | lengths_near_a_segment)
        body = noise(f"record {number}", size)
        if draw(st.booleans()):
            found.append((draw(st.sampled_from(PLAIN_TYPES)), body))
        else:
            count = draw(st.integers(1, 5))
            lengths = [draw(st.integers(0, (1 << 32) - 1)) for _ in range(count)]
            ids = [noise(f"id {number} {chunk}", 32) for chunk in range(count)]
            found.append(BlockRecord(lengths, ids, body))
    return found


def placed_of(index: list[bytes]) -> list[Placed]:
    return [record for body in index for record in Index.decode(body).records]


# --- whole objects ------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
@given(records=records())
@examples(40)
def test_records_round_trip_on_every_path(
    suite: Any, records: list[tuple[Type, bytes] | BlockRecord]
) -> None:
    this = sealed_records(suite, records)
    written = [
        (Type.BLOCK, item.body) if isinstance(item, BlockRecord) else item for item in records
    ]
    blocks = [item for item in records if isinstance(item, BlockRecord)]
    assert padme(len(this.data)) == len(this.data)

    opener = open_bytes(this.data)
    front = [(kind, bytes(body)) for kind, _, body in read_records(opener)]
    assert front[: len(written)] == written
    assert front[-1][0] == Type.TAIL
    assert {kind for kind, _ in front[len(written) : -1]} <= {Type.PADDING, Type.INDEX}

    bodies = read_index(opener)
    placed = placed_of(bodies)
    assert [(r.type, bytes(read_record(opener, r))) for r in placed] == written
    indexes = [Index.decode(body) for body in bodies]
    assert [n for index in indexes for n in index.lengths] == [n for b in blocks for n in b.lengths]
    assert b"".join(i.ids for i in indexes) == b"".join(x for b in blocks for x in b.ids)
    assert [r.chunks for r in placed if r.type == Type.BLOCK] == [len(b.ids) for b in blocks]

    for start in (record.offset for record in placed):
        rest = [at for _, at, _ in read_records(opener, start)]
        assert rest[0] == start


@given(records())
@examples(60)
def test_buffers_of_a_record_stand_side_by_side(
    records: list[tuple[Type, bytes] | BlockRecord],
) -> None:
    layout = Layout(2000, 32)
    cut = PayloadWriter()
    pieces: list[Buffer] = []
    for item in records:
        body = item.body if isinstance(item, BlockRecord) else item[1]
        third = len(body) // 3
        parts = (body[:third], bytearray(body[third:]), memoryview(b""))
        if isinstance(item, BlockRecord):
            pieces += cut.add_block(item.lengths, item.ids, *parts)
        else:
            pieces += cut.add(item[0], *parts)
    pieces += cut.close(layout)[0]
    assert b"".join(pieces) == write_payload(layout, records)[0]


@given(layouts, records(), st.integers(0, 5 << 20), st.integers(0, 2000))
@examples(150)
def test_closed_size_is_an_upper_bound(
    layout: Layout,
    records: list[tuple[Type, bytes] | BlockRecord],
    more: int,
    more_chunks: int,
) -> None:
    writer = PayloadWriter()
    for item in records:
        if isinstance(item, BlockRecord):
            writer.add_block(item.lengths, item.ids, item.body)
        else:
            writer.add(*item)
    bound = writer.closed_size(layout)
    bound_with_more = writer.closed_size(layout, more, more_chunks)
    assert closed(writer, layout) <= bound
    # `more` counts the frames, of up to four records.
    left = max(0, more - 4 * FRAME_SIZE)
    for part in range(4):
        size = min(left, RECORD_MAX) if part < 3 else left
        left -= size
        if part == 0:
            writer.add_block([1] * more_chunks, [bytes(32)] * more_chunks, ZEROS[:size])
        else:
            writer.add(Type.ENTRIES, ZEROS[:size])
    if more >= 4 * FRAME_SIZE:
        assert closed(writer, layout) <= bound_with_more


def closed(writer: PayloadWriter, layout: Layout) -> int:
    """Size of the object if it were closed now; always a Padmé value."""
    size = layout.sealed_size(writer.length + sum(len(piece) for piece in writer.close(layout)[0]))
    assert padme(size) == size
    return size


@given(layouts, st.integers(1, 40), st.sampled_from([1, 300, BLOCK_CHUNKS_MAX]))
@examples(30)
def test_closed_size_bounds_many_chunks(layout: Layout, blocks: int, chunks: int) -> None:
    """Small files: the index is in several records and larger than the data."""
    writer = PayloadWriter()
    for _ in range(blocks):
        writer.add_block([1] * chunks, [bytes(32)] * chunks, ZEROS[: 5 * chunks])
    assert closed(writer, layout) <= writer.closed_size(layout)
    _, bodies = writer.close(layout)
    assert all(len(body) <= RECORD_MAX for body in bodies)
    assert sum(len(Index.decode(body).lengths) for body in bodies) == blocks * chunks
    assert len(placed_of(bodies)) == blocks


def test_closed_size_bounds_many_records() -> None:
    layout = Layout(2000, 32)
    writer = PayloadWriter()
    for _ in range(40_000):
        writer.add(Type.ENTRIES, b"x")
    assert closed(writer, layout) <= writer.closed_size(layout)
    _, bodies = writer.close(layout)
    assert len(bodies) == 3
    assert len(placed_of(bodies)) == 40_000


@given(layouts, st.integers(0, 12 << 20))
@examples(60)
def test_padding_is_made_of_whole_records(layout: Layout, size: int) -> None:
    """Whatever the padding comes to, its records are within the limit and the frames meet."""
    writer = PayloadWriter()
    head = writer.add(Type.ABOUT, b"a")
    writer.length += size  # as if that many bytes of records stood there
    pieces, _ = writer.close(layout)
    kinds = [(kind, len(body)) for kind, _, body in framed(b"".join([*head, *pieces]))]
    assert [kind for kind, _ in kinds[-2:]] == [Type.INDEX, Type.TAIL]
    assert all(kind == Type.PADDING and n <= RECORD_MAX for kind, n in kinds[1:-2])


def test_large_padding_is_several_records() -> None:
    writer = PayloadWriter()
    # 1 GiB and a little: Padmé rounds up by up to 32 MiB.
    writer.length = (1 << 30) + 1
    pieces, _ = writer.close(Layout(2000, 32))
    sizes = [len(body) for kind, _, body in framed(b"".join(pieces)) if kind == Type.PADDING]
    assert len(sizes) > 2
    assert max(sizes) <= RECORD_MAX


@pytest.mark.parametrize("rest", [0, 1, 4, 5, 6])
def test_no_padding_is_left_that_is_smaller_than_a_frame(rest: int) -> None:
    """Full padding records and 1 to 4 bytes: the last full one must give way."""
    layout = Layout(2000, 32)
    writer = PayloadWriter()
    # Above 256 MiB Padmé values are 8 MiB apart.
    writer.length = (256 << 20) + 1
    closing = b"".join(writer.close(layout)[0])
    indexed = sum(FRAME_SIZE + len(body) for kind, _, body in framed(closing) if kind >= 10)
    full = FRAME_SIZE + RECORD_MAX
    writer.length += (len(closing) - indexed) % full - rest
    pieces = b"".join(writer.close(layout)[0])
    sizes = [len(body) for kind, _, body in framed(pieces) if kind == Type.PADDING]
    assert sum(FRAME_SIZE + size for size in sizes) % full == rest
    assert max(sizes) <= RECORD_MAX
    assert closed(writer, layout) > 256 << 20


@pytest.mark.parametrize("kind", PLAIN_TYPES)
def test_a_record_over_the_limit_is_not_written(kind: Type) -> None:
    writer = PayloadWriter()
    writer.add(kind, ZEROS[:RECORD_MAX])
    with pytest.raises(ValueError, match="bytes"):
        writer.add(kind, ZEROS[:RECORD_MAX], b"x")
    assert writer.length == FRAME_SIZE + RECORD_MAX


# --- impossible payloads ------------------------------------------------------------------


def frame(kind: int, body: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<BI", kind, len(body) if size is None else size) + body


def sealed_payload(*pieces: bytes) -> Sealed:
    """An object with a payload that no PayloadWriter would write."""
    return sealed_bytes(AEGIS256, b"".join(pieces))


def tail(index_at: int, length: int) -> bytes:
    return frame(Type.TAIL, struct.pack("<QQ", index_at, length))


def records_of(this: Sealed) -> list[tuple[int, bytes]]:
    return [(kind, bytes(body)) for kind, _, body in read_records(open_bytes(this.data))]


def test_unknown_critical_record_stops_the_reader() -> None:
    this = sealed_payload(frame(Type.ABOUT), frame(127, b"new"), tail(13, 34))
    reading = read_records(open_bytes(this.data))
    assert next(reading)[0] == Type.ABOUT
    with pytest.raises(UnsupportedError, match="127"):
        next(reading)


@pytest.mark.parametrize("kind", [128, 200, 255])
def test_unknown_other_record_is_handed_on(kind: int) -> None:
    this = sealed_payload(frame(kind, b"new"), frame(Type.ABOUT, b"a"), tail(14, 35))
    assert records_of(this)[:2] == [(kind, b"new"), (Type.ABOUT, b"a")]


def test_type_0_is_no_record() -> None:
    with pytest.raises(UnsupportedError):
        records_of(sealed_payload(bytes(100)))


@pytest.mark.parametrize("kind", [*PLAIN_TYPES, Type.BLOCK, Type.INDEX, Type.TAIL, 128, 255])
def test_sizes_over_the_limit_are_refused_unread(kind: int) -> None:
    limit = BLOCK_MAX if kind == Type.BLOCK else RECORD_MAX
    assert body_limit(kind) == limit
    for size in (limit + 1, (1 << 32) - 1):
        with pytest.raises(DamagedError, match="larger"):
            records_of(sealed_payload(frame(kind, size=size), bytes(50)))


def test_payload_without_a_tail_is_damaged() -> None:
    with pytest.raises(DamagedError, match="tail"):
        records_of(sealed_payload(frame(Type.ABOUT)))


def test_bytes_behind_the_tail_are_damage() -> None:
    with pytest.raises(DamagedError, match="follow"):
        records_of(sealed_payload(tail(0, 21), b"x"))


def test_record_reaching_beyond_the_end_is_damage() -> None:
    for cut in range(1, FRAME_SIZE):
        with pytest.raises(DamagedError):
            records_of(sealed_payload(frame(Type.ABOUT)[:cut]))
    with pytest.raises(DamagedError):
        records_of(sealed_payload(frame(Type.ABOUT, b"abc", size=4)))


@pytest.mark.parametrize("index_at", [0, 4, 5, 27, 1 << 60, (1 << 64) - 1])
def test_tail_that_points_elsewhere_is_damage(index_at: int) -> None:
    index = frame(Type.INDEX, Index((), (), b"").encode())
    about = frame(Type.ABOUT)
    length = len(about) + len(index) + TAIL_SIZE
    if index_at == len(about):
        sound = sealed_payload(about, index, tail(index_at, length))
        assert placed_of(read_index(open_bytes(sound.data))) == []
        return
    this = sealed_payload(about, index, tail(index_at, length))
    with pytest.raises(FormatError):
        read_index(open_bytes(this.data))


@pytest.mark.parametrize(
    "last",
    [
        tail(0, 22),
        tail(0, 20),
        tail(0, 1 << 63),
        frame(Type.INDEX, bytes(16)),
        frame(Type.TAIL, bytes(15)) + b"\0",
        b"x" * 21,
        b"x" * 20,
        b"x",
    ],
)
def test_impossible_tail_is_damage(last: bytes) -> None:
    with pytest.raises(DamagedError):
        read_index(open_bytes(sealed_payload(last).data))


def test_read_record_checks_the_frame() -> None:
    this = sealed_payload(frame(Type.ABOUT, b"abc"), tail(8, 29))
    opener = open_bytes(this.data)
    assert bytes(read_record(opener, Placed(Type.ABOUT, 0, 3, 0))) == b"abc"
    for wrong in (
        Placed(Type.RUN, 0, 3, 0),
        Placed(Type.ABOUT, 0, 2, 0),
        Placed(Type.ABOUT, 0, 4, 0),
        Placed(Type.ABOUT, 1, 3, 0),
        Placed(Type.ABOUT, 28, 3, 0),
        Placed(Type.ABOUT, 1 << 60, 3, 0),
        Placed(Type.ABOUT, 0, RECORD_MAX, 0),
    ):
        with pytest.raises(DamagedError):
            read_record(opener, wrong)


# --- index ----------------------------------------------------------------------------------


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    rows = []
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from([*Type, 128, 255]))
        chunks = draw(st.integers(0, 20)) if kind == Type.BLOCK else 0
        length = draw(st.integers(0, body_limit(kind)))
        rows.append(Placed(kind, draw(st.integers(0, (1 << 62) - 1)), length, chunks))
    count = sum(row.chunks for row in rows)
    size = st.integers(0, (1 << 32) - 1)
    lengths = tuple(draw(st.lists(size, min_size=count, max_size=count)))
    return Index(tuple(rows), lengths, noise(f"{count}", 32 * count))


@given(indexes())
@examples(150)
def test_index_round_trip(index: Index) -> None:
    assert Index.decode(index.encode()) == index
    assert Index.decode(memoryview(index.encode())).encode() == index.encode()


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        [2, 0, 0],
        [2, 0, 0, "1"],
        [True, 0, 0, 0],
        [-1, 0, 0, 0],
        [256, 0, 0, 0],
        [2, -1, 0, 0],
        [2, 1 << 62, 0, 0],
        [2, 1 << 63, 0, 0],
        [2, 0, -1, 0],
        [2, 0, BLOCK_MAX + 1, 0],
        [3, 0, RECORD_MAX + 1, 0],
        [2, 0, 0, -1],
        [2, 0, 0, BLOCK_CHUNKS_MAX + 1],
        [2, 0, 0, 1 << 60],
        [3, 0, 0, 1],
    ],
    ids=str,
)
def test_impossible_row_of_an_index_is_damage(row: object) -> None:
    for rows in ([row], [[2, 0, 0, 0], row]):
        body = wire.pack({"records": rows, "lengths": b"", "ids": b""})
        with pytest.raises(DamagedError):
            Index.decode(body)


@pytest.mark.parametrize(
    ("lengths", "ids"), [(0, 0), (4, 0), (0, 32), (8, 32), (4, 64), (3, 32), (4, 31), (5, 33)]
)
def test_index_must_agree_with_itself(lengths: int, ids: int) -> None:
    rows = [[int(Type.BLOCK), 0, 100, 1]]
    body = {"records": rows, "lengths": bytes(lengths), "ids": bytes(ids)}
    with pytest.raises(DamagedError, match="contradicts"):
        Index.decode(wire.pack(body))
    sound = {"records": rows, "lengths": bytes(4), "ids": bytes(32)}
    assert Index.decode(wire.pack(sound)).lengths == (0,)


def test_index_ignores_what_a_later_version_adds() -> None:
    rows = [[3, 5, 6, 0, "later"]]
    body = {"records": rows, "lengths": b"", "ids": b"", "parity": 1}
    assert Index.decode(wire.pack(body)).records == (Placed(3, 5, 6, 0),)
    with pytest.raises(UnsupportedError):
        Index.decode(wire.pack({**body, "Parity": 1}))


# --- blocks ---------------------------------------------------------------------------------


@st.composite
def chunk_lists(draw: st.DrawFn) -> list[bytes]:
    found = []
    for number in range(draw(st.integers(1, 12))):
        size = draw(st.integers(0, 2000) | st.integers(0, 200_000))
        if draw(st.booleans()):
            found.append(noise(f"chunk {number}", size))
        else:
            found.append((b"all work and no play " * (size // 21 + 1))[:size])
    return found


def block_body(method: int, chunks: list[bytes], level: int = 3) -> bytes:
    data = b"".join(chunks)
    if method == ZSTD:
        data = compressor(level, len(data)).compress(data)
    return block_head(method, [len(chunk) for chunk in chunks]) + data


@pytest.mark.parametrize("method", [STORED, ZSTD])
@given(chunks=chunk_lists(), level=st.sampled_from([1, 3, 9]))
@examples(60)
def test_block_round_trip(method: int, chunks: list[bytes], level: int) -> None:
    if method == ZSTD and not any(chunks):
        return
    body = block_body(method, chunks, level)
    for read in (read_block(memoryview(body)), read_cut_block(memoryview(body))):
        assert read.lengths == tuple(len(chunk) for chunk in chunks)
        assert bytes(read.data) == b"".join(chunks)
        ends = [*read.starts[1:], len(read.data)]
        pieces = [bytes(read.data[a:b]) for a, b in zip(read.starts, ends, strict=True)]
        assert pieces == chunks


@pytest.mark.parametrize("method", [STORED, ZSTD])
@given(chunks=chunk_lists(), data=st.data())
@examples(100)
def test_cut_block_yields_a_prefix(method: int, chunks: list[bytes], data: st.DataObject) -> None:
    if method == ZSTD and not any(chunks):
        return
    body = block_body(method, chunks)
    cut = memoryview(body)[: data.draw(st.integers(0, len(body) - 1))]
    whole = b"".join(chunks)
    with pytest.raises(DamagedError):
        read_block(cut)
    head = 5 + 4 * len(chunks)
    if len(cut) < head:
        with pytest.raises(DamagedError):
            read_cut_block(cut)
        return
    read = read_cut_block(cut)
    assert read.lengths == tuple(len(chunk) for chunk in chunks)
    assert whole.startswith(bytes(read.data))
    if method == STORED:
        assert len(read.data) == len(cut) - head


def test_cut_block_yields_most_of_what_is_left() -> None:
    """Not merely some prefix: of incompressible data all but the last block of zstd's."""
    chunks = [noise(f"{number}", 100_000) for number in range(20)]
    body = block_body(ZSTD, chunks)
    for size in range(300_000, len(body), 170_000):
        read = read_cut_block(memoryview(body)[:size])
        assert len(read.data) >= size - 100 - (128 << 10) - len(body) + 2_000_000
        assert b"".join(chunks).startswith(bytes(read.data))


def test_compressed_together_takes_less_than_apart() -> None:
    chunks = [noise("same", 3000)] * 10
    assert len(block_body(ZSTD, chunks)) < 2 * len(block_body(ZSTD, chunks[:1]))


@pytest.mark.parametrize("level", [1, 3, 9, 15, 19])
def test_writers_never_need_a_larger_window_than_readers_allow(level: int) -> None:
    raw = memoryview(bytes(BLOCK_RAW_MAX))
    frame_data = compressor(level, BLOCK_RAW_MAX).compress(raw)
    assert zstandard.get_frame_parameters(frame_data).window_size <= 8 << 20
    body = memoryview(block_head(ZSTD, [BLOCK_RAW_MAX]) + frame_data)
    assert len(read_block(body).data) == BLOCK_RAW_MAX


@pytest.mark.parametrize("count", [0, BLOCK_CHUNKS_MAX + 1, (1 << 32) - 1])
def test_impossible_count_of_chunks_is_damage(count: int) -> None:
    body = struct.pack("<BI", STORED, count) + bytes(4 * (BLOCK_CHUNKS_MAX + 2))
    for read in (read_block, read_cut_block):
        with pytest.raises(DamagedError):
            read(memoryview(body))


def test_most_chunks_and_most_bytes_are_allowed() -> None:
    chunks = [b"x" * (BLOCK_RAW_MAX // BLOCK_CHUNKS_MAX)] * BLOCK_CHUNKS_MAX
    body = block_body(STORED, chunks)
    assert len(body) <= BLOCK_MAX
    assert len(read_block(memoryview(body)).lengths) == BLOCK_CHUNKS_MAX
    over = block_head(STORED, [BLOCK_RAW_MAX, 1]) + bytes(BLOCK_RAW_MAX + 1)
    for read in (read_block, read_cut_block):
        with pytest.raises(DamagedError):
            read(memoryview(over))


@pytest.mark.parametrize("method", [2, 3, 128, 255])
def test_unknown_method_is_damage(method: int) -> None:
    for read in (read_block, read_cut_block):
        with pytest.raises(DamagedError, match="method"):
            read(memoryview(block_head(method, [3]) + b"abc"))


@pytest.mark.parametrize("lengths", [[2], [4], [1, 1], [3, 1], [0], [1 << 22]], ids=str)
def test_lengths_must_match_the_data(lengths: list[int]) -> None:
    stored = block_head(STORED, lengths) + b"abc"
    compressed = block_head(ZSTD, lengths) + compressor(3, 3).compress(b"abc")
    for body in (stored, compressed):
        with pytest.raises(DamagedError):
            read_block(memoryview(body))


def test_data_must_be_one_frame_of_declared_size() -> None:
    frame_data = compressor(3, 3).compress(b"abc")
    params = zstandard.ZstdCompressionParameters(write_content_size=False)
    undeclared = zstandard.ZstdCompressor(compression_params=params).compress(b"abc")
    skippable = b"\x50\x2a\x4d\x18\x00\x00\x00\x00"
    checksummed = zstandard.ZstdCompressor(write_checksum=True).compress(b"abc")
    assert bytes(read_block(memoryview(block_head(ZSTD, [3]) + checksummed)).data) == b"abc"
    for data in (
        frame_data + b"x",
        frame_data + frame_data,
        undeclared,
        skippable + frame_data,
        frame_data + skippable,
        frame_data[:-1],
        checksummed[:-1] + bytes([checksummed[-1] ^ 1]),
        b"",
        b"abc",
    ):
        with pytest.raises(DamagedError):
            read_block(memoryview(block_head(ZSTD, [3]) + data))
