"""What the program says where something is wrong with an argument, a name or a password."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from helpers_cli import PASSWORD, Place, Sizes, make_tree, small
from pyarchiver.cas.cost import Estimate
from pyarchiver.cas.database import Transaction
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.storage import reason
from pyarchiver.cmd import secrets
from pyarchiver.cmd.console import Console
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.cmd.restore import estimate_lines
from pyarchiver.formats.errors import CatalogueError, StorageError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Iterator[Place]:
    made = Place(tmp_path)
    make_tree(made.source, files=2, size=10_000)
    with small(Sizes()):
        made.start(Sizes())
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        yield made


# Names


@pytest.mark.parametrize("command", ["verify", "decrypt"])
def test_names_found_in_a_storage_do_nothing_to_a_terminal(
    place: Place, capsys: Captured, command: str
) -> None:
    (place.storage / "x\ny\x1b[31m").touch()
    words = {
        "verify": ["verify", place.archive],
        "decrypt": ["decrypt", place.storage, "out"],
    }[command]
    run([str(word) for word in words])
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said
    assert r"x\ny\x1b[31m" in said


def test_names_in_errors_do_nothing_to_a_terminal(capsys: Captured) -> None:
    assert run(["resume", "no\x1b[31m.archive"]) == Exit.FAILED
    assert r"no\x1b[31m.archive" in capsys.readouterr().err


def test_results_on_a_terminal_have_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Console(False, False, False).result({}, "a\x1b[31m\nb")
    assert capsys.readouterr().out == "a\\x1b[31m\nb\n"


# Secrets


def test_without_a_terminal_the_option_that_helps_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert run(["password", str(place.archive)]) == Exit.USAGE
    assert "use --new-password-file or $PYARCHIVER_NEW_PASSWORD" in capsys.readouterr().err
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE)
    assert run(["restore", str(place.archive), "out"]) == Exit.USAGE
    assert "use --password-file or $PYARCHIVER_PASSWORD\n" in capsys.readouterr().err
    ini = place.work / "far.ini"
    assert run(["init", str(ini), "--name", "far", "--source", str(place.source),
                "--storage", "sftp://root@127.0.0.1/x", "-q"]) == Exit.DONE  # fmt: skip
    ini.write_text(ini.read_text().replace("login = key\n", "login = password\n"))
    (place.work / "pw").write_text(PASSWORD)
    (place.work / "pw").chmod(0o600)
    assert run(["start", str(ini), "--password-file", str(place.work / "pw")]) == Exit.USAGE
    assert "without a terminal: use $PYARCHIVER_SFTP_PASSWORD\n" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "\n", " \n\t"])
def test_a_password_file_that_is_empty(place: Place, capsys: Captured, text: str) -> None:
    Path("pw").write_text(text)
    Path("pw").chmod(0o600)
    assert run(["restore", str(place.archive), "out", "--password-file", "pw"]) == Exit.USAGE
    assert "password file pw is empty" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_password_file_without_end(place: Place, capsys: Captured) -> None:
    assert run(["restore", str(place.archive), "out", "--password-file", "/dev/zero"]) == Exit.USAGE
    assert "has more than 64 KiB" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["restore A out", "delete A"])
def test_a_question_is_interrupted(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Captured, command: str
) -> None:
    """Nothing had begun. No real ^C: one between question and read waits for the next key."""

    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.delenv(secrets.PASSWORD_VARIABLE)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", interrupted)
    monkeypatch.setattr("click.termui.hidden_prompt_func", interrupted)
    words = [str(place.archive) if word == "A" else word for word in command.split()]
    assert run(words) == Exit.INTERRUPTED
    assert capsys.readouterr().err.endswith("\npyarchiver: interrupted\n")
    assert place.objects()


# Arguments


@pytest.mark.parametrize(
    "words",
    [
        "restore A @", "decrypt S @", "decrypt @ out", "kit A @ --no-code", "recover S @",
        "recover @ new.archive", "resume @", "start @", "init @", "bench @", "settings A @",
        "restore A out @", "thaw A @", "list A @", "restore A out --password-file @",
        "recover S new.archive --config @",
    ],
)  # fmt: skip
def test_an_empty_path_is_no_folder(place: Place, capsys: Captured, words: str) -> None:
    """Of a shell variable that is not set."""
    names = {"A": str(place.archive), "S": str(place.storage), "@": ""}
    before = sorted(place.work.iterdir())
    assert run([names.get(word, word) for word in words.split()]) == Exit.USAGE
    assert "empty" in capsys.readouterr().err
    assert sorted(place.work.iterdir()) == before


@pytest.mark.parametrize("inside", ["", "deeper", "../storage/x"])
@pytest.mark.parametrize("command", ["restore", "decrypt"])
def test_nothing_is_restored_among_objects(
    place: Place, capsys: Captured, command: str, inside: str
) -> None:
    before = sorted(place.storage.rglob("*"))
    whence = place.archive if command == "restore" else place.storage
    assert run([command, str(whence), str(place.storage / inside)]) == Exit.USAGE
    assert "among the objects" in capsys.readouterr().err
    assert sorted(place.storage.rglob("*")) == before


def test_an_archive_is_no_object(place: Place, capsys: Captured) -> None:
    assert run(["decrypt", str(place.archive), "out"]) == Exit.FAILED
    said = capsys.readouterr().err
    assert "is a catalogue, not an object: pyarchiver restore" in said
    assert len(said.splitlines()) == 1


# Figures


def result_of(capsys: Captured, *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*map(str, words), "--json"]) == Exit.DONE
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_plan_reads_no_more_of_an_object_than_there_is(place: Place, capsys: Captured) -> None:
    plan = result_of(capsys, "restore", place.archive, "out", "--plan")
    assert plan["objects"]
    assert all(0 < found["read"] <= found["size"] for found in plan["objects"])
    run(["restore", str(place.archive), "out", "--plan"])
    said = capsys.readouterr().out
    each = plan["estimate"]["download"] / plan["estimate"]["wanted"]
    assert f"({each:.2f} bytes for each that is wanted) from" in said
    assert "expected time: 1 minute;" in said


def test_each_size_of_a_plan_has_its_own_ratio() -> None:
    takes = Estimate(2, 24_000_000, 24_900_000, 2, 32_500_000, 48 * 3600 + 2.0, None, "USD")
    assert estimate_lines(takes) == [
        "would thaw 2 objects, 32.5 MB (1.35 bytes for each that is wanted); "
        "would download 24.9 MB (1.04 bytes for each that is wanted) from 2 objects",
        "expected time: 2 days; cost: not known",
    ]


def test_a_plan_of_nothing(place: Place, capsys: Captured) -> None:
    assert run(["restore", str(place.archive), "out", "none", "--plan"]) == Exit.PARTIAL
    said = capsys.readouterr()
    assert said.out == "would write 0 files, 0 Bytes\n"
    assert "nothing in the archive matches none: paths begin inside the source" in said.err


def test_a_tree_has_one_count_of_files(place: Place, capsys: Captured) -> None:
    """Names of files; symbolic links apart."""
    counts = [
        result_of(capsys, "resume", place.archive)["files"],
        result_of(capsys, "restore", place.archive, "out", "--plan")["files"],
    ]
    assert run(["restore", str(place.archive), "out"]) == Exit.DONE
    said = capsys.readouterr()
    counts += [int(re.findall(r"restoring: (\d+) files", said.err)[0])]
    counts += [int(re.findall(r"restored (\d+) files and 2 symbolic links", said.out)[0])]
    assert len(set(counts)) == 1, counts


class _Interrupted(Quiet):
    def advance(self, files: int = 0, read: int = 0, stored: int = 0) -> None:
        if stored:
            raise KeyboardInterrupt


@pytest.mark.parametrize("phase", ["begin", "advance"])
def test_the_status_of_a_run_that_is_not_complete(
    tmp_path: Path, capsys: Captured, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ratio of what is not there."""
    place, observer = Place(tmp_path), _Interrupted()
    make_tree(place.source, files=12, size=150_000)
    if phase == "begin":
        monkeypatch.setattr(observer, "begin", lambda *_: pytest.fail("interrupted"))
    with small(Sizes()), pytest.raises((KeyboardInterrupt, pytest.fail.Exception)):
        place.start(Sizes(), observer)
    with small(Sizes()):
        status = result_of(capsys, "status", place.archive)
        assert status["deduplication"] is None
        run(["status", str(place.archive)])
    said = capsys.readouterr().out
    assert "deduplication" not in said
    assert ("number" in said) == ("distinct chunk" in said) == (phase == "advance")
    assert status["interrupted"] or phase == "begin"


def test_the_former_file_of_a_folder_is_listed(place: Place, capsys: Captured) -> None:
    """restore gives it back as NAME~N."""
    (place.source / "empty").unlink()
    (place.source / "empty").mkdir()
    place.resume()
    found = result_of(capsys, "list", place.archive, "empty", "--deleted")["paths"]
    assert [(row["kind"], row["deleted"]) for row in found] == [("file", True), ("folder", False)]


# Terminals


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_progress_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, columns: int
) -> None:
    """With room for the ^C that a terminal shows, or it would begin another line."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console = Console(False, False, False)
    monkeypatch.setattr("pyarchiver.cmd.console._REDRAW", -1)
    console.begin("archiving", 12_345, 10**12)
    console.advance(12_345, 10**9, 10**9)
    console.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    drawn = [line for line in re.split(r"[\r\n]+", lines) if line]
    assert max(map(len, drawn)) <= columns - 4
    assert all(line.startswith("archiving ") for line in drawn)
    assert ("━" in drawn[-1]) == (columns > 40)


def test_an_interrupt_while_a_phase_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The display is left all the same: no bar stays above what is said then."""

    def interrupted(_: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console = Console(False, False, False)
    console.begin("planning", None, None)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "refresh", interrupted)
        console.begin("archiving", 12_345, 10**12)
    console.close()
    assert capsys.readouterr().err.endswith("\x1b[1A\x1b[2K")


def test_the_last_line_of_a_run_fits_a_terminal(place: Place, capsys: Captured) -> None:
    (place.source / "more").write_bytes(b"more")
    assert run(["resume", str(place.archive)]) == Exit.DONE
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"snapshot 2:[0-9a-f]{64}", last)


# Next steps


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.ENOSPC, "; free some, then run again"), (errno.EIO, "")]
)
def test_a_destination_that_is_full(
    place: Place, capsys: Captured, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
) -> None:
    def failing(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.write", failing)
    assert run(["restore", str(place.archive), "out"]) == Exit.FAILED
    assert capsys.readouterr().err.endswith(f"destination out: {os.strerror(code)}{hint}\n")


def test_a_catalogue_that_must_not_be_written(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "x").execute("CREATE TABLE t (x)").connection.close()
    read_only = sqlite3.connect(f"{(tmp_path / 'x').as_uri()}?mode=ro", uri=True)
    with (
        closing(read_only),
        pytest.raises(CatalogueError, match=r"it and its folder must be writable"),
        Transaction(read_only),
    ):
        read_only.execute("INSERT INTO t VALUES (1)")


def test_an_object_is_named_once() -> None:
    assert reason("x", StorageError("object x: Permission denied")) == "Permission denied"
    assert reason("x", StorageError("the disk is gone")) == "the disk is gone"
