"""An .archive under several names: symbolic links lead to one, hard links are not written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers_cas import World, new_world, noise
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.migrations import update
from pyarchiver.cas.progress import Quiet
from pyarchiver.formats.errors import BusyError, CatalogueError
from pyarchiver.formats.keys import Slot, WriteKeys
from test_update import VECTORS


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = new_world(tmp_path / "world")
    made.write("a.jpg", noise("a", 3000))
    return made


@pytest.mark.parametrize("first", ["name", "link"])
def test_a_symbolic_link_has_the_lock_of_its_archive(world: World, first: str) -> None:
    link = world.root / "link" / "other.archive"
    link.parent.mkdir()
    link.symlink_to(os.path.relpath(world.archive, link.parent))
    one, other = (link, world.archive) if first == "link" else (world.archive, link)
    with Catalogue.open(one, write=True), pytest.raises(BusyError, match="in use"):
        Catalogue.open(other, write=True)
    with pytest.raises(CatalogueError, match="already there"):
        Catalogue.create(link, *_made(world))
    assert [path.name for path in link.parent.iterdir()] == ["other.archive"]


def test_a_link_to_where_an_archive_will_be(world: World) -> None:
    """It is made there: the lock of both names is one from the beginning."""
    made = _made(world)
    link, target = world.root / "link.archive", world.root / "later" / "test.archive"
    target.parent.mkdir()
    link.symlink_to(target)
    with Catalogue.create(link, *made), pytest.raises(BusyError):
        Catalogue.open(target, write=True)
    assert link.is_symlink()
    assert Catalogue.unfinished(link) is False


def test_an_update_through_a_link_keeps_its_copy_beside_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "there" / "photos.archive"
    archive.parent.mkdir()
    archive.write_bytes((VECTORS / "catalogue-v1.archive").read_bytes())
    (tmp_path / "link.archive").symlink_to(archive)
    assert update(tmp_path / "link.archive", Quiet()).copy == Path(f"{archive}.v1")
    assert [path.name for path in tmp_path.glob("*")] in (
        ["link.archive", "there"], ["there", "link.archive"],
    )  # fmt: skip


def test_hard_links_are_read_and_never_written(world: World) -> None:
    """The -wal beside the file belongs to a name: two writers would not see each other."""
    world.resume()
    other = world.root / "other.archive"
    os.link(world.archive, other)
    before = world.archive.read_bytes()
    for name in (world.archive, other):
        with pytest.raises(CatalogueError, match=r"has 2 names .*cp "):
            Catalogue.open(name, write=True)
        with Catalogue.open(name, write=False) as catalogue:
            assert catalogue.last_snapshot() == 1
            with pytest.raises(CatalogueError, match="cannot write"):
                catalogue.record_check(1, 1.0, b"", ())
    assert world.archive.read_bytes() == before
    assert not list(world.root.glob("*-wal"))
    other.unlink()
    assert not world.resume().new


def test_an_archive_has_one_name_however_it_is_made(world: World, tmp_path: Path) -> None:
    world.resume()
    old = tmp_path / "old.archive"
    old.write_bytes((VECTORS / "catalogue-v1.archive").read_bytes())
    copy = update(old, Quiet()).copy
    assert copy is not None
    for path in (world.archive, world.recover(), old, copy):
        assert path.stat().st_nlink == 1


def _made(world: World) -> tuple[WriteKeys, tuple[Slot, ...], dict[str, str]]:
    with Catalogue.open(world.archive, write=False) as catalogue:
        return catalogue.keys, catalogue.slots, catalogue.settings
