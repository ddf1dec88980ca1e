"""Output that cannot be written: a full disk, a closed pipe, streams that are closed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from helpers_cli import PASSWORD, PROGRAM, differences, environment, make_tree, run_program

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
LOST = "pyarchiver: cannot write the result: No space left on device\n"


def shell(redirections: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """`pyarchiver WORDS` with redirections of a shell."""
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" "$@" {redirections}', PROGRAM, *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env=environment(PYARCHIVER_PASSWORD=PASSWORD),
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_tree(tmp_path / "source", files=2, size=10_000)
    ini = tmp_path / "photos.ini"
    words = ["--name", "photos", "--source", str(tmp_path / "source"), "--storage", "storage"]
    assert run_program("init", ini, *words).returncode == 0
    return tmp_path


@pytest.fixture
def archive(home: Path) -> Path:
    assert shell("", "start", home / "photos.ini").returncode == 0
    return home / "photos.archive"


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["", "json"])
@pytest.mark.parametrize("command", ["resume", "status", "list", "settings"])
def test_a_result_that_is_lost_is_told_once(
    archive: Path, command: str, more: tuple[str, ...]
) -> None:
    done = shell(">/dev/full", command, archive, "-v", *more)
    assert done.returncode == 1
    assert done.stderr.endswith(LOST)
    assert done.stderr.count("cannot write") == 1
    assert "Traceback" not in done.stderr


def test_the_work_is_done_all_the_same(archive: Path) -> None:
    out = archive.with_name("out")
    done = shell(">/dev/full", "restore", archive, out)
    assert (done.returncode, done.stderr.endswith(LOST)) == (1, True)
    assert differences(archive.with_name("source"), out) == ""


def test_errors_too_can_be_lost(home: Path) -> None:
    done = shell(">/dev/full", "resume", home / "none.archive", "--json")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_recovery_code_that_nobody_saw(home: Path) -> None:
    """There is no archive then."""
    done = shell(">/dev/full", "start", home / "photos.ini")
    assert (done.returncode, done.stderr) == (1, f"pyarchiver: archiving\n{LOST}")
    assert not (home / "photos.archive").exists()
    assert not list((home / "storage").iterdir())


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>&1 | true", "| true"])
def test_what_is_told_meanwhile_stops_nothing(home: Path, redirection: str) -> None:
    """A log on a full disk, a pipe that nobody reads any more."""
    assert shell("", "start", home / "photos.ini").returncode == 0
    (home / "source" / "new").write_bytes(b"new")
    done = shell(redirection, "resume", home / "photos.archive")
    assert (done.returncode, done.stderr == "" or redirection == "| true") == (0, True)
    again = shell("", "resume", home / "photos.archive", "--json")
    assert json.loads(again.stdout)["snapshot"] == 2


@pytest.mark.parametrize("command", ["list", "status", "resume"])
@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "<&- >&- 2>&-", "| true"])
def test_streams_that_are_closed(archive: Path, command: str, redirection: str) -> None:
    done = shell(redirection, command, archive)
    assert done.returncode == 0, done.stderr
    assert "unexpected" not in done.stderr


def test_a_question_without_any_stdin(archive: Path) -> None:
    env = {name: value for name, value in environment().items() if name != "PYARCHIVER_PASSWORD"}
    done = subprocess.run(
        ["bash", "-c", '"$0" "$@" <&-', PROGRAM, "restore", archive, archive.with_name("out")],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == 2
    assert "without a terminal" in done.stderr
