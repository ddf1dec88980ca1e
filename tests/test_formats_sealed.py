"""Sealed objects: sizes, padding, any range, any cut, and segments that were moved about."""

from __future__ import annotations

import math
import struct
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_formats import (
    Sealed,
    examples,
    noise,
    open_bytes,
    read_at_of,
    read_keys,
    sealed_bytes,
    sealed_records,
    slots,
    write_keys,
)
from pyarchiver.formats.aead import AEGIS256, SUITES, XCHACHA20POLY1305, Suite
from pyarchiver.formats.errors import DamagedError, ForeignError, FormatError, UnsupportedError
from pyarchiver.formats.header import HEADER_MAX, Kind, new_header
from pyarchiver.formats.padme import padme, padme_below
from pyarchiver.formats.payload import FRAME_SIZE, TAIL_SIZE, Type, read_index, read_records
from pyarchiver.formats.sealed import SEGMENT, Layout, Opener, Sealer, find_header, seal_object

TRACE = 64  # bytes of a header by which a reader recognises what is left of it
SIZES = (1, 2, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT - 1, 2 * SEGMENT, 2 * SEGMENT + 1)
every_suite = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))

layouts = st.builds(Layout, st.integers(1216, HEADER_MAX), st.sampled_from([16, 32]))
near_borders = st.builds(
    lambda segments, off: max(1, segments * SEGMENT + off),
    st.integers(0, 300),
    st.integers(-40, 40),
)
payload_sizes = near_borders | st.integers(1, 1 << 40)


# --- Padmé ------------------------------------------------------------------------------


def test_padme_values_of_the_paper() -> None:
    """ceil to a multiple of 2^(E - S), E = floor(log2 L), S = floor(log2 E) + 1."""
    known = {0: 0, 1: 1, 2: 2, 7: 7, 8: 8, 9: 10, 15: 16, 17: 18, 100: 104, 1000: 1024}
    known |= {
        1025: 1088,
        10_000: 10_240,
        1_000_000: 1_015_808,
        (1 << 30) + 1: (1 << 30) + (1 << 25),
    }
    assert {length: padme(length) for length in known} == known


@given(st.integers(2, 1 << 50))
@examples(500)
def test_padme_is_the_formula(length: int) -> None:
    exponent = length.bit_length() - 1
    step = 1 << (exponent - (math.floor(math.log2(exponent)) + 1 if exponent else 0))
    assert padme(length) == -(-length // step) * step


@given(st.integers(0, 1 << 50))
@examples(500)
def test_padme_bounds(length: int) -> None:
    size = padme(length)
    assert length <= size <= length * 1.12
    assert padme(size) == size
    assert padme_below(size) == size
    below = padme_below(length)
    assert below <= length
    assert padme(below) == below
    assert length in (below, size) or padme(below + 1) == size


@given(st.integers(0, 1 << 45), st.integers(0, 1 << 45))
@examples(300)
def test_padme_is_monotone(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert padme(low) <= padme(high)
    assert padme_below(low) <= padme_below(high)


def test_padme_is_monotone_and_tight_for_small_lengths() -> None:
    values = [padme(length) for length in range(1 << 14)]
    assert values == sorted(values)
    wanted = iter(sorted(set(values)))
    smallest = next(wanted)
    for length, value in enumerate(values):
        if length > smallest:
            smallest = next(wanted)
        assert value == smallest


# --- layout -----------------------------------------------------------------------------


@given(layouts, payload_sizes)
@examples(500)
def test_payload_size_inverts_sealed_size(layout: Layout, payload: int) -> None:
    assert layout.payload_size(layout.sealed_size(payload)) == payload


@given(layouts, st.integers(-100, 4 * SEGMENT))
@examples(500)
def test_payload_size_gives_a_possible_size_or_refuses(layout: Layout, size: int) -> None:
    try:
        payload = layout.payload_size(size)
    except DamagedError:
        return
    assert payload >= 1
    assert layout.sealed_size(payload) == size


@pytest.mark.parametrize("segments", [0, 1, 2])
@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_no_size_between_a_tag_and_a_byte_is_possible(suite: Suite, segments: int) -> None:
    """After full segments at least a tag and one byte must follow."""
    layout = Layout(2000, suite.tag)
    full = 2 * layout.header + segments * (SEGMENT + suite.tag)
    for extra in range(0 if not segments else 1, suite.tag + 1):
        with pytest.raises(DamagedError):
            layout.payload_size(full + extra)
    assert layout.payload_size(full + suite.tag + 1) == segments * SEGMENT + 1


@given(layouts, payload_sizes, st.integers(1, 64))
@examples(1000)
def test_padding_makes_a_padme_size(layout: Layout, payload: int, least: int) -> None:
    pad, size = layout.padding(payload, least)
    assert pad == 0 or pad >= least
    assert layout.sealed_size(payload + pad) == size
    assert padme(size) == size


@given(layouts, payload_sizes)
@examples(300)
def test_padding_costs_little(layout: Layout, payload: int) -> None:
    """At most the next Padmé value but two: room for the frame, and for a tag."""
    _, size = layout.padding(payload, FRAME_SIZE)
    bare = padme(layout.sealed_size(payload))
    assert size <= padme(padme(bare + 1) + 1)


@given(layouts, st.integers(1, 1 << 24), st.integers(FRAME_SIZE, 1 << 20))
@examples(300)
def test_padding_of_a_larger_payload_is_no_smaller_an_object(
    layout: Layout, payload: int, more: int
) -> None:
    """What `closed_size` rests on: an estimate at least a frame too high is an upper bound."""
    assert layout.padding(payload, FRAME_SIZE)[1] <= layout.padding(payload + more, FRAME_SIZE)[1]


# --- sealing and opening ----------------------------------------------------------------


@cache
def sample(suite_name: str, size: int) -> Sealed:
    return sealed_bytes(SUITES[suite_name], noise(f"payload {size}", size))


def sealed_of(suite: Suite, size: int) -> Sealed:
    return sample(suite.name, size)


@every_suite
@pytest.mark.parametrize("size", SIZES)
def test_payload_comes_back(suite: Suite, size: int) -> None:
    this = sealed_of(suite, size)
    opener = open_bytes(this.data)
    assert len(this.data) == this.layout.sealed_size(size)
    assert opener.whole
    assert opener.length == size
    assert opener.read(0, size) == this.payload
    assert opener.intact_from(0) == this.payload


@every_suite
def test_header_stands_at_both_ends(suite: Suite) -> None:
    this = sealed_of(suite, 1)
    assert this.data.startswith(this.header.raw)
    assert this.data.endswith(this.header.raw)


@pytest.mark.parametrize("size", SIZES)
@given(data=st.data())
@examples(40)
def test_any_range_is_a_slice(size: int, data: st.DataObject) -> None:
    this = sample("aegis256", size)
    opener = open_bytes(this.data)
    offsets = st.integers(0, size) | st.sampled_from(
        [at for at in (0, SEGMENT - 1, SEGMENT, SEGMENT + 1, size - 1, size) if 0 <= at <= size]
    )
    # Several ranges of one opener: it keeps the last segment that it opened.
    for start, end in data.draw(st.lists(st.tuples(offsets, offsets), min_size=1, max_size=5)):
        length = max(0, end - start)
        assert opener.read(start, length) == this.payload[start : start + length]
    start = data.draw(offsets)
    assert opener.read(start, size + 1) == this.payload[start:]


def test_range_beyond_the_end_is_refused() -> None:
    opener = open_bytes(sample("aegis256", 2).data)
    assert not len(opener.read(2, 5))
    for start, length in ((3, 0), (3, 5), (1 << 60, 1), (-1, 1)):
        with pytest.raises(DamagedError):
            opener.read(start, length)


def test_read_into_fills_a_given_buffer() -> None:
    this = sample("aegis256", SEGMENT + 1)
    out = memoryview(bytearray(SEGMENT + 1))
    open_bytes(this.data).read_into(0, out)
    assert out == this.payload
    with pytest.raises(DamagedError):
        open_bytes(this.data).read_into(1, out)


def test_intact_from_stops_at_16_mib() -> None:
    this = sealed_bytes(AEGIS256, bytes(20 * SEGMENT))
    assert 16 * SEGMENT <= len(open_bytes(this.data).intact_from(5)) <= 17 * SEGMENT


def feed_in_pieces(this: Sealed, cuts: list[int]) -> bytes:
    out = bytearray()
    sealer = Sealer(this.header, this.key, out.extend)
    view = memoryview(this.payload)
    start = 0
    for cut in sorted(cuts):
        sealer.feed(view[start:cut])
        start = cut
    sealer.feed(view[start:])
    sealer.finish()
    return bytes(out)


@pytest.mark.parametrize("size", [1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 3 * SEGMENT + 5])
@given(data=st.data())
@examples(15)
def test_sealed_bytes_do_not_depend_on_the_pieces(size: int, data: st.DataObject) -> None:
    this = sample("aegis256", size)
    special = [at for at in (1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT) if at <= size]
    cut = st.integers(0, size) | st.sampled_from([0, size, *special])
    assert feed_in_pieces(this, data.draw(st.lists(cut, max_size=12))) == this.data


def test_segment_by_segment_gives_the_same() -> None:
    this = sample("aegis256", 2 * SEGMENT)
    assert feed_in_pieces(this, [SEGMENT]) == this.data
    assert seal_object(this.header, this.key, [bytearray(this.payload), b""]) == this.data


@every_suite
def test_same_payload_twice_shares_no_ciphertext(suite: Suite) -> None:
    payload = bytes(5000)
    one, other = sealed_bytes(suite, payload), sealed_bytes(suite, payload)
    start = one.layout.header
    pieces = {one.data[at : at + 32] for at in range(start, start + 4900, 32)}
    assert len(pieces) == len(range(start, start + 4900, 32))
    assert not any(piece in other.data for piece in pieces)


# --- segments that were moved -----------------------------------------------------------


def cut_up(this: Sealed) -> list[bytes]:
    body = this.data[this.layout.header : -this.layout.header]
    step = SEGMENT + this.layout.tag
    return [body[at : at + step] for at in range(0, len(body), step)]


def put_together(this: Sealed, segments: list[bytes]) -> bytes:
    return b"".join([this.header.raw, *segments, this.header.raw])


def assert_only_true_prefix(data: bytes, payload: bytes) -> None:
    """Reading all fails, and what opens in front of the damage is right."""
    opener = open_bytes(data)
    with pytest.raises(DamagedError):
        opener.read(0, opener.length)
    intact = opener.intact_from(0)
    assert intact == payload[: len(intact)]
    assert len(intact) < len(payload)


@every_suite
def test_reordered_segments_are_refused(suite: Suite) -> None:
    this = sealed_of(suite, 3 * SEGMENT)
    first, second, third = cut_up(this)
    for order in ([second, first, third], [first, third, second], [third, second, first]):
        assert_only_true_prefix(put_together(this, order), this.payload)


@every_suite
def test_dropped_segment_is_refused(suite: Suite) -> None:
    this = sealed_of(suite, 3 * SEGMENT)
    segments = cut_up(this)
    for number in range(3):
        rest = segments[:number] + segments[number + 1 :]
        assert_only_true_prefix(put_together(this, rest), this.payload)


@every_suite
def test_repeated_segment_is_refused(suite: Suite) -> None:
    this = sealed_of(suite, 2 * SEGMENT)
    first, last = cut_up(this)
    for segments in ([first, first, last], [first, last, last]):
        opener = open_bytes(put_together(this, segments))
        with pytest.raises(DamagedError):
            opener.read(0, opener.length)


@every_suite
def test_full_segments_are_no_object_without_their_last(suite: Suite) -> None:
    """The last-flag: a whole number of full segments could pass for a shorter object."""
    this = sealed_of(suite, 2 * SEGMENT + 1)
    shorter = put_together(this, cut_up(this)[:2])
    opener = open_bytes(shorter)
    assert opener.whole
    with pytest.raises(DamagedError, match="segment 1"):
        opener.read(SEGMENT, SEGMENT)


@every_suite
def test_last_segment_is_not_taken_for_a_middle_one(suite: Suite) -> None:
    this = sealed_of(suite, 2 * SEGMENT)
    longer = put_together(this, [*cut_up(this), bytes(suite.tag + 1)])
    opener = open_bytes(longer)
    assert opener.read(0, SEGMENT) == this.payload[:SEGMENT]
    with pytest.raises(DamagedError, match="segment 1"):
        opener.read(SEGMENT, 1)


@every_suite
def test_segments_of_another_object_are_refused(suite: Suite) -> None:
    one = sealed_of(suite, 2 * SEGMENT)
    other = sealed_bytes(suite, one.payload)
    mixed = put_together(one, [cut_up(other)[0], cut_up(one)[1]])
    assert_only_true_prefix(mixed, one.payload)


def test_segments_do_not_open_under_another_header_with_the_same_key() -> None:
    """Associated data, not only the key, ties a segment to its header."""
    one = sealed_of(AEGIS256, 2)
    other, _ = new_header(AEGIS256, write_keys(), slots(), Kind.PACK)
    data = one.data.replace(one.header.raw, other.raw)
    found = find_header(read_at_of(data), len(data))
    opener = Opener(found, one.key, read_at_of(data), len(data))
    with pytest.raises(DamagedError):
        opener.read(0, 1)


def test_one_suite_does_not_open_the_other() -> None:
    this = sealed_of(XCHACHA20POLY1305, 2)
    sealed = cut_up(this)[0]
    for suite in SUITES.values():
        if suite != XCHACHA20POLY1305:
            with pytest.raises(DamagedError):
                suite.open(sealed, b"", bytes(suite.nonce), this.key, bytearray(SEGMENT))


@every_suite
def test_nonce_is_number_and_last_flag(suite: Suite) -> None:
    """Pinned here independently, because a change would still round-trip."""
    this = sealed_of(suite, SEGMENT + 1)
    for number, segment in enumerate(cut_up(this)):
        nonce = (struct.pack("<Q", number) + bytes([number == 1])).ljust(suite.nonce, b"\0")
        out = bytearray(len(segment) - suite.tag)
        suite.open(segment, this.header.hash, nonce, this.key, out)
        assert out == this.payload[number * SEGMENT :][:SEGMENT]


# --- cuts and lost headers ----------------------------------------------------------------


@cache
def records_object(suite_name: str) -> Sealed:
    records = [
        (Type.ABOUT, b"a" * 50),
        (Type.ENTRIES, noise("one", 400_000)),
        (Type.SETTINGS, b""),
        (Type.ENTRIES, noise("two", SEGMENT)),
        (Type.PART, noise("three", 700_000)),
        (Type.RUN, b"end"),
    ]
    return sealed_records(SUITES[suite_name], records)


def records_before(this: Sealed, end: int) -> list[tuple[int, int, bytes]]:
    """The records that lie wholly before `end`, read from the plain payload."""
    found, at = [], 0
    while at < len(this.payload):
        kind, size = struct.unpack_from("<BI", this.payload, at)
        body = this.payload[at + FRAME_SIZE : at + FRAME_SIZE + size]
        if at + FRAME_SIZE + size <= end:
            found.append((kind, at, body))
        at += FRAME_SIZE + size
    return found


def read_until_error(opener: Opener) -> tuple[list[tuple[int, int, bytes]], FormatError | None]:
    read: list[tuple[int, int, bytes]] = []
    try:
        for kind, at, body in read_records(opener):
            read.append((kind, at, bytes(body)))
    except FormatError as error:
        return read, error
    return read, None


@pytest.mark.parametrize("suite_name", SUITES)
@given(data=st.data())
@examples(60)
def test_a_cut_object_gives_every_record_of_its_full_segments(
    suite_name: str, data: st.DataObject
) -> None:
    this = records_object(suite_name)
    header, step = this.layout.header, SEGMENT + this.layout.tag
    borders = [header + number * step + off for number in range(3) for off in (-1, 0, 1)]
    borders += [len(this.data) - 1, len(this.data) - header, len(this.data) - header - 1]
    size = data.draw(st.integers(0, len(this.data) - 1) | st.sampled_from(borders))
    cut = this.data[:size]
    if size < header:
        with pytest.raises((ForeignError, DamagedError)):
            find_header(read_at_of(cut), size)
        return
    found = find_header(read_at_of(cut), size)
    assert not found.whole
    opener = Opener(found, this.key, read_at_of(cut), size)
    read, error = read_until_error(opener)
    back = size - (len(this.data) - header)
    if back >= TRACE or opener.whole:
        # All segments are there: a trace of the second header, or the padded size, shows it.
        assert back >= 0
        assert error is None
        assert read == records_before(this, len(this.payload))
        assert read_index(opener)
        return
    assert isinstance(error, DamagedError)
    full = min((size - header) // step, (len(this.payload) - 1) // SEGMENT)
    assert read == records_before(this, full * SEGMENT)
    assert opener.intact_from(0) == this.payload[: full * SEGMENT]
    with pytest.raises(DamagedError):
        read_index(opener)


@pytest.mark.parametrize("suite_name", SUITES)
@pytest.mark.parametrize("back", [0, 1, 63, 64, 500])
@pytest.mark.parametrize("size", [SEGMENT, 2 * SEGMENT])
def test_a_cut_within_the_second_header_costs_no_full_segment(
    suite_name: str, back: int, size: int
) -> None:
    """A complete last segment opens with its flag, whatever is left of the header behind it."""
    this = sample(suite_name, size)
    cut = this.data[: len(this.data) - this.layout.header + back]
    assert open_bytes(cut).intact_from(0) == this.payload


@given(st.integers(1, 60_000), st.integers(0, 255))
@examples(40)
def test_bytes_added_at_the_end_are_noticed_and_do_no_harm(count: int, fill: int) -> None:
    this = sample("aegis256", 2)
    longer = this.data + bytes([fill]) * count
    found = find_header(read_at_of(longer), len(longer))
    assert not found.whole
    assert found.notices
    opener = open_bytes(longer)
    assert opener.read(0, opener.length) == this.payload


@pytest.mark.parametrize("suite_name", SUITES)
def test_an_object_twice_in_one_file_is_not_taken_for_one(suite_name: str) -> None:
    """Headers at both ends, and they agree; only the segments do not fit between them."""
    this = sample(suite_name, 2)
    opener = open_bytes(this.data * 2)
    try:
        assert opener.read(0, opener.length) == this.payload
    except DamagedError:
        assert not opener.intact_from(0)


def test_front_header_overwritten_the_back_one_serves() -> None:
    for suite_name in SUITES:
        this = records_object(suite_name)
        for damaged in (1, 8, 12, 512, this.layout.header):
            data = bytes(damaged) + this.data[damaged:]
            found = find_header(read_at_of(data), len(data))
            assert found.whole
            assert found.notices
            opener = Opener(
                found, found.header.object_key(read_keys()), read_at_of(data), len(data)
            )
            assert opener.read(0, opener.length) == this.payload
            assert read_index(opener)


def test_both_headers_overwritten_is_an_error() -> None:
    this = sample("aegis256", 2)
    data = bytearray(this.data)
    data[:100] = bytes(100)
    data[-100:] = bytes(100)
    with pytest.raises(ForeignError):
        find_header(read_at_of(data), len(data))


@pytest.mark.parametrize("copy", ["front", "back"])
@pytest.mark.parametrize("suite_name", SUITES)
def test_one_bad_byte_in_one_header_does_not_cost_the_object(suite_name: str, copy: str) -> None:
    """The header stands twice for this: whichever copy is sound must serve."""
    this = sample(suite_name, 2)
    header = this.layout.header
    start = 0 if copy == "front" else len(this.data) - header
    lost = []
    for at in range(header):
        data = bytearray(this.data)
        data[start + at] ^= 0x20
        try:
            opener = open_bytes(data)
            if opener.read(0, opener.length) != this.payload:
                lost.append(at)
        except FormatError:
            lost.append(at)
    assert not lost, f"{len(lost)} of {header} bytes, from {lost[0]} to {lost[-1]}"


@pytest.mark.parametrize("suite_name", SUITES)
def test_a_lost_back_header_costs_no_segment(suite_name: str) -> None:
    """All segments are there, and the size says where the last one ends."""
    this = records_object(suite_name)
    header = this.layout.header
    data = this.data[:-header] + bytes(header)
    opener = open_bytes(data)
    read, _ = read_until_error(opener)
    assert read == records_before(this, len(this.payload))


def test_headers_that_differ_are_reported() -> None:
    this = sample("aegis256", 2)
    other, _ = new_header(AEGIS256, write_keys(), slots(), Kind.PACK)
    assert len(other.raw) == len(this.header.raw)
    data = this.data[: -len(other.raw)] + other.raw
    found = find_header(read_at_of(data), len(data))
    assert found.header == this.header
    assert found.other == other
    assert found.notices
    opener = Opener(found, this.key, read_at_of(data), len(data))
    assert opener.read(0, 2) == this.payload
    swapped = found.swapped()
    assert swapped is not None
    assert swapped.header == other
    assert swapped.notices
    assert swapped.swapped() is None


def test_a_lone_header_is_no_whole_object() -> None:
    raw = sample("aegis256", 2).header.raw
    for data in (raw, raw[:-1] + raw, raw + raw[1:]):
        found = find_header(read_at_of(data), len(data))
        assert not found.whole
        assert found.notices
        opener = Opener(found, bytes(32), read_at_of(data), len(data))
        assert opener.length == 0
        with pytest.raises(DamagedError):
            read_index(opener)


def test_two_headers_and_nothing_between_are_refused() -> None:
    raw = sample("aegis256", 2).header.raw
    data = raw + raw
    found = find_header(read_at_of(data), len(data))
    opener = Opener(found, bytes(32), read_at_of(data), len(data))
    assert not opener.whole
    assert opener.length == 0


def test_a_storage_that_reads_short_is_noticed() -> None:
    this = sample("aegis256", SEGMENT + 1)
    whole = read_at_of(this.data)

    def read_at(offset: int, into: memoryview) -> int:
        return whole(offset, into[: max(0, len(into) - 1)])

    opener = Opener(find_header(whole, len(this.data)), this.key, read_at, len(this.data))
    with pytest.raises(DamagedError, match="cut off"):
        opener.read(0, 1)


def test_damage_costs_its_own_segment_only() -> None:
    this = sample("aegis256", 3 * SEGMENT)
    data = bytearray(this.data)
    data[this.layout.segment_at(1) + 7] ^= 1
    opener = open_bytes(data)
    for _ in range(2):
        with pytest.raises(DamagedError, match="segment 1"):
            opener.read(SEGMENT + 5, 5)
        assert opener.read(0, SEGMENT) == this.payload[:SEGMENT]
        assert opener.read(2 * SEGMENT + 1, 99) == this.payload[2 * SEGMENT + 1 :][:99]
    assert opener.intact_from(10) == this.payload[10:SEGMENT]


def test_a_newer_version_is_named_as_such() -> None:
    data = bytearray(sample("aegis256", 2).data)
    at = data.index(b"\xa7version") + 8
    data[at] = 2
    header = len(sample("aegis256", 2).header.raw)
    data[len(data) - header + at] = 2
    with pytest.raises(UnsupportedError, match="version 2"):
        find_header(read_at_of(data), len(data))


def test_tail_is_the_last_bytes_of_the_payload() -> None:
    this = records_object("aegis256")
    kind, size, index_at, length = struct.unpack("<BIQQ", this.payload[-TAIL_SIZE:])
    assert (kind, size, length) == (Type.TAIL, 16, len(this.payload))
    assert this.payload[index_at] == Type.INDEX


def test_aead_refuses_buffers_that_are_too_small() -> None:
    for suite in SUITES.values():
        key, nonce = bytes(32), bytes(suite.nonce)
        with pytest.raises(ValueError, match="bytes given"):
            suite.seal(b"abc", b"", nonce, key, bytearray(2 + suite.tag))
        out = bytearray(3 + suite.tag)
        assert suite.seal(b"abc", b"", nonce, key, out) == len(out)
        with pytest.raises(ValueError, match="bytes given"):
            suite.open(out, b"", nonce, key, bytearray(2))
        with pytest.raises(ValueError, match="nonce"):
            suite.seal(b"abc", b"", nonce[1:], key, out)
        with pytest.raises(ValueError, match="nonce"):
            suite.open(out, b"", nonce, key[1:], bytearray(3))
        with pytest.raises(DamagedError, match="shorter"):
            suite.open(out[: suite.tag - 1], b"", nonce, key, bytearray(3))
