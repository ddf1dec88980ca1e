"""Bad days of a source and of a machine: a clear word, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import OLD, contents, differences, make_tree, noise, write
from helpers_disk import AS_ROOT, NOBODY, as_nobody, disk, init, open_to_all, password
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats.errors import StorageError

__all__ = ["password"]
Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_tree(tmp_path / "source", files=3, size=20_000)
    return tmp_path


def _start(home: Path, *more: str, **values: str) -> int:
    return run(["start", str(init(home, None, **values)), *more])


def _resume(home: Path, *more: str) -> int:
    return run(["resume", str(home / "photos.archive"), *more])


def _result(home: Path, capsys: Captured, *more: str) -> dict[str, Any]:
    capsys.readouterr()
    _resume(home, "--json", *more)
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def _exact(home: Path) -> Path:
    """The source as it stands in the archive."""
    out = home / "exact"
    shutil.rmtree(out, ignore_errors=True)
    assert run(["restore", str(home / "photos.archive"), str(out), "--exact", "-q"]) == Exit.DONE
    return out


# A disk that is not mounted


def test_a_source_that_is_not_mounted(tmp_path: Path, capsys: Captured) -> None:
    """The empty mount point stops the run; mounted again, nothing has changed."""
    with disk(tmp_path / "disk", "4m") as mounted:
        make_tree(mounted / "tree", files=3, size=20_000)
        (tmp_path / "source").mkdir()
        with _bound(mounted, tmp_path / "source"):
            assert _start(tmp_path) == Exit.DONE
        before = contents(tmp_path / "storage")
        capsys.readouterr()
        assert _resume(tmp_path) == Exit.FAILED
        error = capsys.readouterr().err
        assert f"source {tmp_path / 'source'} is empty" in error
        assert "is it mounted? --allow-empty" in error
        assert contents(tmp_path / "storage") == before
        with _bound(mounted, tmp_path / "source"):
            assert _result(tmp_path, capsys)["new"] is False
            assert differences(tmp_path / "source", _exact(tmp_path)) == ""


@pytest.mark.parametrize("kit", ["yes", "no"])
def test_a_storage_that_is_not_mounted(home: Path, capsys: Captured, kit: str) -> None:
    """Nothing is written into the empty mount point, and nothing recorded."""
    with disk(home / "disk", "4m") as mounted:
        (home / "storage").mkdir()
        with _bound(mounted, home / "storage"):
            assert _start(home, kit=kit) == Exit.DONE
            count = len(contents(mounted))
        write(home / "source" / "new", b"new")
        for _ in range(2):
            capsys.readouterr()
            assert _resume(home) == Exit.FAILED
            told = f"none of {count} objects is in the storage {(home / 'storage').as_uri()}"
            assert f"{told}: is its disk mounted?" in capsys.readouterr().err
            assert not contents(home / "storage")
        with _bound(mounted, home / "storage"):
            assert _result(home, capsys)["snapshot"] == 2
            assert differences(home / "source", _exact(home)) == ""


def test_objects_that_are_not_in_the_storage_any_more(home: Path, capsys: Captured) -> None:
    """The run adds what is new, and says where to look; whether or not anything is new."""
    assert _start(home) == Exit.DONE
    count = len(contents(home / "storage"))
    assert _result(home, capsys)["notices"] == []
    (pack,) = (home / "storage").glob("*-p-*")
    pack.unlink()
    told = [
        f"1 of {count} objects are not in the storage: "
        f"pyarchiver verify {home / 'photos.archive'} names them"
    ]
    assert _result(home, capsys)["notices"] == told
    write(home / "source" / "new", b"new")
    result = _result(home, capsys)
    assert (result["notices"], result["snapshot"], result["exit"]) == (told, 2, Exit.DONE)


@pytest.mark.parametrize("spool", ["in the storage", "apart"])
@pytest.mark.parametrize("left", ["nothing", "half of it"])
def test_an_object_that_was_to_be_sent_and_is_lost(
    home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, spool: str, left: str
) -> None:
    """The word leads out: the archive is made anew, and what the object held is sent again."""
    if spool == "apart":
        monkeypatch.setattr(
            LocalStorage, "spool", property(lambda _: None, lambda *_: None), raising=False
        )
    folder = home / ("storage" if spool == "in the storage" else "photos.spool")
    assert _start(home) == Exit.DONE
    write(home / "source" / "new", noise("new", 50_000))
    (lost,) = _staged(home, folder, monkeypatch)
    os.truncate(lost, lost.stat().st_size // 2)
    if left == "nothing":
        lost.unlink()
    capsys.readouterr()
    assert _resume(home) == Exit.FAILED
    said, url = capsys.readouterr().err, (home / "storage").as_uri()
    assert lost.name.removesuffix(".part") in said
    assert left != "nothing" or said.count(str(folder)) == 1
    way = f"pyarchiver recover {url} NEW.archive, then pyarchiver resume NEW.archive"
    assert f"put {lost.name} back, or go on without it: {way}" in said
    again = str(home / "again.archive")
    assert run(["recover", url, again]) == Exit.DONE
    assert run(["resume", again]) == Exit.DONE
    assert run(["restore", again, str(home / "out"), "-q"]) == Exit.DONE
    assert differences(home / "source", home / "out") == ""


def test_the_first_object_is_lost_before_anything_was_sent(
    home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lost,) = _staged(home, home / "storage", monkeypatch)
    lost.unlink()
    capsys.readouterr()
    assert _resume(home) == Exit.FAILED
    archive = home / "photos.archive"
    assert f"nothing was sent yet, so remove {archive} and start again" in capsys.readouterr().err
    archive.unlink()
    assert run(["start", str(home / "photos.ini")]) == Exit.DONE
    assert differences(home / "source", _exact(home)) == ""


def _staged(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What a run leaves that can send nothing."""

    def refuse(*_: object) -> None:
        raise StorageError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "put", refuse)
        archived = (home / "photos.archive").exists()
        assert (_resume(home) if archived else _start(home)) == Exit.FAILED
    return list(folder.glob("*.part"))


@pytest.mark.parametrize("empty", ["nothing", "excluded", "the archive itself"])
def test_a_source_with_nothing_to_archive_in_it(home: Path, capsys: Captured, empty: str) -> None:
    """What is never archived does not make a source look alive."""
    assert _start(home, exclude="lost+found") == Exit.DONE
    shutil.rmtree(home / "source")
    (home / "source").mkdir()
    archive = home / "photos.archive"
    if empty == "excluded":
        (home / "source" / "lost+found").mkdir()
    elif empty == "the archive itself":
        archive = archive.rename(home / "source" / archive.name)
    assert run(["resume", str(archive)]) == Exit.FAILED
    assert "--allow-empty" in capsys.readouterr().err
    assert run(["resume", str(archive), "--allow-empty"]) == Exit.DONE


def test_a_disk_within_the_source_that_is_not_mounted(home: Path, capsys: Captured) -> None:
    """Its files are left as they were, and all the rest is archived."""
    with disk(home / "disk", "4m") as mounted:
        make_tree(mounted / "tree", files=3, size=20_000, label="mounted")
        point = home / "source" / "deep" / "photos"
        point.mkdir(parents=True)
        with _bound(mounted, point):
            assert _start(home) == Exit.DONE
            whole = contents(home / "source")
        write(home / "source" / "new", b"new")
        for _ in range(2):
            # Each time anew: a run that was told so is no reason to believe it.
            capsys.readouterr()
            assert _resume(home) == Exit.PARTIAL
            error = capsys.readouterr().err
            assert "folder deep/photos: empty, and not the folder that was archived" in error
            assert "--allow-empty" in error
            assert contents(_exact(home)) == {**whole, "new": b"new"}
        with _bound(mounted, point):
            assert _result(home, capsys)["new"] is False
            assert differences(home / "source", _exact(home)) == ""
        assert _resume(home, "--allow-empty") == Exit.DONE
        assert contents(_exact(home)) == contents(home / "source")
        assert run(["restore", str(home / "photos.archive"), str(home / "all"), "-q"]) == Exit.DONE
        assert contents(home / "all") == {**whole, "new": b"new"}


def test_a_folder_that_was_emptied_is_empty(home: Path) -> None:
    """It is the same folder still: no disk is missed."""
    assert _start(home) == Exit.DONE
    for path in (home / "source" / "shoot0").iterdir():
        path.unlink()
    shutil.rmtree(home / "source" / "shoot1")
    assert _resume(home) == Exit.DONE
    assert differences(home / "source", _exact(home)) == ""


class _bound:
    """A disk mounted at a second place while it lasts."""

    def __init__(self, what: Path, where: Path) -> None:
        self._what, self._where = what, where

    def __enter__(self) -> None:
        assert os.system(f"mount --bind '{self._what}' '{self._where}'") == 0

    def __exit__(self, *_: object) -> None:
        assert os.system(f"umount '{self._where}'") == 0


# What cannot be read


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A home that belongs to a user without rights."""
    with open_to_all() as home:
        make_tree(home / "source", files=3, size=20_000)
        init(home)
        for folder, folders, files in os.walk(home):
            for name in [".", *folders, *files]:
                os.chown(Path(folder) / name, NOBODY, NOBODY, follow_symlinks=False)
        yield home


@AS_ROOT
def test_files_and_folders_that_may_not_be_read(theirs: Path) -> None:
    """Named, exit code 3, and never taken for deleted; once readable, all is as it should be."""
    source, archive = theirs / "source", theirs / "photos.archive"
    done = as_nobody("start", theirs / "photos.ini")
    assert done.code == Exit.DONE, done.err
    whole = contents(source)
    write(source / "new", b"new")
    os.chown(source / "new", NOBODY, NOBODY)
    write(source / "secret", b"changed, and not to be read")
    forbidden = {"secret": 0o200, "shoot0": 0o000, "shoot1": 0o600}
    before = {name: stat.S_IMODE((source / name).stat().st_mode) for name in forbidden}
    for name, mode in forbidden.items():
        (source / name).chmod(mode)
    for _ in range(2):
        done = as_nobody("resume", archive)
        assert done.code == Exit.PARTIAL
        assert "secret: Permission denied; left as it was" in done.err
        assert "folder shoot0: Permission denied; left as it was" in done.err
        assert "shoot1/p001.raw: Permission denied; left as it was" in done.err
        assert contents(_exact(theirs)) == {**whole, "new": b"new"}
    for name, mode in before.items():
        (source / name).chmod(mode)
    assert as_nobody("resume", archive).code == Exit.DONE
    assert differences(source, _exact(theirs)) == ""


@AS_ROOT
def test_a_source_that_may_not_be_read(theirs: Path) -> None:
    (theirs / "source").chmod(0o000)
    done = as_nobody("start", theirs / "photos.ini")
    assert done.code == Exit.FAILED
    assert f"source {theirs / 'source'}: Permission denied" in done.err
    assert not (theirs / "photos.archive").exists()
    (theirs / "source").chmod(0o755)
    done = as_nobody("start", theirs / "photos.ini")
    assert done.code == Exit.DONE, done.err
    (theirs / "source").chmod(0o000)
    done = as_nobody("resume", theirs / "photos.archive")
    assert done.code == Exit.FAILED
    assert f"source {theirs / 'source'}: Permission denied" in done.err


@AS_ROOT
def test_storage_destination_and_archive_of_somebody_else(theirs: Path) -> None:
    """Each is named, and nothing is touched."""
    archive, storage = theirs / "photos.archive", theirs / "storage"
    done = as_nobody("start", theirs / "photos.ini")
    assert done.code == Exit.DONE, done.err
    there = contents(storage)
    write(theirs / "source" / "new", b"new")
    storage.chmod(0o555)
    done = as_nobody("resume", archive)
    assert done.code == Exit.FAILED
    assert str(storage) in done.err
    assert "Permission denied" in done.err
    storage.chmod(0o755)
    assert contents(storage) == there

    archive.chmod(0o400)
    done = as_nobody("resume", archive)
    assert done.code == Exit.FAILED
    assert f"{archive} is read-only: make it writable" in done.err
    done = as_nobody("restore", archive, theirs / "out")
    assert done.code == Exit.DONE, done.err
    archive.chmod(0o000)
    done = as_nobody("restore", archive, theirs / "out2")
    assert done.code == Exit.USAGE
    assert f"'{archive}' is not readable" in done.err
    archive.chmod(0o600)

    (theirs / "closed").mkdir(0o755)
    done = as_nobody("restore", archive, theirs / "closed")
    assert done.code == Exit.FAILED
    assert f"destination {theirs / 'closed'} cannot be written to" in done.err
    done = as_nobody("restore", archive, theirs / "closed" / "below")
    assert done.code == Exit.FAILED
    assert "Permission denied" in done.err
    assert not list((theirs / "closed").iterdir())


@AS_ROOT
def test_a_run_that_was_called_nice(theirs: Path) -> None:
    """Only root may take that back, and nobody needs to."""
    done = as_nobody("start", theirs / "photos.ini", niceness=15)
    assert done.code == Exit.DONE, done.err
    assert differences(theirs / "source", _exact(theirs)) == ""


# Files that change while they are read


@pytest.mark.parametrize("how", ["written", "grows", "shrinks", "replaced", "written secretly"])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_file_that_changes_while_it_is_read(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, how: str, goes_on: bool
) -> None:
    """It is read again; if it goes on changing it is left for the next run."""
    busy = home / "source" / "busy"
    write(busy, noise("busy", 300_000))
    states = [busy.read_bytes()]
    preadv = os.preadv

    def change() -> None:
        data = noise(len(states), 300_000)
        if how == "grows":
            data = states[-1] + data[:1000]
        elif how == "shrinks":
            data = states[-1][:-1000]
        found = busy.stat()
        target = busy.with_name("new") if how == "replaced" else busy
        with target.open("wb") as file:
            file.write(data)
        if how == "replaced":
            target.replace(busy)
        if how == "written secretly":
            os.utime(busy, ns=(found.st_atime_ns, found.st_mtime_ns))
        states.append(data)

    def changing(descriptor: int, *more: Any) -> int:
        got = preadv(descriptor, *more)
        if os.fstat(descriptor).st_ino == busy.stat().st_ino and (goes_on or len(states) == 1):
            change()
        return got

    monkeypatch.setattr(os, "preadv", changing)
    code = _start(home)
    monkeypatch.setattr(os, "preadv", preadv)
    found = contents(_exact(home))
    if goes_on:
        assert code == Exit.PARTIAL
        assert "busy: it changes while being read; left for the next run" in capsys.readouterr().err
        assert "busy" not in found
    else:
        assert code == Exit.DONE
        assert found["busy"] in states
    assert len(states) > 1
    assert _resume(home) == Exit.DONE
    assert contents(_exact(home)) == contents(home / "source")


def test_files_that_come_and_go_while_the_source_is_walked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is listed and gone when it is opened is no failure; nor is a folder."""
    assert _start(home) == Exit.DONE
    for number in range(3):
        write(home / "source" / "short-lived" / f"{number}", b"here and gone")
        write(home / "source" / f"z{number}" / "file", b"here and gone")
    opened = os.open
    short_lived = [home / "source" / "short-lived" / "1", home / "source" / "z1"]

    def vanishing(path: Any, *more: Any, **named: Any) -> int:
        where = Path(os.fsdecode(path))
        if where in short_lived:
            short_lived.remove(where)
            shutil.rmtree(where) if where.is_dir() else where.unlink()
        return opened(path, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", vanishing)
        assert _resume(home) == Exit.DONE
    assert not short_lived
    assert _resume(home) == Exit.DONE
    assert differences(home / "source", _exact(home)) == ""


# A clock that jumps


class _Clock:
    """Moves `time.time` by as much as one likes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.shift = 0.0
        now, now_ns = time.time, time.time_ns
        patch.setattr(time, "time", lambda: now() + self.shift)
        patch.setattr(time, "time_ns", lambda: now_ns() + int(self.shift * 1e9))


YEAR = 365.25 * 86400


@pytest.mark.parametrize("jump", [-40 * YEAR, -3600.0, -3.0, 3.0, 3600.0, 200 * YEAR])
def test_a_clock_that_jumps_between_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, jump: float
) -> None:
    """Every change is found, nothing is stored twice, snapshots keep their order."""
    assert _start(home) == Exit.DONE
    clock = _Clock(monkeypatch)
    clock.shift = jump
    states = [contents(home / "source")]
    for number in (2, 3):
        assert _result(home, capsys)["new"] is False
        write(home / "source" / "changes", noise(number, 1000))
        os.utime(home / "source" / "changes")
        result = _result(home, capsys)
        assert (result["new"], result["snapshot"]) == (True, number)
        assert result["stored"] < 60_000
        states.append(contents(home / "source"))
        clock.shift = -jump
    assert _result(home, capsys)["new"] is False
    archive = str(home / "photos.archive")
    for number, state in enumerate(states, 1):
        out = home / f"snapshot{number}"
        assert run(["restore", archive, str(out), "--snapshot", str(number), "-q"]) == Exit.DONE
        assert contents(out) == state
    for command in (["status"], ["list", "--long"], ["find", "*"], ["diff", "1", "3"]):
        assert run([command[0], archive, *command[1:], "-q"]) == Exit.DONE


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_during_a_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, jump: float
) -> None:
    """Same size, written within the second of the scan: found all the same."""
    from pyarchiver.cas.intake import Intake

    clock = _Clock(monkeypatch)
    original = Intake.read

    def jumping(intake: Intake, *arguments: Any) -> Any:
        clock.shift += jump
        return original(intake, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Intake, "read", jumping)
        assert _start(home) == Exit.DONE
    for number in range(3):
        (home / "source" / "quick").write_bytes(noise(number, 5000))
        clock.shift -= jump
        assert _resume(home) == Exit.DONE
    assert contents(_exact(home)) == contents(home / "source")
    assert _result(home, capsys)["new"] is False


def test_files_from_the_future(home: Path, capsys: Captured) -> None:
    """A camera's clock was wrong: read and kept, found unchanged, found changed."""
    future = OLD + int(50 * YEAR)
    write(home / "source" / "odd", noise(1, 5000))
    os.utime(home / "source" / "odd", (future, future))
    assert _start(home, ignore="ctime") == Exit.DONE
    assert _result(home, capsys)["new"] is False
    write(home / "source" / "odd", noise(2, 5000))
    os.utime(home / "source" / "odd", (future, future))
    assert _result(home, capsys)["new"] is True
    assert contents(_exact(home)) == contents(home / "source")


# The .archive


@pytest.mark.parametrize("where", ["first page", "middle", "everywhere", "cut"])
def test_a_damaged_archive_file(home: Path, capsys: Captured, where: str) -> None:
    """Said of every command, without a traceback; the storage is not touched, decrypt reads it."""
    for number in range(400):
        write(home / "source" / ("many" * 30) / f"{number}{'x' * 200}", noise(number, 10))
    assert _start(home) == Exit.DONE
    archive = home / "photos.archive"
    before, data = contents(home / "storage"), bytearray(archive.read_bytes())
    assert len(data) > 200_000
    if where == "first page":
        data[100:4096] = noise(1, 3996)
    elif where == "middle":
        data[len(data) // 2 : len(data) // 2 + 50_000] = noise(1, 50_000)
    elif where == "everywhere":
        data[100:] = noise(1, len(data) - 100)
    else:
        del data[len(data) // 2 :]
    archive.write_bytes(data)
    write(home / "source" / "new", b"new")
    failed = 0
    for words in (["resume"], ["restore", str(home / "out")], ["status"], ["list"], ["find", "*"],
                  ["diff"], ["update"]):  # fmt: skip
        capsys.readouterr()
        code = run([words[0], str(archive), *words[1:]])
        error = capsys.readouterr().err
        assert "unexpected" not in error, words
        if code != Exit.DONE:
            failed += 1
            assert str(archive) in error or ".archive" in error, words
    assert failed >= 4
    now = contents(home / "storage")
    assert before.items() <= now.items()
    assert run(["decrypt", str(home / "storage"), str(home / "saved"), "-q"]) == Exit.DONE
    saved = contents(home / "saved")
    assert {name: data for name, data in contents(home / "source").items() if name != "new"} == {
        name: data for name, data in saved.items() if name != "new"
    }
