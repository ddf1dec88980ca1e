"""A real process that archives into a slow storage, and ends itself by SIGKILL when it is told to.

`kill_driver.py WORK COMMIT WHEN` makes the COMMIT-th commit of the catalogue (0: none) the last
thing that the process does, `before` or `after` it. Every transfer is written to WORK/puts.log.
Prints how many commits there were, once all is done.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from crash_driver import run_on, unhurried
from helpers_cli import Place, patched
from pyarchiver.cas import database, packer
from pyarchiver.cas.courier import Courier
from pyarchiver.cas.intake import RawBlock
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.packer import Packer
from pyarchiver.cas.storage import Checksums

MANY = 9
"""Transfers begin when so many objects wait for it, two thirds of them packs, or no more come."""


class Commits:
    """Counts commits, and ends the process at one of them."""

    def __init__(self, last: int, when: str) -> None:
        self.count = 0
        self._last, self._when = last, when
        self._lock = threading.Lock()

    def __call__(self, transaction: database.Transaction, *error: Any) -> None:
        with self._lock:
            self.count += 1
            here = self.count == self._last
        if here and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        _commit(transaction, *error)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)


_commit, _put = database.Transaction.__exit__, LocalStorage.put


_add_block, _finish, _send = Packer.add_block, Packer.finish, Courier.send


class Transfers:
    """Makes transfers slower than what makes the packs, and keeps a log of what was moved."""

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._change = threading.Condition()
        self._waiting = 0
        self._more_to_come = False

    def add_block(self, packer: Packer, raw: RawBlock) -> None:
        self._more_to_come = True
        _add_block(packer, raw)

    def finish(self, packer: Packer) -> None:
        with self._change:
            self._more_to_come = False
            self._change.notify_all()
        _finish(packer)

    def send(self, courier: Courier, row: int, name: str, size: int) -> None:
        with self._change:
            self._waiting += 1
            self._change.notify_all()
        _send(courier, row, name, size)

    def write(self, what: str) -> None:
        os.write(self._log, f"{what}\n".encode())

    def put(self, storage: LocalStorage, name: str, spooled: Path) -> Checksums:
        if (storage.folder / name).exists():
            return _put(storage, name, spooled)
        with self._change:
            self._change.wait_for(lambda: self._waiting >= MANY or not self._more_to_come)
            self._waiting -= 1
        self.write(f"begun {name}")
        checksums = _put(storage, name, spooled)
        self.write(f"moved {name}")
        return checksums


def main(work: Path, last: int, when: str) -> None:
    """One run."""
    transfers, commits = Transfers(work / "puts.log"), Commits(last, when)
    transfers.write("run")
    apart = property(lambda _: None, lambda *_: None)
    with (
        unhurried(),
        patched(
            (LocalStorage, "put", lambda *arguments: transfers.put(*arguments)),
            (database.Transaction, "__exit__", lambda *arguments: commits(*arguments)),
            (packer, "IN_FLIGHT_MAX", max(12, packer.IN_FLIGHT_MAX)),
            (Packer, "add_block", lambda *arguments: transfers.add_block(*arguments)),
            (Packer, "finish", lambda *arguments: transfers.finish(*arguments)),
            (Courier, "send", lambda *arguments: transfers.send(*arguments)),
        ),
    ):
        # The spool apart from the storage, as for one in the network.
        LocalStorage.spool = apart  # type: ignore[assignment]
        run_on(Place(work, kit=True))
    print(commits.count)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
