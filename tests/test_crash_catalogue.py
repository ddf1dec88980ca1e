"""What makes or changes an .archive, ended at every call; run again, it is as if nothing was.

recover, update, delete, password, verify --deep; and the kit, which is made of one. Each fault
comes in a process of its own. See test_crash.py for start and resume, test_crash_calls.py and
test_cas_thaw.py for what reads.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crash_driver import KILLED, STEPS, end_at, ended_run, forked, run_on, unhurried
from helpers_cas import said_by
from helpers_cli import PASSWORD, Place, contents, make_tree, noise, write
from pyarchiver.cas import database
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.delete import delete
from pyarchiver.cas.ini import located
from pyarchiver.cas.kit import write_kit
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.migrations import update
from pyarchiver.cas.password import change_password
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.recover import Wanted, recover
from pyarchiver.cas.unlock import Keyring, unlock
from pyarchiver.cas.verify import verify
from pyarchiver.formats.errors import ArchiverError, CatalogueError, PasswordError
from test_update import VECTORS, dump

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="commands are forked off"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
EVERY = "PYARCHIVER_CRASH" in os.environ
NEW = "another Gazebo 52 marmalade"
Action = Callable[[], object]


@pytest.fixture(autouse=True)
def small_and_unhurried() -> Iterator[None]:
    with unhurried():
        yield


def ended(action: Action, step: str, number: int, way: str) -> int:
    """The code of a process in which a command is ended; 0 where the step is not reached."""
    how, when = way.split("-")

    def run() -> int:
        fired = end_at(step, number, when, how)
        try:
            action()
        except (KeyboardInterrupt, ArchiverError) as error:
            assert fired, error
            assert how != "full" or "no space" in str(error).lower()
        return KILLED if fired else 0

    return forked(run)


def ended_everywhere(action: Action, reset: Action, check: Action, case: Case) -> None:
    """End `action` at every call in turn; `check` runs it again and looks at what is there."""
    step, stride, ways, least = case
    for way in ways.split():
        number, fired = 1, 0
        while True:
            reset()
            code = ended(action, step, number, way)
            if not code:
                break
            assert code == KILLED, f"{way} {step} {number}: exit code {code}"
            fired += 1
            try:
                check()
            except Exception as error:
                raise AssertionError(f"{way} {step} {number}: {error}") from error
            number += 1 if EVERY else stride
        print(f"{step} {way}: {fired} faults")
        assert number > least, way


Case = tuple[str, int, str, int]
"""Step, stride unless all are tried, ways, and how often the step is reached at least."""


def named(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case[0] for case in cases])


def files_in(folder: Path) -> dict[str, bytes]:
    """Files beside each other, but a lock."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.suffix != ".lock"
    }


# recover


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An archive of two runs, and of a third that ended before a manifest told of its packs."""
    place = Place(tmp_path_factory.mktemp("kept") / "place")
    with unhurried():
        make_tree(place.source, files=6, size=80_000)
        for run in range(2):
            write(place.source / "run" / f"{run}.raw", noise(run, 90_000))
            run_on(place)
        for number in range(12):
            write(place.source / "more" / f"{number}.raw", noise(("more", number), 80_000))
        assert forked(partial(ended_run, place, "stored", 2, "after", "kill")) == KILLED
    with Catalogue.open(place.archive, write=True) as catalogue:
        assert catalogue.interrupted_run()
        staged = {row.name for row in catalogue.staged()}
    for path in place.storage.glob("*.part"):
        if path.stem not in staged:
            path.unlink()
    assert place.objects("c")
    return place


RECOVER = [
    ("os.mkdir", 1, "kill-before kill-after full-before raise-after", 1),
    ("os.open", 2, "kill-before kill-after full-before", 4),
    ("os.fsync", 1, "kill-before full-before", 2),
    ("os.rename", 2, "kill-before kill-after full-before raise-after", 5),
    ("os.unlink", 2, "kill-before kill-after raise-after", 6),
    ("os.rmdir", 1, "kill-before kill-after", 1),
    ("io.open", 2, "kill-before kill-after", 4),
    ("io.create", 1, "kill-after full-before", 2),
    ("io.write", 2, "kill-before torn-before full-before raise-after", 4),
    ("statement", 20, "kill-before raise-after", 60),
    ("commit", 3, "kill-before kill-after raise-before", 6),
    ("list", 1, "kill-before fail-before", 1),
    ("size", 1, "kill-before fail-before", 10),
    ("get_into", 15, "kill-before fail-before raise-before", 40),
]


@named(RECOVER)
def test_recover(kept: Place, tmp_path: Path, case: Case) -> None:
    """The .archive is there when it is whole, and says what it would have said."""
    place = Place(tmp_path / "place")
    objects = contents(kept.storage)

    def reset() -> None:
        shutil.rmtree(place.work, ignore_errors=True)
        shutil.copytree(kept.storage, place.storage)

    def action() -> None:
        observer = Quiet()
        settings = located(str(place.storage), place.archive, None)
        storage, secret = LocalStorage(place.storage), Keyring(PASSWORD)
        recover(settings, storage, secret, place.archive, Wanted(), observer)
        assert not observer.problems

    def said() -> dict[str, Any]:
        # Packs in no manifest have the order in which they were read, and that is any.
        found = said_by(place.archive)
        return {**found, "pending": {row.name for row in found["pending"]}}

    reset()
    action()
    as_it_should_be = said()

    def check() -> None:
        if place.archive.exists():
            with pytest.raises(CatalogueError, match="already"):
                action()
        else:
            action()
        assert said() == as_it_should_be
        assert {path.name for path in place.work.iterdir()} <= {
            "photos.archive", "photos.archive.lock", "storage"
        }  # fmt: skip
        assert contents(place.storage) == objects

    ended_everywhere(action, reset, check, case)


# update

UPDATE = [
    ("os.open", 1, "kill-before kill-after full-before", 3),
    ("os.fsync", 1, "kill-before full-before", 2),
    ("os.rename", 1, "kill-before kill-after full-before raise-after", 1),
    ("os.unlink", 1, "kill-before kill-after raise-after", 2),
    ("statement", 7, "kill-before kill-after raise-before", 20),
    ("commit", 1, "kill-before kill-after raise-before raise-after", 1),
]


class Old:
    """The kept .archive of version 1, and `action`: update."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.archive = work / "photos.archive"
        self.reset()
        self.before = dump(self.archive)
        self.action()
        self.after = dump(self.archive)
        assert self.before != self.after

    def reset(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        shutil.copy(VECTORS / "catalogue-v1.archive", self.archive)

    def action(self) -> None:
        update(self.archive, Quiet())

    def check(self) -> None:
        self.action()
        assert dump(self.archive) == self.after
        assert dump(self.work / "photos.archive.v1") == self.before
        assert set(files_in(self.work)) == {"photos.archive", "photos.archive.v1"}


@named(UPDATE)
def test_update(tmp_path: Path, case: Case) -> None:
    """The next update completes it, and the copy is of the .archive as it was."""
    old = Old(tmp_path / "old")
    ended_everywhere(old.action, old.reset, old.check, case)


@pytest.mark.parametrize("end", [".v1.new", ".archive"])
def test_update_where_a_disk_is_full_after_any_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """SQLite's own writes, which Python does not see."""
    old = Old(tmp_path / "old")
    connect, failed = database._connect, 0
    pages = 0

    def limited(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        if path.name.endswith(end):
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    while True:
        pages += 1
        old.reset()
        with monkeypatch.context() as patch:
            patch.setattr(database, "_connect", limited)
            try:
                old.action()
            except CatalogueError as error:
                assert "full" in str(error)
                failed += 1
            else:
                break
        old.check()
    print(f"{end}: full {failed} times")
    assert failed > 3


def test_update_torn_in_the_log_of_sqlite(tmp_path: Path) -> None:
    """The -wal file is cut anywhere: the .archive is of either version, and whole."""
    old = Old(tmp_path / "old")
    log = old.work / "photos.archive-wal"
    seen = set()
    old.reset()
    assert ended(old.action, "commit", 1, "kill-after") == KILLED
    size = log.stat().st_size
    for cut in range(0, size, 100 if EVERY else size // 20):
        old.reset()
        assert ended(old.action, "commit", 1, "kill-after") == KILLED
        os.truncate(log, cut)
        with closing(sqlite3.connect(f"file:{old.archive}?mode=ro", uri=True)) as torn:
            seen.add(torn.execute("PRAGMA user_version").fetchone()[0])
        old.check()
    assert 1 in seen


# delete

DELETE = [
    ("delete", 2, "kill-before kill-after fail-before raise-after", 8),
    ("look", 3, "kill-before fail-before", 8),
    ("list", 1, "kill-before fail-before", 1),
    ("os.open", 3, "kill-before raise-after", 5),
    ("os.fsync", 1, "kill-before full-before", 1),
    ("os.unlink", 2, "kill-before kill-after", 8),
    ("commit", 4, "kill-before kill-after raise-before raise-after", 10),
]


@named(DELETE)
def test_delete(kept: Place, tmp_path: Path, case: Case) -> None:
    """The next delete completes it, and takes nothing else."""
    place = Place(tmp_path / "place")

    def reset() -> None:
        shutil.rmtree(place.work, ignore_errors=True)
        shutil.copytree(kept.storage, place.storage)
        shutil.copy(kept.archive, place.archive)
        (place.storage / "somebody else's").write_bytes(b"")
        with Catalogue.open(place.archive, write=True) as catalogue, catalogue.transaction():
            catalogue.set_settings(catalogue.settings | {"url": place.storage.as_uri()})

    def action() -> None:
        with Catalogue.open(place.archive, write=True) as catalogue:
            delete(catalogue, Quiet())

    def check() -> None:
        with Catalogue.open(place.archive, write=False) as catalogue:
            deleted = catalogue.deleted
        if not deleted:
            action()
        with Catalogue.open(place.archive, write=False) as catalogue:
            assert catalogue.deleted
            assert not catalogue.remaining()
        assert [path.name for path in place.storage.iterdir()] == ["somebody else's"]

    ended_everywhere(action, reset, check, case)


# What writes little

PASSWORD_STEPS = [
    ("os.open", 1, "kill-before kill-after", 1),
    ("commit", 1, "kill-before kill-after raise-before raise-after", 1),
    ("statement", 3, "kill-before raise-after", 10),
]


@named(PASSWORD_STEPS)
def test_password(kept: Place, tmp_path: Path, case: Case) -> None:
    """Either password opens it at any moment, and in the end the new one alone."""
    place = Place(tmp_path)

    def opens(password: str) -> bool:
        with Catalogue.open(place.archive, write=False) as catalogue:
            try:
                unlock(catalogue, password)
            except PasswordError:
                return False
            return True

    def reset() -> None:
        for left in tmp_path.glob("photos.archive*"):
            left.unlink()
        shutil.copy(kept.archive, place.archive)

    def action() -> None:
        with Catalogue.open(place.archive, write=True) as catalogue:
            change_password(catalogue, unlock(catalogue, PASSWORD), NEW)

    def check() -> None:
        assert opens(PASSWORD) != opens(NEW)
        if not opens(NEW):
            action()
        assert opens(NEW)
        assert not opens(PASSWORD)
        with Catalogue.open(place.archive, write=False) as catalogue:
            assert catalogue.slots_unsent()
            assert len(catalogue.slots) == 2

    ended_everywhere(action, reset, check, case)


VERIFY = [
    ("commit", 3, "kill-before kill-after raise-before raise-after", 8),
    ("statement", 6, "kill-before raise-after", 20),
    ("list", 1, "kill-before fail-before", 1),
    ("get_into", 4, "kill-before fail-before raise-before", 16),
]


@named(VERIFY)
def test_verify(kept: Place, tmp_path: Path, case: Case) -> None:
    """What was read is remembered or read again, and nothing else changes."""
    place = Place(tmp_path)
    said = said_by(kept.archive)
    with Catalogue.open(kept.archive, write=False) as catalogue:
        staged = len(catalogue.staged())

    def reset() -> None:
        for left in tmp_path.glob("photos.archive*"):
            left.unlink()
        shutil.copy(kept.archive, place.archive)

    def action() -> Quiet:
        observer = Quiet()
        with Catalogue.open(place.archive, write=False) as catalogue:
            result = verify(catalogue, LocalStorage(kept.storage), observer, Fraction(1))
            assert result.staged == staged
        return observer

    def check() -> None:
        assert not action().problems
        with Catalogue.open(place.archive, write=False) as catalogue:
            assert catalogue.unchecked() == 0
        assert said_by(place.archive) == said

    ended_everywhere(action, reset, check, case)


KIT = [
    ("os.mkdir", 1, "kill-before kill-after full-before", 1),
    ("os.open", 1, "kill-before kill-after full-before", 4),
    ("os.unlink", 1, "kill-before kill-after", 3),
    ("io.write", 1, "kill-before torn-before full-before raise-after", 3),
    ("os.fsync", 1, "kill-before full-before", 4),
]


@named(KIT)
def test_kit(kept: Place, tmp_path: Path, case: Case) -> None:
    """With --force it is written anew, whatever was left of the one before."""
    with Catalogue.open(kept.archive, write=False) as catalogue:
        write_kit(catalogue, tmp_path / "whole", "", overwrite=False)

        def action() -> None:
            write_kit(catalogue, tmp_path / "kit", "", overwrite=True)

        def check() -> None:
            action()
            assert contents(tmp_path / "kit") == contents(tmp_path / "whole")

        def reset() -> None:
            shutil.rmtree(tmp_path / "kit", ignore_errors=True)

        ended_everywhere(action, reset, check, case)


def test_every_step_is_one() -> None:
    """A name that is wrong would be no fault."""
    for cases in (RECOVER, UPDATE, DELETE, PASSWORD_STEPS, VERIFY, KIT):
        assert all(case[0] in STEPS for case in cases)
