"""Real disks that are small or read-only, and runs by somebody who is not root."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest

from helpers_cli import PASSWORD
from pyarchiver import cas
from pyarchiver.cmd import secrets
from pyarchiver.cmd.main import run

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may do this"
)


def _mount(*words: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")


@contextlib.contextmanager
def disk(where: Path, size: str) -> Iterator[Path]:
    """A file system in memory of that size; skips where mounting is not permitted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting needs root on Linux")
    where.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", where)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)


def remount(where: Path, options: str) -> None:
    """Change a disk: `size=..`, `ro`, `rw`."""
    _mount("-o", f"remount,{options}", where)


def fill(where: Path) -> Path:
    """A file that takes all that is free; returns it."""
    filler = where / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    return filler


def free(where: Path) -> int:
    """Bytes that are free on a disk."""
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize


@contextlib.contextmanager
def open_to_all() -> Iterator[Path]:
    """A temporary folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@dataclass(frozen=True)
class Done:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


def as_nobody(*words: str | Path, niceness: int = 0) -> Done:
    """A command run by a user without any rights, in a process of its own."""

    def action() -> int:
        os.nice(niceness)
        return run([str(word) for word in words])

    _preload()
    return forked(action, NOBODY)


@functools.cache
def _preload() -> None:
    """Load what a command loads when it needs it: nobody may not enter where it is installed."""
    with open_to_all() as home, contextlib.redirect_stdout(io.StringIO()):
        (home / "source").mkdir()
        (home / "source" / "file").write_bytes(b"data")
        for words in (["start", str(init(home, None, exclude="*.tmp"))],
                      ["resume", str(home / "photos.archive")],
                      ["restore", str(home / "photos.archive"), str(home / "out")]):  # fmt: skip
            assert run(words) == 0
    schema = resources.files(cas).joinpath("schema.sql")
    if forked(lambda: int(not schema.read_text()), NOBODY).code:
        pytest.skip("nobody may not enter the folder of the program")


def forked(action: Callable[[], int], user: int = 0) -> Done:
    """`action` in a process of its own, as another user if wanted."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            code = 99
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                if user:
                    os.setgroups([])
                    os.setresgid(user, user, user)
                    os.setresuid(user, user, user)
                code = action()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Done(os.waitstatus_to_exitcode(status), *texts)


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    """No prompt, and no wait for the whole machine's disks."""
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.setattr(os, "sync", lambda: None)


def init(home: Path, storage: Path | None = None, **values: str) -> Path:
    """The ini file photos.ini in `home`, with packs of 16 MiB and other `values`; returns it."""
    ini = home / "photos.ini"
    where = (storage or home / "storage").as_uri()
    words = ["init", str(ini), "--name", "photos", "--source", str(home / "source")]
    assert run([*words, "--storage", where, "-q"]) == 0
    lines = ini.read_text().splitlines()
    for name, value in {"pack size": "16 MiB", **values}.items():
        (at,) = [n for n, line in enumerate(lines) if line.startswith(f"{name} =")]
        lines[at] = f"{name} = {value}"
    ini.write_text("\n".join(lines) + "\n")
    return ini
