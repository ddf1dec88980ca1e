"""Ends runs at the N-th call of a step, for every N, and checks what the next run makes of it.

A run is killed, before or after the call; ended in order, by an exception; killed in the midst of a
write (`torn`); told that the disk is full (`full`); or that the storage fails (`fail`).

Run by test_crash.py in a process of its own, without threads, because each run is forked off:
`crash_driver.py WORK SCENARIO STEP STRIDE WAY...`. Prints a JSON object: how often the step was
reached, and what was wrong afterwards. A process that dies loses nothing that it handed to the
system, so nothing here waits for a disk.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import sqlite3
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from helpers_cli import (
    PASSWORD,
    Place,
    Sizes,
    differences,
    make_tree,
    noise,
    patched,
    small,
    tree_of,
    words,
    write,
)
from pyarchiver.cas import archiver, courier, database, kit, local, log
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.intake import Intake
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.objectfile import ObjectFile
from pyarchiver.cas.objects import entries_of, open_object, read_contents
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.rows import STORED, join
from pyarchiver.cas.unlock import unlock
from pyarchiver.formats.entry import EntryKind
from pyarchiver.formats.errors import ArchiverError, StorageError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.payload import Index

SIZES = Sizes(pack=400 << 10, block=128 << 10, segment=64 << 10)
KILLED = 9
_CHUNK_ID = 32


class Written(io.FileIO):
    """A file that Python's own `open` makes for writing: that and each write of it is a step."""

    def __init__(self, path: Any) -> None:
        super().__init__(path, "w")

    def write(self, data: Any) -> int:
        return super().write(data)


class Connection(sqlite3.Connection):
    """A connection to SQLite that waits for no disk: each statement is a step."""

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        return super().execute(query.replace("= FULL", "= OFF"), *values)


# Where each step is; `commit` is that of a transaction, whatever it is about.
STEPS: dict[str, tuple[object, str]] = {
    "prepare": (LocalStorage, "prepare"),
    "create": (Catalogue, "create"),
    "rename": (database, "sync_folder"),
    "begin_run": (Catalogue, "begin_run"),
    "open": (ObjectFile, "__init__"),
    "feed": (ObjectFile, "feed"),
    "finish": (ObjectFile, "finish"),
    "sync": (ObjectFile, "sync"),
    "stage": (Catalogue, "stage"),
    "record": (Catalogue, "record"),
    "put": (LocalStorage, "put"),
    "renamed": (local, "sync_folder"),
    "stored": (Catalogue, "stored"),
    "stage_manifest": (Catalogue, "stage_manifest"),
    "stage_checkpoint": (Catalogue, "stage_checkpoint"),
    "add_snapshot": (Catalogue, "add_snapshot"),
    "abandon_run": (Catalogue, "abandon_run"),
    "kit": (kit, "write_plain"),
    "send": (courier.Courier, "send"),
    "resend": (courier.Courier, "resend"),
    "commit": (database.Transaction, "__exit__"),
    # Calls of the system, wherever they come from.
    "os.open": (os, "open"),
    "os.write": (os, "write"),
    "os.fsync": (os, "fsync"),
    "os.rename": (os, "rename"),
    "os.unlink": (os, "unlink"),
    "os.mkdir": (os, "mkdir"),
    "os.rmdir": (os, "rmdir"),
    "io.open": (io, "open"),
    "io.create": (Written, "__init__"),
    "io.write": (Written, "write"),
    "statement": (Connection, "execute"),
    "list": (LocalStorage, "list"),
    "look": (LocalStorage, "look"),
    "size": (LocalStorage, "size"),
    "delete": (LocalStorage, "delete"),
    "get_into": (LocalStorage, "get_into"),
}


class Injected(StorageError):
    """What a step in a thread fails with."""


def end_at(step: str, number: int, when: str, how: str) -> list[str]:
    """Make the `number`-th call of a step the last of this process, before or after it is done.

    What the fault was is in the list that is returned, once it has come.
    """
    owner, name = STEPS[step]
    is_classmethod = isinstance(owner, type) and isinstance(owner.__dict__.get(name), classmethod)
    original: Callable[..., Any] = getattr(owner, name)
    lock = threading.Lock()
    calls = 0
    fired: list[str] = []

    def end(*arguments: Any) -> None:
        fired.append(how)
        if how == "torn":
            descriptor, data = arguments
            original(descriptor, memoryview(data)[: len(data) // 2])
        if how in ("kill", "torn"):
            os._exit(KILLED)
        if how == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if how == "raise" and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        raise Injected("injected")

    def hooked(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            hit = calls == number
        if is_classmethod:
            arguments = arguments[1:]
        if hit and when == "before":
            end(*arguments)
        try:
            result = original(*arguments, **named)
        except OSError:
            if hit:
                end()
            raise
        if hit:
            end()
        return result

    setattr(owner, name, classmethod(hooked) if is_classmethod else hooked)
    return fired


def forked(action: Callable[[], int]) -> int:
    """The exit code of `action` in a process of its own."""
    child = os.fork()
    if not child:
        code = 99
        try:
            code = action()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def run_on(place: Place) -> archiver.RunResult | None:
    """What a user does: resume where there is an archive that holds anything, start otherwise."""
    if place.archive.exists() and not Catalogue.unfinished(place.archive):
        return place.resume()
    place.start(SIZES)
    return None


def ended_run(place: Place, step: str, number: int, when: str, how: str) -> int:
    """A run that is ended; 0 where the step was not reached so often."""
    end_at(step, number, when, how)
    try:
        run_on(place)
    except (KeyboardInterrupt, Injected):
        return KILLED
    except ArchiverError as error:
        if how == "full" and "no space" in str(error).lower():
            return KILLED
        raise
    return 0


class Check:
    """What must hold after the run that follows."""

    def __init__(self, place: Place, snapshots: int) -> None:
        self.place = place
        self.snapshots = snapshots
        self.wrong: list[str] = []

    def expect(self, holds: object, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def next_run(self) -> None:
        """Complete the run; what was staged is neither read nor sent again."""
        place = self.place
        known = _settled_files(place) if place.archive.exists() else set()
        read: list[str] = []
        original = Intake.read

        def counted(intake: Intake, descriptor: int, found: os.stat_result) -> Any:
            read.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            return original(intake, descriptor, found)

        with patched((Intake, "read", counted)):
            run_on(place)
        again = known & set(read)
        self.expect(not again, f"read again: {sorted(again)[:3]}")
        with patched((Intake, "read", counted)):
            read.clear()
            result = place.resume()
            self.expect(not result.new, "a third run found something new")
            self.expect(not read, f"a third run read {read[:3]}")

    def catalogue(self) -> None:
        """Catalogue and storage know the same objects, and the log is whole."""
        place = self.place
        beside = sorted(path.name for path in place.work.iterdir() if path.is_file())
        self.expect(
            set(beside) <= {"photos.archive", "photos.archive.lock"}, f"left over: {beside}"
        )
        with Catalogue.open(place.archive, write=False) as catalogue:
            rows = catalogue.objects()
            snapshots = [done.run for done in catalogue.snapshots()]
        self.expect(snapshots == list(range(1, self.snapshots + 1)), f"snapshots {snapshots}")
        self.expect(all(row.state == STORED for row in rows), "not all objects are STORED")
        there = {path.name: path.read_bytes() for path in place.storage.iterdir()}
        named = {row.name for row in rows}
        self.expect(named == set(there), f"differ: {sorted(named ^ set(there))}")
        for row in rows:
            data = there.get(row.name, b"")
            whole = len(data) == row.size and blake3(data).digest() == row.blake3
            self.expect(whole, f"{row.name} is not what the catalogue says")
        numbers = [row.number for row in rows if row.kind == Kind.MANIFEST]
        self.expect(numbers == list(range(1, len(numbers) + 1)), f"manifests {numbers}")
        kinds = Counter(row.kind for row in rows)
        self.expect(kinds[Kind.PACK] >= 5, "fewer than five packs")
        self.expect(kinds[Kind.KIT] == place.kit, f"{kinds[Kind.KIT]} kits")

    def packs(self) -> None:
        """No chunk and no entry stands in two packs."""
        place = self.place
        chunks: Counter[bytes] = Counter()
        entries: Counter[tuple[bytes, int]] = Counter()
        with Catalogue.open(place.archive, write=False) as catalogue:
            read_keys = unlock(catalogue, PASSWORD)
            storage = LocalStorage(place.storage)
            for row in catalogue.objects(Kind.PACK):
                found = open_object(storage, row.name, lambda _: read_keys)
                assert found is not None
                contents = read_contents(found)
                for body in contents.indexes:
                    ids = Index.decode(body).ids
                    chunks.update(ids[at : at + _CHUNK_ID] for at in range(0, len(ids), _CHUNK_ID))
                entries.update((entry.path, entry.run) for entry in entries_of(contents))
                self.expect(not contents.damage, f"{row.name}: {contents.damage}")
            storage.close()
        self.expect(max(chunks.values()) == 1, "a chunk was sent twice")
        twice = [key for key, count in entries.items() if count > 1]
        self.expect(not twice, f"entries in two packs: {twice[:3]}")

    def read_back(self) -> None:
        """Both ways of reading give back the source."""
        place = self.place
        shutil.rmtree(place.source / "deleted", ignore_errors=True)
        for way in ("restore", "decrypt"):
            destination, observer = place.work / way, Quiet()
            if way == "restore":
                place.restore(destination, observer)
            else:
                place.decrypt(place.storage, destination, observer)
            told = observer.problems + observer.notices
            self.expect(not told, f"{way} says {told[:3]}")
            # What was deleted comes back too.
            shutil.rmtree(destination / "deleted", ignore_errors=True)
            shutil.copystat(place.source, destination)
        changes = differences(place.source, place.work / "restore")
        self.expect(not changes, f"restore differs: {changes[:200]}")
        other = set(tree_of(place.work / "restore")) ^ set(tree_of(place.work / "decrypt"))
        self.expect(not other, f"decrypt differs: {sorted(other)[:3]}")

    def all(self, report: Path) -> int:
        """Everything; what is wrong goes into a file."""
        try:
            self.next_run()
            self.catalogue()
            self.packs()
            self.read_back()
        except ArchiverError as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
        except Exception:
            self.wrong.append(traceback.format_exc())
        report.write_text(json.dumps(self.wrong))
        return 0


def _settled_files(place: Place) -> set[str]:
    """Files whose present state the catalogue knows."""
    settled = set()
    with Catalogue.open(place.archive, write=False) as catalogue:
        for folder, _, names in os.walk(os.fsencode(place.source)):
            path = os.path.relpath(folder, os.fsencode(place.source))
            known = catalogue.folder(b"" if path == b"." else path)
            for name in names:
                where = join(folder, name)
                found, state = os.lstat(where), known.get(name)
                if state is None or state.kind != EntryKind.FILE:
                    continue
                state_of_file = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                if (state.size, state.mtime, state.ctime) == state_of_file:
                    settled.add(os.fsdecode(os.path.realpath(where)))
    return settled


class Scenario:
    """The state in which the run that is ended begins: what is kept in `base`."""

    def __init__(self, work: Path, name: str) -> None:
        self.place = Place(work / "place", kit=True)
        self._base = work / "base"
        self._report = work / "report.json"
        self._snapshots = 1
        work.mkdir(parents=True)
        self.place.work.mkdir()
        self._source = work / "source"
        make_tree(self._source, files=15, size=80_000)
        (self.place.work / "source").symlink_to(self._source)
        if name == "later":
            write(self._source / "deleted" / "file", b"gone in the second run")
            assert forked(lambda: bool(run_on(self.place))) == 0
            shutil.rmtree(self._source / "deleted")
            for number in range(8):
                write(self._source / "new" / f"n{number}.raw", noise(("new", number), 80_000))
            write(self._source / "shoot0" / "p000.raw", noise("changed", 90_000))
            write(self._source / "text" / "more.txt", words("more", 200_000))
            self._snapshots = 2
        elif name == "touched":
            assert forked(lambda: bool(run_on(self.place))) == 0
            (self._source / "shoot1" / "p001.raw").chmod(0o640)
            self._snapshots = 2
        elif name == "twice":
            code = forked(lambda: ended_run(self.place, "stage", 3, "after", "kill"))
            assert code == KILLED
        elif name == "nothing":
            assert forked(lambda: bool(run_on(self.place))) == 0
        else:
            assert name == "first"
        self.place.work.rename(self._base)

    def reset(self) -> None:
        """As it was before the run."""
        shutil.rmtree(self.place.work, ignore_errors=True)
        shutil.copytree(self._base, self.place.work, symlinks=True)

    def try_all(self, step: str, stride: int, when: str, how: str) -> tuple[int, list[str]]:
        """(how often the step was reached, what was wrong after ending each time)."""
        wrong: list[str] = []
        number = 1
        while True:
            self.reset()
            here = number
            code = forked(lambda: ended_run(self.place, step, here, when, how))  # noqa: B023
            what = f"{how} {when} {step} {number}"
            if code == 0:
                return number - stride, wrong
            if code != KILLED:
                wrong.append(f"{what}: exit code {code}")
            check = Check(self.place, self._snapshots)
            self._report.unlink(missing_ok=True)
            code = forked(lambda: check.all(self._report))  # noqa: B023
            if code or not self._report.exists():
                wrong.append(f"{what}: the next run ended with {code}")
            else:
                wrong += [f"{what}: {problem}" for problem in json.loads(self._report.read_text())]
            number += stride


@contextlib.contextmanager
def unhurried() -> Any:
    """Without waiting for disks, and with manifests and checkpoints often."""

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        return sqlite3_connect(*arguments, factory=Connection, **named)

    def opened(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        return Written(path) if mode == "wb" else io_open(path, mode, *more, **named)

    sqlite3_connect, io_open = sqlite3.connect, io.open
    with (
        small(SIZES),
        patched(
            (sqlite3, "connect", connect),
            (io, "open", opened),
            (os, "fsync", lambda _: None),
            (log, "CHECKPOINT_AFTER", 2),
            # The source was made just now.
            (archiver, "_RACY_NS", 0),
        ),
    ):
        yield


def main(work: Path, scenario: str, step: str, stride: int, ways: list[str]) -> None:
    """Every `stride`-th call of a step, ended in several ways, such as `kill-before`."""
    reached = {}
    wrong = []
    with unhurried():
        prepared = Scenario(work, scenario)
        for way in ways:
            how, when = way.split("-")
            reached[way], found = prepared.try_all(step, stride, when, how)
            wrong += found
    print(json.dumps({"reached": reached, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
