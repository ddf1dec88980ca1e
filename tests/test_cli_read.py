"""restore and decrypt, as a user drives them."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest

from helpers_cli import PASSWORD, contents, differences, make_tree, noise, tree_of, write
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password comes from the environment; nothing can be asked."""
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.delenv(secrets.CODE_VARIABLE, raising=False)
    monkeypatch.setattr("click.prompt", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setattr("pyarchiver.cas.tree.sync_below", lambda folder: None)


@pytest.fixture(scope="module")
def code() -> list[str]:
    """The recovery code of `made`."""
    return []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, code: list[str]) -> Path:
    """An archive of two runs, the second without `deleted` and with another `p000.raw`."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
        make_tree(home / "source", files=4, size=20_000)
        write(home / "source" / "deleted", b"was there once")
        shutil.copytree(home / "source", home / "first", symlinks=True)
        ini = str(home / "photos.ini")
        assert run(
            ["init", ini, "--name", "photos", "--source", "source", "--storage", "storage", "-q"]
        ) == Exit.DONE  # fmt: skip
        result = home / "result"
        with result.open("w") as file, pytest.MonkeyPatch.context() as out:
            out.setattr("sys.stdout", file)
            assert run(["start", ini, "--json"]) == Exit.DONE
        code.append(json.loads(result.read_text())["recovery_code"])
        (home / "source" / "deleted").unlink()
        write(home / "source" / "shoot0" / "p000.raw", noise("second", 25_000))
        assert run(["resume", str(home / "photos.archive"), "-q"]) == Exit.DONE
    return home


def _restore(made: Path, *more: object) -> list[str]:
    return ["restore", str(made / "photos.archive"), *map(str, more)]


def _decrypt(made: Path, *more: object) -> list[str]:
    return ["decrypt", str(made / "storage"), *map(str, more)]


# restore


def test_the_latest_of_all_paths_deleted_ones_too(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_restore(made, tmp_path / "out")) == Exit.DONE
    expected = contents(made / "source") | {"deleted": b"was there once"}
    assert contents(tmp_path / "out") == expected
    out = capsys.readouterr()
    assert re.search(r"restored \d+ files", out.out)
    assert PASSWORD not in out.out + out.err


def test_exact_is_the_source_as_it_stands(made: Path, tmp_path: Path) -> None:
    assert run(_restore(made, tmp_path / "out", "--exact")) == Exit.DONE
    assert differences(made / "source", tmp_path / "out") == ""


def test_each_snapshot(made: Path, tmp_path: Path) -> None:
    assert run(_restore(made, tmp_path / "one", "--snapshot", 1)) == Exit.DONE
    assert contents(tmp_path / "one") == contents(made / "first")
    assert run(_restore(made, tmp_path / "two", "--snapshot", 2)) == Exit.DONE
    assert differences(made / "source", tmp_path / "two") == ""


@pytest.mark.parametrize("number", ["3", "0", "-1", "x", "99999999999999999999999"])
@pytest.mark.parametrize("more", [[], ["--plan"]])
def test_no_such_snapshot(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str, more: list[str]
) -> None:
    """A wrong option: nothing is done, not even DEST is made."""
    assert run(_restore(made, tmp_path / "out", "--snapshot", number, *more)) == Exit.USAGE
    assert "snapshot" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["shoot0"], r"shoot0/.*"),
        (["shoot0/"], r"shoot0/.*"),
        (["./shoot0"], r"shoot0/.*"),
        (["shoot0/p000.xmp", "empty"], r"shoot0/p000\.xmp|empty"),
        (["*.xmp"], r".*\.xmp"),
        (["shoot1/*.raw"], r"shoot1/.*\.raw"),
        (["copies"], r"copies/first\.raw"),
        (["deleted"], "deleted"),
        (["."], r"(?s).*"),
    ],
)
def test_paths_select(made: Path, tmp_path: Path, paths: list[str], expected: str) -> None:
    assert run(_restore(made, tmp_path / "out", *paths)) == Exit.DONE
    everything = contents(made / "source") | {"deleted": b"was there once"}
    assert contents(tmp_path / "out") == {
        path: data for path, data in everything.items() if re.fullmatch(expected, path)
    }


@pytest.mark.parametrize("path", ["no such", "shoot", "*.tiff", "hollow/x"])
def test_paths_that_match_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """What matches is restored; what does not is named."""
    assert run(_restore(made, tmp_path / "out", path, "empty")) == Exit.PARTIAL
    assert path in capsys.readouterr().err
    assert list(contents(tmp_path / "out")) == ["empty"]


def test_plan_touches_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """No password, no storage, no DEST."""
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copyfile(made / "photos.archive", home / "photos.archive")
    before = (home / "photos.archive").read_bytes()
    (made / "storage").rename(made / "moved away")
    try:
        assert run(_restore(home, tmp_path / "out", "--plan")) == Exit.DONE
        text = capsys.readouterr().out
        assert run(_restore(home, tmp_path / "out", "--plan", "--json", "shoot0")) == Exit.DONE
        plan = json.loads(capsys.readouterr().out)
    finally:
        (made / "moved away").rename(made / "storage")
    assert "would write" in text
    names = {path.name for path in (made / "storage").iterdir()}
    assert {item["name"] for item in plan["objects"]} <= names
    assert all(item["name"] in text for item in plan["objects"])
    assert plan["files"] == sum(1 for p in contents(made / "source") if p.startswith("shoot0/"))
    assert not (tmp_path / "out").exists()
    assert (home / "photos.archive").read_bytes() == before
    assert {p.name for p in home.iterdir()} <= {"photos.archive", "photos.archive.lock"}


def test_restoring_again_keeps_what_is_there(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_restore(made, tmp_path / "out", "-q")) == Exit.DONE
    before = dict(tree_of(tmp_path / "out"))
    inode = (tmp_path / "out" / "shoot0" / "p000.raw").stat().st_ino
    capsys.readouterr()
    assert run(_restore(made, tmp_path / "out")) == Exit.DONE
    assert "were there already" in capsys.readouterr().out
    assert dict(tree_of(tmp_path / "out")) == before
    assert (tmp_path / "out" / "shoot0" / "p000.raw").stat().st_ino == inode


@pytest.mark.parametrize("way", ["restore", "decrypt"])
def test_what_differs_is_left_unless_overwrite(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    command = _restore if way == "restore" else _decrypt
    write(tmp_path / "out" / "secret", b"something of mine")
    write(tmp_path / "out" / "link", b"no link")
    assert run(command(made, tmp_path / "out")) == Exit.PARTIAL
    error = capsys.readouterr().err
    assert "secret: " in error
    assert "--overwrite" in error
    assert (tmp_path / "out" / "secret").read_bytes() == b"something of mine"
    assert (tmp_path / "out" / "link").read_bytes() == b"no link"
    assert run(command(made, tmp_path / "out", "--overwrite")) == Exit.DONE
    (tmp_path / "out" / "deleted").unlink()
    shutil.copystat(made / "source", tmp_path / "out")
    assert differences(made / "source", tmp_path / "out") == ""


def test_a_folder_in_the_way_is_never_removed(made: Path, tmp_path: Path) -> None:
    write(tmp_path / "out" / "secret" / "mine", b"mine")
    assert run(_restore(made, tmp_path / "out", "--overwrite", "secret")) == Exit.PARTIAL
    assert (tmp_path / "out" / "secret" / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("way", ["restore", "decrypt"])
def test_dest_is_a_file(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    write(tmp_path / "out", b"mine")
    command = _restore if way == "restore" else _decrypt
    assert run(command(made, tmp_path / "out")) == Exit.FAILED
    assert "not a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_one_file_leaves_the_destination_folder_as_it_is(made: Path, tmp_path: Path) -> None:
    """Mode, owner and time of a folder that was there are not those of the source."""
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o1777)
    (made / "source").chmod(0o755)
    assert run(_restore(made, out, "empty")) == Exit.DONE
    assert out.stat().st_mode & 0o7777 == 0o1777


# Secrets


@pytest.mark.parametrize("way", ["restore", "decrypt"])
def test_the_wrong_password(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, way: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, "wrong horse battery")
    command = _restore if way == "restore" else _decrypt
    assert run(command(made, tmp_path / "out")) == Exit.FAILED
    out = capsys.readouterr()
    assert "wrong password" in out.err
    assert "wrong horse" not in out.out + out.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["restore", "decrypt"])
@pytest.mark.parametrize("wrong", ["mistyped", "another", "short", "letter", "empty"])
def test_the_wrong_recovery_code(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, way: str, wrong: str, code: list[str],
) -> None:  # fmt: skip
    """Mistyped is told apart from another archive's."""
    from pyarchiver.formats import recovery

    typed = {
        "mistyped": ("1" if code[0][0] != "1" else "2") + code[0][1:],
        "another": recovery.encode(bytes(16)),
        "short": code[0][:-1],
        "letter": "U" + code[0][1:],
        "empty": "",
    }[wrong]
    monkeypatch.setenv(secrets.CODE_VARIABLE, typed)
    command = _restore if way == "restore" else _decrypt
    assert run(command(made, tmp_path / "out", "--recovery-code")) == Exit.FAILED
    out = capsys.readouterr()
    expected = {"mistyped": "mistyped", "another": "another archive"}.get(wrong, "recovery code")
    assert expected in out.err
    assert not typed or typed not in out.out + out.err
    assert not (tmp_path / "out").exists()


def test_the_recovery_code_from_a_file(made: Path, tmp_path: Path, code: list[str]) -> None:
    file = tmp_path / "code"
    file.write_text(code[0] + "\n")
    file.chmod(0o600)
    more = ("--recovery-code", "--password-file", file)
    assert run(_restore(made, tmp_path / "out", *more)) == Exit.DONE
    assert run(_decrypt(made, tmp_path / "out2", *more)) == Exit.DONE


@pytest.mark.parametrize("way", ["restore", "decrypt"])
def test_the_hint_names_the_variable_that_helps(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, way: str,
) -> None:  # fmt: skip
    """Without a terminal: where a password or a recovery code can come from."""
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    command = _restore if way == "restore" else _decrypt
    assert run(command(made, tmp_path / "out")) == Exit.USAGE
    assert secrets.PASSWORD_VARIABLE in capsys.readouterr().err
    assert run(command(made, tmp_path / "out", "--recovery-code")) == Exit.USAGE
    assert secrets.CODE_VARIABLE in capsys.readouterr().err


# decrypt


def test_decrypt_needs_the_objects_and_the_password_only(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "photos.archive").rename(made / "lost")
    try:
        assert run(_decrypt(made, tmp_path / "out")) == Exit.DONE
    finally:
        (made / "lost").rename(made / "photos.archive")
    assert contents(tmp_path / "out") == contents(made / "source") | {"deleted": b"was there once"}
    assert not capsys.readouterr().err.count("problem")


def test_a_password_as_argument_warns(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE)
    assert run(_decrypt(made, tmp_path / "out", PASSWORD)) == Exit.DONE
    out = capsys.readouterr()
    assert "command line" in out.err
    assert PASSWORD not in out.out + out.err


def test_a_recovery_code_as_argument(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: list[str]
) -> None:
    """What stands behind --recovery-code is taken for one, or refused: it is no password."""
    result = run(_decrypt(made, tmp_path / "out", "--recovery-code", code[0]))
    assert "wrong password" not in capsys.readouterr().err
    assert result in (Exit.DONE, Exit.USAGE)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_password_file_loses_one_newline(made: Path, tmp_path: Path, end: str) -> None:
    file = tmp_path / "password"
    file.write_bytes((PASSWORD + end).encode())
    file.chmod(0o600)
    assert run(_decrypt(made, tmp_path / "out", "--password-file", file)) == Exit.DONE


@pytest.mark.parametrize("end", ["\n\n", " ", "\n "])
def test_a_password_file_loses_nothing_else(made: Path, tmp_path: Path, end: str) -> None:
    file = tmp_path / "password"
    file.write_bytes((PASSWORD + end).encode())
    file.chmod(0o600)
    assert run(_decrypt(made, tmp_path / "out", "--password-file", file)) == Exit.FAILED


def test_objects_of_another_archive_are_skipped(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = tmp_path / "other"
    write(other / "source" / "file", b"of another archive")
    ini = str(other / "other.ini")
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, "quite another one 77 xylophones")
    arguments = ["--name", "other", "--source", "source", "--storage", "storage", "-q"]
    assert run(["init", ini, *arguments]) == Exit.DONE
    assert run(["start", ini, "-q"]) == Exit.DONE
    mixed = tmp_path / "mixed"
    shutil.copytree(made / "storage", mixed)
    for path in (other / "storage").iterdir():
        shutil.copyfile(path, mixed / path.name)
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    capsys.readouterr()
    assert run(["decrypt", str(mixed), str(tmp_path / "out")]) == Exit.DONE
    error = capsys.readouterr().err
    # Its kit is skipped too, in silence.
    assert all(path.name in error for path in (other / "storage").glob("*-[pm]-*"))
    assert "kit" not in error
    assert "file" not in contents(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(made / "source") | {"deleted": b"was there once"}


def test_a_single_object(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packs = [path for path in (made / "storage").iterdir() if "-p-" in path.name]
    assert len(packs) == 2
    results = [run(["decrypt", str(p), str(tmp_path / p.name)]) for p in packs]
    assert set(results) <= {Exit.DONE, Exit.PARTIAL}
    found = [contents(tmp_path / pack.name) for pack in packs]
    assert found[0] | found[1] | found[0]
    assert {"deleted"} <= set(found[0]) | set(found[1])


def test_missing_packs_are_named(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    for path in (made / "storage").iterdir():
        if "-m-" in path.name:
            shutil.copyfile(path, manifests / path.name)
    assert run(["decrypt", str(manifests), str(tmp_path / "out")]) == Exit.PARTIAL
    error = capsys.readouterr().err
    for path in (made / "storage").glob("*-p-*"):
        assert path.name in error


@pytest.mark.parametrize("what", ["missing", "empty folder", "strangers", "empty file"])
def test_a_source_without_objects(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    source = tmp_path / "source"
    if what == "empty folder":
        source.mkdir()
    elif what == "strangers":
        write(source / "photo.jpg", noise("jpg", 100_000))
    elif what == "empty file":
        source.write_bytes(b"")
    assert run(["decrypt", str(source), str(tmp_path / "out")]) == Exit.FAILED
    assert "pyarchiver: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["restore", "decrypt"])
def test_no_file_is_left_open(made: Path, tmp_path: Path, way: str) -> None:
    """Python would say so as a ResourceWarning."""
    command = _restore if way == "restore" else _decrypt
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        assert run(command(made, tmp_path / "out", "-q")) == Exit.DONE
    assert [str(warning.message) for warning in caught] == []
