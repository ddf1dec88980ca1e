"""The catalogue: two commits, the log's position, who may open it, and what paths it knows."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.rows import (
    STAGED,
    STORED,
    Batch,
    Head,
    Known,
    NewObject,
    VersionRow,
    join,
    split,
)
from pyarchiver.formats.entry import EntryKind
from pyarchiver.formats.errors import BusyError, CatalogueError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.keys import ReadKeys
from pyarchiver.formats.names import object_name
from pyarchiver.formats.payload import Index, Placed, Type
from pyarchiver.formats.records import RunComplete

KEYS = ReadKeys(bytes(16), bytes(range(32)), bytes(32)).writer()
SLOTS = ({"type": 2, "salt": b"s" * 16},)
SETTINGS = {"name": "photos", "source": "/x", "url": "file:///x"}
FILE, FOLDER, LINK, GONE = EntryKind.FILE, EntryKind.FOLDER, EntryKind.SYMLINK, EntryKind.GONE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photos.archive"


@pytest.fixture
def catalogue(path: Path) -> Iterator[Catalogue]:
    with Catalogue.create(path, KEYS, SLOTS, SETTINGS) as made:
        yield made


def chunk(number: int) -> bytes:
    return blake3(number.to_bytes(8, "big")).digest()


def index(*ids: bytes) -> bytes:
    records = (Placed(Type.BLOCK, 0, 10, len(ids)),)
    return Index(records, (7,) * len(ids), b"".join(ids)).encode()


def name_of(number: int) -> str:
    return object_name(KEYS.archive_id, Kind.PACK, 0, number.to_bytes(16, "big"))


def new(number: int, kind: Kind = Kind.PACK, size: int = 100, log: int = 0,
        run: int = 1, indexes: tuple[bytes, ...] = ()) -> NewObject:  # fmt: skip
    object_id = number.to_bytes(16, "big")
    return NewObject(
        object_id, name_of(number), kind, log, run, size, b"h" * 32, b"header", indexes
    )


def durable() -> None:
    """The spool file is on the disk."""


def batch(*states: tuple[int, bytes, int, EntryKind], size: int = 5) -> Batch:
    """Versions: (sequence, path, run, kind)."""
    made = Batch()
    for sequence, where, run, kind in states:
        folder, name = split(where)
        made.versions.append(VersionRow(sequence, folder, name, run, kind, b"f%d" % sequence))
        known = Known(sequence, kind, size if kind == FILE else 0, 1, 2, 3)
        made.paths.append((folder, name, known))
    return made


def open_elsewhere(path: Path) -> str:
    """What another process gets that wants to write."""
    code = (
        "import sys; from pathlib import Path\n"
        "from pyarchiver.cas.catalogue import Catalogue\n"
        "try: Catalogue.open(Path(sys.argv[1]), write=True).close(); print('opened')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    ).stdout.strip()


# The file


def test_what_was_given_is_kept(path: Path) -> None:
    Catalogue.create(path, KEYS, SLOTS, SETTINGS).close()
    for write in (True, False):
        with Catalogue.open(path, write=write) as opened:
            assert opened.keys == KEYS
            assert opened.slots == SLOTS
            assert opened.settings == SETTINGS
            assert opened.name == "photos"
            assert opened.head == Head()
            assert opened.config("anything else") == b""


def test_only_the_owner_may_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        with Catalogue.create(path, KEYS, SLOTS, SETTINGS) as made:
            made.begin_run(1)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert "photos.archive" in modes
    assert set(modes.values()) == {0o600}, modes


def test_one_file_at_rest(path: Path, tmp_path: Path) -> None:
    with Catalogue.create(path, KEYS, SLOTS, SETTINGS) as made:
        made.stage(new(1, indexes=(index(chunk(1)),)), batch((1, b"a", 1, FILE)), durable)
    left = {file.name for file in path.parent.iterdir()} - {"photos.archive.lock"}
    assert left == {"photos.archive"}
    copy = tmp_path / "copy.archive"
    shutil.copy(path, copy)
    with Catalogue.open(copy, write=False) as opened:
        assert opened.find_chunk(chunk(1)) == ((1).to_bytes(16, "big"), 0)
    assert not copy.with_name("copy.archive-wal").exists()


def test_never_over_another(path: Path) -> None:
    Catalogue.create(path, KEYS, SLOTS, SETTINGS).close()
    before = path.read_bytes()
    with pytest.raises(CatalogueError, match="already there"):
        Catalogue.create(path, KEYS, SLOTS, {"name": "other"})
    assert path.read_bytes() == before
    with Catalogue.open(path, write=True) as opened:
        assert opened.name == "photos"


def test_leftover_of_a_killed_start(path: Path) -> None:
    path.with_name("photos.archive.new").write_bytes(b"half")
    Catalogue.create(path, KEYS, SLOTS, SETTINGS).close()
    assert not path.with_name("photos.archive.new").exists()


def test_nowhere_to_create(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CatalogueError):
        Catalogue.create(tmp_path / "file" / "x.archive", KEYS, SLOTS, SETTINGS)


def test_one_writer_and_any_readers(path: Path) -> None:
    with Catalogue.create(path, KEYS, SLOTS, SETTINGS) as writer:
        assert open_elsewhere(path) == "BusyError"
        with Catalogue.open(path, write=False) as one, Catalogue.open(path, write=False) as two:
            writer.begin_run(1)
            writer.stage(new(1, indexes=(index(chunk(1)),)), batch((1, b"a", 1, FILE)), durable)
            assert one.last_version() == two.last_version() == 1
            # A reader that closes must not drop the writer's lock.
            two.close()
            assert open_elsewhere(path) == "BusyError"
    assert open_elsewhere(path) == "opened"


def test_second_writer_in_the_same_process(path: Path) -> None:
    Catalogue.create(path, KEYS, SLOTS, SETTINGS).close()
    with Catalogue.open(path, write=True):
        with pytest.raises(BusyError, match="in use"):
            Catalogue.open(path, write=True)
        with pytest.raises(BusyError):
            Catalogue.create(path, KEYS, SLOTS, SETTINGS)
        assert open_elsewhere(path) == "BusyError"


def test_the_lock_goes_when_opening_fails(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(CatalogueError) as caught:
            Catalogue.open(path, write=True)
        assert not isinstance(caught.value, BusyError)


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize(
    "data", [b"", b"x", b"[archive]\nname = photos\n" * 50, b"SQLite format 3\0" + bytes(5000)]
)
def test_not_an_archive(path: Path, data: bytes, write: bool) -> None:
    path.write_bytes(data)
    with pytest.raises(CatalogueError, match=r"photos\.archive"):
        Catalogue.open(path, write=write)
    assert path.read_bytes() == data, "what is no archive must stay as it is"


def test_nothing_there(path: Path) -> None:
    for write in (True, False):
        with pytest.raises(CatalogueError, match="no archive"):
            Catalogue.open(path, write=write)
        with pytest.raises(CatalogueError, match="no archive"):
            Catalogue.open(path.parent, write=write)
    assert list(path.parent.iterdir()) == []


def test_another_programs_database(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE config (name, value)")
    database.commit()
    database.close()
    for write in (True, False):
        with pytest.raises(CatalogueError, match="no pyarchiver archive"):
            Catalogue.open(path, write=write)


@pytest.mark.parametrize(("version", "words"), [(3, "newer"), (99, "newer"), (0, "older")])
def test_other_versions(path: Path, version: int, words: str) -> None:
    Catalogue.create(path, KEYS, SLOTS, SETTINGS).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {version}")
    database.close()
    for write in (True, False):
        with pytest.raises(CatalogueError, match=words):
            Catalogue.open(path, write=write)


def test_damaged(path: Path) -> None:
    with Catalogue.create(path, KEYS, SLOTS, SETTINGS) as made:
        for number in range(300):
            made.record(batch((number + 1, b"folder/%d" % number, 1, FILE)))
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 4096):
        data[at : at + 4096] = os.urandom(min(4096, len(data) - at))
    path.write_bytes(data)
    with (
        pytest.raises(CatalogueError, match="damaged"),
        Catalogue.open(path, write=False) as opened,
    ):
        opened.folder(b"folder")


def test_cut_off(path: Path) -> None:
    with Catalogue.create(path, KEYS, SLOTS, SETTINGS) as made:
        made.record(batch(*((number, b"f/%d" % number, 1, FILE) for number in range(1, 900))))
    path.write_bytes(path.read_bytes()[:-8192])

    def use() -> None:
        with Catalogue.open(path, write=True) as opened:
            list(opened.versions())
            opened.record(batch((1000, b"f/x", 1, FILE)))

    with pytest.raises(CatalogueError):
        use()


def test_read_only_file_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Catalogue.create(path, KEYS, SLOTS, SETTINGS).close()
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, m: m != os.W_OK and access(p, m))
    with Catalogue.open(path, write=False) as opened:
        assert opened.name == "photos"
        with pytest.raises(CatalogueError):
            opened.begin_run(1)
    with pytest.raises(CatalogueError, match="read-only"):
        Catalogue.open(path, write=True)


def test_an_error_within_a_transaction_undoes_it(catalogue: Catalogue) -> None:
    catalogue.record(batch((1, b"a", 1, FILE)))
    with pytest.raises(CatalogueError):
        catalogue.stage(new(1, indexes=(index(chunk(1)),)), batch((1, b"again", 1, FILE)), durable)
    assert catalogue.objects() == []
    assert catalogue.find_chunk(chunk(1)) is None
    assert b"again" not in catalogue.folder(b"")
    catalogue.record(batch((2, b"b", 1, FILE)))
    assert catalogue.last_version() == 2


# Two commits


def test_staged_then_stored(path: Path) -> None:
    with Catalogue.create(path, KEYS, SLOTS, SETTINGS) as made:
        assert not made.has_chunks()
        body = index(chunk(9), chunk(3), chunk(5))
        row = made.stage(new(1, size=77, indexes=(body,)), batch((1, b"d/a", 1, FILE)), durable)
    with Catalogue.open(path, write=True) as opened:
        (staged,) = opened.staged()
        assert (staged.id, staged.state, staged.size) == (row, STAGED, 77)
        assert staged == opened.object_by_row(row)
        assert opened.has_chunks()
        assert opened.find_chunk(chunk(3)) == ((1).to_bytes(16, "big"), 1)
        assert opened.folder(b"d")[b"a"].version == 1
        assert opened.indexes(row) == [body]
        opened.stored(row)
    with Catalogue.open(path, write=False) as opened:
        assert opened.staged() == []
        (found,) = opened.objects()
        assert (found.state, found.name, found.kind) == (STORED, name_of(1), Kind.PACK)
        assert opened.object_by_id((1).to_bytes(16, "big")) == found
        assert opened.object_by_id(bytes(16)) is None


def test_staged_come_oldest_first(catalogue: Catalogue) -> None:
    rows = [catalogue.stage(new(number), Batch(), durable) for number in (5, 3, 9, 1)]
    catalogue.stored(rows[1])
    assert [row.id for row in catalogue.staged()] == [rows[0], rows[2], rows[3]]


def test_no_name_or_id_twice(catalogue: Catalogue) -> None:
    catalogue.stage(new(1), Batch(), durable)
    with pytest.raises(CatalogueError):
        catalogue.stage(new(1), Batch(), durable)
    assert len(catalogue.objects()) == 1


def test_the_first_place_of_a_chunk_stays(catalogue: Catalogue) -> None:
    first = index(chunk(1), chunk(2))
    catalogue.stage(new(1, indexes=(first,)), Batch(), durable)
    catalogue.stage(new(2, indexes=(index(chunk(3), chunk(2)), index(chunk(4)))), Batch(), durable)
    one, two = (1).to_bytes(16, "big"), (2).to_bytes(16, "big")
    assert catalogue.find_chunk(chunk(2)) == (one, 1)
    assert catalogue.find_chunk(chunk(3)) == (two, 0)
    assert catalogue.find_chunk(chunk(4)) == (two, 2)
    assert catalogue.find_chunk(chunk(5)) is None


def test_a_manifest_is_staged_with_its_position(path: Path) -> None:
    head = Head(1, b"H" * 32, 12, 3)
    done = RunComplete(1, 10, 20, 7, 700)
    with Catalogue.create(path, KEYS, SLOTS, SETTINGS) as made:
        assert made.begin_run(10) == 1
        made.stage_manifest(new(1, Kind.MANIFEST, log=1), head, None)
        assert made.head == head
        assert made.last_snapshot() == 0
        assert made.begin_run(99) == 1, "still the same run"
        made.stage_manifest(new(2, Kind.MANIFEST, log=2), Head(2, b"I" * 32, 20, 3), done)
        assert made.last_snapshot() == 1
    with Catalogue.open(path, write=True) as opened:
        assert opened.head == Head(2, b"I" * 32, 20, 3)
        assert opened.snapshots() == [done]
        assert opened.snapshots(after=1) == []
        assert [row.number for row in opened.objects(Kind.MANIFEST)] == [1, 2]
        assert opened.objects(Kind.PACK) == []
        assert opened.begin_run(30) == 2


def test_runs_that_found_nothing_are_forgotten(catalogue: Catalogue) -> None:
    assert catalogue.begin_run(5) == 1
    assert catalogue.began(1) == 5
    catalogue.abandon_run(1)
    assert catalogue.begin_run(6) == 1
    assert catalogue.began(1) == 6
    catalogue.stage_manifest(new(1, Kind.MANIFEST, log=1), Head(1), RunComplete(1, 6, 7, 0, 0))
    catalogue.abandon_run(1)
    assert catalogue.last_snapshot() == 1, "a complete run is never forgotten"


def test_objects_after_a_position(catalogue: Catalogue) -> None:
    rows = [catalogue.stage(new(number), Batch(), durable) for number in range(1, 5)]
    assert [row.id for row in catalogue.objects(Kind.PACK, after=rows[1])] == rows[2:]


def test_log_since_the_last_whole_checkpoint(catalogue: Catalogue) -> None:
    assert catalogue.log_since_checkpoint() == (0, 0, 0)
    for number in (1, 2, 3):
        manifest = new(number, Kind.MANIFEST, size=10 * number, log=number)
        catalogue.stage_manifest(manifest, Head(number), None)
    assert catalogue.log_since_checkpoint() == (3, 60, 0)
    catalogue.stage_checkpoint(new(10, Kind.CHECKPOINT, size=500, log=3), False)
    assert catalogue.log_since_checkpoint() == (3, 60, 0), "only half of it is there"
    catalogue.stage_checkpoint(new(11, Kind.CHECKPOINT, size=50, log=3), True)
    assert catalogue.log_since_checkpoint() == (0, 0, 550)
    catalogue.stage_manifest(new(4, Kind.MANIFEST, size=7, log=4), Head(4), None)
    assert catalogue.log_since_checkpoint() == (1, 7, 550)


# Paths


def paths(rows: Iterator[VersionRow] | list[VersionRow]) -> dict[bytes, int]:
    found = list(rows)
    named = {row.path: row.sequence for row in found}
    assert len(named) == len(found), "a path twice"
    return named


def test_join_and_split() -> None:
    for where, parts in (
        (b"a", (b"", b"a")), (b"a/b", (b"a", b"b")), (b"a/b/c", (b"a/b", b"c")), (b"", (b"", b"")),
        (b"\xff/\n", (b"\xff", b"\n")),
    ):  # fmt: skip
        assert split(where) == parts
        assert join(*parts) == where


def test_folder_is_one_level(catalogue: Catalogue) -> None:
    catalogue.record(
        batch((1, b"", 1, FOLDER), (2, b"d", 1, FOLDER), (3, b"d/f", 1, FILE),
              (4, b"d/e", 1, FOLDER), (5, b"d/e/g", 1, FILE), (6, b"f", 1, FILE))
    )  # fmt: skip
    assert catalogue.folder(b"").keys() == {b"", b"d", b"f"}
    assert catalogue.folder(b"d").keys() == {b"f", b"e"}
    assert catalogue.folder(b"nowhere") == {}
    assert catalogue.folder(b"d")[b"f"] == Known(3, FILE, 5, 1, 2, 3)


def test_folder_has_the_newest_state_and_the_deleted(catalogue: Catalogue) -> None:
    catalogue.record(batch((1, b"a", 1, FILE), (2, b"b", 1, FILE)))
    catalogue.record(batch((3, b"a", 2, GONE), (4, b"b", 2, LINK)))
    found = catalogue.folder(b"")
    assert (found[b"a"].kind, found[b"b"].kind) == (GONE, LINK)
    assert found[b"b"].version == 4


def test_what_is_noted_without_a_version(catalogue: Catalogue) -> None:
    catalogue.record(batch((1, b"a", 1, FILE)))
    noted = Batch(paths=[(b"", b"a", Known(1, FILE, 5, 100, 200, 300))])
    catalogue.record(noted)
    assert catalogue.folder(b"")[b"a"] == Known(1, FILE, 5, 100, 200, 300)
    assert catalogue.last_version() == 1


def test_times_that_fit_64_bits(catalogue: Catalogue) -> None:
    extreme = Known(1, FILE, (1 << 62), -(1 << 63), (1 << 63) - 1, (1 << 63) - 1)
    catalogue.record(Batch(paths=[(b"", b"a", extreme)]))
    assert catalogue.folder(b"")[b"a"] == extreme


def test_below_is_every_level_of_that_folder_only(catalogue: Catalogue) -> None:
    names = [
        b"d",
        b"d/a",
        b"d/e",
        b"d/e/b",
        b"d/e/f/c",
        b"d.x",
        b"d.x/a",
        b"d-/a",
        b"d0/a",
        b"c/d/a",
    ]
    names += [b"d/\xff", b"d/\xff/\xff"]
    catalogue.record(batch(*((n, name, 1, FILE) for n, name in enumerate(names, 1))))
    catalogue.record(batch((50, b"d/e/b", 2, GONE)))
    found = {join(folder, name) for folder, name in catalogue.below(b"d")}
    assert found == {b"d/a", b"d/e", b"d/e/f/c", b"d/\xff", b"d/\xff/\xff"}
    assert list(catalogue.below(b"nowhere")) == []


def test_state_is_the_tree_at_the_end_of_a_run(catalogue: Catalogue) -> None:
    catalogue.record(batch((1, b"a", 1, FILE), (2, b"b", 1, FILE), (3, b"d/c", 1, FILE)))
    catalogue.record(batch((4, b"a", 2, GONE), (5, b"b", 2, FILE)))
    catalogue.record(batch((6, b"a", 3, FILE), (7, b"d/c", 3, GONE), (8, b"e", 3, FOLDER)))
    assert paths(catalogue.state(1)) == {b"a": 1, b"b": 2, b"d/c": 3}
    assert paths(catalogue.state(2)) == {b"b": 5, b"d/c": 3}
    assert paths(catalogue.state(3)) == {b"b": 5, b"a": 6, b"e": 8}
    assert paths(catalogue.state(1 << 61)) == paths(catalogue.state(3))
    assert paths(catalogue.state(0)) == {}
    rows = list(catalogue.state(3))
    assert [row.sequence for row in rows] == sorted(row.sequence for row in rows)
    assert {row.fields for row in rows} == {b"f5", b"f6", b"f8"}


def test_latest_has_all_that_ever_was(catalogue: Catalogue) -> None:
    catalogue.record(batch((1, b"a", 1, FILE), (2, b"b", 1, FILE), (3, b"l", 1, FILE)))
    catalogue.record(batch((4, b"a", 2, GONE), (5, b"b", 2, FILE), (6, b"l", 2, LINK)))
    assert paths(catalogue.latest()) == {b"a": 1, b"b": 5, b"l": 6}
    assert catalogue.replaced_kinds() == []


def test_latest_of_what_was_file_and_folder(catalogue: Catalogue) -> None:
    catalogue.record(batch((1, b"x", 1, FILE), (2, b"y", 1, FOLDER), (3, b"y/in", 1, FILE)))
    catalogue.record(batch((4, b"x", 2, FOLDER), (5, b"y", 2, LINK), (6, b"y/in", 2, GONE)))
    catalogue.record(batch((7, b"x", 3, GONE), (8, b"y", 3, GONE), (9, b"x", 4, FOLDER)))
    found = [(row.path, row.sequence) for row in catalogue.latest()]
    assert found == [(b"x", 1), (b"y", 2), (b"y/in", 3), (b"y", 5), (b"x", 9)]
    older = {(row.path, row.sequence, row.run) for row in catalogue.replaced_kinds()}
    assert older == {(b"x", 1, 1), (b"y", 2, 1)}


def test_versions_in_order(catalogue: Catalogue) -> None:
    catalogue.record(batch(*((n, b"p%d" % (n % 3), 1, FILE) for n in range(1, 10))))
    assert [row.sequence for row in catalogue.versions()] == list(range(1, 10))
    assert [row.sequence for row in catalogue.versions(3, 5)] == [4, 5]
    assert catalogue.fields(7) == b"f7"
    assert catalogue.last_version() == 9


def test_totals_count_files_that_are_there(catalogue: Catalogue) -> None:
    assert catalogue.totals() == (0, 0)
    catalogue.record(batch((1, b"a", 1, FILE), (2, b"b", 1, FILE), (3, b"d", 1, FOLDER), size=40))
    assert catalogue.totals() == (2, 80)
    catalogue.record(batch((4, b"a", 2, GONE)))
    assert catalogue.totals() == (1, 40)


def test_settings_can_be_changed(path: Path) -> None:
    with Catalogue.create(path, KEYS, SLOTS, SETTINGS) as made:
        made.configure(odd=b"value")
        assert made.config("odd") == b"value"
    with Catalogue.open(path, write=False) as opened:
        assert opened.config("odd") == b"value"
        assert opened.settings == SETTINGS
