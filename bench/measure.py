"""Runs a command and measures it: wall time, CPU time, and peak memory of its process tree."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LOOK_EVERY = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of wall and of CPU (user and system, children included); peak memory in bytes."""

    wall: float
    cpu: float
    peak: int

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak))


def run(command: list[str], environment: Mapping[str, str], folder: Path) -> Measured:
    """Run a command in a folder, after what others wrote has reached the disk.

    Ends the program with what the command printed, where it fails.
    """
    os.sync()
    log = folder / "output.log"
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=dict(environment), cwd=folder, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        watch = _Watch(process.pid)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        peak = watch.stop() or used.ru_maxrss * 1024
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')}")
    return Measured(wall, used.ru_utime + used.ru_stime, peak)


class _Watch:
    """Looks now and then at the memory of a process and its descendants (Linux).

    Each counts with the most it ever had, so what it has between two looks is not missed.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> int:
        """The highest sum seen, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            with contextlib.suppress(OSError, ValueError):
                self._peak = max(self._peak, sum(map(_most_memory, _descendants(self._pid))))


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _most_memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
