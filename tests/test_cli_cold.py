"""Restores from cold storage as a user drives them, on a simulated clock."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from helpers_cas import tuned
from helpers_cli import PASSWORD, contents, differences, noise, write
from helpers_cold import HOUR, ColdFolder, FakeClock
from pyarchiver.cas import storage as storage_module
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.clock import SystemClock
from pyarchiver.cas.profiles import WINDOW_SHARE
from pyarchiver.cas.storage import Stored
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
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
T = TypeVar("T")


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
    with tuned(pack_size=PACK, block_size=1 << 18), with_password():
        assert run(["start", str(ini), "-q"]) == Exit.DONE
    (home / "profile").write_text(profile)
    return home


@contextmanager
def with_password() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
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


def test_wait_stays(desk: Desk) -> None:
    code, done = desk.restore("--wait")
    assert (code, done["restored"]) == (Exit.DONE, FILES + 2)
    assert desk.clock.slept >= desk.storage.delay
    told = f"waiting for {len(desk.packs())} objects to thaw, the first until about "
    assert any(notice.startswith(told) for notice in done["notices"])
    desk.check()
    desk.asked_once()


def test_another_folder_and_another_machine(desk: Desk) -> None:
    """What was thawed for one restore serves the next, with a copy of the .archive too."""
    desk.restore()
    desk.thawed()
    elsewhere = desk.home / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(desk.archive, elsewhere)
    for archive, into in ((desk.archive, "one"), (elsewhere / "photos.archive", "two")):
        desk.archive = archive
        assert desk.restore(into=into)[0] == Exit.DONE
        desk.check(into)
    desk.asked_once()


def test_words(desk: Desk) -> None:
    text = desk.text("restore", desk.home / "out")
    count = len(desk.packs())
    assert f"waiting for the thaw of {count} objects" in text
    assert "the first can be read about 20" in text
    assert "run the same command again then" in text
    assert f"asked for the thaw of {count} objects" in desk.err


# Killed


class Mortal(ColdFolder):
    """Dies at the n-th thing that it is asked; with `late` after doing it."""

    left = 1 << 60
    late = False

    def look(self, name: str) -> Stored:
        return self._mortally(lambda: super(Mortal, self).look(name))

    def thaw(self, name: str, days: int, tier: str) -> None:
        self._mortally(lambda: super(Mortal, self).thaw(name, days, tier))

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        return self._mortally(lambda: super(Mortal, self).get_into(name, start, into))

    def _mortally(self, action: Callable[[], T]) -> T:
        self.left -= 1
        if not self.left and not self.late:
            raise Killed
        try:
            return action()
        finally:
            if not self.left:
                raise Killed


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_killed_at_every_step(desk: Desk, late: bool) -> None:
    """Whatever the storage was being asked: run again, it ends well, and each thaw is paid once."""
    made, steps, paths = desk.storage.folder, 0, ("film.mov", "shoot0")
    shutil.copy(desk.archive, desk.home / "untouched")
    expected = {
        path: data for path, data in contents(desk.source).items() if path.startswith(paths)
    }
    while True:
        steps += 1
        desk.storage = storage = Mortal(made, desk.clock, **PROFILES[desk.profile])
        storage.left, storage.late = steps, late
        shutil.copy(desk.home / "untouched", desk.archive)
        shutil.rmtree(desk.home / "out", ignore_errors=True)
        codes = [desk.restore(*paths)[0], desk.restore(*paths)[0]]
        desk.thawed()
        codes += [desk.restore(*paths)[0], desk.restore(*paths)[0]]
        assert contents(desk.home / "out") == expected
        assert set(storage.requests.values()) == {1}
        assert codes[-1] == Exit.DONE
        assert codes.count(Exit.FAILED) == (storage.left <= 0)
        if storage.left > 0:
            break
    # Seen at each object: two looks, a request, and reads of headers and segments.
    assert steps > 5 * len(storage.requests) >= 5 * 2


def test_the_machine_goes_down_while_it_waits(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    naps = [3]

    def power_cut(_: SystemClock, seconds: float) -> None:
        desk.clock.sleep(seconds)
        naps[0] -= 1
        if not naps[0]:
            raise Killed

    monkeypatch.setattr(SystemClock, "sleep", power_cut)
    assert desk.restore("--wait")[0] == Exit.FAILED
    assert naps == [0]
    assert desk.restore("--wait")[0] == Exit.DONE
    desk.check()
    desk.asked_once()


# Waves


def test_waves_respect_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slow link: never more is asked for than it can fetch in time, and nothing lapses."""
    rate = 2.2 * PACK / (HOUR * WINDOW_SHARE)
    edits = {"thaw_window": "1 h", "download_rate": f"{rate:.0f} B", "thaw_poll": "1 min"}
    desk = seat(make(tmp_path / "made", "aws-deep-archive", **edits), tmp_path, monkeypatch, capsys)
    desk.storage.window, desk.storage.rate = HOUR, rate
    code, asked = desk.restore()
    assert (code, asked["waiting"]) == (Exit.WAITING, len(desk.packs()))
    assert len(desk.storage.requests) == 2
    assert desk.restore("--wait")[0] == Exit.DONE
    assert PACK < desk.storage.most_outstanding <= 2.2 * PACK
    assert desk.storage.lapsed == 0
    desk.check()
    desk.asked_once()
    desk.storage.close()


# Plan and cost


def test_the_plan_asks_nothing_and_is_right(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    get_into = ColdFolder.get_into

    def counted(storage: ColdFolder, name: str, start: int, into: memoryview) -> int:
        nonlocal read
        count = get_into(storage, name, start, into)
        read += count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "_adapter", lambda settings: pytest.fail("asked"))
        code, plan = desk.run("restore", desk.home / "out", "--plan", "film.mov", "shoot0")
    assert code == Exit.DONE
    assert {row["name"]: row["size"] for row in plan["objects"]}.items() <= desk.packs().items()
    found = plan["estimate"]
    assert found["wanted"] == plan["size"] == 700_000 + 4 * SIZE
    assert found["thaws"] == len(plan["objects"]) < len(desk.packs())
    assert found["thaw_size"] == sum(row["size"] for row in plan["objects"])
    read_most = max(found["thaw_size"], found["download"])
    assert found["amplification"] == read_most / found["wanted"] > 1
    delay = 48 * HOUR if desk.profile == "aws-deep-archive" else 4 * HOUR
    assert delay < found["seconds"] < delay + 10
    desk.restore("film.mov", "shoot0")
    desk.thawed()
    monkeypatch.setattr(ColdFolder, "get_into", counted)
    assert desk.restore("film.mov", "shoot0")[0] == Exit.DONE
    assert read == found["download"] == plan["read"]
    again = desk.run("restore", desk.home / "out", "--plan", "film.mov", "shoot0")[1]["estimate"]
    assert (again["thaws"], again["thaw_size"]) == (0, 0)


def test_without_ranges_whole_objects_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tmp_path / "made", "ovh-cloud-archive", ranges="no")
    desk = seat(made, tmp_path, monkeypatch, capsys)
    _, plan = desk.run("restore", desk.home / "out", "--plan", "shoot0/00.raw")
    assert plan["read"] == sum(row["size"] for row in plan["objects"])
    assert desk.restore()[0] == Exit.WAITING
    desk.thawed()
    assert desk.restore()[0] == Exit.DONE
    desk.check()
    desk.asked_once()


def test_cost(desk: Desk) -> None:
    _, plan = desk.run("restore", desk.home / "out", "--plan")
    found = plan["estimate"]
    if desk.profile == "ovh-cloud-archive":
        assert found["cost"] is None
        assert "cost: not known" in desk.text("restore", desk.home / "out", "--plan")
        return
    gb = sum(desk.packs().values()) / 1e9
    expected = gb * (0.0025 + 0.023 * 7 / 30) + len(desk.packs()) / 1000 * 0.025
    assert found["cost"] == pytest.approx(expected + found["download"] / 1e9 * 0.09)
    assert found["currency"] == "USD"
    assert f"cost: about {found['cost']:.6f} USD" in desk.text(
        "restore", desk.home / "out", "--plan"
    )


@pytest.mark.parametrize("command", [["restore", "out"], ["thaw"]], ids=lambda words: words[0])
def test_a_maximum_refuses_before_anything_is_asked(desk: Desk, command: list[str]) -> None:
    name, *into = command
    words = [name, *(desk.home / folder for folder in into), "--max-cost"]
    code, result = desk.run(*map(str, words), "0.000001")
    assert code == Exit.FAILED
    known = desk.profile == "aws-deep-archive"
    expected = "more than 0.000001" if known else "what it would cost is not known"
    assert expected in result["error"]
    assert "nothing was asked for" in result["error"]
    assert not desk.storage.requests
    if known:
        assert desk.run(*map(str, words), "1")[0] == Exit.WAITING
        desk.asked_once()


def test_a_maximum_counts_only_what_is_still_to_be_paid(desk: Desk) -> None:
    if desk.profile != "aws-deep-archive":
        return
    cost = desk.run("restore", desk.home / "out", "--plan")[1]["estimate"]["cost"]
    assert desk.restore("--max-cost", f"{cost * 1.01:.9f}")[0] == Exit.WAITING
    desk.thawed()
    assert desk.restore("--max-cost", f"{cost * 0.9:.9f}")[0] == Exit.DONE
    desk.check()


# thaw


def test_thaw_asks_for_what_paths_need(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE)
    code, asked = desk.run("thaw", "shoot0")
    count = asked["objects"]
    assert code == Exit.WAITING
    assert 1 <= count < len(desk.packs())
    assert (asked["asked"], asked["under_way"], asked["readable"], asked["later"]) == (
        count, count, 0, 0,
    )  # fmt: skip
    code, again = desk.run("thaw", "shoot0")
    assert (code, again["asked"], again["under_way"]) == (Exit.WAITING, 0, count)
    desk.thawed()
    assert desk.run("thaw", "shoot0")[0] == Exit.DONE
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    assert desk.restore("shoot0")[0] == Exit.DONE
    assert set(desk.storage.requests.values()) == {1}
    assert len(desk.storage.requests) == count
    assert f"{count} objects" in desk.text("thaw", "shoot0")


# Deleted paths, and deleting


def test_the_plan_tells_what_belongs_to_deleted_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tmp_path / "made", "local-disk")
    source = made / "source"
    (source / "shoot0" / "00.raw").rename(source / "moved.raw")
    (source / "shoot0" / "01.raw").unlink()
    with tuned(pack_size=PACK, block_size=1 << 18), with_password():
        assert run(["resume", str(made / "photos.archive"), "-q"]) == Exit.DONE
    capsys.readouterr()
    words = ["restore", str(made / "photos.archive"), str(tmp_path / "out"), "--plan"]
    assert run([*words, "--json"]) == Exit.DONE
    plan = json.loads(capsys.readouterr().out)
    assert (plan["deleted"], plan["deleted_shared"]) == (2 * SIZE, SIZE)
    assert run(words) == Exit.DONE
    text = capsys.readouterr().out
    assert "400.0 kB of it belong to deleted paths, 200.0 kB of that are also elsewhere" in text
    for more in (["--exact"], ["--snapshot", "1"]):
        assert run([*words, "--json", *more]) == Exit.DONE
        plan = json.loads(capsys.readouterr().out)
        assert (plan["deleted"], plan["deleted_shared"]) == (0, 0)


def test_delete_says_what_early_deletion_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = seat(make(tmp_path / "made", "aws-deep-archive"), tmp_path, monkeypatch, capsys)
    with Catalogue.open(desk.archive, write=False) as catalogue:
        ended = catalogue.snapshots()[0].ended / 1e9
    desk.clock.time = ended + 30 * 24 * HOUR
    packs = desk.packs()
    code, result = desk.run("delete", "--yes")
    assert code == Exit.DONE
    gb = (sum(packs.values()) + len(packs) * (32 << 10)) / 1e9
    fee = result["early_deletion"]
    assert fee["objects"] == len(packs)
    assert fee["days"] == pytest.approx(150)
    assert fee["cost"] == pytest.approx(gb * 0.00099 * 5)
    notices = " ".join(result["notices"])
    assert f"{len(packs)} of them are younger than the storage's minimum" in notices


def test_no_fee_after_the_minimum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = seat(make(tmp_path / "made", "aws-deep-archive"), tmp_path, monkeypatch, capsys)
    desk.clock.time += 1000 * 24 * HOUR
    _, result = desk.run("delete", "--yes")
    assert result["early_deletion"]["objects"] == 0
    assert "younger" not in " ".join(result["notices"])
