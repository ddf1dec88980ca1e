"""A restore through a cold SFTP gateway, killed at each thing that it asks, and run again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from gateway import Gateway, cold_gateway
from helpers_cas import tuned
from helpers_cli import PASSWORD, differences, noise, write
from helpers_cold import HOUR, FakeClock
from helpers_job import PACK, Far, Job
from pyarchiver.cas import storage as storage_module
from pyarchiver.cas.clock import SystemClock
from pyarchiver.cas.settings import Settings
from pyarchiver.cas.storage import Storage, Stored
from pyarchiver.cas.wrappers import Wrapper
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit

T = TypeVar("T")


class Killed(BaseException):
    """Stands for kill -9: nothing of the program runs after it but what closes files."""


class Mortal(Wrapper):
    """Dies at the n-th thing that it is asked; with `late`, when it was done."""

    def __init__(self, inner: Storage, left: list[int], late: bool) -> None:
        super().__init__(inner)
        self._left = left
        self._late = late

    def look(self, name: str) -> Stored:
        return self._mortally(lambda: self.inner.look(name))

    def thaw(self, name: str, days: int, tier: str) -> None:
        self._mortally(lambda: self.inner.thaw(name, days, tier))

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        return self._mortally(lambda: self.inner.get_into(name, start, into))

    def _mortally(self, action: Callable[[], T]) -> T:
        self._left[0] -= 1
        if not self._left[0] and not self._late:
            raise Killed
        try:
            return action()
        finally:
            if not self._left[0]:
                raise Killed


class Tape(Job):
    """An archive of some packs behind the gateway, all sealed."""

    gateway: Gateway
    clock: FakeClock
    late = False

    def open(self) -> None:
        """What was asked for can be read now."""
        self.clock.time += self.gateway.delay + 60

    def attempt(self, *more: object) -> int:
        return int(self.run("restore", self.archive, self.home / "out", "--exact", *more)["exit"])

    def until_it_ends(self) -> tuple[int, int]:
        """Restores, of which number N is killed at its step N; (how many, last exit code)."""
        adapter = storage_module._adapter
        for number in range(1, 200):
            left = [number]

            def mortal(settings: Settings, left: list[int] = left) -> Storage:
                return Mortal(adapter(settings), left, self.late)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(storage_module, "_adapter", mortal)
                code = self.attempt()
            if left[0] > 0:
                return number, code
            assert code == Exit.FAILED
        raise AssertionError("it never ends")

    def check(self) -> None:
        assert differences(self.source, self.home / "out") == ""
        assert not list((self.home / "out").glob(".pyarchiver*"))

    def asked(self, times: int) -> None:
        packs = {name for name in self.far.names() if "-p-" in name}
        assert len(packs) >= 3
        assert {Path(name).name: count for name, count in self.gateway.requests.items()} == (
            dict.fromkeys(packs, times)
        )


@pytest.fixture
def tape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Tape]:
    clock = FakeClock()
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.setattr(SystemClock, "now", lambda self: clock.now())
    monkeypatch.setattr(SystemClock, "sleep", lambda self, seconds: clock.sleep(seconds))
    monkeypatch.setattr("pyarchiver.cas.tree.sync_below", lambda folder: None)
    for number in range(10):
        write(tmp_path / "source" / f"{number:02}.raw", noise(number, 250_000))
    with cold_gateway(tmp_path / "server", clock) as (server, gateway):
        far = Far(
            server.url("photos"),
            "ovh-cloud-archive",
            lambda: {path.name for path in (gateway.folder / "photos").iterdir()},
            server.options,
        )
        tape = Tape(tmp_path, far, capsys)
        tape.gateway, tape.clock = gateway, clock
        with tuned(pack_size=PACK, block_size=1 << 18):
            tape.start()
        gateway.requests.clear()
        yield tape


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_killed_at_every_step(tape: Tape, late: bool) -> None:
    """While it asks, while it waits, while it fetches: each thaw is asked for once."""
    tape.late = late
    runs, code = tape.until_it_ends()
    assert code == Exit.WAITING
    assert runs > 3
    tape.asked(1)
    assert tape.attempt() == Exit.WAITING, "nothing can be read yet"
    tape.open()
    runs, code = tape.until_it_ends()
    assert code == Exit.DONE
    assert runs > 3
    tape.check()
    tape.asked(1)


def test_waits_through_dropped_sessions(tape: Tape) -> None:
    """One command, two days of a simulated clock, and sessions that end in the middle of a pack."""
    tape.gateway.drop = [300_000, 500_000]
    assert tape.attempt("--wait") == Exit.DONE
    assert tape.gateway.dropped == 2
    tape.check()
    tape.asked(1)


def test_sealed_again_before_it_was_fetched(tape: Tape) -> None:
    """Only what lapsed is asked for again."""
    assert tape.attempt() == Exit.WAITING
    tape.clock.time += 12 * HOUR + tape.gateway.window + HOUR
    for _ in range(3):
        assert tape.attempt() == Exit.WAITING
        tape.asked(2)
    tape.open()
    assert tape.attempt() == Exit.DONE
    tape.check()
    tape.asked(2)
    shutil.rmtree(tape.home / "out")
    assert tape.attempt() == Exit.DONE, "thawed for one, it serves the other"
    tape.asked(2)
