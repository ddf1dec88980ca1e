"""What is kept of a tree, through the commands: each noun of it is archived and comes back."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import contents, differences, make_tree, noise, write
from helpers_disk import AS_ROOT, NOBODY, as_nobody, disk, init, open_to_all, password
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run

__all__ = ["password"]
Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def _start(home: Path, *more: str) -> int:
    return run(["start", str(init(home)), *more])


def _resume(home: Path, capsys: Captured) -> dict[str, Any]:
    """A run; returns its result."""
    capsys.readouterr()
    assert run(["resume", str(home / "photos.archive"), "--json"]) == Exit.DONE
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def _round_trip(home: Path, *more: str) -> Path:
    """Start, restore and decrypt; both must equal the source. Returns what was restored."""
    assert _start(home) == Exit.DONE
    out = home / "out"
    for words in (["restore", str(home / "photos.archive")], ["decrypt", str(home / "storage")]):
        shutil.rmtree(out, ignore_errors=True)
        assert run([*words, str(out), "--privileges", "-q"]) == Exit.DONE
        assert differences(home / "source", out) == ""
    return out


# Sizes


def test_files_over_4_gib_and_sparse_ones(source: Path, tmp_path: Path) -> None:
    """5 GiB with data at both ends: read, stored and restored as the little that it is."""
    with (source / "film").open("wb") as file:
        file.write(noise("head", 100_000))
        file.seek((5 << 30) - 70_001)
        file.write(noise("tail", 70_001))
    with (source / "holes").open("wb") as file:
        for number in range(5):
            file.seek(number * (40 << 20))
            file.write(noise(number, 70_000))
        file.truncate(300 << 20)
    with (source / "nothing").open("wb") as file:
        file.truncate(1 << 40)
    assert _start(tmp_path) == Exit.DONE
    assert sum(map(len, contents(tmp_path / "storage").values())) < 1 << 20
    for words in (["restore", str(tmp_path / "photos.archive")],
                  ["decrypt", str(tmp_path / "storage")]):  # fmt: skip
        out = tmp_path / words[0]
        assert run([*words, str(out), "-q"]) == Exit.DONE
        for name in ("film", "holes", "nothing"):
            before, after = (source / name).stat(), (out / name).stat()
            assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
            assert after.st_blocks <= before.st_blocks
        with (out / "film").open("rb") as file:
            assert file.read(100_001) == noise("head", 100_000) + b"\0"
            file.seek((5 << 30) - 70_002)
            assert file.read() == b"\0" + noise("tail", 70_001)
        with (out / "holes").open("rb") as file:
            for number in range(5):
                file.seek(number * (40 << 20))
                assert file.read(70_001) == noise(number, 70_000) + b"\0"


def test_files_larger_than_a_pack(source: Path, tmp_path: Path) -> None:
    write(source / "film", noise("film", 40 << 20))
    write(source / "small", b"small")
    _round_trip(tmp_path)
    packs = [path for path in (tmp_path / "storage").iterdir() if "-p-" in path.name]
    assert len(packs) >= 3
    assert all(path.stat().st_size <= 16 << 20 for path in packs)


def test_empty_files_and_folders(source: Path, tmp_path: Path) -> None:
    for name in ("empty", "a/b/c/d", "a/empty too"):
        (source / name).mkdir(parents=True)
    write(source / "nothing", b"")
    out = _round_trip(tmp_path)
    assert (out / "a" / "b" / "c" / "d").is_dir()
    assert (out / "nothing").stat().st_size == 0


# Attributes


def test_modes(source: Path, tmp_path: Path) -> None:
    modes = [0o000, 0o400, 0o644, 0o777, 0o4755, 0o2755, 0o6711, 0o1777]
    for mode in modes:
        write(source / f"file {mode:o}", b"data")
        (source / f"file {mode:o}").chmod(mode)
        (source / f"folder {mode:o}").mkdir()
        (source / f"folder {mode:o}").chmod(mode)
    out = _round_trip(tmp_path)
    for mode in modes:
        for kind in ("file", "folder"):
            assert stat.S_IMODE((out / f"{kind} {mode:o}").stat().st_mode) == mode


@AS_ROOT
def test_set_id_bits_are_for_their_owner_only() -> None:
    """Restored by somebody else, a program does not become one that runs with his rights."""
    with open_to_all() as home:
        (home / "source").mkdir()
        write(home / "source" / "tool", b"#!/bin/sh\n")
        (home / "source" / "tool").chmod(0o6755)
        assert _start(home) == Exit.DONE
        for path in (home, home / "photos.archive", *(home / "storage").iterdir()):
            os.chown(path, NOBODY, NOBODY)
        done = as_nobody("restore", home / "photos.archive", home / "out", "--privileges")
        assert done.code == Exit.DONE, done.err
        found = (home / "out" / "tool").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o755, NOBODY)


@pytest.mark.parametrize(
    "when",
    [0, 1, -1, -999_999_999, -1_000_000_000, -2_000_000_000_123_456_789, 1_234_567_890_123_456_789],
)
def test_times(source: Path, tmp_path: Path, when: int) -> None:
    """In nanoseconds, before 1970 too."""
    write(source / "file", b"data")
    (source / "folder").mkdir()
    (source / "link").symlink_to("file")
    for name in ("file", "folder", "link"):
        os.utime(source / name, ns=(when, when), follow_symlinks=False)
        assert (source / name).lstat().st_mtime_ns == when
    out = _round_trip(tmp_path)
    for name in ("file", "folder", "link"):
        assert (out / name).lstat().st_mtime_ns == when


@AS_ROOT
def test_owners_by_name_and_by_number(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of that name on the system that restores gets the files, else the number does."""
    from pyarchiver.cas import attributes

    write(source / "named", b"data")
    write(source / "numbered", b"data")
    (source / "link").symlink_to("named")
    names = pwd.getpwuid(NOBODY).pw_name, grp.getgrgid(NOBODY).gr_name
    for path in ("named", "link"):
        os.chown(source / path, NOBODY, NOBODY, follow_symlinks=False)
    os.chown(source / "numbered", 54321, 54322)
    _round_trip(tmp_path)

    getpwnam, getgrnam = pwd.getpwnam, grp.getgrnam

    def user(name: str) -> Any:
        if name != names[0]:
            return getpwnam(name)
        return pwd.struct_passwd((name, "x", 7001, 7001, "", "/", "/bin/sh"))

    def group(name: str) -> Any:
        if name != names[1]:
            return getgrnam(name)
        return grp.struct_group((name, "x", 7002, []))

    attributes.owner_ids.cache_clear()
    monkeypatch.setattr(pwd, "getpwnam", user)
    monkeypatch.setattr(grp, "getgrnam", group)
    out = tmp_path / "elsewhere"
    assert run(["restore", str(tmp_path / "photos.archive"), str(out), "-q"]) == Exit.DONE
    attributes.owner_ids.cache_clear()
    found = {path.name: (path.lstat().st_uid, path.lstat().st_gid) for path in out.iterdir()}
    assert found == {"named": (7001, 7002), "link": (7001, 7002), "numbered": (54321, 54322)}


def _acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as Linux stores it: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_NOBODY_READS = _acl(
    (0x01, 6, 0xFFFFFFFF), (0x02, 4, NOBODY), (0x04, 4, 0xFFFFFFFF),
    (0x10, 4, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF),
)  # fmt: skip
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def _set_acls(path: Path, *names: str) -> None:
    try:
        for name in names:
            os.setxattr(path, name, _NOBODY_READS)
    except OSError as error:
        pytest.skip(f"no ACLs on this file system: {error.strerror}")


def test_extended_attributes_and_acls(source: Path, tmp_path: Path) -> None:
    write(source / "file", b"data")
    (source / "folder").mkdir()
    write(source / "folder" / "plain", b"no ACL")
    _set_acls(source / "file", _ACCESS)
    _set_acls(source / "folder", _ACCESS, _DEFAULT)
    for name, value in (("user.note", b"x" * 900), ("user.\xff", b""), ("user.ü", b"\0\xff")):
        os.setxattr(source / "file", name, value)
        os.setxattr(source / "folder", name, value)
    out = _round_trip(tmp_path)
    assert os.getxattr(out / "file", _ACCESS) == _NOBODY_READS
    assert os.getxattr(out / "folder", _DEFAULT) == _NOBODY_READS
    assert sorted(os.listxattr(out / "file")) == sorted(os.listxattr(source / "file"))


def test_nothing_is_inherited_from_the_destination(source: Path, tmp_path: Path) -> None:
    """What had no ACL gets none from the folder it is restored into."""
    make_tree(source / "tree", files=3, size=1000)
    (tmp_path / "out").mkdir()
    _set_acls(tmp_path / "out", _DEFAULT)
    assert _start(tmp_path) == Exit.DONE
    archive, out = str(tmp_path / "photos.archive"), tmp_path / "out"
    # One folder, so that the destination itself keeps its own.
    assert run(["restore", archive, str(out), "tree", "-q"]) == Exit.DONE
    assert differences(source / "tree", out / "tree") == ""
    assert os.listxattr(out) == [_DEFAULT]


# Links


def test_hard_links_across_folders(source: Path, tmp_path: Path, capsys: Captured) -> None:
    write(source / "a" / "one", noise("one", 100_000))
    (source / "b" / "c").mkdir(parents=True)
    os.link(source / "a" / "one", source / "b" / "c" / "other")
    os.link(source / "a" / "one", source / "third")
    out = _round_trip(tmp_path)
    assert (out / "third").stat().st_nlink == 3
    # A name more costs no data, and is a name of the same file again.
    os.link(source / "a" / "one", source / "b" / "fourth")
    assert _resume(tmp_path, capsys)["stored"] < 20_000
    shutil.rmtree(out)
    assert run(["restore", str(tmp_path / "photos.archive"), str(out), "-q"]) == Exit.DONE
    assert differences(source, out) == ""
    assert (out / "third").stat().st_nlink == 4


def test_hard_links_of_two_disks(source: Path, tmp_path: Path) -> None:
    """Each disk counts its files from one: equal numbers are no links."""
    with disk(source / "x", "1m") as x, disk(source / "y", "1m") as y:
        for mounted in (x, y):
            write(mounted / "one", b"the same")
            os.link(mounted / "one", mounted / "two")
        inodes = {(mounted / "one").stat().st_ino for mounted in (x, y)}
        if len(inodes) > 1:
            pytest.skip("the numbers differ here")
        assert _start(tmp_path) == Exit.DONE
        out = tmp_path / "out"
        assert run(["restore", str(tmp_path / "photos.archive"), str(out), "-q"]) == Exit.DONE
        for folder in ("x", "y"):
            assert (out / folder / "one").stat().st_nlink == 2
            assert (out / folder / "one").samefile(out / folder / "two")
        assert not (out / "x" / "one").samefile(out / "y" / "one")


def test_symbolic_links(source: Path, tmp_path: Path) -> None:
    targets = [b"nowhere", b"/etc/passwd", b"..", b".", b"loop", b"x" * 1000, b"new\nline",
               b"\xff\xfe"]  # fmt: skip
    for number, target in enumerate(targets):
        (source / f"l{number}").symlink_to(os.fsdecode(target))
    (source / "loop").symlink_to("loop")
    out = _round_trip(tmp_path)
    for number, target in enumerate(targets):
        assert os.readlink(out / f"l{number}") == os.fsdecode(target)


# Names, and what has none of the kinds


def test_names_that_are_no_text(source: Path, tmp_path: Path) -> None:
    base = os.fsencode(source)
    names = [b"\xff\xfe", b"new\nline", b"tab\t", b"\x1b[2J", b" ", b"~", b"-rf", b"*?[",
             b"x" * 255, "ü".encode(), "u\u0308".encode(), b"a\\b", b"con", b".part"]  # fmt: skip
    for name in names:
        os.mkdir(base + b"/" + name)
        for inner in names:
            with open(base + b"/" + name + b"/" + inner, "wb") as file:
                file.write(inner)
    out = _round_trip(tmp_path)
    assert sorted(os.listdir(os.fsencode(out))) == sorted(names)


@AS_ROOT
def test_sockets_pipes_and_devices_are_named(
    source: Path, tmp_path: Path, capsys: Captured
) -> None:
    """They are left out with a word each; that is no failure."""
    write(source / "file", b"data")
    os.mkfifo(source / "pipe")
    os.mknod(source / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(source / "block", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    here = os.getcwd()
    os.chdir(source)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(here)
    assert _start(tmp_path) == Exit.DONE
    error = capsys.readouterr().err
    for name in ("pipe", "char", "block", "socket"):
        assert f"{name}: a socket or device; left out" in error
    out = tmp_path / "out"
    assert run(["restore", str(tmp_path / "photos.archive"), str(out), "-q"]) == Exit.DONE
    assert [path.name for path in out.iterdir()] == ["file"]


# Changes


def test_renamed_moved_and_copied_files_cost_no_new_data(
    source: Path, tmp_path: Path, capsys: Captured
) -> None:
    for number in range(4):
        write(source / f"d{number}" / "film", noise(number, 1_500_000))
    assert _start(tmp_path) == Exit.DONE
    (source / "d0" / "film").rename(source / "d0" / "renamed")
    (source / "d1" / "film").rename(source / "moved")
    (source / "d2").rename(source / "whole folder")
    shutil.copy(source / "d3" / "film", source / "copy")
    result = _resume(tmp_path, capsys)
    assert (result["new"], result["snapshot"]) == (True, 2)
    assert result["stored"] < 20_000
    out = tmp_path / "out"
    assert run(["restore", str(tmp_path / "photos.archive"), str(out), "--exact", "-q"]) == 0
    assert differences(source, out) == ""


def test_file_then_folder_and_back(source: Path, tmp_path: Path, capsys: Captured) -> None:
    """The newer keeps the name, the older becomes x~N; each snapshot is as it was."""
    write(source / "x", b"a file in run 1")
    write(source / "y" / "inner", b"a folder in run 1")
    assert _start(tmp_path) == Exit.DONE
    states = [contents(source)]
    (source / "x").unlink()
    write(source / "x" / "inner", b"a folder in run 2")
    shutil.rmtree(source / "y")
    write(source / "y", b"a file in run 2")
    assert _resume(tmp_path, capsys)["snapshot"] == 2
    states.append(contents(source))
    shutil.rmtree(source / "x")
    write(source / "x", b"a file again in run 3")
    assert _resume(tmp_path, capsys)["snapshot"] == 3
    states.append(contents(source))
    archive = str(tmp_path / "photos.archive")
    for number, state in enumerate(states, 1):
        out = tmp_path / f"snapshot{number}"
        assert run(["restore", archive, str(out), "--snapshot", str(number), "-q"]) == Exit.DONE
        assert contents(out) == state
    for words in (["restore", archive], ["decrypt", str(tmp_path / "storage")]):
        out = tmp_path / words[0]
        assert run([*words, str(out), "-q"]) == Exit.DONE
        assert contents(out) == {
            "x": b"a file again in run 3",
            "x~2/inner": b"a folder in run 2",
            "y": b"a file in run 2",
            "y~1/inner": b"a folder in run 1",
        }
