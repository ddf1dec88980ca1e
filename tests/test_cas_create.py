"""A start that ended before the password's key was derived: nothing was sent, start again."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from helpers_cas import PASSWORD, World, new_world, noise
from pyarchiver.cas import archiver, create
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.database import Database
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.unlock import unlock
from pyarchiver.formats import keys, recovery
from pyarchiver.formats.errors import BusyError, CatalogueError


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


def test_the_recovery_code_opens_what_is_there_when_it_is_shown(world: World) -> None:
    """Durable under its name, with its slots; and nothing was sent before."""
    shown: list[str] = []

    def show(code: str) -> None:
        with Catalogue.open(world.archive, write=False) as there:
            unlock(there, recovery.decode(code))
            assert not there.has_objects()
        shown.append(code)

    world.archive.unlink()
    catalogue, code = create.create(world.settings, world.archive, PASSWORD, show)
    assert not Database.config(catalogue, "slots")
    assert not shown
    with catalogue:
        archiver.resume(catalogue, Quiet())
        assert shown == [code]
    assert shown == [code]


def test_it_is_shown_where_nothing_else_came_of_the_start(world: World) -> None:
    """Ended before the first pack: the .archive is one, and its code was seen."""
    shown: list[str] = []
    world.archive.unlink()
    catalogue, _ = create.create(world.settings, world.archive, PASSWORD, shown.append)
    with suppress(KeyboardInterrupt), catalogue:
        raise KeyboardInterrupt
    with Catalogue.open(world.archive, write=False) as there:
        unlock(there, recovery.decode(shown[0]))
    assert world.resume().files == 1


def test_no_code_is_shown_of_an_archive_that_another_makes(world: World) -> None:
    shown: list[str] = []
    world.archive.unlink()
    first, _ = create.create(world.settings, world.archive, PASSWORD)
    with first, pytest.raises(BusyError):
        create.create(world.settings, world.archive, PASSWORD, shown.append)
    assert not shown


@pytest.mark.parametrize("when", ["first pack", "end"])
def test_an_archive_whose_code_cannot_be_shown_is_none(world: World, when: str) -> None:
    def fail(_: str) -> None:
        raise BrokenPipeError

    world.archive.unlink()
    catalogue, _ = create.create(world.settings, world.archive, PASSWORD, fail)
    with pytest.raises(BrokenPipeError), catalogue:
        if when == "first pack":
            archiver.resume(catalogue, Quiet())
    left = {path.name for path in world.root.iterdir()} - {"test.archive.lock"}
    assert left == {"source", "storage"}
    assert not world.objects()
    world.start()
    assert world.resume().files == 1
