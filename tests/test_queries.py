"""status, list, find and diff, as a user drives them; neither password nor storage is there."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from helpers_cas import PASSWORD, World, new_world, noise, tuned
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats.records import RunComplete

HOUR_LATER = 1_000_003_600_000_000_000
ODD = b"odd\n\xff name"


class Told:
    """What a command printed, and its exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *command: object) -> None:
        capsys.readouterr()
        self.code = run([str(part) for part in command])
        self.out, self.err = capsys.readouterr()

    @property
    def lines(self) -> list[str]:
        assert self.code == Exit.DONE, self.err
        return self.out.splitlines()

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three snapshots: all; some edited, gone and new; a file that has become a folder."""
    with tuned(racy=-(1 << 62)):
        world = new_world(tmp_path_factory.mktemp("queries"))
        world.write("photos/2019/a.jpg", noise("a", 200_000))
        world.write("photos/2019/a.xmp", b"one")
        world.write("photos/2020/b.jpg", noise("b", 300_000))
        world.write("photos/2020/copy.jpg", noise("a", 200_000))
        world.write("turns", b"a file")
        world.write("mode", b"its mode changes")
        odd = os.path.join(os.fsencode(world.source), ODD)
        Path(os.fsdecode(odd)).write_bytes(b"odd")
        (world.source / "link").symlink_to("photos")
        world.resume()
        world.write("photos/2019/a.xmp", b"two", HOUR_LATER)
        world.write("photos/new.mov", noise("mov", 700_000), HOUR_LATER)
        (world.source / "photos" / "2020" / "b.jpg").unlink()
        (world.source / "mode").chmod(0o600)
        world.resume()
        (world.source / "turns").unlink()
        world.write("turns/inside", b"a folder now")
        world.resume()
    world.storage.rename(world.root / "away")
    return world


def test_list(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert Told(capsys, "list", world.archive).lines == [
        ".", "link", "mode", r"odd\n\xff name", "photos", "turns",
        "photos/2019", "photos/2020", "photos/new.mov",
        "photos/2019/a.jpg", "photos/2019/a.xmp", "photos/2020/copy.jpg", "turns/inside",
    ]  # fmt: skip


def test_list_a_snapshot(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Told(capsys, "list", world.archive, "--snapshot", 1).lines
    assert "photos/2020/b.jpg" in lines
    assert "photos/new.mov" not in lines
    assert "turns/inside" not in lines


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["photos/2019"], {"photos/2019", "photos/2019/a.jpg", "photos/2019/a.xmp"}),
        (["*.mov", "mode"], {"photos/new.mov", "mode"}),
    ],
)
def test_list_paths(
    world: World, capsys: pytest.CaptureFixture[str], paths: list[str], expected: set[str]
) -> None:
    assert set(Told(capsys, "list", world.archive, *paths).lines) == expected


def test_list_deleted_ones_are_marked(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Told(capsys, "list", world.archive, "--deleted").lines
    assert "photos/2020/b.jpg  (deleted)" in lines
    assert [line for line in lines if line.startswith("turns")] == [
        "turns  (deleted)", "turns", "turns/inside"
    ]  # fmt: skip
    assert sum("(deleted)" in line for line in lines) == 2


def test_list_long(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Told(capsys, "list", world.archive, "--long").lines
    (mode,) = [line for line in lines if line.endswith(" mode")]
    assert mode.startswith("-rw------- ")
    assert " 16 2001-09-09 " in mode
    assert any(line.startswith("lrwxrwxrwx") and line.endswith(" link -> photos") for line in lines)
    (photos,) = [line for line in lines if line.endswith(" photos") and "->" not in line]
    assert photos.startswith("drwx")


def test_list_json(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Every name can be had exactly."""
    paths = Told(capsys, "list", world.archive, "--json").json["paths"]
    (odd,) = [row for row in paths if "path_base64" in row]
    assert base64.b64decode(odd["path_base64"]) == ODD
    (jpg,) = [row for row in paths if row["path"] == "photos/2019/a.jpg"]
    assert (jpg["kind"], jpg["size"], jpg["deleted"]) == ("file", 200_000, False)
    assert jpg["mtime_ns"] == 1_000_000_000_123_456_789


@pytest.mark.parametrize("command", ["list", "diff"])
def test_no_such_snapshot(world: World, capsys: pytest.CaptureFixture[str], command: str) -> None:
    more = ["--snapshot", 9] if command == "list" else [9]
    told = Told(capsys, command, world.archive, *more)
    assert told.code == Exit.USAGE
    assert "no snapshot 9 in the archive: the newest is 3" in told.err


def test_no_such_snapshot_where_there_are_few(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their numbers have gaps, and there may be none."""
    world = new_world(tmp_path)
    told = Told(capsys, "list", world.archive, "--snapshot", 1)
    assert told.code == Exit.USAGE
    assert "no snapshot 1 in the archive: it has none yet" in told.err
    with Catalogue.open(world.archive, write=True) as catalogue, catalogue.transaction():
        for run in (2, 5):
            catalogue.add_snapshot(RunComplete(run, 1, 2, 0, 0))
    told = Told(capsys, "diff", world.archive, 4, 5)
    assert told.code == Exit.USAGE
    assert "no snapshot 4 in the archive: the newest is 5" in told.err


def test_list_what_is_not_there(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(capsys, "list", world.archive, "mode", "nowhere")
    assert told.code == Exit.PARTIAL
    assert told.out == "mode\n"
    assert "nothing in the archive matches nowhere" in told.err


def test_list_deleted_as_of_a_snapshot_is_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told(capsys, "list", world.archive, "--deleted", "--snapshot", 1)
    assert told.code == Exit.USAGE
    assert "--snapshot" in told.err


# find


def test_find_tells_versions_snapshots_and_packs(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Told(capsys, "find", world.archive, "a.*", "--json").json["found"]
    assert [(row["path"], row["first_snapshot"], row["last_snapshot"]) for row in found] == [
        ("photos/2019/a.jpg", 1, None),
        ("photos/2019/a.xmp", 1, 1),
        ("photos/2019/a.xmp", 2, None),
    ]
    names = {path.name for path in (world.root / "away").iterdir()}
    assert all(row["packs"] and set(row["packs"]) <= names for row in found)
    assert found[1]["packs"] != found[2]["packs"]
    text = Told(capsys, "find", world.archive, "a.xmp").lines
    assert text[0].startswith("photos/2019/a.xmp  3 Bytes  2001-09-09 ")
    assert text[0].endswith("  snapshot 1")
    assert text[1] == f"    in {found[1]['packs'][0]}"
    assert text[2].endswith("  snapshot 2 on")


def test_find_what_is_gone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = Told(capsys, "find", world.archive, "b.jpg", "--json").json["found"]
    assert (row["first_snapshot"], row["last_snapshot"]) == (1, 1)


def test_find_a_file_that_became_a_folder(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    found = Told(capsys, "find", world.archive, "turns", "--json").json["found"]
    assert [(row["path"], row["kind"], row["first_snapshot"]) for row in found] == [
        ("turns", "file", 1), ("turns", "folder", 3), ("turns/inside", "file", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--larger", "250kB"], {"photos/2020/b.jpg", "photos/new.mov"}),
        (["--smaller", "200 kB", "--larger", "1kB"], {"photos/2019/a.jpg", "photos/2020/copy.jpg"}),
        (
            ["--newer", "2001-09-09T02:30:00", "--larger", "1"],
            {"photos/2019/a.xmp", "photos/new.mov"},
        ),
        (["--older", "2001-09-09T02:30:00", "--larger", "250000"], {"photos/2020/b.jpg"}),
    ],
)  # fmt: skip
def test_find_filters(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    options: list[str], expected: set[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TZ", "UTC")
    found = Told(capsys, "find", world.archive, "photos", *options, "--json").json["found"]
    assert {row["path"] for row in found} == expected


@pytest.mark.parametrize("options", [["--larger", "much"], ["--newer", "yesterday"]])
def test_find_with_wrong_filters(
    world: World, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    told = Told(capsys, "find", world.archive, "*", *options)
    assert told.code == Exit.USAGE
    assert options[1] in told.err


def test_find_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert Told(capsys, "find", world.archive, "*.tiff").lines == []


# diff


def test_diff_between_snapshots(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(capsys, "diff", world.archive, 1, 2)
    assert [line for line in told.lines if not line.startswith("P photos")] == [
        "P mode", "A photos/new.mov", "M photos/2019/a.xmp", "D photos/2020/b.jpg",
        told.lines[-1],
    ]  # fmt: skip
    assert "1 added" in told.lines[-1]
    back = Told(capsys, "diff", world.archive, 2, 1, "--json").json
    changes = {row["path"]: row["change"] for row in back["differences"]}
    assert (changes["photos/new.mov"], changes["photos/2020/b.jpg"]) == ("D", "A")
    assert Told(capsys, "diff", world.archive, 2, 2).lines == ["no difference"]


def test_diff_types(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Told(capsys, "diff", world.archive, 2, 3).lines
    assert {"T turns", "A turns/inside"} <= set(lines)


def test_diff_against_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It tells what the next run then finds."""
    world = new_world(tmp_path / "world")
    for name in ("kept", "edited", "touched", "chmod", "gone", "folder/one", "folder/two", "turns"):
        world.write(name, name.encode())
    (world.source / "link").symlink_to("here")
    (world.source / "vanishes" / "deep").mkdir(parents=True)
    world.write("vanishes/deep/file", b"x")
    world.resume()
    assert Told(capsys, "diff", world.archive).lines == ["no difference"]
    world.write("edited", b"longer than before")
    os.utime(world.source / "touched")
    (world.source / "chmod").chmod(0o600)
    (world.source / "gone").unlink()
    shutil.rmtree(world.source / "vanishes")
    (world.source / "turns").unlink()
    world.write("turns/inside", b"new")
    (world.source / "link").unlink()
    (world.source / "link").symlink_to("there")
    os.mkfifo(world.source / "pipe")
    expected = [
        "A turns/inside", "D gone", "D vanishes", "D vanishes/deep", "D vanishes/deep/file",
        "M edited", "M link", "M touched", "P .", "P chmod", "T turns",
    ]  # fmt: skip
    assert sorted(Told(capsys, "diff", world.archive).lines[:-1]) == expected
    assert sorted(Told(capsys, "diff", world.archive, 1).lines[:-1]) == expected
    result = world.resume()
    assert result.gone == 4
    assert Told(capsys, "diff", world.archive).lines == ["no difference"]
    assert sorted(Told(capsys, "diff", world.archive, 1).lines[:-1]) == expected


def test_diff_after_a_folder_became_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = new_world(tmp_path / "world")
    world.write("turns/deep/inside", b"x")
    world.resume()
    shutil.rmtree(world.source / "turns")
    world.write("turns", b"a file")
    lines = Told(capsys, "diff", world.archive).lines
    assert {"T turns", "D turns/deep", "D turns/deep/inside"} <= set(lines)


def test_diff_takes_what_cannot_be_read_for_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(tmp_path / "world")
    world.write("closed/file", b"x")
    world.resume()
    original = os.open

    def refuses(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if isinstance(path, bytes) and path.endswith(b"/closed"):
            raise PermissionError(13, "Permission denied")
        return original(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refuses)
    told = Told(capsys, "diff", world.archive)
    assert told.code == Exit.PARTIAL
    assert told.out == "no difference\n"
    assert "folder closed: Permission denied" in told.err


def test_diff_without_a_source(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    away = world.source.rename(world.root / "source away")
    try:
        told = Told(capsys, "diff", world.archive)
        assert told.code == Exit.FAILED
        assert str(world.source) in told.err
        assert Told(capsys, "diff", world.archive, 1, 3).lines
    finally:
        away.rename(world.source)


# status


def test_status(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(capsys, "status", world.archive, "--json").json
    assert (told["source"], told["url"]) == (str(world.source), world.storage.as_uri())
    assert [row["files"] for row in told["snapshots"]] == [7, 7, 7]
    assert [row["gone"] for row in told["snapshots"]] == [0, 1, 0]
    stored = {path.name: path.stat().st_size for path in (world.root / "away").iterdir()}
    assert sum(row["stored"] for row in told["snapshots"]) == sum(stored.values()) == told["stored"]
    assert sum(row["count"] for row in told["objects"]) == len(stored)
    assert {row["state"] for row in told["objects"]} == {"stored"}
    assert told["interrupted"] == 0
    # One file of 200 kB is there twice.
    assert told["versions_size"] - told["chunks_size"] == pytest.approx(200_000, abs=50)
    assert told["deduplication"] == pytest.approx(told["versions_size"] / told["chunks_size"])
    text = "\n".join(Told(capsys, "status", world.archive).lines)
    assert "snapshot  ended" in text
    assert "deduplication 1.1" in text
    assert "pyarchiver resume" not in text


def test_status_of_an_interrupted_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tuned(pack_size=1 << 20):
        world = new_world(tmp_path / "world")
        for number in range(8):
            world.write(f"{number}", noise(number, 400_000))

        class Killed(BaseException):
            pass

        def dies(*_: object) -> None:
            raise Killed

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(LocalStorage, "put", dies)
            world.resume()
    told = Told(capsys, "status", world.archive, "--json").json
    assert told["interrupted"] == 1
    assert any(row["state"] == "staged" and row["count"] for row in told["objects"])
    text = Told(capsys, "status", world.archive).out
    assert "no snapshot yet" in text
    assert "to be sent: " in text
    assert "run 1 is not complete: pyarchiver resume completes it" in text
    world.resume()
    assert "resume" not in Told(capsys, "status", world.archive).out


def test_all_of_an_archive_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = new_world(tmp_path / "world")
    assert "no snapshot yet" in Told(capsys, "status", world.archive).out
    assert Told(capsys, "list", world.archive).lines == []
    assert Told(capsys, "find", world.archive, "*").lines == []
    assert Told(capsys, "diff", world.archive).lines[0] == "A ."


@pytest.mark.parametrize("command", ["status", "list", "find", "diff"])
def test_while_another_process_writes(
    world: World, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """The lock is held, and a transaction is open."""
    more = ["*"] if command == "find" else ["1", "2"] if command == "diff" else []
    before = Told(capsys, command, world.archive, *more).lines
    lock = sqlite3.connect(world.archive, isolation_level=None)
    try:
        lock.execute("BEGIN IMMEDIATE")
        lock.execute("DELETE FROM versions")
        assert Told(capsys, command, world.archive, *more).lines == before
    finally:
        lock.execute("ROLLBACK")
        lock.close()


@pytest.mark.parametrize("command", ["status", "list", "find", "diff"])
def test_of_a_read_only_copy(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    copy = tmp_path / "copy.archive"
    shutil.copy(world.archive, copy)
    copy.chmod(0o400)
    more = ["*"] if command == "find" else ["1", "2"] if command == "diff" else []
    assert Told(capsys, command, copy, *more).lines
    assert [path.name for path in tmp_path.iterdir()] == ["copy.archive"]


@pytest.mark.parametrize("command", ["status", "list", "find", "diff"])
def test_of_what_is_no_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    other = tmp_path / "x.archive"
    other.write_text("no archive at all, though it is long enough to have a header" * 9)
    told = Told(capsys, command, other, *(["*"] if command == "find" else []))
    assert told.code == Exit.FAILED
    assert told.err == f"pyarchiver: {other} is no pyarchiver archive\n"
    assert PASSWORD not in told.err
