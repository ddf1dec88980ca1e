"""What the program says where something is wrong with an argument, a name or a password."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers_cli import PASSWORD, Place, Sizes, make_tree, on_terminal, small
from pyarchiver.cmd import secrets
from pyarchiver.cmd.console import Console
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run

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


def test_the_prompt_of_a_password_is_interrupted(place: Place) -> None:
    """Nothing had begun."""
    asked = on_terminal("restore", place.archive, place.work / "out")
    asked.expect("password: ")
    asked.interrupt()
    assert asked.wait() == Exit.INTERRUPTED
    assert asked.output.rstrip().endswith("pyarchiver: interrupted")


# Arguments


@pytest.mark.parametrize(
    "words",
    [
        "restore A @", "decrypt S @", "decrypt @ out", "kit A @ --no-code", "recover S @",
        "recover @ new.archive", "resume @", "start @", "init @", "bench @", "settings A @",
        "restore A out --password-file @", "recover S new.archive --config @",
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
