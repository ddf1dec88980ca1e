"""Entries: nodes, records of many, parts of a large one; and the hash of a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_formats import entries_in, examples, noise
from pyarchiver.formats import wire
from pyarchiver.formats.block import compressor
from pyarchiver.formats.entry import (
    ENTRIES_RAW,
    PART_SIZE,
    PARTS_MAX,
    PATH_MAX,
    SIZE_MAX,
    Entry,
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
    entry_records,
    hash_content,
)
from pyarchiver.formats.errors import DamagedError, UnsupportedError
from pyarchiver.formats.payload import RECORD_MAX, Type

PRESS = compressor(3, ENTRIES_RAW)

text = st.text(max_size=12)
small_bytes = st.binary(max_size=20)
runs = st.builds(
    Run,
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << 32) - 1),
    st.integers(1, (1 << 32) - 1),
)
content = st.lists(runs | st.builds(Hole, st.integers(1, SIZE_MAX)), max_size=5).map(tuple)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    kind = draw(st.sampled_from(EntryKind))
    if kind == EntryKind.GONE:
        return Node(kind)
    node = Node(
        kind,
        mode=draw(st.integers(0, 0o7777)),
        mtime=draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        uid=draw(st.integers(0, (1 << 32) - 1)),
        gid=draw(st.integers(0, (1 << 32) - 1)),
        user=draw(text),
        group=draw(text),
        hardlink=draw(st.integers(0, (1 << 64) - 1)),
        xattrs=draw(st.dictionaries(small_bytes, small_bytes, max_size=4)),
    )
    if kind == EntryKind.FILE:
        file_hash = draw(st.binary(min_size=32, max_size=32))
        size = draw(st.integers(0, SIZE_MAX))
        return node._replace(size=size, file_hash=file_hash, content=draw(content))
    if kind == EntryKind.SYMLINK:
        return node._replace(link=draw(small_bytes))
    return node


numbers = st.integers(1, (1 << 56) - 1)
entries = st.builds(Entry, st.binary(max_size=60), numbers, numbers, nodes())
FILE = Node(EntryKind.FILE, 0o644, 1, 2, 3, size=5, file_hash=bytes(32), content=(Hole(5),))


def encoded(entry: Entry) -> bytes:
    return encode_entry(entry.path, entry.run, entry.sequence, encode_node(entry.node))


def records_of(entries: Iterable[bytes]) -> list[tuple[Type, bytes]]:
    return [(kind, body) for kind, bodies in entry_records(entries, PRESS) for body in bodies]


def read_back(records: list[tuple[Type, bytes]]) -> list[Entry]:
    found: list[Entry] = []
    joiner = PartJoiner()
    for kind, body in records:
        if kind == Type.ENTRIES:
            found += entries_in(memoryview(body))
        else:
            assert kind == Type.PART
            entry = joiner.add(memoryview(body))
            found += [entry] if entry else []
    return found


def large_entry(size: int, path: bytes = b"large") -> Entry:
    """An entry of exactly `size` bytes, encoded."""
    node = FILE._replace(xattrs={b"a": b""})
    bare = len(encoded(Entry(path, 1, 1, node._replace(xattrs={b"a": bytes(1 << 16)}))))
    value = noise(str(size), size - bare + (1 << 16))
    entry = Entry(path, 1, 1, node._replace(xattrs={b"a": value}))
    assert len(encoded(entry)) == size
    return entry


# --- round trips ----------------------------------------------------------------------------


@given(nodes())
@examples(300)
def test_node_round_trip(node: Node) -> None:
    assert decode_node(encode_node(node)) == node


@given(nodes())
@examples(100)
def test_equal_nodes_give_equal_bytes(node: Node) -> None:
    backwards = dict(reversed(list(node.xattrs.items())))
    assert encode_node(node._replace(xattrs=backwards)) == encode_node(node)
    assert encode_node(decode_node(encode_node(node))) == encode_node(node)


@given(st.lists(entries, max_size=30))
@examples(100)
def test_entries_round_trip_in_order(written: list[Entry]) -> None:
    records = records_of(map(encoded, written))
    assert read_back(records) == written
    assert len(records) == (1 if written else 0)


def test_entry_is_an_array_of_path_run_sequence_and_fields() -> None:
    entry = Entry(b"\xff/name", 7, 1 << 40, FILE)
    assert wire.unpack(encoded(entry)) == [
        b"\xff/name",
        7,
        1 << 40,
        wire.unpack(encode_node(FILE)),
    ]


@given(st.lists(st.integers(1, 400_000), min_size=1, max_size=12))
@examples(30)
def test_entries_records_are_filled_and_bounded(sizes: list[int]) -> None:
    written = [b"\xc6" + size.to_bytes(4, "big") + bytes(size) for size in sizes]
    records = records_of(written)
    raw = [PRESS_BACK.decompress(body) for _, body in records]
    assert b"".join(raw) == b"".join(written)
    assert all(len(data) <= ENTRIES_RAW for data in raw)
    for data, following in itertools.pairwise(raw):
        first = next(item for item in written if following.startswith(item))
        assert len(data) + len(first) > ENTRIES_RAW


class _Back:
    """Decompresses what `PRESS` made, without the code under test."""

    def decompress(self, body: bytes) -> bytes:
        import zstandard

        return zstandard.ZstdDecompressor().decompress(body)


PRESS_BACK = _Back()


@pytest.mark.parametrize(
    "size",
    [ENTRIES_RAW - 1, ENTRIES_RAW, ENTRIES_RAW + 1, 2 * PART_SIZE, 2 * PART_SIZE + 1, 5 << 20],
)
def test_large_entry_round_trip(size: int) -> None:
    entry = large_entry(size)
    records = records_of([encoded(entry)])
    kinds = [kind for kind, _ in records]
    if size <= ENTRIES_RAW:
        assert kinds == [Type.ENTRIES]
    else:
        assert kinds == [Type.PART] * -(-size // PART_SIZE)
    assert all(len(body) <= RECORD_MAX for _, body in records)
    assert read_back(records) == [entry]


def test_large_entry_among_small_ones_keeps_the_order() -> None:
    small = [Entry(b"%d" % number, 1, number, FILE) for number in range(1, 7)]
    written = [*small[:2], large_entry(3 << 20), large_entry(ENTRIES_RAW + 1), *small[2:]]
    records = records_of(map(encoded, written))
    assert read_back(records) == written


def test_incompressible_entries_stay_within_a_record() -> None:
    written = [large_entry(ENTRIES_RAW // 4) for _ in range(9)]
    records = records_of(map(encoded, written))
    assert [kind for kind, _ in records] == [Type.ENTRIES] * 3
    assert max(len(body) for _, body in records) < RECORD_MAX
    assert read_back(records) == written


def test_an_entry_of_more_than_64_parts_is_refused() -> None:
    assert len(list(encode_parts(bytes(PARTS_MAX * PART_SIZE)))) == PARTS_MAX
    with pytest.raises(ValueError, match="entry"):
        list(encode_parts(bytes(PARTS_MAX * PART_SIZE + 1)))


# --- parts ------------------------------------------------------------------------------------


def part(number: Any, total: Any, piece: Any) -> memoryview:
    return memoryview(wire.pack([number, total, piece]))


def halves(entry: Entry) -> tuple[memoryview, memoryview]:
    data = encoded(entry)
    return part(0, 2, data[:10]), part(1, 2, data[10:])


def test_a_part_that_is_missing_is_noticed() -> None:
    data = encoded(large_entry(3 << 20))
    parts = [memoryview(body) for body in encode_parts(data)]
    assert len(parts) == 3
    for order in ([1], [2], [0, 2], [0, 0], [0, 1, 1], [0, 1, 0]):
        joiner = PartJoiner()
        for number in order[:-1]:
            assert joiner.add(parts[number]) is None
        if order[-1] == 0:
            continue
        with pytest.raises(DamagedError):
            joiner.add(parts[order[-1]])


def test_an_entry_after_one_that_was_cut_is_not_lost() -> None:
    """All its parts are there; that the one before is incomplete is no fault of its own."""
    first, second = Entry(b"first", 1, 1, FILE), Entry(b"second", 1, 2, FILE)
    joiner = PartJoiner()
    assert joiner.add(halves(first)[0]) is None
    found = []
    for body in halves(second):
        try:
            found.append(joiner.add(body))
        except DamagedError:  # the first is incomplete: to be said once
            found.append(None)
    assert found[-1] == second


def test_parts_of_two_entries_are_not_joined() -> None:
    """Number fits by chance, total does not: parts between were lost."""
    data = encoded(Entry(b"first", 1, 1, FILE))
    joiner = PartJoiner()
    assert joiner.add(part(0, 3, data[:10])) is None
    with pytest.raises(DamagedError):
        joiner.add(part(1, 2, data[10:]))


def test_joiner_goes_on_after_damage() -> None:
    joiner = PartJoiner()
    with pytest.raises(DamagedError):
        joiner.add(part(1, 2, b""))
    one, two = halves(Entry(b"x", 1, 1, FILE))
    assert joiner.add(one) is None
    assert joiner.add(two) == Entry(b"x", 1, 1, FILE)
    assert joiner.add(one) is None
    assert joiner.add(two) == Entry(b"x", 1, 1, FILE)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [0, 1],
        [0, 0, b""],
        [-1, 1, b""],
        [1, 1, b""],
        [0, PARTS_MAX + 1, b""],
        [0, 1 << 60, b""],
        [False, True, b""],
        [0, 1, "text"],
        [0, 1, b""],
        [0, 1, b"\xc0"],
        {"0": 1},
    ],
    ids=str,
)
def test_impossible_part_is_damage(value: object) -> None:
    with pytest.raises(DamagedError):
        PartJoiner().add(memoryview(wire.pack(value)))


# --- impossible entries ---------------------------------------------------------------------


def record_of(*values: object) -> memoryview:
    return memoryview(PRESS.compress(b"".join(wire.pack(value) for value in values)))


FIELDS: dict[str, Any] = wire.unpack(encode_node(FILE))


def test_the_fields_below_are_sound() -> None:
    assert entries_in(record_of([b"p", 1, 1, FIELDS])) == [Entry(b"p", 1, 1, FILE)]
    assert decode_node(wire.pack(FIELDS)) == FILE


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        [],
        {},
        [b"p", 1, 1],
        ["p", 1, 1, FIELDS],
        [b"p", 0, 1, FIELDS],
        [b"p", 1, 0, FIELDS],
        [b"p", -1, 1, FIELDS],
        [b"p", 1 << 56, 1, FIELDS],
        [b"p", 1, 1 << 63, FIELDS],
        [b"p", True, 1, FIELDS],
        [b"p", 1, 1.0, FIELDS],
        [bytes(PATH_MAX + 1), 1, 1, FIELDS],
        [b"p", 1, 1, None],
        [b"p", 1, 1, []],
        [b"p", 1, 1, {b"kind": 4}],
    ],
    ids=lambda value: str(value)[:40],
)
def test_impossible_entry_is_passed_over_and_named(value: object) -> None:
    """One bad entry does not cost the others of its record."""
    good = [b"p", 1, 1, FIELDS]
    skipped: list[str] = []
    entries = list(decode_entries(record_of(good, value, good), skipped))
    assert entries == [Entry(b"p", 1, 1, FILE)] * 2
    assert len(skipped) == 1
    assert skipped[0]


@pytest.mark.parametrize("fields", [{"kind": 5}, {"Sparse": 1}], ids=str)
def test_entry_of_a_later_version_is_passed_over(fields: dict[str, Any]) -> None:
    skipped: list[str] = []
    assert not list(decode_entries(record_of([b"p", 1, 1, FIELDS | fields]), skipped))
    assert len(skipped) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": 0},
        {"kind": 5},
        {"kind": True},
        {"kind": None},
        {"mode": -1},
        {"mode": 0o10000},
        {"mtime": 1 << 63},
        {"mtime": 1.5},
        {"uid": -1},
        {"gid": 1 << 32},
        {"user": b"root"},
        {"group": 1},
        {"hardlink": 0},
        {"hardlink": -1},
        {"size": -1},
        {"size": SIZE_MAX + 1},
        {"hash": bytes(31)},
        {"hash": None},
        {"runs": None},
        {"runs": {}},
        {"runs": [0]},
        {"runs": [-1]},
        {"runs": [True]},
        {"runs": [SIZE_MAX + 1]},
        {"runs": [[]]},
        {"runs": [[bytes(15), 0, 1]]},
        {"runs": [[bytes(16), -1, 1]]},
        {"runs": [[bytes(16), 1 << 32, 1]]},
        {"runs": [[bytes(16), 0, 0]]},
        {"runs": [[bytes(16), 0, 1 << 32]]},
        {"runs": [[bytes(16), 0, True]]},
        {"runs": [[bytes(16), 0, 1, 1]]},
        {"runs": [["0" * 16, 0, 1]]},
        {"xattr": {}},
        {"xattr": None},
        {"xattr": [[b"a"]]},
        {"xattr": [["a", b"b"]]},
        {"xattr": [[b"a", b"b", b"c"]]},
        {"xattr": [1]},
    ],
    ids=str,
)
def test_impossible_field_is_damage(fields: dict[str, Any]) -> None:
    with pytest.raises(DamagedError):
        decode_node(wire.pack(FIELDS | fields))


@pytest.mark.parametrize("name", ["kind", "mode", "mtime", "uid", "gid", "size", "hash", "runs"])
def test_missing_field_is_damage(name: str) -> None:
    fields = dict(FIELDS)
    del fields[name]
    with pytest.raises(DamagedError, match=name):
        decode_node(wire.pack(fields))


def test_unknown_fields_are_ignored_unless_critical() -> None:
    assert decode_node(wire.pack(FIELDS | {"colour": 1})) == FILE
    with pytest.raises(UnsupportedError, match="Sparse"):
        decode_node(wire.pack(FIELDS | {"Sparse": 1}))


def test_limits_themselves_are_allowed() -> None:
    node = FILE._replace(size=SIZE_MAX, content=(Hole(SIZE_MAX),))
    entry = Entry(bytes(PATH_MAX), (1 << 56) - 1, (1 << 56) - 1, node)
    assert read_back(records_of([encoded(entry)])) == [entry]


def test_a_cut_entry_among_sound_ones_is_noticed() -> None:
    data = encoded(Entry(b"one", 1, 1, FILE)) + encoded(Entry(b"two", 1, 2, FILE))
    for size in range(1, len(data)):
        if size != len(encoded(Entry(b"one", 1, 1, FILE))):
            with pytest.raises(DamagedError):
                list(decode_entries(memoryview(PRESS.compress(data[:size])), []))


# --- file hash --------------------------------------------------------------------------------

KEY = bytes(range(32))
CHUNK_PARTS = st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, (1 << 32) - 1))
PARTS = st.lists(CHUNK_PARTS | st.integers(1, SIZE_MAX), max_size=5)


@given(st.integers(0, SIZE_MAX), PARTS, st.integers(0, SIZE_MAX), PARTS)
@examples(200)
def test_file_hash_tells_contents_apart(size: int, one: Any, other_size: int, other: Any) -> None:
    same = (size, one) == (other_size, other)
    assert (hash_content(KEY, size, one) == hash_content(KEY, other_size, other)) == same
    assert hash_content(KEY, size, one) != hash_content(bytes(32), size, one)


def test_file_hash_depends_on_order_sizes_and_holes() -> None:
    one, two = (bytes(32), 1), (bytes([1] * 32), 1)
    variants: list[tuple[int, list[tuple[bytes, int] | int]]] = [
        (2, [one, two]),
        (2, [two, one]),
        (3, [one, two]),
        (2, [one]),
        (2, [one, two, 1]),
        (2, [1, one, two]),
        (2, [one, (two[0], 2)]),
        (2, [2]),
        (2, [1, 1]),
        (2, []),
    ]
    hashes = {hash_content(KEY, size, parts) for size, parts in variants}
    assert len(hashes) == len(variants)
