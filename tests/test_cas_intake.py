"""Intake: whatever the files, the chunks side by side are the file, and nothing is kept twice."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfastcdc import FastCDC

from pyarchiver.cas import intake
from pyarchiver.cas.intake import FileChanged, Intake, RawBlock, Ref, Slot
from pyarchiver.formats.entry import Hole
from pyarchiver.formats.keys import ArchiveKeys
from pyarchiver.formats.payload import BLOCK_CHUNKS_MAX, BLOCK_RAW_MAX

KEYS = ArchiveKeys(bytes(16), bytes(range(32)))
AVERAGE = 64 << 10
MIN, MAX = AVERAGE // 4, AVERAGE * 4
SMALL_BLOCK = 1 << 20
QUICK = settings(deadline=None, max_examples=100)


def noise(label: object, size: int) -> bytes:
    return blake3(repr(label).encode()).digest(length=size)


@contextmanager
def opened(data: bytes, holes: Iterable[tuple[int, int]] = ()) -> Iterator[int]:
    """A file in memory; holes are ranges that are never written."""
    descriptor = os.memfd_create("test")
    try:
        os.ftruncate(descriptor, len(data))
        at = 0
        for start, end in [*holes, (len(data), len(data))]:
            os.pwrite(descriptor, data[at:start], at)
            at = end
        yield descriptor
    finally:
        os.close(descriptor)


class Store:
    """Catalogue and packs in one: keeps what is handed over, and checks each block."""

    def __init__(self, chunk_size: int = AVERAGE, limit: int = BLOCK_RAW_MAX) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.known: dict[bytes, tuple[bytes, int]] = {}
        self.blocks: list[RawBlock] = []
        self.limit = limit
        self.bytes_read = 0
        self.intake = Intake(
            KEYS, chunk_size, self.known.get, self.take, self.hand_over, self.on_read
        )

    def on_read(self, size: int) -> None:
        self.bytes_read += size

    def take(self) -> Slot:
        # Noise, as memory that was used before has: nothing may rely on zeros.
        memory = bytearray(b"\xaa" * BLOCK_RAW_MAX)
        return Slot(memoryview(memory), memoryview(b""))

    def hand_over(self, block: RawBlock) -> None:
        assert 0 < block.used <= self.limit
        assert 0 < len(block.refs) <= BLOCK_CHUNKS_MAX
        assert block.number == len(self.blocks) + 1
        assert sum(ref.length for ref in block.refs) == block.used
        at = 0
        for ref in block.refs:
            data = bytes(block.memory[at : at + ref.length])
            assert ref.block == block.number
            assert ref.id == KEYS.chunk_id(data)
            assert ref.id not in self.chunks, "kept twice"
            assert ref.id not in self.known, "kept although known"
            self.chunks[ref.id] = data
            at += ref.length
        self.blocks.append(block)

    def learn(self, data: bytes) -> None:
        """The catalogue knows this chunk from long ago."""
        id_ = KEYS.chunk_id(data)
        self.known[id_] = (bytes(16), len(self.known))
        self.chunks.pop(id_, None)

    def read(self, data: bytes, holes: Iterable[tuple[int, int]] = ()) -> list[Ref | Hole]:
        with opened(data, holes) as descriptor:
            return self.intake.read(descriptor, os.fstat(descriptor))

    def content(self, refs: list[Ref | Hole], old: dict[bytes, bytes] | None = None) -> bytes:
        """The file again; `old` has the bytes of the chunks that were known from long ago."""
        chunks = {**self.chunks, **(old or {})}
        return b"".join(
            bytes(ref.length) if isinstance(ref, Hole) else chunks[ref.id] for ref in refs
        )


def cuts(data: bytes, chunk_size: int = AVERAGE) -> list[bytes]:
    """What FastCDC makes of the whole: the beginning is cut finer."""
    if len(data) <= chunk_size // 4:
        return [data] if data else []
    pieces: list[bytes] = []
    at = 0
    for average, until in ((chunk_size // 8, chunk_size // 2), (chunk_size, len(data))):
        cutter = FastCDC(
            average, min_size=average // 4, max_size=average * 4,
            normalized_chunking=1, seed=KEYS.chunker_seed,
        )  # fmt: skip
        for chunk in cutter.cut_buf(data[at:]):
            if at >= until:
                break
            pieces.append(data[at : at + chunk.length])
            at += chunk.length
    assert at == len(data)
    return pieces


def ids(refs: list[Ref | Hole]) -> list[bytes]:
    return [ref.id for ref in refs if isinstance(ref, Ref)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BLOCK_RAW_MAX", SMALL_BLOCK)


around = st.sampled_from(
    [0, 1, MIN - 1, MIN, MIN + 1, AVERAGE, MAX - 1, MAX, MAX + 1, 2 * MAX,
     SMALL_BLOCK - 1, SMALL_BLOCK, SMALL_BLOCK + 1, SMALL_BLOCK - MAX, 3 * SMALL_BLOCK + 5]
)  # fmt: skip
sizes = around | st.integers(0, 2 * MAX) | st.integers(0, 3 * SMALL_BLOCK)
contents = st.one_of(
    st.builds(noise, st.integers(0, 3), sizes),
    # One long repetition: chunks of the greatest size only.
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 2), sizes),
    # Shared beginnings, middles and ends.
    st.builds(lambda cut, size: noise(0, 2 * MAX)[:cut] + noise(1, size), sizes, sizes),
    st.builds(lambda skip, size: noise(1, size)[skip:], st.integers(0, MAX), sizes),
    st.binary(max_size=300),
)


@QUICK
@given(st.lists(contents, min_size=1, max_size=6))
def test_any_files(files: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "BLOCK_RAW_MAX", SMALL_BLOCK)
        store = Store(limit=SMALL_BLOCK)
        read = [store.read(data) for data in files]
        store.intake.flush()
    for data, refs in zip(files, read, strict=True):
        assert store.content(refs) == data
        assert ids(refs) == [KEYS.chunk_id(chunk) for chunk in cuts(data)]
        lengths = [ref.length for ref in refs]
        assert all(length <= MAX for length in lengths)
        assert all(length >= AVERAGE // 32 for length in lengths[:-1])
    assert store.bytes_read == sum(map(len, files)), "each byte is read once"
    distinct = {chunk for data in files for chunk in cuts(data)}
    assert sum(len(block.refs) for block in store.blocks) == len(distinct)


@QUICK
@given(contents, contents, st.integers(0, 2**32), st.booleans())
def test_known_chunks_in_between(first: bytes, data: bytes, pattern: int, again: bool) -> None:
    """Any subset of a file's chunks may be in the archive already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "BLOCK_RAW_MAX", SMALL_BLOCK)
        store = Store(limit=SMALL_BLOCK)
        old = {}
        for number, chunk in enumerate(cuts(data)):
            if pattern >> (number % 32) & 1:
                store.learn(chunk)
                old[KEYS.chunk_id(chunk)] = chunk
        read = [(first, store.read(first)), (data, store.read(data))]
        if again:
            read.append((data, store.read(data)))
        store.intake.flush()
    for wanted, refs in read:
        assert store.content(refs, old) == wanted
        for ref in refs:
            assert isinstance(ref, Ref)
            if ref.id in old:
                assert (ref.object_id, ref.ordinal) == store.known[ref.id]
                assert ref.block == 0
    assert not old.keys() & store.chunks.keys()


@pytest.mark.parametrize("size", [8 << 20, (8 << 20) - 1, (8 << 20) + 1, (19 << 20) + 7])
@pytest.mark.parametrize("chunk_size", [512 << 10, 2 << 20])
def test_real_blocks(size: int, chunk_size: int) -> None:
    """The greatest chunk of the greatest chunk size is a whole block."""
    store = Store(chunk_size)
    files = [noise(0, 100), noise(1, size), bytes([7]) * size, noise(2, 100)]
    read = [store.read(data) for data in files]
    store.intake.flush()
    for data, refs in zip(files, read, strict=True):
        assert store.content(refs) == data
        assert ids(refs) == [KEYS.chunk_id(chunk) for chunk in cuts(data, chunk_size)]
    assert len(store.blocks) > size >> 23


def test_blocks_are_filled(small_blocks: None) -> None:
    store = Store(limit=SMALL_BLOCK)
    for number in range(300):
        store.read(noise(number, 10_000))
    store.intake.flush()
    assert len(store.blocks) == -(-300 * 10_000 // (SMALL_BLOCK // 10_000 * 10_000))
    assert all(block.used > SMALL_BLOCK - 10_000 for block in store.blocks[:-1])


def test_blocks_of_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BLOCK_RAW_MAX", SMALL_BLOCK)
    monkeypatch.setattr(intake, "BLOCK_CHUNKS_MAX", 100)
    store = Store(limit=SMALL_BLOCK)
    data = noise("large", 2 * SMALL_BLOCK)
    files = [noise(number, 5) for number in range(250)] + [data]
    read = [store.read(file) for file in files]
    store.intake.flush()
    assert [store.content(refs) for refs in read] == files
    assert max(len(block.refs) for block in store.blocks) == 100


def test_real_limit_of_chunks() -> None:
    store = Store()
    for number in range(BLOCK_CHUNKS_MAX + 1):
        store.read(number.to_bytes(4, "little"))
    store.intake.flush()
    assert [len(block.refs) for block in store.blocks] == [BLOCK_CHUNKS_MAX, 1]


def test_equal_files_share_the_very_chunks() -> None:
    store = Store()
    data = noise(0, 3 * MAX)
    one, two = store.read(data), store.read(data)
    assert all(a is b for a, b in zip(one, two, strict=True))
    assert len({KEYS.chunk_id(chunk) for chunk in cuts(data)}) == len(one)


def test_repetition_in_one_file_is_kept_once() -> None:
    store = Store()
    refs = store.read(b"\7" * (20 * MAX))
    store.intake.flush()
    # The first chunk and the last are shorter: the beginning is cut finer.
    assert len(refs) == 21
    assert len({id(ref) for ref in refs[1:-1]}) == 1
    assert [block.used for block in store.blocks] == [AVERAGE // 2 + MAX + MAX - AVERAGE // 2]


def test_forgotten_chunks_are_asked_for() -> None:
    store = Store()
    data = noise(0, 3 * MAX)
    first = store.read(data)
    store.intake.flush()
    for number, id_ in enumerate(ids(first)):
        store.known[id_] = (b"p" * 16, number)
    assert all(a is b for a, b in zip(first, store.read(data), strict=True))
    store.intake.forget(ids(first))
    again = store.read(data)
    assert ids(again) == ids(first)
    assert [ref.ordinal for ref in again if isinstance(ref, Ref)] == list(range(len(first)))
    store.intake.flush()
    assert len(store.blocks) == 1


def test_flush_of_nothing() -> None:
    store = Store()
    assert store.read(b"") == []
    store.intake.flush()
    assert store.blocks == []


def test_an_insertion_costs_a_chunk_or_two() -> None:
    store = Store()
    data = noise(0, 40 * AVERAGE)
    before = store.read(data)
    after = store.read(b"inserted" + data)
    assert len(set(ids(after)) - set(ids(before))) <= 2


def test_other_archives_cut_elsewhere() -> None:
    """Sizes of chunks must not identify a known file."""
    data = noise(0, 40 * AVERAGE)
    other = Intake(
        ArchiveKeys(bytes(16), bytes(32)), AVERAGE, lambda id_: None,
        lambda: Slot(memoryview(bytearray(BLOCK_RAW_MAX)), memoryview(b"")), lambda block: None,
        lambda size: None,
    )  # fmt: skip
    with opened(data) as descriptor:
        refs = other.read(descriptor, os.fstat(descriptor))
    ours = Store().read(data)
    assert [ref.length for ref in refs] != [ref.length for ref in ours]
    assert not set(ids(refs)) & set(ids(ours))


# Holes

PAGE = 4096
extents = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=5)


@QUICK
@given(extents, st.booleans(), st.booleans(), st.integers(0, PAGE - 1))
def test_holes(pages: list[tuple[int, int]], starts: bool, ends: bool, extra: int) -> None:
    data, holes = b"", []
    for number, (hole, full) in enumerate(pages):
        if number or starts:
            holes.append((len(data), len(data) + hole * PAGE))
            data += bytes(hole * PAGE)
        data += noise(number, full * PAGE)
    if ends:
        holes.append((len(data), len(data) + 20 * PAGE))
        data += bytes(20 * PAGE)
    else:
        data += noise("end", extra)
    with opened(data, holes) as descriptor:
        found = os.fstat(descriptor)
        store = Store()
        refs = store.intake.read(descriptor, found)
        store.intake.flush()
    assert store.content(refs) == data
    if len(data) >= intake.SPARSE_MIN and found.st_blocks * 512 < len(data):
        assert [ref.length for ref in refs if isinstance(ref, Hole)] == [
            end - start for start, end in holes
        ]
    for ref in refs:
        assert isinstance(ref, Hole) or ref.length > 0


@pytest.mark.parametrize("size", [1, PAGE, intake.SPARSE_MIN, 5 << 30, 1 << 40])
def test_one_hole(size: int) -> None:
    store = Store()
    descriptor = os.memfd_create("test")
    try:
        os.ftruncate(descriptor, size)
        refs = store.intake.read(descriptor, os.fstat(descriptor))
    finally:
        os.close(descriptor)
    if size < intake.SPARSE_MIN:
        assert ids(refs) == [KEYS.chunk_id(bytes(size))]
    else:
        assert refs == [Hole(size)]


def test_zeros_that_are_written_are_no_hole() -> None:
    store = Store()
    refs = store.read(bytes(3 * MAX))
    assert not any(isinstance(ref, Hole) for ref in refs)
    assert len(refs) == 4


# Files that change


def longer(descriptor: int, by: int) -> os.stat_result:
    """What the file would look like with more bytes."""
    found = list(os.fstat(descriptor))
    result = os.fstat(descriptor)
    found[stat.ST_SIZE] += by
    names = {"st_blocks": result.st_blocks + by // 512 + 1}
    return os.stat_result(found, names)


@pytest.mark.parametrize("size", [0, 1, MIN - 1, MIN + 1, MAX + 1, 5 * MAX])
@pytest.mark.parametrize("by", [1, MIN, 4 * MAX])
def test_shorter_than_it_said(size: int, by: int) -> None:
    store = Store()
    before = noise("before", 2 * MAX)
    refs = store.read(before)
    with opened(noise(0, size)) as descriptor, pytest.raises(FileChanged):
        store.intake.read(descriptor, longer(descriptor, by))
    # What came before and what comes after is whole.
    after = noise("after", 3 * MAX)
    later, again = store.read(after), store.read(noise(0, size))
    store.intake.flush()
    assert store.content(refs) == before
    assert store.content(later) == after
    assert store.content(again) == noise(0, size)


def test_longer_than_it_said_is_read_up_to_there() -> None:
    store = Store()
    data = noise(0, 3 * MAX)
    with opened(data) as descriptor:
        refs = store.intake.read(descriptor, longer(descriptor, -MAX))
    store.intake.flush()
    assert store.content(refs) == data[:-MAX]
