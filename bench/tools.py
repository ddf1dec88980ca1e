"""The program and its rivals: which commands do the same job with each.

An operation is a list of commands that run one after another. `first` includes making the archive,
with all of them at their defaults and encryption on where there is any.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "a long and boring benchmark password"
OPERATIONS = ("first", "unchanged", "changed", "restore", "one", "decrypt", "edited")
"""In the order in which they are measured; `one` restores one file."""

# An installed program has compiled modules: a shell that forbids writing them must not be timed.
_BASE = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

Commands = list[list[str]]


@dataclass(frozen=True, slots=True)
class Job:
    """Where a tool works: `work` is its own, `out` a new folder for what it restores."""

    source: Path
    work: Path
    out: Path
    one: Path
    """A file of the source, relative to it."""

    @property
    def environment(self) -> dict[str, str]:
        """Passwords and caches for all tools."""
        return _BASE | {
            "PYARCHIVER_PASSWORD": PASSWORD,
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_REPOSITORY": str(self.work / "store"),
            "RESTIC_CACHE_DIR": str(self.work / "cache"),
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_REPO": str(self.work / "store"),
            "BORG_BASE_DIR": str(self.work / "cache"),
        }


@dataclass(frozen=True, slots=True)
class Tool:
    """`commands` tells how it does an operation; none: it cannot. All stores below `store`."""

    name: str
    version: list[str]
    commands: Callable[[str, Job], Commands]

    @property
    def installed(self) -> bool:
        """Whether it is there."""
        return shutil.which(self.version[0]) is not None

    def version_text(self) -> str:
        """What it says of itself."""
        done = subprocess.run(self.version, capture_output=True, text=True, check=False)
        lines = (done.stdout or done.stderr).strip().splitlines()
        return lines[0][:60] if lines else self.name


PROGRAM = str(Path(sys.executable).with_name("pyarchiver"))


def _pyarchiver(operation: str, job: Job) -> Commands:
    ini, archive, store = (str(job.work / name) for name in ("a.ini", "a.archive", "store"))
    match operation:
        case "first":
            places = ["--source", str(job.source), "--storage", store]
            return [
                [PROGRAM, "init", ini, "--name", "a", "-q", *places],
                [PROGRAM, "start", ini, "-q"],
            ]
        case "restore":
            return [[PROGRAM, "restore", archive, str(job.out), "-q", "--exact"]]
        case "one":
            return [[PROGRAM, "restore", archive, str(job.out), str(job.one), "-q"]]
        case "decrypt":
            return [[PROGRAM, "decrypt", store, str(job.out), "-q"]]
    return [[PROGRAM, "resume", archive, "-q"]]


def _restic(operation: str, job: Job) -> Commands:
    backup = ["restic", "backup", "-q", str(job.source)]
    restore = ["restic", "restore", "-q", "latest", "--target", str(job.out)]
    match operation:
        case "first":
            return [["restic", "init", "-q"], backup]
        case "restore":
            return [restore]
        case "one":
            return [[*restore, "--include", str(job.source / job.one)]]
        case "decrypt":
            return []
    return [backup]


def _borg(operation: str, job: Job) -> Commands:
    create = ["borg", "create", "--compression", "zstd,3", f"::{operation}", str(job.source)]
    extract = ["borg", "extract", "::changed"]
    match operation:
        case "first":
            return [["borg", "init", "--encryption", "repokey-blake2"], create]
        case "restore":
            return [extract]
        case "one":
            return [[*extract, str(job.source / job.one).lstrip("/")]]
        case "decrypt":
            return []
    return [create]


def _casync(operation: str, job: Job) -> Commands:
    index, store = str(job.work / "index.caidx"), f"--store={job.work / 'store'}"
    match operation:
        case "restore":
            return [["casync", "extract", store, index, str(job.out / "tree")]]
        case "one" | "decrypt":
            return []
    return [["casync", "make", store, index, str(job.source)]]


def _zpaq(operation: str, job: Job) -> Commands:
    archive = str(job.work / "store" / "a.zpaq")
    match operation:
        case "restore":
            return [["zpaq", "extract", archive, str(job.source), "-to", str(job.out / "tree")]]
        case "one":
            one = [str(job.source / job.one), "-to", str(job.out / "one")]
            return [["zpaq", "extract", archive, *one]]
        case "decrypt":
            return []
    return [["zpaq", "add", archive, str(job.source), "-m1"]]


def _tar(operation: str, job: Job) -> Commands:
    archive = str(job.work / "store" / "a.tar.zst")
    match operation:
        case "first":
            return [["tar", "-I", "zstd -T0 -3", "-cf", archive, "-C", str(job.source), "."]]
        case "restore":
            return [["tar", "-I", "zstd", "-xf", archive, "-C", str(job.out)]]
    return []


def _cp(operation: str, job: Job) -> Commands:
    copy = str(job.work / "store" / "copy")
    match operation:
        case "first":
            return [["cp", "-a", str(job.source), copy]]
        case "restore":
            return [["cp", "-a", copy, str(job.out)]]
    return []


TOOLS = (
    Tool("pyarchiver", [PROGRAM, "--version"], _pyarchiver),
    Tool("restic", ["restic", "version"], _restic),
    Tool("borg", ["borg", "--version"], _borg),
    Tool("casync", ["casync", "--version"], _casync),
    Tool("zpaq -m1", ["zpaq"], _zpaq),
    Tool("tar + zstd -T0", ["zstd", "--version"], _tar),
    Tool("cp -a", ["cp", "--version"], _cp),
)
