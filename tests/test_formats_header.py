"""The header: one accepted form, bound to its archive, its object and its key."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_formats import (
    examples,
    read_at_of,
    read_keys,
    sealed_bytes,
    slots,
    write_keys,
)
from pyarchiver.formats import wire
from pyarchiver.formats.aead import AEGIS256, SUITES
from pyarchiver.formats.errors import DamagedError, ForeignError, FormatError, UnsupportedError
from pyarchiver.formats.header import (
    END_MAGIC,
    HEADER_MAX,
    MAGIC,
    Header,
    Kind,
    new_header,
    parse_back,
    parse_front,
)
from pyarchiver.formats.keys import SEALED_KEY_SIZE, ArchiveKeys, ReadKeys, WriteKeys, new_keys
from pyarchiver.formats.sealed import find_header

AFTER_FIELDS = SEALED_KEY_SIZE + 32 + 12
PARSERS: tuple[Callable[[bytes], Header], ...] = (parse_front, parse_back)
both_ends = pytest.mark.parametrize("parse", PARSERS, ids=["front", "back"])


def made(kind: Kind = Kind.PACK) -> tuple[Header, bytes]:
    return new_header(AEGIS256, write_keys(), slots(), kind)


def fields_of(header: Header) -> dict[str, Any]:
    value: dict[str, Any] = wire.unpack(header.raw[12:-AFTER_FIELDS])
    return value


def header_bytes(fields: object, keys: WriteKeys | None = None, object_key: bytes = b"") -> bytes:
    """A header of any fields, sealed and signed as by its owner."""
    keys = keys or write_keys()
    packed = fields if isinstance(fields, bytes) else wire.pack(fields)
    data = MAGIC + struct.pack("<I", len(packed)) + packed
    data += keys.seal_object_key(object_key or bytes(32), data)
    data += keys.header_mac(data)
    return data + struct.pack("<I", len(data) + 12) + END_MAGIC


def changed(**fields: Any) -> bytes:
    return header_bytes(fields_of(made()[0]) | fields)


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
@pytest.mark.parametrize("kind", Kind)
@both_ends
def test_round_trip(suite: Any, kind: Kind, parse: Callable[[bytes], Header]) -> None:
    header, key = new_header(suite, write_keys(), slots(), kind)
    parsed = parse(header.raw)
    assert parsed == header
    assert parsed.kind == kind
    assert parsed.suite is suite
    assert parsed.slots == slots()
    assert parsed.object_key(read_keys()) == key


def test_fields_stand_where_the_specification_says() -> None:
    header, _ = made()
    raw = header.raw
    assert raw[:8] == bytes.fromhex("8950594152430d0a")
    assert raw[-8:] == bytes.fromhex("0a0d435241595089")
    (size,) = struct.unpack_from("<I", raw, 8)
    assert len(raw) == 1216 + size + 8
    assert struct.unpack_from("<I", raw, 1212 + size) == (len(raw),)
    assert raw[1180 + size : 1212 + size] == read_keys().header_mac(raw[: 1180 + size])


def test_object_ids_and_keys_are_fresh() -> None:
    headers = [made() for _ in range(20)]
    assert len({header.object_id for header, _ in headers}) == 20
    assert len({key for _, key in headers}) == 20
    assert len({header.hash for header, _ in headers}) == 20


def test_front_ignores_what_follows_and_back_what_precedes() -> None:
    header, _ = made()
    assert parse_front(header.raw + b"segments") == header
    assert parse_back(b"segments" + header.raw) == header


# --- lengths ------------------------------------------------------------------------------


@both_ends
@given(st.integers(0, (1 << 32) - 1) | st.integers(0, 3000))
@examples(200)
def test_any_other_length_of_the_fields_is_refused(
    parse: Callable[[bytes], Header], length: int
) -> None:
    raw = HEADER.raw
    if struct.pack("<I", length) == raw[8:12]:
        return
    with pytest.raises(DamagedError):
        parse(raw[:8] + struct.pack("<I", length) + raw[12:])


@both_ends
@given(st.integers(0, (1 << 32) - 1) | st.integers(0, 3000))
@examples(200)
def test_any_other_length_of_the_header_is_refused(
    parse: Callable[[bytes], Header], length: int
) -> None:
    raw = HEADER.raw
    if struct.pack("<I", length) == raw[-12:-8]:
        return
    with pytest.raises((DamagedError, ForeignError)):
        parse(raw[:-12] + struct.pack("<I", length) + raw[-8:])


HEADER, HEADER_KEY = made()


def test_a_trailer_that_reaches_beyond_its_header_is_refused() -> None:
    """The length at the end leads to a sound header, which is shorter than it says."""
    data = HEADER.raw + b"?" * 50
    data += struct.pack("<I", len(data) + 12) + END_MAGIC
    assert parse_front(data) == HEADER
    with pytest.raises(DamagedError, match="length"):
        parse_back(data)


@given(st.integers(0, len(HEADER.raw) - 1))
@examples(200)
def test_a_cut_header_is_refused_from_either_end(size: int) -> None:
    with pytest.raises((DamagedError, ForeignError)):
        parse_front(HEADER.raw[:size])
    with pytest.raises((DamagedError, ForeignError)):
        parse_back(HEADER.raw[len(HEADER.raw) - size :])


def test_other_magic_is_foreign() -> None:
    with pytest.raises(ForeignError):
        parse_front(b"\x89PNG\r\n\x1a\n" + HEADER.raw[8:])
    for data in (b"", b"\x89", b"PK\x03\x04" + bytes(100_000)):
        with pytest.raises(ForeignError):
            find_header(read_at_of(data), len(data))


@both_ends
def test_the_largest_header_is_64_kib(parse: Callable[[bytes], Header]) -> None:
    def of_size(size: int) -> bytes:
        fields = fields_of(HEADER)
        bare = len(header_bytes(fields | {"filler": b""}))
        # A longer value has a length of two bytes more.
        return header_bytes(fields | {"filler": bytes(size - bare - 1)})

    largest = of_size(HEADER_MAX)
    assert len(largest) == HEADER_MAX
    assert parse(largest).object_key(read_keys()) == bytes(32)
    found = find_header(read_at_of(largest + b"?" * 33 + largest), 2 * HEADER_MAX + 33)
    assert found.whole
    with pytest.raises(DamagedError):
        parse(of_size(HEADER_MAX + 1))


def test_writer_refuses_what_readers_would_refuse() -> None:
    many = slots()[:1] * 16
    header, _ = new_header(AEGIS256, write_keys(), many, Kind.PACK)
    assert parse_front(header.raw).slots == many
    with pytest.raises(ValueError, match="slots"):
        new_header(AEGIS256, write_keys(), slots()[:1] * 1000, Kind.PACK)


def test_writer_makes_no_header_with_more_slots_than_readers_take() -> None:
    with pytest.raises(ValueError, match="slots"):
        new_header(AEGIS256, write_keys(), slots()[:1] * 17, Kind.PACK)


# --- fields -------------------------------------------------------------------------------


@both_ends
def test_unknown_field_is_ignored(parse: Callable[[bytes], Header]) -> None:
    raw = changed(comment="of a later version", parity=[1, 2, {"x": b""}])
    assert parse(raw).object_key(read_keys()) == bytes(32)


@both_ends
@pytest.mark.parametrize("name", ["Shards", "Z", "Éa", "Version"])
def test_unknown_critical_field_is_refused(parse: Callable[[bytes], Header], name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        parse(changed(**{name: None}))


@both_ends
@pytest.mark.parametrize("version", [0, 2, 3, 1 << 63, -1])
def test_other_version_is_unsupported(parse: Callable[[bytes], Header], version: int) -> None:
    with pytest.raises(UnsupportedError, match="version"):
        parse(changed(version=version))


@both_ends
@pytest.mark.parametrize("suite", ["", "aegis128l", "AEGIS256", "none", "aegis256\0"])
def test_unknown_suite_is_unsupported(parse: Callable[[bytes], Header], suite: str) -> None:
    with pytest.raises(UnsupportedError, match="suite"):
        parse(changed(suite=suite))


def test_object_of_a_newer_version_is_named_so_and_not_called_damaged() -> None:
    raw = changed(version=2)
    data = raw + b"?" * 40 + raw
    with pytest.raises(UnsupportedError):
        find_header(read_at_of(data), len(data))


@pytest.mark.parametrize("kind", [0, 4, 5, 255])
def test_unknown_kind_is_left_to_the_caller(kind: int) -> None:
    assert parse_front(changed(kind=kind)).kind == kind


@both_ends
@pytest.mark.parametrize(
    "fields",
    [
        {"version": True},
        {"version": "1"},
        {"version": None},
        {"suite": b"aegis256"},
        {"archive": bytes(15)},
        {"archive": bytes(17)},
        {"archive": "0" * 16},
        {"object": b""},
        {"object": None},
        {"kind": -1},
        {"kind": 256},
        {"kind": 1.0},
        {"slots": None},
        {"slots": {}},
        {"slots": [1]},
        {"slots": [[]]},
        {"slots": [{}] * 17},
    ],
    ids=str,
)
def test_impossible_field_is_damage(
    parse: Callable[[bytes], Header], fields: dict[str, Any]
) -> None:
    with pytest.raises(DamagedError):
        parse(changed(**fields))


@both_ends
@pytest.mark.parametrize("name", ["version", "suite", "archive", "object", "kind", "slots"])
def test_missing_field_is_damage(parse: Callable[[bytes], Header], name: str) -> None:
    fields = fields_of(HEADER)
    del fields[name]
    with pytest.raises(DamagedError, match=name):
        parse(header_bytes(fields))


@both_ends
@pytest.mark.parametrize(
    "packed",
    [b"", b"\xc0", b"\x90", b"\x80\x80", b"\xc1", b"\x81\x01\x01", b"\xdf\xff\xff\xff\xff"],
    ids=bytes.hex,
)
def test_fields_that_are_no_map_are_damage(parse: Callable[[bytes], Header], packed: bytes) -> None:
    with pytest.raises(DamagedError):
        parse(header_bytes(packed))


# --- keys ---------------------------------------------------------------------------------


@given(st.integers(0, len(HEADER.raw) - 1), st.integers(1, 255))
@examples(300)
def test_no_altered_header_gives_a_key(at: int, mask: int) -> None:
    raw = bytearray(HEADER.raw)
    raw[at] ^= mask
    with pytest.raises(FormatError):
        parse_front(bytes(raw)).object_key(read_keys())


def test_mac_of_another_archive_key_is_refused() -> None:
    forger = replace(write_keys(), archive_key=bytes(32))
    header, _ = new_header(AEGIS256, forger, slots(), Kind.PACK)
    assert not header.authentic(read_keys())
    with pytest.raises(DamagedError, match="forged"):
        header.object_key(read_keys())


def test_key_sealed_to_another_public_key_is_refused() -> None:
    mixed = replace(write_keys(), public_key=new_keys().writer().public_key)
    header, _ = new_header(AEGIS256, mixed, slots(), Kind.PACK)
    assert header.authentic(read_keys())
    with pytest.raises(DamagedError):
        header.object_key(read_keys())


def test_the_archive_key_alone_authenticates_and_does_not_open() -> None:
    owner = ArchiveKeys(read_keys().archive_id, read_keys().archive_key)
    assert HEADER.authentic(owner)
    without_seed = ReadKeys(owner.archive_id, owner.archive_key, bytes(32))
    with pytest.raises(DamagedError):
        HEADER.object_key(without_seed)


@pytest.mark.parametrize(
    "fields", [{"object": bytes(16)}, {"kind": 2}, {"suite": "xchacha20poly1305"}, {"slots": []}]
)
def test_sealed_key_is_bound_to_the_fields_even_for_the_owner(fields: dict[str, Any]) -> None:
    """Moved under other fields and signed anew, it does not open: HPKE's info covers them."""
    packed = wire.pack(fields_of(HEADER) | fields)
    sealed = HEADER.raw[-AFTER_FIELDS : -AFTER_FIELDS + SEALED_KEY_SIZE]
    data = MAGIC + struct.pack("<I", len(packed)) + packed + sealed
    data += write_keys().header_mac(data)
    forged = parse_front(data + struct.pack("<I", len(data) + 12) + END_MAGIC)
    assert forged.authentic(read_keys())
    with pytest.raises(DamagedError):
        forged.object_key(read_keys())


@pytest.mark.parametrize("size", [1, 31, 33])
def test_object_key_of_another_length_is_refused(size: int) -> None:
    data = HEADER.raw[:-AFTER_FIELDS]
    sealed = write_keys().seal_object_key(bytes(size), data)
    with pytest.raises(DamagedError):
        read_keys().open_object_key(sealed, data)


@given(st.binary(max_size=1300))
@examples(50)
def test_arbitrary_bytes_are_no_sealed_key(sealed: bytes) -> None:
    with pytest.raises(DamagedError):
        read_keys().open_object_key(sealed, b"")


def test_header_hash_covers_the_mac() -> None:
    raw = bytearray(HEADER.raw)
    raw[-20] ^= 1
    assert parse_front(bytes(raw)).hash != HEADER.hash


def test_object_says_nothing_in_the_clear_but_its_fields() -> None:
    this = sealed_bytes(AEGIS256, b"secret name" * 100)
    assert set(fields_of(this.header)) == {
        "version", "suite", "archive", "object", "kind", "slots"
    }  # fmt: skip
    assert b"secret" not in this.data
    assert write_keys().public_key[:64] not in this.data
    assert read_keys().seed not in this.data
    assert read_keys().archive_key not in this.data
