"""Restores from cold storage as a user drives them, on a simulated clock."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers_cas import tuned
from helpers_cli import PASSWORD, differences, noise, write
from helpers_cold import HOUR, ColdFolder, FakeClock
from pyarchiver.cas import storage as storage_module
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.clock import SystemClock
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats import keys
from pyarchiver.formats.header import Kind

# What each storage really does: whether it hides what is going on, its delay, its window.
PROFILES: dict[str, dict[str, Any]] = {
    "aws-deep-archive": {"blind": False, "delay": 40 * HOUR, "window": 7 * 24 * HOUR},
    "ovh-cloud-archive": {"blind": True, "delay": 4 * HOUR, "window": 24 * HOUR},
}
PACK = 1 << 20
FILES = 16
SIZE = 200_000
PACKS = 4


class Killed(BaseException):
    """Stands for kill -9."""


class Desk:
    """A user with an archive in cold storage, and days to spare."""

    def __init__(
        self, made: Path, home: Path, capsys: pytest.CaptureFixture[str], profile: str
    ) -> None:
        self.home = home
        self.source = made / "source"
        self.archive = home / "photos.archive"
        shutil.copy(made / "photos.archive", self.archive)
        self.clock = FakeClock()
        self.storage = ColdFolder(made / "storage", self.clock, **PROFILES[profile])
        self.profile = profile
        self.err = ""
        self._capsys = capsys

    def run(self, command: str, *more: object) -> tuple[int, dict[str, Any]]:
        """A command's exit code, and its result."""
        words = [command, str(self.archive), *map(str, more)]
        code = run([*words, "--json"])
        out, self.err = self._capsys.readouterr()
        result: dict[str, Any] = json.loads(out)
        assert result["exit"] == code, self.err
        return code, result

    def text(self, command: str, *more: object) -> str:
        """What a command prints."""
        run([command, str(self.archive), *map(str, more)])
        out, self.err = self._capsys.readouterr()
        return out

    def restore(self, *more: object, into: str = "out") -> tuple[int, dict[str, Any]]:
        return self.run("restore", self.home / into, *more)

    def thawed(self) -> None:
        """Time passes until what was asked for can be read."""
        self.later(self.storage.delay / HOUR + 0.1)

    def later(self, hours: float) -> None:
        self.clock.time += hours * HOUR

    def packs(self) -> dict[str, int]:
        with Catalogue.open(self.archive, write=False) as catalogue:
            return {row.name: row.size for row in catalogue.objects(Kind.PACK)}

    def check(self, into: str = "out") -> None:
        assert differences(self.source, self.home / into) == ""

    def asked_once(self) -> None:
        assert dict(self.storage.requests) == dict.fromkeys(self.packs(), 1)


@pytest.fixture(scope="module", params=PROFILES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of some packs, with the terms of a cold storage."""
    return make(tmp_path_factory.mktemp("made"), request.param)


def make(home: Path, profile: str, **edited: str) -> Path:
    """`edited`: figures of the ini's section [profile], with _ for spaces."""
    for number in range(FILES):
        write(home / "source" / f"shoot{number // 4}" / f"{number:02}.raw", noise(number, SIZE))
    write(home / "source" / "film.mov", noise("film", 700_000))
    (home / "source" / "link").symlink_to("film.mov")
    ini = home / "photos.ini"
    words = ["--name", "photos", "--source", "source", "--storage", "storage"]
    assert run(["init", str(ini), *words, "--profile", profile, "-q"]) == Exit.DONE
    lines = ini.read_text().splitlines()
    for setting, value in edited.items():
        name = setting.replace("_", " ")
        (number,) = (at for at, line in enumerate(lines) if line.startswith(f"{name} ="))
        lines[number] = f"{name} = {value}"
    ini.write_text("\n".join(lines).replace("chunk size = 512 KiB", "chunk size = 64 KiB"))
    with tuned(pack_size=PACK, block_size=1 << 18), quick_keys():
        assert run(["start", str(ini), "-q"]) == Exit.DONE
    (home / "profile").write_text(profile)
    return home


@contextmanager
def quick_keys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "ARGON2_OPS", 1)
        patch.setattr(keys, "ARGON2_MEMORY", 1 << 20)
        patch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
        yield


def seat(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Desk:
    desk = Desk(made, tmp_path, capsys, (made / "profile").read_text())
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.setattr("pyarchiver.cas.tree.sync_below", lambda folder: None)
    monkeypatch.setattr(storage_module, "_adapter", lambda settings: desk.storage)
    monkeypatch.setattr(SystemClock, "now", lambda self: desk.clock.now())
    monkeypatch.setattr(SystemClock, "sleep", lambda self, seconds: desk.clock.sleep(seconds))
    capsys.readouterr()
    return desk


@pytest.fixture
def desk(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Desk]:
    desk = seat(made, tmp_path, monkeypatch, capsys)
    yield desk
    desk.storage.close()


def test_over_days(desk: Desk) -> None:
    """Asked for, too early, and done: each time the same command."""
    code, asked = desk.restore()
    assert code == Exit.WAITING
    assert (asked["restored"], asked["waiting"]) == (0, len(desk.packs()))
    assert len(desk.packs()) >= PACKS
    assert asked["waiting_size"] == sum(desk.packs().values())
    desk.later(1)
    assert desk.restore()[0] == Exit.WAITING
    assert "thawing until about" in desk.text("status")
    desk.thawed()
    code, done = desk.restore()
    assert (code, done["waiting"], done["restored"]) == (Exit.DONE, 0, FILES + 2)
    desk.check()
    desk.asked_once()
    status = desk.run("status")[1]["thaws"]
    assert {row["name"] for row in status} == set(desk.packs())
    expected = "readable" if desk.storage.blind else "thawed"
    assert {row["state"] for row in status} == {expected}
    desk.later(24 * 30)
    assert desk.run("status")[1]["thaws"] == []
