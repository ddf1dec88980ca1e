"""A start that ended before the password's key was derived: nothing was sent, start again."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers_cas import PASSWORD, World, new_world, noise
from pyarchiver.cas import create
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.database import Database
from pyarchiver.formats import keys
from pyarchiver.formats.errors import CatalogueError


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = new_world(tmp_path / "world")
    made.write("a.jpg", noise("a", 3000))
    return made


def interrupt_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed start leaves: an .archive without slots, and its log."""

    def never(*_: Any) -> Future[Any]:
        return Future()

    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", never)
        world.archive.unlink()
        catalogue, _ = create.create(world.settings, world.archive, PASSWORD)
    Database.close(catalogue)
    world.archive.with_name(world.archive.name + "-wal").write_bytes(b"left over" * 1000)


def test_an_unfinished_archive_is_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_start(world, monkeypatch)
    assert Catalogue.unfinished(world.archive)
    with pytest.raises(CatalogueError, match="interrupted before anything was sent: start it"):
        world.resume()
    assert not world.objects()
    create.check(world.settings, world.archive)
    world.start()
    assert not Catalogue.unfinished(world.archive)
    assert world.resume().files == 1
    out, _ = world.decrypt()
    assert (out / "a.jpg").read_bytes() == noise("a", 3000)


def test_a_finished_archive_is_not(world: World) -> None:
    world.resume()
    with pytest.raises(CatalogueError, match="already there"):
        create.check(world.settings, world.archive)
    with pytest.raises(CatalogueError, match="already there"):
        create.create(world.settings, world.archive, PASSWORD)
    assert world.resume().snapshot == 1


def test_a_failed_derivation_leaves_an_unfinished_archive(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError("256 MiB")

    world.archive.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(keys, "password_slot", fails)
        catalogue, _ = create.create(world.settings, world.archive, PASSWORD)
        with catalogue, pytest.raises(MemoryError):
            _ = catalogue.slots
    assert Catalogue.unfinished(world.archive)
    world.start()
    assert world.resume().files == 1
