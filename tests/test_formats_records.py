"""The small records, names, and msgpack with limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent_reader as second
from helpers_formats import examples, unpack_all
from pyarchiver.formats import wire
from pyarchiver.formats.errors import DamagedError, UnsupportedError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import ObjectName, object_name, parse_name, tag_of
from pyarchiver.formats.records import About, PackInfo, RunComplete, Settings

LIMIT = (1 << 62) - 1
counts = st.integers(0, LIMIT)
positive = st.integers(1, LIMIT)
hashes = st.binary(min_size=32, max_size=32)
object_ids = st.binary(min_size=16, max_size=16)

abouts = st.builds(About, positive, counts, hashes, counts, counts, counts, st.text(max_size=30))
completes = st.builds(RunComplete, positive, counts, counts, counts, counts)
packs = st.builds(
    PackInfo, object_ids, positive, positive, hashes, st.binary(max_size=200), st.integers(0, 9)
)
setting_names = st.from_regex(r"[a-z_.]{1,12}", fullmatch=True)
settings = st.builds(Settings, st.dictionaries(setting_names, st.text(max_size=30), max_size=6))

ABOUT = About(1, 0, bytes(32), program="p")
COMPLETE = RunComplete(1, 2, 3, 4, 5)
PACK = PackInfo(bytes(16), 1, 1, bytes(32), b"header", 0)
Decode = Callable[[memoryview], object]


@given(abouts | completes | packs | settings)
@examples(300)
def test_record_round_trip(value: Any) -> None:
    assert type(value).decode(memoryview(value.encode())) == value


@pytest.mark.parametrize("value", [ABOUT, COMPLETE, PACK], ids=lambda value: type(value).__name__)
def test_every_field_is_needed_and_unknown_ones_are_ignored(value: Any) -> None:
    encoded = wire.unpack(value.encode())
    decode: Decode = type(value).decode
    assert len(encoded) == len(fields(value))
    assert decode(memoryview(wire.pack(encoded | {"later": [1]}))) == value
    with pytest.raises(UnsupportedError, match="Later"):
        decode(memoryview(wire.pack(encoded | {"Later": 1})))
    for name in encoded:
        fewer = {key: item for key, item in encoded.items() if key != name}
        with pytest.raises(DamagedError, match=name):
            decode(memoryview(wire.pack(fewer)))


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        (ABOUT, {"run": 0}),
        (ABOUT, {"run": -1}),
        (ABOUT, {"run": True}),
        (ABOUT, {"previous": LIMIT + 1}),
        (ABOUT, {"hash": bytes(31)}),
        (ABOUT, {"hash": "0" * 32}),
        (ABOUT, {"number": 1 << 63}),
        (ABOUT, {"part": -1}),
        (ABOUT, {"written": 1.5}),
        (ABOUT, {"program": b"p"}),
        (COMPLETE, {"run": 0}),
        (COMPLETE, {"began": -1}),
        (COMPLETE, {"files": None}),
        (COMPLETE, {"size": 1 << 62}),
        (PACK, {"object": bytes(15)}),
        (PACK, {"run": 0}),
        (PACK, {"size": 0}),
        (PACK, {"blake3": b""}),
        (PACK, {"header": "text"}),
        (PACK, {"indexes": -1}),
        (PACK, {"indexes": (1 << 20) + 1}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_impossible_field_is_damage(value: Any, changes: dict[str, Any]) -> None:
    body = wire.pack(wire.unpack(value.encode()) | changes)
    with pytest.raises(DamagedError):
        type(value).decode(memoryview(body))


@pytest.mark.parametrize("body", [{"a": 1}, {"a": None}, {"a": b"b"}, {b"a": "b"}, [], None])
def test_settings_are_text(body: object) -> None:
    with pytest.raises(DamagedError):
        Settings.decode(memoryview(wire.pack(body)))


def test_defaults_of_about_are_those_of_a_pack() -> None:
    assert About.decode(memoryview(ABOUT.encode())).number == 0
    assert Settings.decode(memoryview(Settings().encode())).values == {}


# --- names ------------------------------------------------------------------------------------

kinds = st.sampled_from([Kind.PACK, Kind.MANIFEST, Kind.CHECKPOINT])


@given(st.binary(min_size=16, max_size=16), kinds, st.integers(0, 10**18 - 1), object_ids)
@examples(200)
def test_name_round_trip(archive: bytes, kind: Kind, number: int, object_id: bytes) -> None:
    name = object_name(archive, kind, number, object_id)
    expected = 0 if kind == Kind.PACK else number
    assert parse_name(name) == ObjectName(tag_of(archive), kind, expected, object_id)
    assert name.startswith(tag_of(archive))
    assert re.fullmatch(r"[0-9a-z-]+", name)


def test_names_as_the_specification_shows_them() -> None:
    archive, object_id = bytes(range(16)), bytes(range(16, 32))
    tag, last = "000102030405", "101112131415161718191a1b1c1d1e1f"
    assert object_name(archive, Kind.PACK, 0, object_id) == f"{tag}-p-{last}"
    assert object_name(archive, Kind.MANIFEST, 7, object_id) == f"{tag}-m-00000007-{last}"
    checkpoint = object_name(archive, Kind.CHECKPOINT, 123456789, object_id)
    assert checkpoint == f"{tag}-c-123456789-{last}"


def test_manifests_sort_by_number() -> None:
    names = [object_name(bytes(16), Kind.MANIFEST, n, bytes(16)) for n in (1, 2, 10, 99, 100)]
    assert names == sorted(names)


GOOD = object_name(bytes(16), Kind.MANIFEST, 12, bytes(16))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "photos.archive",
        GOOD + ".part",
        GOOD + "\n",
        " " + GOOD,
        "./" + GOOD,
        GOOD[:-1],
        GOOD + "0",
        GOOD.replace("-m-", "-p-"),
        GOOD.replace("-m-", "-x-"),
        GOOD.replace("-m-", "-M-"),
        GOOD.replace("00000012", "0000012"),
        GOOD.replace("00000012", ""),
        GOOD.replace("00000012", "-0000012"),
        GOOD.replace("00000012", "\u06600000012"),
        GOOD.replace("00000012-", ""),
        GOOD.replace("00000012", "1" * 19),
        GOOD.replace("0" * 32, "0" * 31 + "G"),
        GOOD.replace("0" * 32, "A" * 32),
    ],
)
def test_other_names_are_not_ours(name: str) -> None:
    assert parse_name(GOOD) is not None
    assert parse_name(name) is None


@given(st.from_regex(r"[0-9a-f]{12}-([mc]-[0-9]{8,12}|p)-[0-9a-f]{32}", fullmatch=True))
@examples(100)
def test_a_name_has_one_spelling(name: str) -> None:
    """Two names that mean one object would pass for two objects."""
    parsed = parse_name(name)
    assert parsed is None or str(parsed) == name


# --- wire -------------------------------------------------------------------------------------

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
@examples(200)
def test_wire_round_trip(value: Any) -> None:
    assert wire.unpack(wire.pack(value)) == value
    assert wire.unpack(memoryview(wire.pack(value))) == value


@given(st.lists(values, max_size=5))
@examples(100)
def test_wire_values_one_after_another(several: list[Any]) -> None:
    data = b"".join(map(wire.pack, several))
    assert unpack_all(data, len(data)) == several
    if data:
        with pytest.raises(DamagedError):
            unpack_all(data, len(data) - 1)


@given(values, st.binary(min_size=1, max_size=5))
@examples(100)
def test_wire_refuses_trailing_and_missing_bytes(value: Any, more: bytes) -> None:
    data = wire.pack(value)
    for bad in (data + more, data[:-1]):
        with pytest.raises(DamagedError):
            wire.unpack(bad)


CUT = (b"\x92\x01", b"\x92\xc4\x01a", b"\xc4", b"\xc4\x02a", b"\xcd\x01", b"\x81\xa1a", b"\x91\x91")


@pytest.mark.parametrize("cut", CUT, ids=bytes.hex)
def test_wire_notices_a_value_that_is_cut_off(cut: bytes) -> None:
    """Also where the cut falls between two items of an array."""
    with pytest.raises(DamagedError):
        wire.unpack(cut)
    for before in (b"", b"\x01"):
        with pytest.raises(DamagedError):
            unpack_all(before + cut, 100)


EXTENSIONS = {
    "a byte": b"\xd4@\0", "8 bytes": b"\xd7@" + bytes(8), "none": b"\xc7\0@", "many": b"\xc8\1\0@",
}  # fmt: skip
WITHIN = [b"", b"\x91", b"\x92\x01", b"\x81\xa1x", b"\x81\xa1x\x91\x81\xa1y"]


@pytest.mark.parametrize("code", [*range(-128, 128)])
def test_extension_types_are_refused(code: int) -> None:
    """Timestamps too (-1), which the library decodes by itself."""
    refuse_everywhere(b"\xd6" + (code % 256).to_bytes(1, "big") + bytes(4))


@pytest.mark.parametrize("form", EXTENSIONS)
@pytest.mark.parametrize("code", [-1, 0, 5])
def test_extensions_of_every_size_are_refused(form: str, code: int) -> None:
    data = EXTENSIONS[form].replace(b"@", (code % 256).to_bytes(1, "big"))
    refuse_everywhere(data + bytes(256 if form == "many" else 0))


@pytest.mark.parametrize(
    "time", [msgpack.Timestamp(1), msgpack.Timestamp(1, 5), msgpack.Timestamp(-1, 5)]
)
def test_timestamps_of_every_size_are_refused(time: msgpack.Timestamp) -> None:
    refuse_everywhere(msgpack.packb(time))


def refuse_everywhere(data: bytes) -> None:
    """As the value itself, and within lists and fields of any name."""
    for before in WITHIN:
        with pytest.raises(DamagedError):
            wire.unpack(before + data)
        with pytest.raises(DamagedError):
            unpack_all(before + data, 1000)
        with pytest.raises(second.Refused):
            second.one(before + data)


@pytest.mark.parametrize("data", [b"\xa1\xff", b"\xa3\xed\xb3\xbf", b"\xa2\xc0\x80"])
def test_text_that_is_no_utf_8_keeps_its_bytes(data: bytes) -> None:
    for value in (wire.unpack(data), *unpack_all(data, 100)):
        assert wire.pack(value) == data


@pytest.mark.parametrize("bad", [1 << 64, "\ud800", object(), {1: object()}, [bytes(9), object()]])
def test_a_value_that_cannot_be_packed_leaves_nothing_behind(bad: object) -> None:
    """The packer is shared: half a value must not stand before the next one."""
    with pytest.raises((OverflowError, ValueError, TypeError)):
        wire.pack(bad)
    assert wire.pack([1]) == b"\x91\x01"


def test_fields_tells_critical_names_by_their_first_letter() -> None:
    assert wire.fields({"a": 1, "bC": 2, "": 3, "_D": 4, "é": 5}, ()) == {
        "a": 1, "bC": 2, "": 3, "_D": 4, "é": 5
    }  # fmt: skip
    assert wire.fields({"Known": 1}, ("Known",)) == {"Known": 1}
    for name in ("A", "Ab", "É"):
        with pytest.raises(UnsupportedError):
            wire.fields({name: 1}, ("a", "ab"))


def test_number_and_sized_include_their_bounds() -> None:
    assert wire.number({"n": 3}, "n", 3, 5) == 3
    assert wire.number({"n": 5}, "n", 3, 5) == 5
    assert wire.sized({"b": b"ab"}, "b", 2) == b"ab"
    for outside in (2, 6, True, 4.0, "4", None):
        with pytest.raises(DamagedError):
            wire.number({"n": outside}, "n", 3, 5)
    for wrong in (b"a", b"abc", "ab", None, bytearray(2)):
        with pytest.raises(DamagedError):
            wire.sized({"b": wrong}, "b", 2)
