"""Ctrl-C, SIGTERM and SIGHUP in every phase: what was done is kept, and the next run goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers_cli import PASSWORD, SILENCE, differences, environment, make_tree, noise, write
from helpers_disk import init, password
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.rows import STORED
from pyarchiver.cas.unlock import unlock
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats import recovery

__all__ = ["password"]
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
DRIVER = Path(__file__).with_name("signal_driver.py")


class Standing:
    """A command that stands still at a place, in a session of its own."""

    def __init__(self, home: Path, place: str, *words: str, nohup: bool = False) -> None:
        self._gate = home / "gate"
        self._gate.unlink(missing_ok=True)
        command = [sys.executable, str(DRIVER), f"pyarchiver.{place}", str(self._gate), *words]
        # Whether or not these tests run under nohup themselves.
        hangup = signal.SIG_IGN if nohup else signal.SIG_DFL
        self.process = subprocess.Popen(
            command, preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env=environment(PYARCHIVER_PASSWORD=PASSWORD),
        )  # fmt: skip
        assert self.process.stderr is not None
        self._said = b""
        for line in self.process.stderr:
            self._said += line
            if line == b"here\n":
                return
        raise AssertionError(self._said)

    def open_gate(self) -> None:
        """Let it go on."""
        self._gate.touch()

    def end(self) -> tuple[int, str]:
        """(exit code, all that was said) once it has ended; nothing of it may be left."""
        try:
            out, err = self.process.communicate(timeout=SILENCE)
        finally:
            self.process.kill()
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        said = (self._said + out + err).decode()
        assert "Traceback" not in said
        assert "Exception" not in said
        return self.process.returncode, said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """20 MB in two packs."""
    make_tree(tmp_path / "source", files=3, size=20_000)
    for number in range(10):
        write(tmp_path / "source" / "films" / f"{number}", noise(number, 2_000_000))
    init(tmp_path)
    return tmp_path


def _assert_complete(home: Path) -> None:
    """One more run at most, and all is there, once."""
    archive = home / "photos.archive"
    holds = archive.exists() and not Catalogue.unfinished(archive)
    assert run(["resume", str(archive)] if holds else ["start", str(home / "photos.ini")]) == 0
    with Catalogue.open(archive, write=False) as catalogue:
        rows = catalogue.objects()
        assert [done.run for done in catalogue.snapshots()] == [1]
    assert {row.state for row in rows} == {STORED}
    there = {path.name: path.stat().st_size for path in (home / "storage").iterdir()}
    assert there == {row.name: row.size for row in rows}
    assert sum(there.values()) < 22_500_000
    assert run(["restore", str(archive), str(home / "whole"), "-q"]) == Exit.DONE
    assert differences(home / "source", home / "whole") == ""


PHASES = [
    "cas.create:create",
    "cas.catalogue:Catalogue.create",
    "cas.catalogue:Catalogue._keep_slots",
    "cas.walk:Walker.folders",
    "cas.intake:Intake.read",
    "cas.packer:Packer._place",
    "cas.catalogue:Catalogue.stage",
    "cas.log:Log.write",
    "cas.catalogue:Catalogue.stage_manifest",
]


@pytest.mark.parametrize("place", PHASES)
def test_ctrl_c_during_a_start(home: Path, place: str) -> None:
    started = Standing(home, place, "start", str(home / "photos.ini"))
    started.process.send_signal(signal.SIGINT)
    code, said = started.end()
    assert code == Exit.INTERRUPTED
    assert "interrupted: what was done is kept, run again to go on" in said
    _assert_code_opens(home, said)
    _assert_complete(home)


def _assert_code_opens(home: Path, said: str) -> None:
    """A code was shown where there is an .archive that holds anything, and it opens that."""
    archive, shown = home / "photos.archive", re.findall(r"recovery code: ([0-9A-Z-]+)", said)
    assert len(shown) == int(archive.exists() and not Catalogue.unfinished(archive))
    for code in shown:
        with Catalogue.open(archive, write=False) as catalogue:
            unlock(catalogue, recovery.decode(code))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals(home: Path, number: signal.Signals) -> None:
    """A machine that shuts down, a terminal that is closed."""
    started = Standing(home, "cas.catalogue:Catalogue.stage", "start", str(home / "photos.ini"))
    started.process.send_signal(number)
    assert started.end()[0] == Exit.INTERRUPTED
    _assert_complete(home)


def test_nohup(home: Path) -> None:
    """What was started to go on without a terminal goes on."""
    started = Standing(
        home, "cas.catalogue:Catalogue.stage", "start", str(home / "photos.ini"), nohup=True
    )
    started.process.send_signal(signal.SIGHUP)
    started.open_gate()
    code, said = started.end()
    assert code == Exit.DONE
    assert "snapshot 1" in said


PUT = "cas.local:LocalStorage.put"


def test_a_transfer_under_way_is_completed(home: Path) -> None:
    """Ctrl-C while an object is on its way: it arrives, and is recorded."""
    started = Standing(home, PUT, "start", str(home / "photos.ini"))
    started.process.send_signal(signal.SIGINT)
    started.open_gate()
    assert started.end()[0] == Exit.INTERRUPTED
    with Catalogue.open(home / "photos.archive", write=False) as catalogue:
        stored = [row.name for row in catalogue.objects() if row.state == STORED]
    assert len(stored) == 1
    assert (home / "storage" / stored[0]).exists()
    _assert_complete(home)


def test_a_second_signal_ends_it_at_once(home: Path) -> None:
    """However long the transfer would take; the next run completes it."""
    started = Standing(home, PUT, "start", str(home / "photos.ini"))
    started.process.send_signal(signal.SIGINT)
    # Another one, as two of a kind that come together are one.
    started.process.send_signal(signal.SIGTERM)
    code, said = started.end()
    assert code == Exit.INTERRUPTED
    assert "interrupted again: ended at once" in said
    _assert_complete(home)


def test_ctrl_c_while_the_last_run_is_completed(home: Path) -> None:
    """What waits in the spool still does."""
    started = Standing(home, PUT, "start", str(home / "photos.ini"))
    started.process.kill()
    started.process.communicate()
    resumed = Standing(home, PUT, "resume", str(home / "photos.archive"))
    resumed.process.send_signal(signal.SIGINT)
    resumed.open_gate()
    assert resumed.end()[0] == Exit.INTERRUPTED
    _assert_complete(home)


@pytest.mark.parametrize(
    "place",
    ["cas.planner:Planner.run", "cas.restore:open_object", "cas.tree:Tree.write_piece",
     "cas.tree:Tree.finish_part", "cas.tree:Tree.dress", "cas.tree:Tree.sync"],
)  # fmt: skip
def test_ctrl_c_during_a_restore(home: Path, place: str) -> None:
    """Run again, it goes on; nothing half is left."""
    assert run(["start", str(home / "photos.ini"), "-q"]) == Exit.DONE
    words = ["restore", str(home / "photos.archive"), str(home / "out")]
    restoring = Standing(home, place, *words)
    restoring.process.send_signal(signal.SIGINT)
    assert restoring.end()[0] == Exit.INTERRUPTED
    assert run([*words, "-q"]) == Exit.DONE
    assert differences(home / "source", home / "out") == ""


@pytest.mark.parametrize("place", ["cas.rebuild:rebuild", "cas.tree:Tree.write_whole"])
def test_ctrl_c_during_decrypt(home: Path, place: str) -> None:
    assert run(["start", str(home / "photos.ini"), "-q"]) == Exit.DONE
    words = ["decrypt", str(home / "storage"), str(home / "out")]
    decrypting = Standing(home, place, *words)
    decrypting.process.send_signal(signal.SIGINT)
    assert decrypting.end()[0] == Exit.INTERRUPTED
    assert not list(home.glob("*.archive*.new"))
    assert run([*words, "-q"]) == Exit.DONE
    assert differences(home / "source", home / "out") == ""
