"""init, start and resume, as a user drives them."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import PASSWORD, contents, differences, make_tree, noise, write
from pyarchiver.cas.intake import Intake
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
CODE = re.compile(r"recovery code: ([0-9A-Z-]+)")
Typed = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    monkeypatch.delenv(secrets.CODE_VARIABLE, raising=False)
    monkeypatch.setattr("pyarchiver.cas.tree.sync_below", lambda folder: None)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A small source and an ini file for it."""
    make_tree(tmp_path / "source", files=3, size=20_000)
    assert run(_init(tmp_path)) == Exit.DONE
    yield tmp_path


def _init(home: Path) -> list[str]:
    return [
        "init", str(home / "photos.ini"), "--name", "photos", "--source", str(home / "source"),
        "--storage", (home / "storage").as_uri(), "-q",
    ]  # fmt: skip


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Answer prompts: `typed(answer, ...)`; returns the list of questions asked."""

    def answers(*lines: str | Callable[[], str]) -> list[str]:
        asked: list[str] = []
        left = list(lines)

        def prompt(text: str, **_: object) -> str:
            asked.append(text)
            assert left, f"asked once too often: {asked}"
            line = left.pop(0)
            return line if isinstance(line, str) else line()

        monkeypatch.setattr("click.prompt", prompt)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        return asked

    return answers


def _start(home: Path, *more: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    return run(["start", str(home / "photos.ini"), *more])


# init


def test_init_writes_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting stands in it, and what must be filled in is marked."""
    ini = tmp_path / "photos.ini"
    assert run(["init", str(ini)]) == Exit.DONE
    text = ini.read_text()
    for setting in ("name", "source", "exclude", "ignore", "url", "spool", "suite", "pack size",
                    "chunk size", "compression"):  # fmt: skip
        assert re.search(rf"^{setting} =", text, re.MULTILINE), setting
    assert text.count("CHANGE-ME") == 3
    assert stat.S_IMODE(ini.stat().st_mode) == 0o600
    out = capsys.readouterr()
    assert f"wrote {ini}" in out.out
    assert "CHANGE-ME" in out.out
    assert not out.err


def test_init_overwrites_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ini = tmp_path / "photos.ini"
    ini.write_text("mine\n" * 1000)
    assert run(["init", str(ini)]) == Exit.USAGE
    assert ini.read_text() == "mine\n" * 1000
    assert "--force" in capsys.readouterr().err
    assert run(["init", str(ini), "--force"]) == Exit.DONE
    assert "mine" not in ini.read_text()


def test_init_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(tmp_path / "no such folder" / "x.ini")]) == Exit.USAGE
    assert run(["init", str(tmp_path)]) == Exit.USAGE
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("odd", [b"ends in a space ", b"not UTF-8: \xff", b"of two\nlines"])
def test_a_folder_that_an_ini_file_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], odd: bytes
) -> None:
    """It is refused rather than mistaken for another, and goes in by a link as it is told."""
    source, link = tmp_path / os.fsdecode(odd), tmp_path / "link"
    make_tree(source, files=2, size=5_000)
    words = ["init", str(tmp_path / "photos.ini"), "--name", "photos", "--storage"]
    words += [(tmp_path / "storage").as_uri(), "--source"]
    assert run([*words, str(source)]) == Exit.USAGE
    assert "use a link to it" in capsys.readouterr().err
    assert not (tmp_path / "photos.ini").exists()
    link.symlink_to(source)
    assert run([*words, str(link)]) == Exit.DONE
    assert _start(tmp_path, monkeypatch=monkeypatch) == Exit.DONE
    assert run(["status", str(tmp_path / "photos.archive")]) == Exit.DONE
    assert run(["kit", str(tmp_path / "photos.archive"), str(tmp_path / "kit")]) == Exit.DONE
    page = (tmp_path / "kit" / "READ-ME.html").read_text("utf-8")
    assert odd.decode("utf-8", "backslashreplace").replace("\n", "\\n") in page
    assert run(["restore", str(tmp_path / "photos.archive"), str(tmp_path / "out")]) == Exit.DONE
    assert differences(source, tmp_path / "out") == ""


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ([], "name"),
        (["--name", "n"], "source"),
        (["--name", "n", "--source", "."], "url"),
    ],
)
def test_start_refuses_what_is_not_filled_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], missing: str
) -> None:
    """It names the setting and its line, and does nothing."""
    ini = tmp_path / "photos.ini"
    assert run(["init", str(ini), *given]) == Exit.DONE
    capsys.readouterr()
    assert run(["start", str(ini)]) == Exit.USAGE
    error = capsys.readouterr().err
    assert f"'{missing}'" in error
    line = next(
        number
        for number, text in enumerate(ini.read_text().splitlines(), 1)
        if text.startswith(f"{missing} =")
    )
    assert f"line {line}" in error
    assert [path.name for path in tmp_path.iterdir()] == ["photos.ini"]


# start: the password


def test_a_typed_password_is_asked_for_twice(home: Path, typed: Typed) -> None:
    asked = typed(PASSWORD, PASSWORD)
    assert run(["start", str(home / "photos.ini")]) == Exit.DONE
    assert len(asked) == 2


def test_two_passwords_that_differ(
    home: Path, typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so and asks again; neither is shown."""
    asked = typed(PASSWORD, PASSWORD + "x", PASSWORD, PASSWORD)
    assert run(["start", str(home / "photos.ini")]) == Exit.DONE
    assert len(asked) == 4
    out = capsys.readouterr()
    assert "not the same" in out.err
    assert PASSWORD not in out.out + out.err


def test_a_weak_password_is_refused(
    home: Path, typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = typed("password1", PASSWORD, PASSWORD)
    assert run(["start", str(home / "photos.ini")]) == Exit.DONE
    assert len(asked) == 3
    out = capsys.readouterr()
    assert "weak" in out.err
    assert "--weak-password" in out.err
    assert "password1" not in out.out + out.err


def test_a_weak_password_that_is_allowed(home: Path, typed: Typed) -> None:
    asked = typed("abc", "abc")
    assert run(["start", str(home / "photos.ini"), "--weak-password"]) == Exit.DONE
    assert len(asked) == 2


@pytest.mark.parametrize("how", ["file", "environment"])
def test_a_weak_password_that_is_given_only_warns(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """A script cannot be asked again."""
    file = home / "password"
    file.write_text("abc\n")
    file.chmod(0o600)
    arguments = ["start", str(home / "photos.ini")]
    if how == "file":
        arguments += ["--password-file", str(file)]
    else:
        monkeypatch.setenv(secrets.PASSWORD_VARIABLE, "abc")
    assert run(arguments) == Exit.DONE
    error = capsys.readouterr().err
    assert "weak" in error
    assert "can be read by others" not in error


def test_a_password_file_that_others_can_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "password"
    file.write_text(PASSWORD)
    file.chmod(0o644)
    assert run(["start", str(home / "photos.ini"), "--password-file", str(file)]) == Exit.DONE
    assert "chmod 600" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"", b"\n"])
def test_a_password_file_that_is_none(
    home: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    file = home / "password"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    assert run(["start", str(home / "photos.ini"), "--password-file", str(file)]) == Exit.USAGE
    assert "password" in capsys.readouterr().err
    assert not (home / "photos.archive").exists()
    assert not (home / "storage").exists()


def test_an_empty_password_means_six_words(
    home: Path, typed: Typed, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """They are shown and asked back; a slip gives others."""
    shown: list[str] = []

    def last() -> str:
        out = capsys.readouterr()
        shown.extend(re.findall(r"generated password: (.+)", out.out + out.err))
        return shown[-1]

    asked = typed("", "a slip", last)
    assert run(["start", str(home / "photos.ini")]) == Exit.DONE
    assert len(asked) == 3
    assert len(shown) == 2
    assert shown[0] != shown[1]
    assert all(len(words.split(" ")) == 6 for words in shown)
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, shown[1])
    assert run(["restore", str(home / "photos.archive"), str(home / "out"), "-q"]) == Exit.DONE
    assert differences(home / "source", home / "out") == ""


def test_without_a_terminal_nothing_is_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run(["start", str(home / "photos.ini")]) == Exit.USAGE
    error = capsys.readouterr().err
    assert "--password-file" in error
    assert secrets.PASSWORD_VARIABLE in error
    assert not (home / "photos.archive").exists()
    assert not (home / "storage").exists()


# start: the archive


def test_start_archives_and_prints_the_recovery_code_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    out = capsys.readouterr()
    codes = CODE.findall(out.out + out.err)
    assert len(codes) == 1
    assert (out.out + out.err).count(codes[0]) == 1
    assert PASSWORD not in out.out + out.err
    assert "snapshot 1:" in out.out
    archive = home / "photos.archive"
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    everything = b"".join(p.read_bytes() for p in home.iterdir() if p.is_file())
    assert codes[0].encode() not in everything
    assert PASSWORD.encode() not in everything
    (home / "photos.ini").unlink()
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE)
    assert run(["resume", str(archive)]) == Exit.DONE
    assert codes[0] not in capsys.readouterr().out
    monkeypatch.setenv(secrets.CODE_VARIABLE, codes[0])
    command = ["restore", str(archive), str(home / "out"), "--recovery-code"]
    assert run(command) == Exit.DONE
    assert differences(home / "source", home / "out") == ""
    monkeypatch.setenv(secrets.CODE_VARIABLE, codes[0].lower().replace("-", " "))
    command = ["decrypt", str(home / "storage"), str(home / "out2"), "--recovery-code"]
    assert run(command) == Exit.DONE
    assert differences(home / "source", home / "out2") == ""


def test_nothing_but_the_archive_is_left_beside_the_ini(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    left = {path.name for path in home.iterdir()}
    known = {"photos.ini", "photos.archive", "photos.archive.lock", "source", "storage"}
    assert left <= known


def _fill_in(home: Path, setting: str, value: object) -> None:
    ini = home / "photos.ini"
    text = re.sub(rf"^{setting} =.*$", f"{setting} = {value}", ini.read_text(), flags=re.MULTILINE)
    ini.write_text(text)


@pytest.mark.parametrize("wrong", ["missing", "a file"])
def test_a_source_that_is_no_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    """Nothing is made, and no password is asked."""
    source = home / "other"
    if wrong == "a file":
        source.write_bytes(b"")
    _fill_in(home, "source", source)
    monkeypatch.setattr("click.prompt", lambda *_, **__: pytest.fail("asked"))
    assert run(["start", str(home / "photos.ini")]) == Exit.FAILED
    assert str(source) in capsys.readouterr().err
    assert not (home / "photos.archive").exists()
    assert not (home / "storage").exists()


@pytest.mark.parametrize("inside", ["source", "source/deep/storage"])
def test_a_storage_inside_the_source(
    home: Path, capsys: pytest.CaptureFixture[str], inside: str
) -> None:
    _fill_in(home, "url", (home / inside).as_uri())
    assert run(["start", str(home / "photos.ini")]) == Exit.USAGE
    assert "archive itself" in capsys.readouterr().err
    assert not (home / "photos.archive").exists()
    assert not (home / "source" / "deep").exists()


def test_a_storage_inside_the_source_through_a_link(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "elsewhere").symlink_to(home / "source")
    _fill_in(home, "url", f"file://{home}/elsewhere/cold")
    assert run(["start", str(home / "photos.ini")]) == Exit.USAGE
    assert "archive itself" in capsys.readouterr().err


def test_an_archive_that_is_there_already(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    before = (home / "photos.archive").read_bytes(), contents(home / "storage")
    capsys.readouterr()
    assert _start(home, monkeypatch=monkeypatch) == Exit.FAILED
    assert "pyarchiver resume" in capsys.readouterr().err
    assert ((home / "photos.archive").read_bytes(), contents(home / "storage")) == before


def test_the_storage_is_made_by_start_only(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Later its absence means that a disk is not mounted."""
    assert not (home / "storage").exists()
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    (home / "storage").rename(home / "unmounted")
    write(home / "source" / "new", b"new")
    for command in (
        ["resume", str(home / "photos.archive")],
        ["restore", str(home / "photos.archive"), str(home / "out")],
    ):
        capsys.readouterr()
        assert run(command) == Exit.FAILED
        assert "mounted" in capsys.readouterr().err
        assert not (home / "storage").exists()
        assert not (home / "out").exists()
    (home / "unmounted").rename(home / "storage")
    assert run(["resume", str(home / "photos.archive")]) == Exit.DONE


@pytest.mark.parametrize(
    ("setting", "value"),
    [("pack size", "1 MiB"), ("pack size", "much"), ("compression", "20"), ("suite", "rot13"),
     ("name", "../x"), ("url", "ftp://host/x"), ("ignore", "weather"), ("chunk size", "100 KiB"),
     ("colour", "blue")],
)  # fmt: skip
def test_settings_out_of_range(
    home: Path, capsys: pytest.CaptureFixture[str], setting: str, value: str
) -> None:
    """Each names the setting and its line."""
    ini = home / "photos.ini"
    if setting in ini.read_text():
        _fill_in(home, setting, value)
    else:
        ini.write_text(ini.read_text() + f"{setting} = {value}\n")
    assert run(["start", str(ini)]) == Exit.USAGE
    error = capsys.readouterr().err
    assert f"'{setting}'" in error
    assert f"{ini}, line" in error or setting == "url"
    assert not (home / "photos.archive").exists()


@pytest.mark.parametrize("text", ["", "no section\n", "[archive\n", "[weather]\nx = 1\n", b"\xff"])
def test_an_ini_file_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes
) -> None:
    ini = tmp_path / "photos.ini"
    ini.write_bytes(text.encode() if isinstance(text, str) else text)
    assert run(["start", str(ini)]) == Exit.USAGE
    assert "photos.ini" in capsys.readouterr().err


def test_no_ini_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["start", str(tmp_path / "none.ini")]) == Exit.USAGE
    assert "pyarchiver init" in capsys.readouterr().err


# resume


def test_resume_with_nothing_new(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The storage is not written to, and no password is needed."""
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE)
    before = contents(home / "storage")
    head = re.findall("head ([0-9a-f]+)", capsys.readouterr().out)
    for more in ([], ["--rehash"]):
        assert run(["resume", str(home / "photos.archive"), *more]) == Exit.DONE
        out = capsys.readouterr().out
        assert "nothing new" in out
        assert re.findall("head ([0-9a-f]+)", out) == head
        assert contents(home / "storage") == before


def test_resume_adds_what_is_new(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    write(home / "source" / "new", noise("new", 50_000))
    capsys.readouterr()
    assert run(["resume", str(home / "photos.archive"), "--json"]) == Exit.DONE
    result = json.loads(capsys.readouterr().out)
    assert result["new"] is True
    assert result["snapshot"] == 2
    assert 50_000 < result["stored"] < 100_000
    assert run(["restore", str(home / "photos.archive"), str(home / "out"), "-q"]) == Exit.DONE
    assert differences(home / "source", home / "out") == ""


def test_rehash_finds_what_kept_its_times(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ctime ignored, bytes altered behind an old mtime are found by reading only."""
    _fill_in(home, "ignore", "ctime")
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    file = home / "source" / "shoot0" / "p000.raw"
    found = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"other bytes")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    capsys.readouterr()
    assert run(["resume", str(home / "photos.archive")]) == Exit.DONE
    assert "nothing new" in capsys.readouterr().out
    assert run(["resume", str(home / "photos.archive"), "--rehash"]) == Exit.DONE
    assert "nothing new" not in capsys.readouterr().out
    assert run(["restore", str(home / "photos.archive"), str(home / "out"), "-q"]) == Exit.DONE
    assert differences(home / "source", home / "out") == ""


def test_a_source_that_has_become_empty(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may not be mounted: refused, unless it is meant."""
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    (home / "source").rename(home / "kept")
    (home / "source").mkdir()
    archive = str(home / "photos.archive")
    assert run(["resume", archive]) == Exit.FAILED
    assert "--allow-empty" in capsys.readouterr().err
    assert run(["resume", archive, "--allow-empty"]) == Exit.DONE
    assert run(["restore", archive, str(home / "exact"), "--exact", "-q"]) == Exit.DONE
    assert contents(home / "exact") == {}
    assert run(["restore", archive, str(home / "out"), "-q"]) == Exit.DONE
    assert contents(home / "out") == contents(home / "kept")


def test_a_source_that_is_gone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    shutil.rmtree(home / "source")
    assert run(["resume", str(home / "photos.archive"), "--allow-empty"]) == Exit.FAILED
    assert str(home / "source") in capsys.readouterr().err


def test_a_pipe_is_left_out_with_a_word(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its name does not reach the terminal as it is."""
    os.mkfifo(home / "source" / "pipe\x1b[2J")
    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    out = capsys.readouterr()
    assert "pipe" in out.err
    assert "left out" in out.err
    assert "\x1b" not in out.err


def test_what_cannot_be_read_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is archived, and the exit code says that something is not; next time it is."""
    original = Intake.read

    def failing(intake: Intake, descriptor: int, found: os.stat_result) -> Any:
        if found.st_ino == (home / "source" / "shoot0" / "p000.raw").stat().st_ino:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(intake, descriptor, found)

    with monkeypatch.context() as patch:
        patch.setattr(Intake, "read", failing)
        assert _start(home, monkeypatch=monkeypatch) == Exit.PARTIAL
    out = capsys.readouterr()
    assert "shoot0/p000.raw: Input/output error" in out.err
    assert "snapshot 1" in out.out
    assert run(["resume", str(home / "photos.archive"), "-q"]) == Exit.DONE
    assert run(["restore", str(home / "photos.archive"), str(home / "out"), "-q"]) == Exit.DONE
    assert differences(home / "source", home / "out") == ""


@pytest.mark.parametrize("what", ["missing", "text", "empty", "another database", "folder"])
def test_an_archive_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    import sqlite3

    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    archive = tmp_path / "photos.archive"
    if what == "text":
        archive.write_text("text\n" * 5000)
    elif what == "empty":
        archive.write_bytes(b"")
    elif what == "another database":
        with sqlite3.connect(archive) as database:
            database.execute("CREATE TABLE x (y)")
        database.close()
    elif what == "folder":
        archive.mkdir()
    wanted = Exit.USAGE if what == "folder" else Exit.FAILED
    for command in (
        ["resume", str(archive)],
        ["restore", str(archive), str(tmp_path / "out")],
        ["restore", str(archive), str(tmp_path / "out"), "--plan"],
    ):
        assert run(command) == wanted
        assert "photos.archive" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_runs_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyarchiver.cas.catalogue import Catalogue

    assert _start(home, monkeypatch=monkeypatch) == Exit.DONE
    with Catalogue.open(home / "photos.archive", write=True):
        assert run(["resume", str(home / "photos.archive")]) == Exit.FAILED
        assert "in use" in capsys.readouterr().err
        out = str(home / "out")
        assert run(["restore", str(home / "photos.archive"), out, "-q"]) == Exit.DONE
