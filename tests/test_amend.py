"""settings: shown as an ini, and taken over from one, unless something would be lost by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import PASSWORD, contents, differences, noise, write
from pyarchiver.cas import archiver, courier
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.figures import PROFILES
from pyarchiver.cas.ini import KEPT, ini_text, read_ini
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.rows import ThawRow
from pyarchiver.cas.settings import settings_of
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run


class Home:
    """An archive `photos` of one run, and its settings as an ini."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.storage = folder / "storage"
        self.archive = folder / "photos.archive"
        self.ini = folder / "shown.ini"
        self.err = ""
        self._capsys = capsys

    def start(self, **edits: str) -> None:
        write(self.source / "first.raw", noise("first", 30_000))
        write(self.source / "shoot" / "second.raw", noise("second", 30_000))
        ini = self.folder / "photos.ini"
        given = ["--name", "photos", "--source", "source", "--storage", "storage"]
        assert run(["init", str(ini), *given, "--profile", "aws-deep-archive", "-q"]) == Exit.DONE
        self.edit(ini, **edits)
        assert run(["start", str(ini), "-q"]) == Exit.DONE
        self._capsys.readouterr()
        self.show()

    def show(self) -> str:
        assert run(["settings", str(self.archive)]) == Exit.DONE
        self.ini.write_text(self._capsys.readouterr().out)
        return self.ini.read_text()

    def edit(self, ini: Path, **edits: str) -> None:
        lines = ini.read_text().splitlines()
        for setting, value in edits.items():
            name = setting.replace("_", " ")
            [at] = [at for at, line in enumerate(lines) if line.partition(" =")[0] == name]
            lines[at] = f"{name} = {value}"
        ini.write_text("\n".join(lines))

    def amend(self, **edits: str) -> dict[str, Any]:
        """What is printed when the edited settings are taken over."""
        self.edit(self.ini, **edits)
        code = run(["settings", str(self.archive), str(self.ini), "--json"])
        out, self.err = self._capsys.readouterr()
        result: dict[str, Any] = json.loads(out)
        assert result["exit"] == code, self.err
        return result

    def refused(self, **edits: str) -> str:
        """Why they are not; nothing is changed."""
        before = self.values()
        result = self.amend(**edits)
        assert result["exit"] in (Exit.FAILED, Exit.USAGE)
        assert self.values() == before
        return str(result["error"])

    def values(self) -> dict[str, str]:
        with Catalogue.open(self.archive, write=False) as catalogue:
            return catalogue.settings

    def status(self) -> dict[str, Any]:
        assert run(["status", str(self.archive), "--json"]) == Exit.DONE
        found: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return found

    def resume(self) -> dict[str, Any]:
        code = run(["resume", str(self.archive), "--json"])
        out, self.err = self._capsys.readouterr()
        result: dict[str, Any] = json.loads(out)
        assert code == Exit.DONE, self.err
        return result


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Home:
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    return Home(tmp_path, capsys)


# Shown


def test_what_is_shown_is_what_is_kept(home: Home) -> None:
    edits = {
        "exclude": ";odd\n    *.tmp\n    /cache/", "ignore": "ctime", "upload_limit": "5 MB",
        "price_of_thaw": "0.5", "prices_from": "2044, my contract", "chunk_size": "64 KiB",
    }  # fmt: skip
    home.start(**edits)
    with Catalogue.open(home.archive, write=False) as catalogue:
        kept = settings_of(catalogue)
    assert read_ini(home.ini) == kept
    assert kept.exclude == (";odd", "*.tmp", "/cache/")
    text = home.ini.read_text()
    for line in ("upload limit = 5 MB", "pack size = 232 MiB", "price of thaw = 0.5"):
        assert line in text.splitlines()
    assert "# Prices without tax" in text
    assert home.amend()["changes"] == {}
    assert not home.status()["settings_unsent"]


@pytest.mark.parametrize("name", PROFILES)
def test_each_profile_is_shown_and_read_back(tmp_path: Path, name: str) -> None:
    url = {"file": "file:///packs", "sftp": "sftp://host/packs", "s3": "s3://bucket/packs"}
    path = tmp_path / "photos.ini"
    path.write_text(
        f"[archive]\nname = photos\nsource = s\n[storage]\nprofile = {name}\n"
        f"url = {url[PROFILES[name].scheme]}\n"
    )
    settings = read_ini(path)
    path.write_text(ini_text(settings))
    assert read_ini(path) == settings
    assert read_ini(path).profile == PROFILES[name]


def test_passwords_are_not_shown_and_stay(home: Home) -> None:
    home.start()
    with Catalogue.open(home.archive, write=True) as catalogue, catalogue.transaction():
        there = {"url": "sftp://host/packs", "profile": "sftp", "sftp.password": "Hush 11 puppies"}
        figures = {n: v for n, v in catalogue.settings.items() if not n.startswith("profile.")}
        catalogue.set_settings({**figures, **there, "sftp.login": "password"})
    text = home.show()
    assert "Hush" not in text
    assert f"password = {KEPT}" in text.splitlines()
    assert run(["settings", str(home.archive), "--json"]) == Exit.DONE
    assert "Hush" not in home._capsys.readouterr().out
    assert home.amend(upload_limit="1 MB")["changes"].keys() == {"upload limit"}
    assert home.values()["sftp.password"] == "Hush 11 puppies"
    told = home.amend(password="Other 12 puppies")
    assert told["changes"] == {"sftp.password": ["(not shown)", "(not shown)"]}
    assert home.values()["sftp.password"] == "Other 12 puppies"


# Changed


def test_prices_of_another_decade(home: Home) -> None:
    home.start()
    told = home.amend(price_of_storage="0.5", thaw_delay="5 d", prices_from="2044-11 contract")
    assert told["changes"]["profile.price of storage"] == ["", "0.5"]
    with Catalogue.open(home.archive, write=False) as catalogue:
        profile = settings_of(catalogue).profile
    assert (profile.prices.storage, profile.terms.delay) == (0.5, 5 * 86_400)
    assert profile.prices.source == "2044-11 contract"
    assert profile.prices.thaw == PROFILES["aws-deep-archive"].prices.thaw


def test_the_next_run_sends_them_and_recover_has_them(home: Home) -> None:
    home.start()
    assert not home.resume()["new"]
    home.amend(price_of_storage="0.5", exclude="*.tmp")
    assert home.status()["settings_unsent"]
    assert home.resume()["snapshot"] == 2
    assert not home.status()["settings_unsent"]
    assert not home.resume()["new"]
    kept = home.values()
    home.archive.unlink()
    assert run(["recover", str(home.storage), str(home.archive), "-q"]) == Exit.DONE
    assert home.values() == kept


def test_a_pattern_more(home: Home) -> None:
    home.start()
    write(home.source / "x.tmp", b"x")
    home.amend(exclude="*.tmp")
    home.resume()
    assert run(["list", str(home.archive)]) == Exit.DONE
    listed = home._capsys.readouterr().out
    assert "first.raw" in listed
    assert "x.tmp" not in listed


def test_the_source_moved(home: Home) -> None:
    home.start()
    home.source.rename(home.folder / "elsewhere")
    told = home.amend(source="elsewhere")
    before, after = str(home.source), str(home.folder / "elsewhere")
    assert told["changes"] == {"source": [before, after]}
    packs = {name for name in contents(home.storage) if "-p-" in name}
    done = home.resume()
    assert done["gone"] == 0
    assert {name for name in contents(home.storage) if "-p-" in name} == packs


@pytest.mark.parametrize("what", ["nothing", "empty", "other"])
def test_a_source_that_is_another_is_refused(home: Home, what: str) -> None:
    home.start()
    other = home.folder / "other"
    if what != "nothing":
        other.mkdir()
    if what == "other":
        write(other / "films" / "x.mov", b"x")
    said = home.refused(source="other")
    assert str(other) in said
    if what != "nothing":
        assert "has nothing of what is archived, such as first.raw" in said


def test_the_storage_moved(home: Home) -> None:
    home.start()
    with Catalogue.open(home.archive, write=True) as catalogue:
        catalogue.set_download_rate(1e6)
        catalogue.record_thaw(1, ThawRow(1.0, 2.0, None))
    home.storage.rename(home.folder / "new disk")
    told = home.amend(url="new disk")
    assert told["changes"]["url"][1] == (home.folder / "new disk").as_uri()
    assert told["problems"] == []
    with Catalogue.open(home.archive, write=False) as catalogue:
        assert catalogue.download_rate is None
        assert not list(catalogue.thaws())
    write(home.source / "third.raw", noise("third", 30_000))
    home.resume()
    assert not home.storage.exists()
    assert run(["restore", str(home.archive), str(home.folder / "out"), "-q"]) == Exit.DONE
    assert differences(home.source, home.folder / "out") == ""
    assert run(["verify", str(home.archive), "-q"]) == Exit.DONE


def test_a_storage_without_the_objects_is_refused(home: Home) -> None:
    home.start()
    other = home.folder / "other"
    assert "other" in home.refused(url="other")
    other.mkdir()
    said = home.refused(url="other")
    assert said.startswith("none of ")
    assert f"in the storage {other.as_uri()}" in said


def test_what_did_not_come_along_is_named(home: Home) -> None:
    home.start()
    other = home.folder / "other"
    shutil.copytree(home.storage, other)
    [pack] = other.glob("*-p-*")
    pack.unlink()
    told = home.amend(url="other")
    assert told["exit"] == Exit.PARTIAL
    assert told["problems"] == [f"object {pack.name} is missing"]
    shutil.copy(home.storage / pack.name, pack)
    assert run(["verify", str(home.archive), "-q"]) == Exit.DONE


def test_what_waits_to_be_sent_is_not_left_behind(home: Home) -> None:
    """A run ended with a pack in the old storage that has not its name yet."""
    home.start()

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(courier.Courier, "send", ended)
        write(home.source / "third.raw", noise("third", 30_000))
        with Catalogue.open(home.archive, write=True) as catalogue:
            archiver.resume(catalogue, Quiet())
    [part] = home.storage.glob("*.part")
    other = home.folder / "other"
    shutil.copytree(home.storage, other)
    (other / part.name).unlink()
    said = home.refused(url="other")
    assert f"not yet there: 1 object, such as {other / part.name}: resume" in said
    part.rename(other / part.name)
    home.amend()
    assert home.resume()["snapshot"] == 2


# Refused


@pytest.mark.parametrize(
    ("edit", "why"),
    [({"suite": "xchacha20poly1305"}, "setting 'suite' stays aegis256"),
     ({"chunk_size": "64 KiB"}, "files would be cut anew")],
    ids=str,
)  # fmt: skip
def test_what_may_not_change(home: Home, edit: dict[str, str], why: str) -> None:
    home.start()
    said = home.refused(**edit, price_of_storage="1")
    assert why in said
    assert "nothing was changed" in said
    number = 1 + [line.partition(" =")[0] for line in home.ini.read_text().splitlines()].index(
        next(iter(edit)).replace("_", " ")
    )
    assert f"{home.ini}, line {number}: " in said


def test_a_wrong_line_changes_nothing(home: Home) -> None:
    home.start()
    assert "setting 'price of thaw'" in home.refused(price_of_thaw="cheap", exclude="*.tmp")
    assert "lies in the source" in home.refused(price_of_thaw="1", url="source/storage")


def test_settings_that_cannot_be_used_can_be_replaced(home: Home) -> None:
    home.start()
    with Catalogue.open(home.archive, write=True) as catalogue, catalogue.transaction():
        catalogue.set_settings({**catalogue.settings, "profile": "a-later-one"})
    assert run(["status", str(home.archive)]) != Exit.DONE
    home._capsys.readouterr()
    assert home.amend()["changes"].keys() == {"profile"}
    home.status()


def test_deleted(home: Home) -> None:
    home.start()
    assert run(["delete", str(home.archive), "--yes", "-q"]) == Exit.DONE
    home._capsys.readouterr()
    assert "is deleted" in home.refused(exclude="*.tmp")


@pytest.mark.parametrize("odd", ["ends in a space ", "of two\nlines", "not UTF-8: \udcff"])
def test_a_source_that_an_ini_file_cannot_hold_stays(home: Home, odd: str) -> None:
    """It came in by a link; another setting can be changed all the same."""
    source = home.folder / odd
    source.mkdir()
    home.source.symlink_to(source)
    home.start()
    assert f"source = {KEPT}\n" in home.ini.read_text()
    assert home.amend(compression="4")["changes"] == {"compression": ["3", "4"]}
    assert home.values()["source"] == str(source)
