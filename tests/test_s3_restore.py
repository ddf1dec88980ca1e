"""A restore from moto's Glacier, killed at each request that it makes, and run again each time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

import servers_s3 as s3
from helpers_cas import tuned
from helpers_cli import PASSWORD, differences, noise, write
from helpers_job import PACK, Job, in_bucket, program
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit

KILLED = -signal.SIGKILL
# Processes that have boto loaded.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["helpers_job", "pyarchiver.cas.s3", "pyarchiver.cas.readback"])


class Killer:
    """Kills a process as the server gets, or has done, its request of that number."""

    def __init__(self, moto: s3.Moto, number: int, moment: str) -> None:
        self.requests = 0
        self._left = number
        self._moment = moment
        self._process = 0
        self._started = threading.Event()
        moto.refuse, moto.answered = self._before, self._after

    def run(self, *words: object) -> int:
        """The exit code of the program, which is KILLED where it made that many requests."""
        process = PROCESSES.Process(target=program, args=([*map(str, words)], PASSWORD))
        process.start()
        assert process.pid is not None
        self._process = process.pid
        self._started.set()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    def _before(self, request: s3.Request) -> tuple[int, str] | None:
        self._started.wait()
        self._left -= 1
        if self._left or self._moment != "before":
            return None
        os.kill(self._process, signal.SIGKILL)
        return 503, "Killed"

    def _after(self, request: s3.Request) -> None:
        if not self._left and self._moment == "after":
            os.kill(self._process, signal.SIGKILL)


class Glacier(Job):
    """An archive of some packs in DEEP_ARCHIVE, all cold, and restores that are killed."""

    @property
    def moto(self) -> s3.Moto:
        server = self.far.server
        assert isinstance(server, s3.Moto)
        return server

    @property
    def packs(self) -> set[str]:
        return {key for key, found in self.moto.objects().items()
                if found.storage_class == "DEEP_ARCHIVE"}  # fmt: skip

    def until_it_ends(self, moment: str) -> tuple[int, int]:
        """Restores, of which number N is killed at its request N; (how many, last exit code)."""
        for number in range(1, 200):
            code = Killer(self.moto, number, moment).run(*self._words)
            if code != KILLED:
                return number, code
        raise AssertionError("it never ends")

    def restore_to_the_end(self) -> int:
        """A restore that nobody kills; its exit code."""
        return Killer(self.moto, 0, "never").run(*self._words)

    @property
    def _words(self) -> list[object]:
        return ["restore", self.archive, self.home / "out", "--exact", "-q"]

    def check(self) -> None:
        assert differences(self.source, self.home / "out") == ""
        assert not list((self.home / "out").glob(".pyarchiver*"))

    def asked(self, times: int) -> None:
        assert self.moto.thaws == dict.fromkeys(self.packs, times)


@pytest.fixture
def glacier(
    moto_server: s3.Moto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Glacier:
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    for number in range(10):
        write(tmp_path / "source" / f"{number:02}.raw", noise(number, 250_000))
    job = Glacier(tmp_path, in_bucket(moto_server, "aws-deep-archive"), capsys)
    with tuned(pack_size=PACK, block_size=1 << 18):
        job.start()
    assert len(job.packs) >= 3
    moto_server.requests.clear()
    return job


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_every_request(glacier: Glacier, moment: str) -> None:
    """While it asks, while it waits, while it fetches: each thaw is asked for once."""
    runs, code = glacier.until_it_ends(moment)
    assert code == Exit.WAITING
    assert runs > len(glacier.packs)
    glacier.asked(1)
    assert glacier.restore_to_the_end() == Exit.WAITING, "nothing can be read yet"
    glacier.asked(1)
    glacier.moto.open()
    runs, code = glacier.until_it_ends(moment)
    assert code == Exit.DONE
    assert runs > len(glacier.packs)
    glacier.check()
    glacier.asked(1)


def test_only_what_lapsed_is_asked_for_again(glacier: Glacier) -> None:
    """Some packs are fetched in time, the others not."""
    assert glacier.restore_to_the_end() == Exit.WAITING
    glacier.moto.open()
    fetched = set(sorted(glacier.packs)[:2])
    lapsed = glacier.packs - fetched
    glacier.moto.lapse(*lapsed)
    assert glacier.restore_to_the_end() == Exit.WAITING
    glacier.moto.lapse(*fetched)
    glacier.moto.open()
    assert glacier.restore_to_the_end() == Exit.DONE
    glacier.check()
    assert glacier.moto.thaws == Counter(dict.fromkeys(fetched, 1) | dict.fromkeys(lapsed, 2))
