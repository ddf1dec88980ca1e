"""kill -9 with several uploads under way: nothing goes on alone, is lost, or is sent twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

import servers_sftp as sftp
from helpers_cli import (
    PASSWORD,
    PROGRAM,
    SILENCE,
    differences,
    environment,
    make_tree,
    noise,
    run_program,
    write,
)
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.rows import STAGED, STORED, ObjectRow

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes as /proc shows them"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
UPLOADS = 3
HELD_AT = 20 << 20
"""Bytes after which a connection stands still: in the midst of its second pack of 16 MiB."""


@dataclass(frozen=True)
class Process:
    """A process that is neither gone nor a zombie."""

    number: int
    parent: int
    words: str

    @classmethod
    def all(cls) -> Iterator[Process]:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                yield cls(int(folder.name), int(parent), words)


def below(number: int) -> list[Process]:
    """A process and all that it started, and those started."""
    found = list(Process.all())
    family = [one for one in found if one.number == number]
    for one in family:
        family += [other for other in found if other.parent == one.number]
    return family


def wait_until_gone(family: list[Process]) -> None:
    """Fails where one of them goes on."""
    for _ in range(SILENCE * 50):
        left = set(family) & set(Process.all())
        if not left:
            return
        time.sleep(0.02)
    raise AssertionError(f"still there: {left}")


class Far:
    """An archive of seven packs on its way to a server, through a proxy that holds uploads."""

    def __init__(self, home: Path, server: sftp.Server, proxy: sftp.HoldingProxy, profile: str):
        self.home = home
        self.archive = home / "photos.archive"
        self.folder = server.folder / home.name
        self.spool = home / "spool"
        self.renames = profile == "sftp"
        make_tree(home / "source", files=3, size=20_000)
        for number in range(40):
            write(home / "source" / "films" / f"{number}", noise(number, 2_500_000))
        seen = server.at(proxy.port)
        words = ["--name", "photos", "--source", "source", "--profile", profile]
        ini = home / "photos.ini"
        done = run_program("init", ini, *words, "--storage", seen.url(home.name))
        assert done.returncode == 0, done.stderr
        text = ini.read_text()
        for name, value in {
            "pack size": "16 MiB", "spool": self.spool, "uploads": UPLOADS, **seen.options
        }.items():  # fmt: skip
            text, count = re.subn(rf"^{name} =.*$", f"{name} = {value}", text, flags=re.M)
            assert count == 1, name
        ini.write_text(text)

    def start(self) -> subprocess.Popen[str]:
        """In a session of its own."""
        self.home.joinpath("spool").mkdir(exist_ok=True)
        return subprocess.Popen(
            [PROGRAM, "start", self.home / "photos.ini"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(PYARCHIVER_PASSWORD=PASSWORD), start_new_session=True,
        )  # fmt: skip

    def complete(self) -> None:
        """The next run; behind a gateway one more, for what cut puts may have left."""
        for _ in range(1 if self.renames else 2):
            done = run_program("resume", self.archive, PYARCHIVER_PASSWORD=PASSWORD)
            assert done.returncode == 0, done.stderr

    def assert_accounted(self) -> None:
        """What lies in the spool and on the server is known to the catalogue."""
        rows = self.rows()
        staged = {row.name for row in rows if row.state == STAGED}
        assert staged
        stored = {row.name for row in rows if row.state == STORED}
        spooled, there = set(os.listdir(self.spool)), set(os.listdir(self.folder))
        assert stored <= there
        assert {name for name in staged if f"{name}.part" not in spooled} <= there
        assert {name.removesuffix(".part") for name in there} <= stored | staged

    def assert_complete(self) -> None:
        """All is there, once, whole, and nothing else is; the restore is equal."""
        rows = self.rows()
        assert {row.state for row in rows} == {STORED}
        assert {row.name for row in rows} == set(os.listdir(self.folder))
        for row in rows:
            assert blake3((self.folder / row.name).read_bytes()).digest() == row.blake3
        assert sum(row.size for row in rows) < 104_000_000
        assert not list(self.spool.iterdir())
        out = self.home / "out"
        done = run_program("decrypt", self.folder, out, "-q", PYARCHIVER_PASSWORD=PASSWORD)
        assert (done.returncode, done.stderr) == (0, "")
        assert differences(self.home / "source", out) == ""

    def rows(self) -> list[ObjectRow]:
        with Catalogue.open(self.archive, write=False) as catalogue:
            return catalogue.objects()

    def there(self) -> dict[str, tuple[int, int]]:
        """What the server has: when it was written last, and where, by name."""
        found = {path.name: path.stat() for path in self.folder.iterdir()}
        return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in found.items()}


@pytest.fixture(params=["sftp", "gateway"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Far, sftp.HoldingProxy]]:
    """A server that renames, and a gateway that does not."""
    is_sshd = request.param == "sftp"
    server = request.getfixturevalue("sshd_server" if is_sshd else "warm_gateway")
    with sftp.HoldingProxy(server.port, lambda: HELD_AT) as proxy:
        yield Far(tmp_path, server, proxy, "sftp" if is_sshd else "ovh-cloud-archive"), proxy


def _kill_all(_: subprocess.Popen[str], family: list[Process]) -> None:
    for one in family:
        os.kill(one.number, signal.SIGKILL)


KILLS: dict[str, Callable[[subprocess.Popen[str], list[Process]], None]] = {
    "the program": lambda program, _: program.kill(),
    "its group": lambda program, _: os.killpg(program.pid, signal.SIGKILL),
    "every process": _kill_all,
}


@pytest.mark.parametrize("who", KILLS)
def test_killed_with_uploads_under_way(far: tuple[Far, sftp.HoldingProxy], who: str) -> None:
    """Nothing of it goes on; what it left is accounted for; the next run completes it."""
    job, proxy = far
    with job.start() as program:
        family = _all_held(program, proxy)
        KILLS[who](program, family)
        wait_until_gone(family)
        program.communicate()
        assert program.returncode == -signal.SIGKILL
    _go_on(job, proxy)


def test_an_uploader_killed(far: tuple[Far, sftp.HoldingProxy]) -> None:
    """Where a put is whole or not there, run it again; elsewhere it goes under another name."""
    job, proxy = far
    with job.start() as program:
        family = _all_held(program, proxy)
        uploader = next(one.number for one in family if "spawn_main" in one.words)
        os.kill(uploader, signal.SIGKILL)
        if not job.renames:
            proxy.let_go()
        _, said = program.communicate()
        wait_until_gone(family)
    if job.renames:
        assert program.returncode == 1, said
        assert "the process that sent it ended; run resume" in said
        _go_on(job, proxy)
        return
    assert program.returncode == 0, said
    assert "sent again under another name" in said
    job.complete()
    job.assert_complete()


def _all_held(program: subprocess.Popen[str], proxy: sftp.HoldingProxy) -> list[Process]:
    """The program and its uploaders, each in the midst of a put."""
    proxy.wait_held(UPLOADS)
    family = below(program.pid)
    assert sum("spawn_main" in one.words for one in family) == UPLOADS
    return family


def _go_on(job: Far, proxy: sftp.HoldingProxy) -> None:
    """The next run sends what had not arrived, and that alone."""
    job.assert_accounted()
    before = job.there()
    proxy.let_go()
    job.complete()
    job.assert_complete()
    kept = before.items() & job.there().items()
    assert len(kept) >= UPLOADS, "what had arrived was sent again"
    assert len(before.keys() & job.there().keys()) == len(kept)
