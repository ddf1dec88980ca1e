"""What is being sent is told while it is sent: the progress of a slow upload."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import servers_sftp
from helpers_cas import tuned
from helpers_cli import PASSWORD, noise, write
from pyarchiver.cas import archiver, create
from pyarchiver.cas.figures import PROFILES
from pyarchiver.cas.pace import Pace
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.settings import Settings
from pyarchiver.cas.sftp import SftpStorage
from pyarchiver.cas.uploads import Uploads, reporter

SIZE = 12_000_000


@dataclass
class Listener(Quiet):
    """Keeps what it is told of progress."""

    phases: list[tuple[str, int | None]] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)

    def begin(self, phase: str, files: int | None, size: int | None) -> None:
        self.phases.append((phase, size))

    def advance(self, files: int = 0, read: int = 0, stored: int = 0) -> None:
        if stored:
            self.stored.append(stored)


def test_a_report_now_and_then() -> None:
    time = 0.0
    sent: list[int] = []
    tell = reporter(sent.append, lambda: time)
    tell(1)
    tell(2)
    assert sent == []
    time = 0.25
    tell(4)
    time = 0.3
    tell(8)
    assert sent == [7]


def test_a_pace_tells_of_all() -> None:
    told: list[int] = []
    for rate in (0, 1000):
        pace = Pace(rate, lambda: 0.0, lambda _: None)
        pace.tell = told.append
        pace.spend(3)
        pace.spend(4)
    assert told == [3, 4, 3, 4]


def test_a_put_tells_how_far_it_is(sshd_server: servers_sftp.Server, tmp_path: Path) -> None:
    storage = SftpStorage(sshd_server.url("told"), sshd_server.options, PROFILES["sftp"])
    storage.pace = Pace(SIZE)
    spooled = tmp_path / "spooled"
    write(spooled, noise("told", SIZE))
    with closing(storage):
        storage.prepare()
    with closing(Uploads(storage)) as uploads:
        put = uploads.submit("object", spooled)
        seen = set()
        while not put.done():
            seen.add(uploads.moved("object"))
        assert put.result() == ()
    assert any(0 < count < SIZE for count in seen)
    assert uploads.moved("object") == 0


def test_a_run_tells_what_it_sends(sshd_server: servers_sftp.Server, tmp_path: Path) -> None:
    """Each byte once, most of them before their object has arrived."""
    write(tmp_path / "source" / "photo", noise("photo", SIZE))
    settings = Settings(
        "told", tmp_path / "source", sshd_server.url("told run"), profile=PROFILES["sftp"],
        options=sshd_server.options, kit=False, upload_limit=SIZE,
    )  # fmt: skip
    listener = Listener()
    with tuned():
        made = create.check(settings, tmp_path / "told.archive")
        catalogue, _ = create.create(made, tmp_path / "told.archive", PASSWORD)
        with catalogue:
            result = archiver.resume(catalogue, listener)
    assert sum(listener.stored) == result.stored
    assert len(listener.stored) > result.objects
    [(_, size)] = [phase for phase in listener.phases if phase[0] == "sending"]
    assert size is not None
    assert SIZE <= size <= result.stored
