"""Shared by the tests of the commands, of crashes and of damage: trees, archives, terminals."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import random
import select
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from pyarchiver.cas import archiver, create, intake, packer, press, settings, tree
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.decrypt import decrypt
from pyarchiver.cas.planner import Request, RestoreResult
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.restore import restore
from pyarchiver.cas.settings import Settings, settings_of
from pyarchiver.cas.storage import open_storage
from pyarchiver.cas.units import parse_size
from pyarchiver.cas.unlock import unlock
from pyarchiver.formats import keys, sealed

PASSWORD = "unlikely Ossuary 41 tangerine"
OLD = 1_500_000_000
"""A modification time in seconds that no run takes for recent."""
SILENCE = 120
"""Seconds after which a program that waits for what never comes is given up, not the suite."""


def noise(label: object, size: int) -> bytes:
    """Bytes that do not shrink and are the same everywhere."""
    return blake3(str(label).encode()).digest(length=size)


def words(label: object, size: int) -> bytes:
    """Text that shrinks to about a third."""
    chosen = random.Random(str(label))
    pool = [noise(f"word {number}", 4).hex() for number in range(200)]
    text = " ".join(chosen.choice(pool) for _ in range(size // 9 + 1))
    return text.encode()[:size].ljust(size, b".")


def write(path: Path, data: bytes) -> None:
    """A file of that content and of an old modification time, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(OLD * 10**9, OLD * 10**9 + len(data)))


def make_tree(root: Path, files: int = 12, size: int = 150_000, label: str = "") -> None:
    """A small source with most of what a file system has; `files` times `size` bytes of noise."""
    root.mkdir(parents=True)
    for number in range(files):
        write(root / f"shoot{number % 3}" / f"p{number:03}.raw", noise((label, number), size))
        sidecar = f"p{number:03}.xmp".encode() + words((label, number), 300)
        write(root / f"shoot{number % 3}" / f"p{number:03}.xmp", sidecar)
    write(root / "text" / "long.txt", words((label, "long"), 3 * size))
    # Two files with the same content: one of them needs no new chunk.
    write(root / "copies" / "first.raw", noise((label, 0), size))
    write(root / "empty", b"")
    write(root / "na\nme with \xe9".encode("latin-1").decode("latin-1"), b"odd name")
    write(root / "secret", b"not for all")
    (root / "secret").chmod(0o600)
    (root / "hollow" / "empty folder").mkdir(parents=True)
    (root / "link").symlink_to("shoot0/p000.raw")
    (root / "dangling").symlink_to("/nowhere/at all")
    os.link(root / "secret", root / "secret's other name")
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(512 << 10)
        file.write(noise((label, "sparse"), 70_000))
    os.utime(root / "sparse", (OLD, OLD))


def differences(source: Path, restored: Path) -> str:
    """What rsync would change to make `restored` equal to `source`; empty where nothing."""
    command = ["rsync", "-aHAXnc", "--delete", "--modify-window=-1", "-i"]
    done = subprocess.run(
        [*command, f"{source}/", f"{restored}/"],
        capture_output=True, text=True, errors="replace", check=True,
    )  # fmt: skip
    return done.stdout


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of all regular files below a folder, by their relative path."""
    return {
        os.fsdecode(os.path.relpath(os.fsencode(path), os.fsencode(root))): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def tree_of(root: Path) -> Iterator[tuple[bytes, object]]:
    """(path, all that is archived of it) of everything below a folder, owners and xattrs apart."""
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in [b".", *folders, *files]:
            where = folder + b"/" + name
            found = os.lstat(where)
            data = b""
            if stat.S_ISLNK(found.st_mode):
                data = os.readlink(where)
            elif stat.S_ISREG(found.st_mode):
                data = Path(os.fsdecode(where)).read_bytes()
            path = os.path.relpath(where, os.fsencode(root))
            yield path, (found.st_mode, found.st_mtime_ns, data)


# Archives with small packs


@dataclass(frozen=True)
class Sizes:
    """Sizes that make much of a little: packs, blocks in them, segments, manifests."""

    pack: int = 600 << 10
    block: int = 256 << 10
    segment: int = 1 << 20
    manifest_every: int = 2


@contextlib.contextmanager
def patched(*changes: tuple[object, str, object]) -> Iterator[None]:
    """Attributes replaced while it lasts."""
    before = [(place, name, getattr(place, name)) for place, name, _ in changes]
    for place, name, value in changes:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def any_size(name: str, text: str, _: int, __: int) -> int:
    """In place of settings._size: any size, however small."""
    assert name in ("pack size", "chunk size", "upload limit", "download limit")
    return parse_size(text)


@contextlib.contextmanager
def small(sizes: Sizes) -> Iterator[None]:
    """Archives with packs below what an ini file allows, and a cheap key derivation."""
    with patched(
        (settings, "_size", any_size),
        (intake, "BLOCK_RAW_MAX", sizes.block),
        (press, "BLOCK_RAW_MAX", sizes.block),
        (packer, "MANIFEST_EVERY", sizes.manifest_every),
        (sealed, "SEGMENT", sizes.segment),
        (keys, "ARGON2_OPS", 1),
        (keys, "ARGON2_MEMORY", 1 << 20),
        # A whole disk: not for a test that restores hundreds of times.
        (tree, "sync_below", lambda folder: None),
    ):
        yield


@dataclass(frozen=True)
class Place:
    """An archive, its source and its storage, all below one folder; with a kit, or without."""

    work: Path
    kit: bool = False

    @property
    def source(self) -> Path:
        return self.work / "source"

    @property
    def storage(self) -> Path:
        return self.work / "storage"

    @property
    def archive(self) -> Path:
        return self.work / "photos.archive"

    def settings(self, sizes: Sizes) -> Settings:
        """Settings for `start`."""
        return Settings(
            "photos", self.source, self.storage.as_uri(),
            pack_size=sizes.pack, chunk_size=min(64 << 10, sizes.block // 4), kit=self.kit,
        )  # fmt: skip

    def start(self, sizes: Sizes, observer: Quiet | None = None) -> str:
        """What `pyarchiver start` does; returns the recovery code."""
        made = create.check(self.settings(sizes), self.archive)
        catalogue, code = create.create(made, self.archive, PASSWORD)
        with catalogue:
            archiver.resume(catalogue, observer or Quiet())
        return code

    def resume(self, observer: Quiet | None = None) -> archiver.RunResult:
        """What `pyarchiver resume` does."""
        with Catalogue.open(self.archive, write=True) as catalogue:
            return archiver.resume(catalogue, observer or Quiet())

    def restore(
        self, destination: Path, observer: Quiet, request: Request | None = None
    ) -> RestoreResult:
        """What `pyarchiver restore` does."""
        with Catalogue.open(self.archive, write=False) as catalogue:
            read_keys = unlock(catalogue, PASSWORD)
            with contextlib.closing(open_storage(settings_of(catalogue))) as storage:
                return restore(
                    catalogue, storage, read_keys, destination, request or Request(), observer
                )

    def decrypt(self, source: Path, destination: Path, observer: Quiet) -> RestoreResult:
        """What `pyarchiver decrypt` does."""
        return decrypt(source, destination, PASSWORD, Request(), observer)

    def objects(self, kind: str = "") -> list[Path]:
        """Files of the storage, of one kind (p, m, c) or all, in the order of their names."""
        mark = f"-{kind}-" if kind else "-"
        return sorted(path for path in self.storage.iterdir() if mark in path.name)


def copied(objects: Path, into: Path) -> Path:
    """A copy of a folder of objects, to be damaged."""
    shutil.copytree(objects, into)
    return into


# Real processes

PROGRAM = Path(sys.executable).with_name("pyarchiver")
SCRIPT = Path(__file__).parents[1] / "cas" / "kit_files" / "rescue.py"


def environment(**more: str) -> dict[str, str]:
    """The environment without what would answer questions of the program."""
    kept = {name: value for name, value in os.environ.items() if "PYARCHIVER" not in name}
    return {**kept, "TERM": "xterm", "COLUMNS": "100", "LINES": "40", **more}


def run_program(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """`pyarchiver` in a process of its own, without a terminal."""
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(**more),
        check=False,
    )


def rescue(
    source: Path, destination: Path, secret: str = PASSWORD
) -> subprocess.CompletedProcess[str]:
    """The script as a user runs it, apart from everything else; the secret comes by a pipe."""
    return subprocess.run(
        [sys.executable, "-I", SCRIPT, source, destination],
        input=secret + "\n",
        capture_output=True,
        text=True,
        check=False,
    )


class Terminal:
    """A command on a pseudo-terminal of its own, which it may ask for passwords."""

    def __init__(self, command: list[str], **more: str) -> None:
        self.output = ""
        self._expected = 0
        self._process, self._master = pty.fork()
        if not self._process:
            try:
                os.execve(command[0], command, environment(**more))
            finally:
                os._exit(127)

    def expect(self, text: str) -> str:
        """Read until `text` appears behind what was expected before; returns what is between."""
        start = self._expected
        while text not in self.output[start:]:
            if not self._read():
                self.wait()
                raise AssertionError(f"ended without {text!r}: {self.output!r}")
        self._expected = self.output.index(text, start) + len(text)
        return self.output[start : self._expected]

    def answer(self, question: str, line: str) -> None:
        """Type a line after a question, which is printed once echo is off."""
        self.expect(question)
        os.write(self._master, line.encode() + b"\n")

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._master, b"\x03")

    def wait(self) -> int:
        """Read to the end; returns the exit code."""
        while self._read():
            pass
        os.close(self._master)
        _, status = os.waitpid(self._process, 0)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], SILENCE)[0]:
            os.kill(self._process, signal.SIGKILL)
            raise AssertionError(f"silent for {SILENCE} seconds after {self.output!r}")
        try:
            data = os.read(self._master, 1 << 16)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        self.output += data.decode("utf-8", "replace")
        return bool(data)


def on_terminal(*arguments: str | Path, **more: str) -> Terminal:
    """`pyarchiver` on a pseudo-terminal."""
    return Terminal([str(PROGRAM), *map(str, arguments)], **more)


class Stalled:
    """A command whose stderr nobody reads beyond a line, so that it stands still in its midst."""

    def __init__(self, *arguments: str | Path, **more: str) -> None:
        self.process = subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**more),
        )

    def read_until(self, text: bytes) -> None:
        """Read stderr, byte by byte, until a text."""
        assert self.process.stderr is not None
        descriptor, seen = self.process.stderr.fileno(), b""
        while not seen.endswith(text):
            byte = os.read(descriptor, 1)
            assert byte, seen
            seen += byte

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; returns exit code and all further output."""
        self.process.send_signal(number)
        out, err = self.process.communicate()
        return self.process.returncode, (out + err).decode("utf-8", "replace")
