"""Disks that are full or read-only, each a real one: a clear word, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from helpers_cli import contents, differences, make_tree, noise, write
from helpers_disk import disk, fill, free, init, password, remount
from pyarchiver.cas import packer
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.storage import PART
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run

__all__ = ["password"]
Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """40 MB of files: three packs."""
    for number in range(20):
        write(tmp_path / "source" / f"d{number % 4}" / f"{number}.raw", noise(number, 2_000_000))
    write(tmp_path / "source" / "small", b"small")
    return tmp_path


def _start(ini: Path, *more: str) -> int:
    return run(["start", str(ini), *more])


def _resume(home: Path, *more: str) -> int:
    return run(["resume", str(home / "photos.archive"), *more])


def _assert_all_there(home: Path) -> None:
    assert run(["restore", str(home / "photos.archive"), str(home / "out"), "-q"]) == Exit.DONE
    assert differences(home / "source", home / "out") == ""


def _parts(storage: Path) -> set[str]:
    return {path.name for path in storage.iterdir() if path.suffix == ".part"}


def _staged(home: Path) -> set[str]:
    """The files of complete packs that are still to be sent."""
    with Catalogue.open(home / "photos.archive", write=False) as catalogue:
        return {f"{row.name}.part" for row in catalogue.staged()}


def _sent(storage: Path) -> dict[str, bytes]:
    return {name.removesuffix(".part"): data for name, data in contents(storage).items()}


def test_full_storage(home: Path, capsys: Captured) -> None:
    """What was stored is kept, half a pack is removed, resume goes on."""
    with disk(home / "storage", "24m") as storage:
        assert _start(init(home)) == Exit.FAILED
        error = capsys.readouterr().err
        assert "no space left in" in error
        assert str(storage) in error
        assert "resume" in error
        assert _parts(storage) <= _staged(home)
        complete = _sent(storage)
        assert complete
        # As long as there is no space, it says so each time, and harms nothing.
        assert _resume(home) == Exit.FAILED
        assert "no space left" in capsys.readouterr().err
        assert complete.items() <= _sent(storage).items()
        remount(storage, "size=80m")
        assert _resume(home) == Exit.DONE
        assert complete.items() <= contents(storage).items()
        assert sum(map(len, contents(storage).values())) < 44_000_000
        _assert_all_there(home)


def test_storage_full_from_the_beginning(home: Path, capsys: Captured) -> None:
    with disk(home / "storage", "1m") as storage:
        filler = fill(storage)
        assert free(storage) == 0
        assert _start(init(home)) == Exit.FAILED
        assert "no space left" in capsys.readouterr().err
        filler.unlink()
        remount(storage, "size=80m")
        archive = home / "photos.archive"
        assert (_resume(home) if archive.exists() else _start(home / "photos.ini")) == Exit.DONE
        _assert_all_there(home)


def test_full_spool(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """The spool is apart from the storage, as for a storage in the network."""
    monkeypatch.setattr(
        LocalStorage, "spool", property(lambda _: None, lambda *_: None), raising=False
    )
    with disk(home / "spool", "10m") as spool:
        assert _start(init(home, spool=str(spool))) == Exit.FAILED
        error = capsys.readouterr().err
        assert "no space left in" in error
        assert str(spool) in error
        assert _parts(spool) <= _staged(home)
        remount(spool, "size=80m")
        assert _resume(home) == Exit.DONE
        assert not list(spool.iterdir())
        _assert_all_there(home)


@pytest.mark.parametrize("size", ["8k", "128k", "480k"])
def test_full_disk_of_the_archive_file(tmp_path: Path, capsys: Captured, size: str) -> None:
    """The .archive cannot grow: what it says is true, and the next run goes on."""
    for number in range(2000):
        write(tmp_path / "elsewhere" / f"d{number % 7}" / f"{number}", noise(number, 20))
    with disk(tmp_path / "home", "4m") as home:
        (home / "source").symlink_to(tmp_path / "elsewhere")
        ini = init(home, storage=tmp_path / "storage")
        remount(home, f"size={size}")
        assert _start(ini) == Exit.FAILED
        out, error = capsys.readouterr()
        assert "photos.archive" in error or ".archive" in error
        assert "Traceback" not in error
        assert "unexpected" not in error
        archive = home / "photos.archive"
        holds = archive.exists() and not Catalogue.unfinished(archive)
        assert ("recovery code" in out) == holds
        if archive.exists():
            # Reading is possible meanwhile.
            assert run(["status", str(archive), "-q"]) == Exit.DONE
        remount(home, "size=64m")
        done = _resume(home) if archive.exists() else _start(ini)
        if done == Exit.FAILED:
            assert "start it again" in capsys.readouterr().err
            done = _start(ini)
        assert done == Exit.DONE
        assert run(["restore", str(archive), str(tmp_path / "out"), "-q"]) == Exit.DONE
        assert differences(tmp_path / "elsewhere", tmp_path / "out") == ""


def test_full_disk_of_the_source(tmp_path: Path) -> None:
    """Archiving writes nothing there."""
    with disk(tmp_path / "source", "4m") as source:
        make_tree(source / "tree", files=3, size=20_000)
        fill(source)
        assert free(source) == 0
        assert _start(init(tmp_path)) == Exit.DONE
        _assert_all_there(tmp_path)


def test_full_destination(home: Path, capsys: Captured) -> None:
    """Nothing half is left under its own name, and the next restore goes on."""
    archive = str(home / "photos.archive")
    assert _start(init(home)) == Exit.DONE
    with disk(home / "out", "9m") as out:
        capsys.readouterr()
        assert run(["restore", archive, str(out)]) == Exit.FAILED
        error = capsys.readouterr().err
        assert f"destination {out}: No space left on device" in error
        there, source = contents(out), contents(home / "source")
        assert there
        assert all(source[name] == data for name, data in there.items())
        assert free(out) > 0
        remount(out, "size=60m")
        assert run(["restore", archive, str(out)]) == Exit.DONE
        assert f"{len(there)} were there already" in capsys.readouterr().out
        assert differences(home / "source", out) == ""


def test_full_destination_of_decrypt(home: Path, capsys: Captured) -> None:
    assert _start(init(home)) == Exit.DONE
    with disk(home / "out", "9m") as out:
        assert run(["decrypt", str(home / "storage"), str(out)]) == Exit.FAILED
        assert f"destination {out}: No space left on device" in capsys.readouterr().err
        remount(out, "size=60m")
        assert run(["decrypt", str(home / "storage"), str(out), "-q"]) == Exit.DONE
        assert differences(home / "source", out) == ""


# Read-only


def test_read_only_storage(home: Path, capsys: Captured) -> None:
    """Restoring works, archiving says why not."""
    with disk(home / "storage", "80m") as storage:
        assert _start(init(home)) == Exit.DONE
        before = contents(storage)
        remount(storage, "ro")
        assert _resume(home) == Exit.DONE, "nothing new, nothing to write"
        write(home / "source" / "new", b"new")
        capsys.readouterr()
        assert _resume(home) == Exit.FAILED
        error = capsys.readouterr().err
        assert str(storage) in error
        assert "Read-only file system" in error
        assert contents(storage) == before
        assert run(["delete", str(home / "photos.archive"), "--yes"]) == Exit.FAILED
        assert "Read-only file system" in capsys.readouterr().err
        assert contents(storage) == before
        _assert_all_but_new(home)
        remount(storage, "rw")
        assert _resume(home) == Exit.DONE
        assert before.items() <= contents(storage).items()
        _assert_all_there(home)


def _assert_all_but_new(home: Path) -> None:
    out = home / "read only"
    assert run(["restore", str(home / "photos.archive"), str(out), "-q"]) == Exit.DONE
    there = contents(home / "source")
    del there["new"]
    assert contents(out) == there


def test_start_with_a_read_only_storage(home: Path, capsys: Captured) -> None:
    with disk(home / "storage", "80m") as storage:
        remount(storage, "ro")
        assert _start(init(home)) == Exit.FAILED
        assert f"storage {storage}: Read-only file system" in capsys.readouterr().err
        assert not (home / "photos.archive").exists()


def test_read_only_destination(home: Path, capsys: Captured) -> None:
    assert _start(init(home)) == Exit.DONE
    with disk(home / "out", "80m") as out:
        remount(out, "ro")
        for words in (
            ["restore", str(home / "photos.archive")],
            ["decrypt", str(home / "storage")],
        ):
            assert run([*words, str(out)]) == Exit.FAILED
            assert f"destination {out} cannot be written to" in capsys.readouterr().err
            assert run([*words, str(out / "below")]) == Exit.FAILED
            assert f"destination {out / 'below'}: Read-only" in capsys.readouterr().err
        assert not list(out.iterdir())


def test_read_only_source(tmp_path: Path) -> None:
    with disk(tmp_path / "source", "4m") as source:
        make_tree(source / "tree", files=3, size=20_000)
        remount(source, "ro")
        assert _start(init(tmp_path)) == Exit.DONE
        _assert_all_there(tmp_path)


def test_archive_file_on_a_read_only_disk(tmp_path: Path, capsys: Captured) -> None:
    """It can be read from there, as from a copy on a disc."""
    make_tree(tmp_path / "source", files=3, size=20_000)
    with disk(tmp_path / "disc", "4m") as disc:
        assert _start(init(tmp_path)) == Exit.DONE
        shutil.copy(tmp_path / "photos.archive", disc)
        remount(disc, "ro")
        archive = disc / "photos.archive"
        for words in (["status"], ["list"], ["find", "*.raw"], ["diff"]):
            assert run([words[0], str(archive), *words[1:], "-q"]) == Exit.DONE, words
        assert run(["restore", str(archive), str(tmp_path / "out"), "-q"]) == Exit.DONE
        assert differences(tmp_path / "source", tmp_path / "out") == ""
        capsys.readouterr()
        assert _resume(disc) == Exit.FAILED
        assert f"{archive} is read-only" in capsys.readouterr().err


def test_start_where_the_archive_cannot_be_written(home: Path, capsys: Captured) -> None:
    with disk(home / "ini", "1m") as folder:
        (folder / "source").symlink_to(home / "source")
        ini = init(folder, storage=home / "storage")
        remount(folder, "ro")
        assert _start(ini) == Exit.FAILED
        assert f"cannot write to {folder}" in capsys.readouterr().err
        assert not (home / "storage").exists()


# A disk that loses what was written to it


def test_a_write_that_failed_early_is_told_only_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The pack whose first sync failed is not taken for durable because its last one did not."""
    fsync = os.fsync
    fired: list[int] = []

    def once(descriptor: int) -> None:
        if not fired and Path(os.readlink(f"/proc/self/fd/{descriptor}")).suffix == PART:
            fired.append(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(packer, "_SYNC_EVERY", 4 << 20)
    ini = init(home)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", once)
        assert _start(ini) == Exit.FAILED
    assert fired
    assert "Input/output error" in capsys.readouterr().err
    assert not _staged(home)
    assert _resume(home) == Exit.DONE
    _assert_all_there(home)


def test_a_spool_within_the_source(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """However its folder is written: packs on their way are not archived."""
    monkeypatch.setattr(
        LocalStorage, "spool", property(lambda _: None, lambda *_: None), raising=False
    )
    (home / "source" / "conf").mkdir()
    assert _start(init(home, spool=f"{home}/source/conf/../spool")) == Exit.DONE
    assert (home / "source" / "spool").is_dir()
    capsys.readouterr()
    assert run(["list", str(home / "photos.archive")]) == Exit.DONE
    assert "spool" not in capsys.readouterr().out
