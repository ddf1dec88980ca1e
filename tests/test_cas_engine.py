"""What a run costs, what a restore touches, and what objects give back without a catalogue."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers_cas import (
    LONG_AGO,
    PASSWORD,
    World,
    assert_same,
    contents,
    links,
    look,
    new_world,
    noise,
    tuned,
)
from pyarchiver.cas import archiver, ledger, planner, tree
from pyarchiver.cas import decrypt as decrypting
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.folder import ObjectFolder
from pyarchiver.cas.log import Log
from pyarchiver.cas.planner import Request
from pyarchiver.cas.progress import Quiet
from pyarchiver.formats.entry import EntryKind
from pyarchiver.formats.errors import (
    CodeError,
    DestinationError,
    PasswordError,
    SettingsError,
    SourceError,
    StorageError,
)
from pyarchiver.formats.header import Kind

LARGE = 700_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with tuned(racy=20_000_000):
        yield new_world(tmp_path / "world")


def same_as_source(world: World, folder: Path) -> None:
    assert_same(look(folder), look(world.source))


def fill(world: World) -> None:
    world.write("a.jpg", noise("a", LARGE))
    world.write("sub/b.jpg", noise("b", 3000))
    world.write("sub/deep/c.txt", b"text " * 1000)
    world.write("sub/empty", b"")
    (world.source / "sub" / "link").symlink_to("b.jpg")


# Runs


def test_a_file_in_too_many_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry would be larger than a reader may believe: the rest is archived, each time."""
    fill(world)
    with (world.source / "pieces").open("wb") as file:
        for number in range(20):
            file.seek(number << 20)
            file.write(noise(number, 5000))
        file.truncate(21 << 20)
    monkeypatch.setattr(ledger, "ENTRY_MAX", 300)
    for new in (True, False):
        assert world.resume().new is new
        (problem,) = world.problems
        assert problem == "pieces: in too many pieces to be described; left as it was"
        world.problems.clear()
    monkeypatch.undo()
    assert world.resume().snapshot == 2
    same_as_source(world, world.restore()[0])


def test_nothing_new_costs_nothing(world: World) -> None:
    fill(world)
    first = world.resume()
    before = world.objects()
    for options in ({}, {"rehash": True}):
        again = world.resume(**options)
        assert world.objects() == before
        assert (again.new, again.snapshot, again.head) == (False, 1, first.head)
        assert (again.stored, again.objects, again.gone) == (0, 0, 0)
    assert (first.new, first.snapshot, first.files, first.changed) == (True, 1, 4, 4)
    assert first.stored == sum(before.values())
    assert first.objects == len(before)


def test_unchanged_files_are_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world)
    monkeypatch.setattr(archiver, "_RACY_NS", 0)
    world.resume()
    assert world.resume().read == 0
    assert world.resume(rehash=True).read == LARGE + 3000 + 5000


def test_files_just_written_are_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver, "_RACY_NS", 3_600_000_000_000)
    world.write("a", b"one")
    world.resume()
    world.write("a", b"two")
    assert world.resume().read == 3
    assert world.resume().new is False
    assert contents(world.restore()[0]) == {"a": b"two"}


def test_touch_costs_no_data(world: World) -> None:
    fill(world)
    world.resume()
    packs = world.objects(Kind.PACK)
    os.utime(world.source / "a.jpg", ns=(1, 1))
    os.chmod(world.source / "sub" / "b.jpg", 0o600)
    result = world.resume()
    assert result.new
    assert world.objects(Kind.PACK) == packs
    same_as_source(world, world.restore()[0])
    same_as_source(world, world.decrypt()[0])


def test_renames_and_copies_cost_no_data(world: World) -> None:
    fill(world)
    world.resume()
    packs = world.objects(Kind.PACK)
    (world.source / "sub").rename(world.source / "renamed")
    shutil.copy(world.source / "a.jpg", world.source / "copy.jpg")
    result = world.resume()
    assert world.objects(Kind.PACK) == packs
    assert result.gone == 6
    exact, _ = world.restore(exact=True)
    same_as_source(world, exact)
    everything = contents(world.restore()[0])
    assert everything["sub/b.jpg"] == everything["renamed/b.jpg"] == noise("b", 3000)


def test_an_insertion_costs_little(world: World) -> None:
    world.write("a", noise("a", 4_000_000))
    world.resume()
    before = sum(world.objects(Kind.PACK).values())
    world.write("a", b"inserted" + noise("a", 4_000_000), LONG_AGO + 1)
    world.resume()
    assert sum(world.objects(Kind.PACK).values()) - before < 600_000
    same_as_source(world, world.restore()[0])


def test_one_chunk_in_several_runs_is_stored_once(world: World) -> None:
    world.write("a", noise("a", LARGE))
    world.write("empty", b"")
    world.resume()
    (world.source / "a").unlink()
    world.resume()
    world.write("later", noise("a", LARGE))
    world.resume()
    assert len(world.objects(Kind.PACK)) == 1
    found = contents(world.restore(exact=True)[0])
    assert found == {"later": noise("a", LARGE), "empty": b""}


def test_empty_source(world: World) -> None:
    first = world.resume()
    assert (first.new, first.snapshot, first.files) == (True, 1, 0)
    assert world.objects(Kind.PACK) == {}
    assert world.resume().new is False
    same_as_source(world, world.restore()[0])


def test_a_source_that_lost_everything_is_suspected(world: World) -> None:
    world.write("a", b"data")
    world.resume()
    before = world.objects()
    (world.source / "a").unlink()
    with pytest.raises(SourceError, match="allow-empty"):
        world.resume()
    assert world.objects() == before
    result = world.resume(allow_empty=True)
    assert (result.gone, result.files) == (1, 0)
    assert contents(world.restore(exact=True)[0]) == {}
    assert contents(world.restore()[0]) == {"a": b"data"}


def test_source_or_storage_gone(world: World) -> None:
    world.write("a", b"data")
    world.resume()
    world.source.rename(world.root / "moved")
    with pytest.raises(SourceError):
        world.resume(allow_empty=True)
    (world.root / "moved").rename(world.source)
    world.storage.rename(world.root / "unmounted")
    world.write("b", b"more")
    with pytest.raises(StorageError, match="mounted"):
        world.resume()
    assert not world.storage.exists()
    (world.root / "unmounted").rename(world.storage)
    assert world.resume().snapshot == 2


def test_the_archive_does_not_archive_itself(tmp_path: Path) -> None:
    world = new_world(tmp_path / "world", source=tmp_path / "world" / "source")
    inside = world.source / "test.archive"
    world.archive.rename(inside)
    world.write("a", b"data")
    with Catalogue.open(inside, write=True) as catalogue:
        archiver.resume(catalogue, Quiet())
        assert set(catalogue.folder(b"")) == {b"", b"a"}


def test_unreadable_entries_stay_as_they_were(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world)
    world.write("bad", b"first")
    world.resume()
    os_open = os.open

    def refuse(path: str | bytes, *args: int, **kwargs: int) -> int:
        if os.fsencode(path).endswith((b"/bad", b"/sub")):
            raise PermissionError(13, "Permission denied")
        return os_open(path, *args, **kwargs)

    world.write("bad", b"second", LONG_AGO + 1)
    world.write("new", b"new")
    (world.source / "sub" / "empty").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        world.resume()
    assert len(world.problems) == 2
    found = contents(world.restore(exact=True)[0])
    assert found["bad"] == b"first"
    assert found["new"] == b"new"
    assert "sub/empty" in found
    world.resume()
    same_as_source(world, world.restore(exact=True)[0])


def test_sockets_and_devices_are_named(world: World) -> None:
    os.mkfifo(world.source / "fifo")
    world.write("a", b"data")
    world.resume()
    assert world.notices == ["fifo: a socket or device; left out"]
    assert not world.problems
    assert contents(world.restore()[0]) == {"a": b"data"}


def test_a_file_replaced_by_a_fifo_is_gone(world: World) -> None:
    world.write("a", b"data")
    world.write("b", b"data too")
    world.resume()
    (world.source / "a").unlink()
    os.mkfifo(world.source / "a")
    result = world.resume()
    assert contents(world.restore(exact=True)[0]) == {"b": b"data too"}
    assert result.files == 1


def test_a_file_that_changes_while_it_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = world.write("busy", noise("busy", LARGE))
    world.write("calm", b"calm")
    preadv = os.preadv
    count = 0

    def changing(descriptor: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        nonlocal count
        got = preadv(descriptor, buffers, offset, *flags)
        if os.fstat(descriptor).st_ino == where.stat().st_ino:
            count += 1
            os.utime(where, ns=(count, count))
        return got

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", changing)
        world.resume()
    assert len(world.problems) == 1
    assert "busy: it changes while being read" in world.problems[0]
    assert contents(world.restore(exact=True)[0]) == {"calm": b"calm"}
    world.resume()
    same_as_source(world, world.restore(exact=True)[0])


def test_newly_excluded_is_gone_from_the_snapshot_only(world: World) -> None:
    world.write("a.tmp", b"1")
    world.write("b", b"2")
    world.resume()
    with Catalogue.open(world.archive, write=True) as catalogue, catalogue.transaction():
        catalogue.set_settings(catalogue.settings | {"exclude": "*.tmp"})
    world.resume()
    assert contents(world.restore(exact=True)[0]) == {"b": b"2"}
    assert contents(world.restore()[0]) == {"a.tmp": b"1", "b": b"2"}


def test_a_run_stopped_after_its_last_pack_still_becomes_a_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world)

    def stop(log: Log) -> bool:
        raise StorageError("pulled the plug")

    with tuned(manifest_every=1, racy=0):
        with monkeypatch.context() as patch:
            patch.setattr(Log, "pending", stop)
            with pytest.raises(StorageError):
                world.resume()
        result = world.resume()
        assert (result.new, result.snapshot) == (True, 1)
    same_as_source(world, world.restore(snapshot=1)[0])


def test_every_name_is_new(world: World) -> None:
    seen: set[str] = set()
    for run in range(4):
        world.write(f"{run}", noise(run, 100))
        world.resume()
        assert seen < set(world.objects())
        seen = set(world.objects())


# Restoring


def test_again_keeps_what_is_equal(world: World) -> None:
    fill(world)
    world.resume()
    folder, first = world.restore()
    os.chmod(folder / "a.jpg", 0o400)
    os.utime(folder / "sub", ns=(1, 1))
    inode = (folder / "a.jpg").stat().st_ino
    _, again = world.restore(into=folder)
    assert (first.restored, first.kept) == (5, 0)
    assert (again.restored, again.kept, again.written, again.read) == (0, 5, 0, 0)
    assert (folder / "a.jpg").stat().st_ino == inode
    same_as_source(world, folder)


def test_what_differs_is_left_without_overwrite(world: World) -> None:
    fill(world)
    world.resume()
    folder, _ = world.restore()
    other = bytearray(noise("a", LARGE))
    other[LARGE // 2] ^= 1
    (folder / "a.jpg").write_bytes(other)
    (folder / "sub" / "b.jpg").write_bytes(b"shorter")
    (folder / "sub" / "empty").write_bytes(b"not empty")
    (folder / "sub" / "link").unlink()
    (folder / "sub" / "link").symlink_to("elsewhere")
    mine = contents(folder)
    _, result = world.restore(into=folder)
    assert (result.differing, result.restored, result.kept) == (4, 0, 1)
    assert len(world.problems) == 4
    assert all("--overwrite" in problem for problem in world.problems)
    assert contents(folder) == mine
    assert (folder / "sub" / "link").readlink() == Path("elsewhere")
    _, result = world.restore(into=folder, overwrite=True)
    assert (result.differing, result.restored, result.kept) == (0, 4, 1)
    same_as_source(world, folder)


def test_folders_are_never_replaced(world: World) -> None:
    fill(world)
    world.resume()
    folder = world.root / "dest"
    (folder / "a.jpg").mkdir(parents=True)
    (folder / "a.jpg" / "mine").write_bytes(b"mine")
    _, result = world.restore(into=folder, overwrite=True)
    assert result.differing == 1
    assert (folder / "a.jpg" / "mine").read_bytes() == b"mine"
    assert (folder / "sub" / "b.jpg").read_bytes() == noise("b", 3000)


def test_a_file_where_a_folder_should_be(world: World) -> None:
    fill(world)
    world.resume()
    folder = world.root / "dest"
    folder.mkdir()
    (folder / "sub").write_bytes(b"mine")
    _, result = world.restore(into=folder)
    assert (folder / "sub").read_bytes() == b"mine"
    assert (folder / "a.jpg").read_bytes() == noise("a", LARGE)
    assert result.restored == 1
    assert result.failed >= 4


def test_links_in_the_destination_lead_nowhere(world: World) -> None:
    fill(world)
    world.resume()
    folder, outside = world.root / "dest", world.root / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "sub").symlink_to(outside)
    (folder / "a.jpg").symlink_to(outside / "a.jpg")
    world.restore(into=folder)
    assert list(outside.iterdir()) == []
    world.restore(into=folder, overwrite=True)
    assert list(outside.iterdir()) == []
    assert not (folder / "a.jpg").is_symlink()


def test_foreign_files_in_the_destination_stay(world: World) -> None:
    fill(world)
    world.resume()
    folder = world.root / "dest"
    folder.mkdir()
    (folder / "mine").write_bytes(b"mine")
    world.restore(into=folder, overwrite=True)
    assert (folder / "mine").read_bytes() == b"mine"


def test_destination_that_is_a_file(world: World) -> None:
    fill(world)
    world.resume()
    (world.root / "dest").write_bytes(b"mine")
    with pytest.raises(DestinationError):
        world.restore(into="dest")


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["a.jpg"], {"a.jpg"}),
        (["sub"], {"sub/b.jpg", "sub/deep/c.txt", "sub/empty"}),
        (["sub/"], {"sub/b.jpg", "sub/deep/c.txt", "sub/empty"}),
        (["./sub/deep"], {"sub/deep/c.txt"}),
        (["*.jpg"], {"a.jpg", "sub/b.jpg"}),
        (["/*.jpg"], {"a.jpg"}),
        (["sub/*/c.*"], {"sub/deep/c.txt"}),
        (["a.jpg", "sub/deep/c.txt"], {"a.jpg", "sub/deep/c.txt"}),
        (["."], {"a.jpg", "sub/b.jpg", "sub/deep/c.txt", "sub/empty"}),
    ],
)
def test_selection(world: World, paths: list[str], wanted: set[str]) -> None:
    fill(world)
    world.resume()
    folder, _ = world.restore(paths=tuple(paths))
    assert set(contents(folder)) == wanted
    assert not world.problems
    restored = look(folder)
    for path, seen in look(world.source).items():
        if path in restored and path:
            assert restored[path].mtime == seen.mtime, path


@pytest.mark.parametrize("text", ["nothing", "sub/b", "b.jpg", "*.png", "a.jpg/x"])
def test_selection_of_nothing(world: World, text: str) -> None:
    fill(world)
    world.resume()
    folder, result = world.restore(paths=(text, "a.jpg"))
    assert set(contents(folder)) == {"a.jpg"}
    assert world.problems == [
        f"nothing in the archive matches {text}: paths begin inside the source"
    ]
    assert result.objects == 1


@pytest.mark.parametrize("name", ["photo[1].jpg", "what?", "a*b", "[x]/in"])
def test_selection_by_a_name_that_looks_like_a_pattern(world: World, name: str) -> None:
    """A path as `ls` shows it selects that path."""
    world.write(name, b"wanted")
    world.write("other", b"other")
    world.resume()
    folder, _ = world.restore(paths=(name,))
    assert not world.problems
    assert contents(folder) == {name: b"wanted"}


def test_selection_below_a_name_with_newline(world: World) -> None:
    world.write("dir1/a\nb", b"wanted")
    world.resume()
    folder, _ = world.restore(paths=("dir*",))
    assert contents(folder) == {"dir1/a\nb": b"wanted"}


def test_selection_reads_only_what_it_needs(world: World) -> None:
    for count in range(4):
        world.write(f"{count}", noise(count, 3000))
        world.resume()
    _, all_ = world.restore()
    _, one = world.restore(paths=("2",))
    assert (all_.objects, one.objects) == (4, 1)
    assert one.read < all_.read / 3


def test_plan_asks_the_storage_nothing(world: World) -> None:
    fill(world)
    world.resume()
    shutil.rmtree(world.storage)
    with Catalogue.open(world.archive, write=False) as catalogue:
        planned = planner.plan(catalogue, Request(paths=("a.jpg",)), Quiet())
    assert (planned.files, planned.size, planned.lost) == (1, LARGE, 0)
    (need,) = planned.needed
    assert need.wanted == LARGE
    assert need.read >= LARGE


def test_snapshots_that_are_none(world: World) -> None:
    fill(world)
    world.resume()
    for run in (0, 2, -1, 99):
        with pytest.raises(SettingsError, match="the newest is 1"):
            world.restore(snapshot=run)


def test_wrong_secrets(world: World) -> None:
    fill(world)
    world.resume()
    for use in (world.restore, world.decrypt):
        with pytest.raises(PasswordError):
            use(secret="wrong")
        with pytest.raises(CodeError):
            use(secret=bytes(16))
        same_as_source(world, use(secret=world.code)[0])
        same_as_source(world, use(secret=PASSWORD)[0])


def test_a_folder_that_loses_its_time_to_its_contents(world: World) -> None:
    """Folders get their times last, the inner ones first."""
    fill(world)
    for path in ("sub/deep", "sub", ""):
        os.utime(world.source / path, ns=(LONG_AGO, LONG_AGO))
    os.chmod(world.source / "sub", 0o500)
    world.resume()
    same_as_source(world, world.restore()[0])


def test_x_tilde_n_that_is_there_already(world: World) -> None:
    """The new name of the older one may be taken: nothing may be lost for it."""
    world.write("x", noise("x", LARGE))
    world.write("x~1", noise("other", LARGE))
    world.resume()
    (world.source / "x").unlink()
    world.write("x/in", b"in")
    world.resume()
    folder, _ = world.restore()
    assert not world.problems
    found = contents(folder)
    assert found["x/in"] == b"in"
    assert found["x~1"] == noise("other", LARGE), "a file under its own name keeps it"
    assert noise("x", LARGE) in found.values()


def test_what_an_interrupted_restore_left_was_archived(world: World) -> None:
    with Catalogue.open(world.archive, write=False) as catalogue:
        parts = f".pyarchiver-parts-{catalogue.keys.archive_id[:8].hex()}"
    for number in range(3):
        world.write(f"{parts}/{number:032x}", noise(number, 1000))
        world.write(f"large{number}", noise(number, 9_000_000))
    world.resume()
    folder, _ = world.restore()
    assert not world.problems
    same_as_source(world, folder)


# Hard links


def linked(world: World) -> None:
    world.write("one", noise("one", 1000))
    os.link(world.source / "one", world.source / "two")
    (world.source / "sub").mkdir()
    os.link(world.source / "one", world.source / "sub" / "three")


def test_hard_links(world: World) -> None:
    linked(world)
    world.write("copy", noise("one", 1000))
    world.resume()
    for folder in (world.restore()[0], world.decrypt()[0]):
        assert links(look(folder)) == {frozenset({b"one", b"two", b"sub/three"})}
        same_as_source(world, folder)


def test_hard_links_of_what_was_selected(world: World) -> None:
    linked(world)
    world.resume()
    folder, _ = world.restore(paths=("two", "sub"))
    assert links(look(folder)) == {frozenset({b"two", b"sub/three"})}
    folder, _ = world.restore(paths=("two",))
    assert (folder / "two").stat().st_nlink == 1
    assert contents(folder) == {"two": noise("one", 1000)}


def test_hard_links_again(world: World) -> None:
    linked(world)
    world.resume()
    folder, _ = world.restore()
    _, again = world.restore(into=folder)
    assert (again.kept, again.restored, again.differing) == (3, 0, 0)
    (folder / "two").unlink()
    _, again = world.restore(into=folder)
    assert (again.kept, again.restored) == (2, 1)
    same_as_source(world, folder)


def test_a_hard_link_never_shows_foreign_bytes(world: World) -> None:
    """The first name is taken by something else: the other names must not become that."""
    linked(world)
    world.resume()
    folder = world.root / "dest"
    folder.mkdir()
    (folder / "one").write_bytes(b"mine")
    world.restore(into=folder)
    assert (folder / "one").read_bytes() == b"mine"
    for name in ("two", "sub/three"):
        if (folder / name).exists():
            assert (folder / name).read_bytes() == noise("one", 1000), name
    assert world.problems


def test_hard_links_of_another_time_keep_their_own_attributes(world: World) -> None:
    """A name deleted before a chmod, and those that were changed by it."""
    linked(world)
    world.resume()
    (world.source / "one").unlink()
    os.chmod(world.source / "two", 0o600)
    os.utime(world.source / "two", ns=(1, 1))
    world.resume()
    for folder in (world.restore()[0], world.decrypt()[0]):
        assert (folder / "two").stat().st_mtime_ns == 1
        assert stat.S_IMODE((folder / "two").stat().st_mode) == 0o600
        assert (folder / "one").stat().st_mtime_ns == LONG_AGO
        assert links(look(folder)) == {frozenset({b"two", b"sub/three"})}


# Decrypting


def several(world: World) -> None:
    """Three runs, a pack and a manifest each."""
    for run in range(3):
        world.write(f"{run}.jpg", noise(run, 50_000))
        world.write("same.xmp", b"version %d" % run, LONG_AGO + run)
        world.resume()


def test_packs_alone_are_enough(world: World) -> None:
    several(world)
    folder, _ = world.decrypt(world.some(*world.objects(Kind.PACK)))
    assert not world.problems
    assert contents(folder) == contents(world.source)


def test_any_pack_gives_what_is_wholly_in_it(world: World) -> None:
    several(world)
    found = {}
    for name in world.objects(Kind.PACK):
        folder, _ = world.decrypt(world.some(name))
        assert not world.problems
        found[name] = contents(folder)
    assert {path for files in found.values() for path in files} == {
        "0.jpg", "1.jpg", "2.jpg", "same.xmp",
    }  # fmt: skip
    assert sorted(files["same.xmp"] for files in found.values()) == [
        b"version 0", b"version 1", b"version 2",
    ]  # fmt: skip
    assert all(len(files) == 2 for files in found.values())


def test_one_object_by_itself(world: World) -> None:
    several(world)
    name = min(world.objects(Kind.PACK))
    folder, _ = world.decrypt(world.storage / name)
    assert len(contents(folder)) == 2


def test_a_missing_pack_is_named(world: World) -> None:
    several(world)
    lost = min(world.objects(Kind.PACK))
    folder, result = world.decrypt(world.some(*(set(world.objects()) - {lost})))
    wanted = contents(world.source)
    found = contents(folder)
    assert found.items() < wanted.items()
    assert result.failed == len(wanted) - len(found) > 0
    assert all(lost in problem for problem in world.problems)
    assert len(world.problems) == result.failed


def test_names_of_downloads_do_not_matter(world: World) -> None:
    several(world)
    folder = world.some(*world.objects())
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"download ({number})")
    shutil.copy(folder / "download (1)", folder / "copy of it")
    (folder / "holiday.jpg").write_bytes(noise("no object", 5000))
    (folder / "empty").write_bytes(b"")
    (folder / "folder").mkdir()
    out, _ = world.decrypt(folder)
    assert not [problem for problem in world.problems if "empty" not in problem]
    assert any("holiday.jpg" in notice for notice in world.notices)
    assert any("same object" in notice for notice in world.notices)
    same_as_source(world, out)


def test_a_cut_copy_is_no_reason_not_to_use_the_whole_one(world: World) -> None:
    several(world)
    folder = world.some(*world.objects())
    for path in list(folder.iterdir()):
        for before in ("0", "zz"):
            cut = folder / f"{before}-{path.name}"
            cut.write_bytes(path.read_bytes()[:-100])
    out, _ = world.decrypt(folder)
    same_as_source(world, out)


def test_objects_of_others_are_left_alone(world: World, tmp_path: Path) -> None:
    several(world)
    stranger = new_world(tmp_path / "stranger")
    with Catalogue.open(stranger.archive, write=True) as catalogue:
        catalogue.configure(slots=b"\x90")
    stranger.write("strange", b"strange")
    stranger.resume()
    folder = world.some(*world.objects())
    for name in stranger.objects():
        shutil.copy(stranger.storage / name, folder)
    out, _ = world.decrypt(folder)
    assert not world.problems
    assert len([notice for notice in world.notices if "another archive" in notice]) == 2
    same_as_source(world, out)


def test_two_archives_with_one_password(world: World, tmp_path: Path) -> None:
    several(world)
    stranger = new_world(tmp_path / "stranger")
    stranger.write("strange", b"strange")
    stranger.resume()
    folder = world.some(*world.objects())
    for name in stranger.objects():
        shutil.copy(stranger.storage / name, folder)
    out, _ = world.decrypt(folder)
    [told] = world.problems
    own, other = (
        name.split("-")[0] for name in (next(iter(world.objects())), next(iter(stranger.objects())))
    )
    assert told.startswith("2 objects of another archive with this password: skipped")
    assert f"this is {own}" in told
    assert f"{other}-... into a folder of its own" in told
    same_as_source(world, out)


def test_nothing_to_decrypt(world: World) -> None:
    (world.root / "none").mkdir()
    for source in (world.root / "none", world.root / "nowhere"):
        with pytest.raises(StorageError):
            world.decrypt(source)


def test_checkpoint_and_what_came_after(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    with tuned(checkpoint_after=2):
        for run in range(6):
            world.write(f"{run}", noise(run, 3000))
            (world.source / "old").unlink(missing_ok=True)
            if run < 2:
                world.write("old", noise(("old", run), 3000), LONG_AGO + run)
            world.resume()
        checkpoints = sorted(world.objects(Kind.CHECKPOINT))
        assert checkpoints
        covered = int(checkpoints[-1].split("-")[2])
        later = {name for name in world.objects(Kind.MANIFEST) if int(name.split("-")[2]) > covered}
        packs = world.objects(Kind.PACK)
        some = world.some(checkpoints[-1], *later, *packs)
        folder, _ = world.decrypt(some)
        assert not world.problems
        assert_same(look(folder), look(world.restore()[0]))


def test_half_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    """Without one of its parts and without the manifests before it, something is missing."""
    world = new_world(tmp_path)
    with tuned(checkpoint_after=1, log_size=24 << 10):
        for count in range(600):
            world.write(f"{count}", b"")
            os.setxattr(world.source / f"{count}", "user.x", noise(count, 100))
        world.resume()
        parts = world.objects(Kind.CHECKPOINT)
        assert len(parts) > 2
        packs = world.objects(Kind.PACK)
        for lost in parts:
            world.decrypt(world.some(*(parts.keys() - {lost}), *packs))
            assert world.problems, f"{lost} is missing and nobody says so"


def test_a_missing_manifest_is_noticed(world: World) -> None:
    several(world)
    lost = sorted(world.objects(Kind.MANIFEST))[1]
    folder, _ = world.decrypt(world.some(*(set(world.objects()) - {lost})))
    assert any("manifest 2 is missing" in problem for problem in world.problems)
    assert contents(folder) == contents(world.source)


def fork(world: World, tmp_path: Path) -> World:
    """Both copies of an .archive go on by themselves, into a storage that hides what is newest."""
    world.write("common", b"common")
    world.resume()
    copy = world.root / "copy.archive"
    shutil.copy(world.archive, copy)
    seen = set(world.storage.iterdir())
    world.write("first", noise("first", 3000))
    world.resume()
    hidden = world.root / "hidden"
    hidden.mkdir()
    for path in set(world.storage.iterdir()) - seen:
        path.rename(hidden / path.name)
    (world.source / "first").unlink()
    world.archive.rename(world.root / "ahead.archive")
    copy.rename(world.archive)
    world.write("second", noise("second", 3000))
    world.write("third", noise("third", 3000))
    world.resume()
    for path in hidden.iterdir():
        path.rename(world.storage / path.name)
    return world


@pytest.mark.parametrize("manifests", [True, False])
def test_a_fork_is_reported_and_loses_nothing(
    world: World, tmp_path: Path, manifests: bool
) -> None:
    fork(world, tmp_path)
    kinds = (Kind.PACK, Kind.MANIFEST) if manifests else (Kind.PACK,)
    folder, _ = world.decrypt(world.some(*world.objects(*kinds)))
    found = contents(folder)
    assert found == {
        "common": b"common", "first": noise("first", 3000), "second": noise("second", 3000),
        "third": noise("third", 3000),
    }  # fmt: skip
    assert any("fork" in problem for problem in world.problems) or not manifests


@pytest.mark.parametrize("limit", [64, 300])
def test_entries_in_parts(tmp_path: Path, limit: int) -> None:
    world = new_world(tmp_path)
    with tuned(entries_raw=limit, block_size=256 << 10, pack_size=64 << 10, manifest_every=1):
        for count in range(60):
            where = world.write(f"{count}", noise(count, 10_000))
            os.setxattr(where, "user.long", noise(("xattr", count), 900))
            os.utime(where, ns=(count, count))
        world.resume()
        same_as_source(world, world.restore()[0])
        same_as_source(world, world.decrypt()[0])
        packs = world.objects(Kind.PACK)
        assert len(packs) > 2
        folder, _ = world.decrypt(world.some(*packs))
        assert not world.problems
        assert contents(folder) == contents(world.source)


def test_decrypt_leaves_no_file_open(world: World) -> None:
    several(world)
    before = set(os.listdir("/proc/self/fd"))
    raw: list[ObjectFolder] = []

    def keeping(source: Path) -> ObjectFolder:
        raw.append(ObjectFolder(source))
        return raw[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decrypting, "ObjectFolder", keeping)
        out = world.root / "out"
        decrypting.decrypt(world.storage, out, PASSWORD, Request(), Quiet())
        after = set(os.listdir("/proc/self/fd"))
    for folder in raw:
        folder.raw.close()
    assert len(after) == len(before)


def test_a_full_destination_leaves_no_half_file(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under its own name it would be taken for somebody else's when the restore is run again."""
    world.write("a", b"data")
    world.resume()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tree, "_write_all", full)
        with pytest.raises(DestinationError, match="No space left"):
            world.restore(tmp_path / "full")
    assert not (tmp_path / "full" / "a").exists()
    again, _ = world.restore(tmp_path / "full")
    assert contents(again) == {"a": b"data"}
    assert not world.problems


def test_a_folder_whose_fields_are_damaged_costs_itself(world: World) -> None:
    """In the catalogue, where only the restore comes upon it; the rest is restored and synced."""
    world.write("folder/file", b"content")
    world.resume()
    with Catalogue.open(world.archive, write=True) as catalogue, catalogue.transaction():
        query = "UPDATE versions SET fields = x'c1' WHERE kind = ? AND name = ?"
        catalogue._db.execute(query, (int(EntryKind.FOLDER), b"folder"))
    folder, _ = world.restore()
    (problem,) = world.problems
    assert problem.startswith("folder: ")
    assert contents(folder) == contents(world.source)
