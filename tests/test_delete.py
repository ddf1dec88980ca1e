"""delete: all that the catalogue lists goes, nothing else does, whatever comes between."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crash_driver import KILLED, forked
from helpers_cli import (
    PASSWORD,
    Place,
    Sizes,
    contents,
    differences,
    make_tree,
    noise,
    on_terminal,
    small,
    tree_of,
    write,
)
from pyarchiver.cas import archiver, delete, local
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.rows import DELETED, STAGED
from pyarchiver.cas.settings import Settings
from pyarchiver.cas.storage import open_storage
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats.errors import CatalogueError, StorageError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
SIZES = Sizes(pack=400 << 10, block=128 << 10, segment=64 << 10)


@pytest.fixture(autouse=True)
def small_packs() -> Iterator[None]:
    with small(SIZES):
        yield


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An archive of some eight objects."""
    made = Place(tmp_path)
    make_tree(made.source, files=20, size=80_000)
    made.start(SIZES)
    assert len(made.objects("p")) >= 5
    with Catalogue.open(made.archive, write=True) as catalogue, catalogue.transaction():
        # A process of its own knows no smaller ones.
        sizes = {"pack size": str(16 << 20), "chunk size": str(64 << 10)}
        catalogue.set_settings({**catalogue.settings, **sizes})
    return made


def states(place: Place) -> dict[str, int]:
    with Catalogue.open(place.archive, write=False) as opened:
        return {row.name: row.state for row in opened.objects()}


def is_deleted(place: Place) -> bool:
    with Catalogue.open(place.archive, write=False) as opened:
        return opened.deleted


def tag(place: Place) -> str:
    return place.objects()[0].name[:12]


def deleted(place: Place, observer: Quiet | None = None) -> delete.DeleteResult:
    """What `pyarchiver delete --yes` does."""
    with Catalogue.open(place.archive, write=True) as catalogue:
        return delete.delete(catalogue, observer or Quiet())


def untouched(place: Place) -> tuple[dict[str, bytes], bytes]:
    return contents(place.storage), place.archive.read_bytes()


# What goes, and what stays


def test_everything_that_is_listed_and_nothing_else(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {path.name: path.stat().st_size for path in place.objects()}
    foreign = {
        "notes.txt": b"mine",
        "00112233aabb-p-" + "5" * 32: b"another archive",
        f"{tag(place)}-p-{'7' * 32}": b"of this archive, not listed",
        "00112233aabb-p-" + "6" * 32 + ".part": b"another archive's",
        f"{tag(place)}-p-mine.part": b"no name of ours",
    }
    for name, data in foreign.items():
        (place.storage / name).write_bytes(data)
    (place.storage / "folder").mkdir()
    write(place.storage / "folder" / next(iter(own)), b"elsewhere")
    source = dict(tree_of(place.source))

    assert run(["delete", str(place.archive), "--yes", "--json"]) == Exit.DONE
    out = capsys.readouterr()
    told = json.loads(out.out)
    assert (told["objects"], told["size"], told["missing"]) == (len(own), sum(own.values()), 0)
    assert (told["archive"], told["name"]) == (str(place.archive), "photos")
    assert f"deleting for good: {len(own)} objects" in told["notices"][0]
    assert (
        "left in the storage, not in the catalogue: 1 object of this archive" in told["notices"][1]
    )

    foreign[f"folder/{next(iter(own))}"] = b"elsewhere"
    assert contents(place.storage) == foreign
    assert dict(tree_of(place.source)) == source
    assert states(place) == dict.fromkeys(own, DELETED)
    assert is_deleted(place)


def test_it_says_what_goes_and_what_went(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(place.objects())
    assert run(["delete", str(place.archive), "--yes"]) == Exit.DONE
    out = capsys.readouterr()
    assert f"deleting for good: {count} objects" in out.err
    assert place.storage.as_uri() in out.err
    assert f"pyarchiver: deleting: {count} objects" in out.err
    assert f"photos.archive: deleted {count} objects" in out.out


def test_again_there_is_nothing_to_do(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["delete", str(place.archive), "--yes", "-q"]) == Exit.DONE
    before = place.archive.read_bytes()
    shutil.rmtree(place.storage)
    assert run(["delete", str(place.archive)]) == Exit.DONE
    assert "is deleted already: nothing to do" in capsys.readouterr().out
    assert run(["delete", str(place.archive), "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["objects"] == 0
    assert deleted(place) == delete.DeleteResult()
    assert place.archive.read_bytes() == before


def test_spooled_parts_go_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Staged ones, and what a killed run never staged."""
    place = Place(tmp_path)
    make_tree(place.source, files=10, size=80_000)

    def refused(*_: object) -> None:
        raise StorageError("not today")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "put", refused)
        with pytest.raises(StorageError, match="not today"):
            place.start(SIZES)
    assert STAGED in states(place).values()
    name = next(path.name for path in place.storage.iterdir() if path.suffix == ".part")
    (place.storage / f"{name[:12]}-p-{'9' * 32}.part").write_bytes(b"given up")
    result = deleted(place)
    assert (result.objects, result.missing) == (len(states(place)), 0)
    assert list(place.storage.iterdir()) == []


def test_a_spool_apart_from_the_storage(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def far(settings: Settings, **more: Any) -> Any:
        storage = open_storage(settings, **more)
        storage.spool = None
        return storage

    monkeypatch.setattr(archiver, "open_storage", far)
    monkeypatch.setattr(delete, "open_storage", far)
    write(place.source / "new.raw", noise("new", 50_000))
    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "put", lambda *_: (_ for _ in ()).throw(StorageError("no")))
        with pytest.raises(StorageError):
            place.resume()
    spool = place.work / "photos.spool"
    assert [path.suffix for path in spool.iterdir()] == [".part"]
    (spool / "mine.part").write_bytes(b"mine")
    result = deleted(place)
    assert result.missing == 0
    assert contents(spool) == {"mine.part": b"mine"}
    assert contents(place.storage) == {}


def test_what_is_missing_is_counted(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(place.objects())
    for path in place.objects("m"):
        path.unlink()
    missing = count - len(place.objects())
    assert run(["delete", str(place.archive), "--yes", "--json"]) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["objects"], told["missing"]) == (count, missing)
    assert f"gone already: {missing} of {count} objects" in told["notices"]
    assert contents(place.storage) == {}
    assert is_deleted(place)


# What is asked


def test_without_a_terminal_nothing_is_asked(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = untouched(place)
    assert run(["delete", str(place.archive)]) == Exit.USAGE
    assert "without a terminal: use --yes" in capsys.readouterr().err
    assert untouched(place) == before


@pytest.mark.parametrize("options", [[], ["-q"], ["--json"]], ids=str)
def test_the_name_is_asked_for(place: Place, options: list[str]) -> None:
    """Whatever else is printed, what goes is said before the question."""
    count = len(place.objects())
    terminal = on_terminal("delete", place.archive, *options)
    before = terminal.expect("type the archive's name, photos, to delete it")
    assert f"to be deleted for good: {count} objects" in before
    terminal.answer(": ", "photos")
    assert terminal.wait() == Exit.DONE, terminal.output
    assert contents(place.storage) == {}
    assert is_deleted(place)


@pytest.mark.parametrize("answer", ["yes", "photo", "PHOTOS", "photos.archive"])
def test_another_name_deletes_nothing(place: Place, answer: str) -> None:
    before = untouched(place)
    terminal = on_terminal("delete", place.archive)
    terminal.answer("to delete it: ", answer)
    assert terminal.wait() == Exit.FAILED
    assert "that is not photos: nothing was deleted" in terminal.output
    assert untouched(place) == before


def test_no_answer(place: Place) -> None:
    """Ctrl-D at the question."""
    before = untouched(place)
    terminal = on_terminal("delete", place.archive)
    terminal.answer("to delete it: ", "\x04")
    assert terminal.wait() == Exit.INTERRUPTED
    assert "interrupted" in terminal.output
    assert untouched(place) == before


# What a deleted archive refuses


@pytest.mark.parametrize(
    ("state", "message"),
    [(b"begun", "is being deleted: pyarchiver delete"), (b"done", "is deleted, its objects")],
)
def test_what_it_refuses(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    state: bytes, message: str,
) -> None:  # fmt: skip
    """Before a password is asked for, and without a trace."""
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    with Catalogue.open(place.archive, write=True) as catalogue:
        catalogue.configure(deletion=state)
    ini = place.work / "photos.ini"
    assert run(["init", str(ini), "--name", "photos", "--source", "source", "-q",
                "--storage", "storage"]) == Exit.DONE  # fmt: skip
    ini.write_text(ini.read_text().replace("232 MiB", "1000000").replace("512 KiB", "65536"))
    before = untouched(place)
    out = str(place.work / "out")
    for words in (["resume"], ["restore", out], ["restore", out, "--plan"]):
        assert run([words[0], str(place.archive), *words[1:]]) == Exit.FAILED
        assert message in capsys.readouterr().err
    assert run(["start", str(ini)]) == Exit.FAILED
    assert message in capsys.readouterr().err
    assert not (place.work / "out").exists()
    assert untouched(place) == before


def test_a_new_archive_of_that_name(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """What the message says one can do."""
    deleted(place)
    with pytest.raises(CatalogueError, match="move it away to start anew"):
        place.start(SIZES)
    place.archive.rename(place.work / "old.archive")
    place.start(SIZES)
    place.restore(place.work / "out", Quiet())
    shutil.copystat(place.source, place.work / "out")
    assert differences(place.source, place.work / "out") == ""


# Storages on bad days


def failed_delete(place: Place, capsys: pytest.CaptureFixture[str]) -> str:
    """What a deletion says that deletes nothing and records nothing."""
    before = place.archive.read_bytes()
    assert run(["delete", str(place.archive), "--yes"]) == Exit.FAILED
    assert place.archive.read_bytes() == before
    assert not is_deleted(place)
    return capsys.readouterr().err


def test_a_storage_that_is_gone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.storage.rename(place.work / "elsewhere")
    assert "is not there: is its disk mounted?" in failed_delete(place, capsys)
    assert not place.storage.exists()


def test_a_storage_that_is_not_mounted(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Its folder is there, and empty: the objects are not gone."""
    elsewhere = place.storage.rename(place.work / "elsewhere")
    place.storage.mkdir()
    told = failed_delete(place, capsys)
    assert "none of " in told
    assert "is its disk mounted? nothing was deleted" in told
    assert list(place.storage.iterdir()) == []
    place.storage.rmdir()
    elsewhere.rename(place.storage)
    place.resume()
    assert deleted(place).missing == 0


def test_a_storage_that_is_read_only(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refused)
    objects = contents(place.storage)
    assert "Read-only file system" in failed_delete(place, capsys)
    assert contents(place.storage) == objects


def test_a_storage_that_goes_away_in_the_midst(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was deleted until then is recorded, the rest is not."""
    elsewhere, names = place.work / "elsewhere", set(states(place))
    recorded = Catalogue.record_deleted

    def unmounted(catalogue: Catalogue, row: int) -> None:
        recorded(catalogue, row)
        if row == 3:
            place.storage.rename(elsewhere)
            place.storage.mkdir()

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "record_deleted", unmounted)
        assert run(["delete", str(place.archive), "--yes"]) == Exit.FAILED
    assert "is the storage still mounted?" in capsys.readouterr().err
    gone = {name for name, state in states(place).items() if state == DELETED}
    assert gone == names - set(contents(elsewhere))
    assert len(gone) == 3
    assert run(["delete", str(place.archive), "--yes"]) == Exit.FAILED
    assert "none of " in capsys.readouterr().err
    place.storage.rmdir()
    elsewhere.rename(place.storage)
    result = deleted(place)
    assert (result.objects, result.missing) == (len(names) - 3, 0)
    assert contents(place.storage) == {}
    assert is_deleted(place)


def test_an_object_that_cannot_be_deleted(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = place.objects()[2].name
    unlink = Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if path.name == stuck:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refusing)
        assert run(["delete", str(place.archive), "--yes"]) == Exit.FAILED
    assert f"object {stuck}: Operation not permitted" in capsys.readouterr().err
    assert states(place)[stuck] != DELETED
    assert run(["resume", str(place.archive)]) == Exit.FAILED
    assert "is being deleted" in capsys.readouterr().err
    assert run(["delete", str(place.archive), "--yes"]) == Exit.DONE
    assert contents(place.storage) == {}


def test_one_object_that_is_left_and_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended between deleting the last object and recording it: no unmounted disk."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        recorded = Catalogue.record_deleted
        last = len(states(place))
        patch.setattr(
            Catalogue, "record_deleted",
            lambda self, row: interrupted() if row == last else recorded(self, row),
        )  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            deleted(place)
    assert contents(place.storage) == {}
    assert deleted(place).objects == 1
    assert is_deleted(place)


def test_two_at_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    objects = contents(place.storage)
    with Catalogue.open(place.archive, write=True):
        assert run(["delete", str(place.archive), "--yes"]) == Exit.FAILED
    assert "in use by another pyarchiver" in capsys.readouterr().err
    assert contents(place.storage) == objects


# Ended at any moment


def test_ctrl_c(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(place.objects())
    removed = LocalStorage.delete
    calls = 0

    def interrupted(storage: LocalStorage, name: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        removed(storage, name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete", interrupted)
        assert run(["delete", str(place.archive), "--yes"]) == Exit.INTERRUPTED
    assert "run again to go on" in capsys.readouterr().err
    assert len(place.objects()) == count - 3
    assert list(states(place).values()).count(DELETED) == 3
    assert run(["delete", str(place.archive), "--yes", "--json"]) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["objects"], told["missing"]) == (count - 3, 0)
    assert contents(place.storage) == {}


STEPS = [
    (LocalStorage, "prepare", 1),
    (Catalogue, "begin_deletion", 1),
    (LocalStorage, "delete", 5),
    (local, "sync_folder", 5),
    (Catalogue, "record_deleted", 5),
    (delete._Deletion, "_clear_spool", 1),
    (Catalogue, "end_deletion", 1),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "name", "least"), STEPS, ids=str)
def test_killed_at_every_step(place: Place, owner: Any, name: str, least: int, when: str) -> None:
    """At the N-th call for every N: what is recorded is so, and the next run completes it."""
    original: Callable[..., Any] = getattr(owner, name)
    base = place.work / "base"
    part = place.storage / f"{tag(place)}-p-{'9' * 32}.part"
    part.write_bytes(b"never staged")
    shutil.copytree(place.storage, base / "storage")
    shutil.copy(place.archive, base)
    listed = set(states(place))
    number = 0
    while True:
        number += 1

        def killed(number: int = number) -> int:
            calls = 0

            def hooked(*arguments: Any, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls < number:
                    return original(*arguments, **named)
                if when == "after":
                    original(*arguments, **named)
                os._exit(KILLED)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(owner, name, hooked)
                deleted(place)
            return 0

        shutil.rmtree(place.storage)
        shutil.copytree(base / "storage", place.storage)
        shutil.copy(base / "photos.archive", place.archive)
        code = forked(killed)
        there = {path.name for path in place.objects()} & listed
        gone = {known for known, state in states(place).items() if state == DELETED}
        assert not gone & there
        assert len(listed - there - gone) <= 1
        if there != listed:
            with pytest.raises(CatalogueError, match="delete"):
                place.resume()
        deleted(place)
        left = {path.name for path in place.storage.iterdir()} - {".pyarchiver-probe"}
        assert not left
        assert set(states(place).values()) == {DELETED}
        assert is_deleted(place)
        if code != KILLED:
            break
    assert number > least


def test_the_password_does_not_matter(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting reads nothing; the help says what it does not touch."""
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD + " wrong")
    assert run(["delete", str(place.archive), "--yes", "-q"]) == Exit.DONE
