"""What shells and `man` make of the commands: completion, man pages, and an installed wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers_cli import PROGRAM, environment
from pyarchiver.cmd.main import COMMANDS, run

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with archives and other files, in which the shell is."""
    for name in ("photos.archive", "papers.archive", "photos.ini", "photos.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "old.archive").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completions(*words: str) -> list[tuple[str, str]]:
    """(kind, text) of what click's script for bash would be given for the last of the words."""
    done = subprocess.run(
        [PROGRAM],
        env=environment(
            _PYARCHIVER_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(["pyarchiver", *words]),
            COMP_CWORD=str(len(words)),
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    found = [line.partition(",") for line in done.stdout.splitlines()]
    return [(kind, text) for kind, _, text in found]


def test_commands_and_options(folder: Path) -> None:
    assert {text for _, text in completions("re")} >= {"resume", "restore"}
    assert {text for _, text in completions("")} == set(COMMANDS)
    assert ("plain", "--rehash") in completions("resume", "--re")


def test_archives_and_no_other_files(folder: Path) -> None:
    assert completions("resume", "") == [("plain", "papers.archive"), ("plain", "photos.archive")]
    assert completions("resume", "ph") == [("plain", "photos.archive")]
    assert completions("resume", "sub/") == [("plain", "sub/old.archive")]
    assert completions("resume", "./ph") == [("plain", "./photos.archive")]
    assert completions("start", "") == [("plain", "photos.ini")]


def test_where_there_is_none_all_files_are_completed(folder: Path) -> None:
    assert completions("resume", "nowhere/") == [("file", "nowhere/")]
    (folder / "sub" / "with space.archive").touch()
    assert completions("resume", "sub/") == [("file", "sub/")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell(shell: str) -> None:
    done = subprocess.run(
        [PROGRAM], env=environment(_PYARCHIVER_COMPLETE=f"{shell}_source"), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"_PYARCHIVER_COMPLETE={shell}_complete" in done.stdout
    assert f"_PYARCHIVER_COMPLETE={shell}_source" in (ROOT / "README.md").read_text("utf-8")
    where = shutil.which(shell)
    if where is None:
        assert shell != "bash" or os.environ.get("CI") is None
        pytest.skip(f"{shell} is not installed")
    check = subprocess.run([where, "-n"], input=done.stdout, text=True, check=False)
    assert check.returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_in_a_real_bash(folder: Path) -> None:
    script = f"""
        PATH={PROGRAM.parent}:$PATH
        eval "$(_PYARCHIVER_COMPLETE=bash_source pyarchiver)"
        COMP_WORDS=(pyarchiver status p) COMP_CWORD=2
        compopt() {{ :; }}
        _pyarchiver_completion pyarchiver
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["papers.archive", "photos.archive"]


# Man pages


@pytest.fixture(scope="module")
def man(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    script = ROOT / "bench" / "manpages.py"
    subprocess.run([sys.executable, script, folder], capture_output=True, check=True)
    return folder


def test_there_is_a_page_for_every_command(man: Path) -> None:
    names = {"pyarchiver.1", *(f"pyarchiver-{name}.1" for name in COMMANDS)}
    assert {path.name for path in man.iterdir()} == names
    for path in man.iterdir():
        text = path.read_text("utf-8")
        sections = re.findall(r"^\.SH (.*)$", text, re.MULTILINE)
        for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
            assert sections.count(section) == 1, (path.name, section)
        if path.name != "pyarchiver.1":
            assert "EXAMPLES" in sections, path.name


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_has_no_complaint_and_shows_every_option(
    man: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in COMMANDS:
        done = subprocess.run(
            ["man", "--warnings", "-P", "cat", "-l", man / f"pyarchiver-{name}.1"],
            env=environment(MANWIDTH="120", LC_ALL="C.UTF-8", MANROFFOPT="-c"),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == "", name
        assert run([name, "--help"]) == 0
        for option in set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out)):
            assert option in done.stdout.replace("\u2010", "-"), (name, option)
