"""password: new slots for what comes, and every slot that ever was opens the whole archive."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from helpers_cli import PASSWORD, contents, noise, on_terminal, write
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.database import Database
from pyarchiver.cmd import secrets
from pyarchiver.cmd.console import Console
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.cmd.streams import OutputError
from pyarchiver.formats.errors import CatalogueError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
NEW = "another Gazebo 52 marmalade"
CODE = re.compile(r"recovery code: ([0-9A-Z-]+)")


@pytest.fixture(autouse=True)
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sync", lambda: None)
    monkeypatch.setattr("click.prompt", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.delenv(secrets.NEW_PASSWORD_VARIABLE, raising=False)
    monkeypatch.delenv(secrets.CODE_VARIABLE, raising=False)


class Home:
    """An archive `photos` of one run, and ways to use it."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
        self.archive = folder / "photos.archive"
        self.storage = folder / "storage"
        self._patch = monkeypatch
        write(folder / "source" / "first.raw", noise("first", 30_000))
        ini = str(folder / "photos.ini")
        given = ["--name", "photos", "--source", "source", "--storage", "storage", "-q"]
        assert run(["init", ini, *given]) == Exit.DONE
        assert run(["start", ini]) == Exit.DONE
        found = CODE.search(capsys.readouterr().out)
        assert found is not None
        self.code = found[1]

    def password(self, *more: str, present: str = PASSWORD, new: str = NEW) -> int:
        self._patch.setenv(secrets.PASSWORD_VARIABLE, present)
        self._patch.setenv(secrets.NEW_PASSWORD_VARIABLE, new)
        return run(["password", str(self.archive), *more])

    def add(self, name: str) -> None:
        write(self.folder / "source" / name, noise(name, 30_000))
        assert run(["resume", str(self.archive), "-q"]) == Exit.DONE

    def opens(self, secret: str, *more: str, folder: Path | None = None) -> int:
        """Restore with a secret, or decrypt from a folder, and compare with the source."""
        variable = secrets.CODE_VARIABLE if more else secrets.PASSWORD_VARIABLE
        self._patch.setenv(variable, secret)
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = ["decrypt", str(folder)] if folder else ["restore", str(self.archive)]
        code = run([*command, str(out), *more, "-q"])
        if code == Exit.DONE:
            assert contents(out) == contents(self.folder / "source")
        return code

    def objects(self) -> list[Path]:
        return sorted(path for path in self.storage.iterdir() if re.search("-[pmc]-", path.name))


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Home:
    return Home(tmp_path, monkeypatch, capsys)


def test_the_new_password_opens_it_and_the_old_one_does_not(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert home.password() == Exit.DONE
    out = capsys.readouterr()
    assert "still open with the old password" in out.out
    assert NEW not in out.out + out.err
    assert home.opens(NEW) == Exit.DONE
    assert home.opens(PASSWORD) == Exit.FAILED
    assert "wrong password" in capsys.readouterr().err


def test_a_wrong_present_password_changes_nothing(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    before = home.archive.read_bytes()
    assert home.password(present="wrong") == Exit.FAILED
    assert "wrong password" in capsys.readouterr().err
    assert home.archive.read_bytes() == before
    assert home.opens(PASSWORD) == Exit.DONE


def test_the_same_password_is_refused(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.password(new=PASSWORD) == Exit.USAGE
    assert "nothing was changed" in capsys.readouterr().err


def test_resume_sends_the_new_slots_though_nothing_else_is_new(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the .archive alone would have the new password, and be lost with it."""
    before = set(home.objects())
    assert home.password() == Exit.DONE
    run(["status", str(home.archive)])
    assert "in no object yet" in capsys.readouterr().out
    assert home.opens(NEW, folder=home.storage) == Exit.FAILED
    assert run(["resume", str(home.archive)]) == Exit.DONE
    assert "snapshot 2" in capsys.readouterr().out
    assert len(set(home.objects()) - before) == 1
    run(["status", str(home.archive)])
    assert "in no object yet" not in capsys.readouterr().out
    assert run(["resume", str(home.archive)]) == Exit.DONE
    assert "nothing new" in capsys.readouterr().out
    assert home.opens(NEW, folder=home.storage) == Exit.DONE


@pytest.mark.parametrize("new_first", [True, False])
@pytest.mark.parametrize("secret", [PASSWORD, NEW])
def test_decrypt_opens_a_mix_with_either_password_in_either_order(
    home: Home, new_first: bool, secret: str
) -> None:
    old = home.objects()
    assert home.password() == Exit.DONE
    home.add("second.raw")
    new = [path for path in home.objects() if path not in old]
    mixed = home.folder / "mixed"
    mixed.mkdir()
    for place, path in enumerate([*new, *old] if new_first else [*old, *new]):
        # Names are not trusted, so files may be visited in any order.
        shutil.copy(path, mixed / f"{place:02}.{path.name}")
    assert home.opens(secret, folder=mixed) == Exit.DONE


def test_packs_under_three_passwords_open_with_each_of_them(home: Home) -> None:
    for number, (present, new) in enumerate([(PASSWORD, NEW), (NEW, "third Walrus 7 bassoon")]):
        assert home.password(present=present, new=new) == Exit.DONE
        home.add(f"more{number}.raw")
    packs = home.folder / "packs"
    packs.mkdir()
    for path in home.objects():
        if "-p-" in path.name:
            shutil.copy(path, packs)
    assert len(list(packs.iterdir())) == 3
    for secret in (PASSWORD, NEW, "third Walrus 7 bassoon"):
        assert home.opens(secret, folder=packs) == Exit.DONE
    assert home.opens("never was", folder=packs) == Exit.FAILED


def test_the_recovery_code_outlives_a_change_of_the_password_and_allows_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(secrets.CODE_VARIABLE, home.code)
    assert home.password("--recovery-code", present="forgotten") == Exit.DONE
    assert home.opens(NEW) == Exit.DONE
    assert home.opens(home.code, "--recovery-code") == Exit.DONE
    assert home.opens(home.code, "--recovery-code", folder=home.storage) == Exit.DONE


def test_a_new_recovery_code_replaces_the_old_one(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    old = home.code
    assert home.password("--new-recovery-code", "-q") == Exit.DONE
    new = CODE.search(capsys.readouterr().out)
    assert new is not None
    assert old != new[1]
    assert home.opens(new[1], "--recovery-code") == Exit.DONE
    assert home.opens(PASSWORD) == Exit.DONE
    assert home.opens(old, "--recovery-code") == Exit.FAILED
    assert home.opens(old, "--recovery-code", folder=home.storage) == Exit.DONE
    home.add("second.raw")
    for code in (old, new[1]):
        assert home.opens(code, "--recovery-code", folder=home.storage) == Exit.DONE


def test_json(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.password("--json") == Exit.DONE
    result = json.loads(capsys.readouterr().out)
    assert result["objects_before"] == len(home.objects())
    assert NEW not in str(result)
    assert home.password("--new-recovery-code", "--json", present=NEW) == Exit.DONE
    assert home.opens(json.loads(capsys.readouterr().out)["recovery_code"], "--recovery-code") == 0


@pytest.mark.parametrize("more", [[], ["--new-recovery-code"]])
def test_a_change_that_cannot_be_committed_leaves_the_old_slots(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    fired = []

    def full(*_: object) -> None:
        fired.append(True)
        raise CatalogueError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "_configure", full)
        assert home.password(*more) == Exit.FAILED
    assert fired
    assert "recovery code" not in capsys.readouterr().out
    assert home.opens(PASSWORD) == Exit.DONE


def test_a_code_that_cannot_be_shown_leaves_the_old_one(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []

    def lost(_: Console, code: str) -> None:
        shown.append(code)
        assert home.opens(code, "--recovery-code") == Exit.DONE
        raise OutputError("cannot write the result")

    monkeypatch.setattr(Console, "recovery_code", lost)
    assert home.password("--new-recovery-code") == Exit.FAILED
    assert home.opens(shown[0], "--recovery-code") == Exit.FAILED
    assert home.opens(home.code, "--recovery-code") == Exit.DONE


def test_a_run_under_way_or_a_deleted_archive_refuses(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with Catalogue.open(home.archive, write=True):
        assert home.password() == Exit.FAILED
    assert "in use" in capsys.readouterr().err
    assert run(["delete", str(home.archive), "--yes", "-q"]) == Exit.DONE
    assert home.password() == Exit.FAILED
    assert "is deleted" in capsys.readouterr().err


def test_slots_of_the_end_are_tried_where_those_in_front_were_altered(home: Home) -> None:
    """FORMAT.md, section 4: a damaged first copy must not cost an object."""
    packs = [path for path in home.objects() if "-p-" in path.name]
    [pack] = packs
    alone = home.folder / "alone"
    alone.mkdir()
    data = bytearray(pack.read_bytes())
    at = data.index(b"salt") + 10
    data[at] ^= 1
    (alone / pack.name).write_bytes(data)
    assert home.opens(PASSWORD, folder=alone) == Exit.DONE


def test_asked_on_a_terminal(home: Home) -> None:
    terminal = on_terminal("password", home.archive)
    terminal.answer("present password: ", PASSWORD)
    terminal.answer("new password (empty: six random words): ", "12345")
    terminal.expect("the password is weak")
    terminal.answer("new password (empty: six random words): ", NEW)
    terminal.answer("new password again: ", NEW)
    assert terminal.wait() == Exit.DONE
    assert NEW not in terminal.output
    assert home.opens(NEW) == Exit.DONE
