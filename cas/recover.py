"""Recover: the .archive is lost, and made anew from what the storage holds and a secret.

::

    one listing -> newest checkpoint, its manifest and later ones -> fetched beside the new .archive
                -> replayed (rebuild) -> packs in no manifest: read one by one -> settled

Where a head is expected all manifests are read, for a checkpoint proves nothing: the keys in a
stolen .archive make one that hides what it likes. No pack that a manifest lists is read. The new
.archive appears under its name when it is complete; until then all is in NAME.archive.recovery,
where the next call finds what was fetched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.chain import Chain
from pyarchiver.cas.durable import sync_folder
from pyarchiver.cas.fetch import Fetcher, Listing, find_archive
from pyarchiver.cas.folder import ObjectFolder, OwnDisk
from pyarchiver.cas.progress import Observer, Quiet
from pyarchiver.cas.rebuild import Rebuild
from pyarchiver.cas.recover_packs import PackReader, Packs, keep_name
from pyarchiver.cas.rows import STORED, UNREAD, Head
from pyarchiver.cas.settings import Settings, parse, recovered
from pyarchiver.cas.stock import Stock, take_stock
from pyarchiver.cas.storage import Storage
from pyarchiver.cas.units import count_text
from pyarchiver.cas.unlock import Keyring
from pyarchiver.formats.errors import (
    AccessError,
    ArchiverError,
    CatalogueError,
    SettingsError,
    StorageError,
)
from pyarchiver.formats.header import Kind

_NEW = "new.archive"
# More than any run has entries: what packs hold that are not read lies below.
_APART = 1 << 40


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to recover; the head `expected` of a snapshot must be in the log.

    `only`: the tag that begins the names of the archive's objects, where there are several. `wait`:
    for what is cold, rather than end with a ColdError.
    """

    expected: tuple[int, bytes] | None = None
    packs: Packs = Packs.UNLISTED
    only: str = ""
    wait: bool = False


@dataclass(frozen=True, slots=True)
class RecoverResult:
    """What was recovered. `fetched` objects were read, `size` their bytes.

    Of the archive's `objects`, so many packs are `missing`, and `unread` as no manifest lists them.
    """

    snapshot: int
    head: str
    files: int
    files_size: int
    objects: int
    fetched: int
    size: int
    missing: int
    unread: int


def recover(
    settings: Settings, storage: Storage, keyring: Keyring, path: Path, wanted: Wanted,
    observer: Observer, *, from_ini: bool = False,
) -> RecoverResult:  # fmt: skip
    """Make the .archive at `path` of what is in the storage, which `settings` describe.

    `from_ini`: what they say of the storage counts more than what the manifests say. Raises
    PasswordError or CodeError, StorageError where there is no archive, ColdError where objects must
    be thawed first, ArchiverError where what is expected is not in the log. There is no .archive
    then, and what was fetched is kept for the next call.
    """
    if path.exists():
        _clear_up(path)
        raise CatalogueError(f"{path} is already there: go on with it, or choose another name")
    storage.check()
    listing = find_archive(storage, keyring, wanted.only)
    with _workshop(path) as folder:
        terms = settings.profile.terms
        fetcher = Fetcher(storage, terms, folder, observer, wait=wanted.wait)
        with _Recovery(fetcher, keyring, folder, listing, observer) as job:
            job.log(wanted.expected)
            job.packs(wanted.packs)
            return job.settle(settings, path, from_ini=from_ini)


def _folder_of(path: Path) -> Path:
    return path.with_name(path.name + ".recovery")


def _clear_up(path: Path) -> None:
    """Remove what is left of a recovery that was ended when its .archive was in its place."""
    folder = _folder_of(path)
    if folder.is_dir() and not (folder / _NEW).exists():
        sync_folder(path.parent)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _workshop(path: Path) -> Iterator[Path]:
    """The folder in which an .archive is made, and which goes when it is done."""
    folder = _folder_of(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder)
    except OSError as error:
        raise CatalogueError(f"cannot write to {folder}: {error.strerror}") from None


class _Recovery:
    """One archive on its way from the storage into a new .archive."""

    _catalogue: Catalogue
    _job: Rebuild
    _chain: Chain
    _head: Head

    def __init__(
        self, fetcher: Fetcher, keyring: Keyring, folder: Path, listing: Listing, observer: Observer
    ) -> None:
        self._keyring = keyring
        self._path = folder / _NEW
        self._listing = listing
        self._observer = observer
        self._folder = ObjectFolder(folder, OwnDisk)
        self._fetcher = fetcher
        self._open = False

    def __enter__(self) -> _Recovery:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.close()
        self._close()

    # The log

    def log(self, expected: tuple[int, bytes] | None) -> None:
        """Replay what should do of the log, and all of it where that does not.

        A checkpoint proves nothing: where a head is expected, that is all of it.
        """
        names = sorted(self._listing.log) if expected else self._listing.newest()
        head = expected[1] if expected else b""
        told = Quiet()
        self._replay(names, head, told)
        first = min((self._listing.parsed[name].number for name in names), default=0)
        if self._job.covered < first and len(names) < len(self._listing.log):
            self._observer.notice("the older manifests are needed too")
            told = Quiet()
            self._replay(sorted(self._listing.log), head, told)
        for notice in told.notices:
            self._observer.notice(notice)
        for problem in told.problems:
            self._observer.problem(problem)
        if expected:
            self._check_expected(*expected)

    def _replay(self, names: list[str], head: bytes, told: Observer) -> None:
        """Make a catalogue of these manifests and checkpoints; of the first pack, without any."""
        stock = self._stock(names, told) if names else self._any_pack(told)
        self._close()
        for left in self._path.parent.glob(f"{self._path.name}*"):
            left.unlink()
        slots = stock.newest().header.slots
        self._catalogue = Catalogue.create(self._path, stock.keys.writer(), slots, {})
        self._open = True
        self._job = Rebuild(self._folder, stock, self._catalogue, told)
        with self._catalogue.transaction():
            self._chain, self._head = self._job.log(head)
            # Of several attempts at one, that which was found whole gives it its name.
            chosen = {found.file for found in stock.log.values()}
            for name in sorted(self._listing.log, key=lambda name: name not in chosen):
                keep_name(self._catalogue, self._listing, self._listing.log[name], STORED)

    def _stock(self, names: list[str], told: Observer) -> Stock:
        fetched: list[str] = []
        objects = {**self._listing.log, **self._listing.packs}
        self._fetcher.fetch("fetching manifests", [objects[n] for n in names], fetched.append)
        return take_stock(self._folder, sorted(fetched), self._keyring, told)

    def _any_pack(self, told: Observer) -> Stock:
        """The first pack of which something is left: the archive's keys come from it."""
        for name in self._listing.packs:
            with suppress(AccessError, StorageError):
                return self._stock([name], told)
        raise StorageError("no object that can be used is there")

    def _check_expected(self, snapshot: int, head: bytes) -> None:
        """Raise ArchiverError unless the log goes on from what is expected."""
        last = self._catalogue.last_snapshot()
        found = f"the log found ends at snapshot {last}, head {self._head.hash.hex()}"
        expected = f"snapshot {snapshot}, head {head.hex()}"
        heads = [manifest.hash for manifest in self._chain.branch]
        if head not in heads or snapshot > last:
            what = "its newest objects are missing or withheld" if snapshot > last else "it differs"
            if head == self._head.hash:
                what = "its manifest is missing, and a checkpoint alone proves nothing"
            raise ArchiverError(f"{found}, and not at or after {expected}: {what}")
        later = self._chain.branch[heads.index(head) + 1 :]
        named = [manifest.about.previous_hash for manifest in later]
        if [*named, self._head.hash] != heads[-len(named) - 1 :]:
            raise ArchiverError(f"{found}, and between it and {expected} manifests are missing")

    # Packs

    def packs(self, which: Packs) -> None:
        """Read the packs that no manifest lists, and no other unless wanted."""
        reader = PackReader(
            self._catalogue, self._job, self._listing, self._path.parent, self._keyring,
            self._observer,
        )  # fmt: skip
        reader.read(which, self._fetcher)

    # The end

    def settle(self, given: Settings, path: Path, *, from_ini: bool) -> RecoverResult:
        """Make the catalogue one to go on with, and put it in its place."""
        catalogue = self._catalogue
        self._observer.begin("settling", None, None)
        with catalogue.transaction():
            missing = self._add_chunks()
            self._set_settings(given, from_ini=from_ini)
            open_run = max(self._job.begun, default=0)
            began = self._job.begun.get(open_run, 0) * 10**9
            is_open = open_run > catalogue.last_snapshot()
            catalogue.settle(
                self._head, self._job.covered, self._floor(), (open_run, began) if is_open else None
            )
        files, size = catalogue.totals()
        totals = catalogue.object_totals()
        result = RecoverResult(
            catalogue.last_snapshot(), self._head.hash.hex(), files, size,
            sum(row[2] for row in totals), self._fetcher.objects, self._fetcher.size,
            missing, sum(row[2] for row in totals if row[1] == UNREAD),
        )  # fmt: skip
        self._close()
        self._path.rename(path)
        sync_folder(path.parent)
        return result

    def _add_chunks(self) -> int:
        """Chunks of the packs that are there: what others held is sent again. Returns those."""
        missing = 0
        for row in self._catalogue.objects(Kind.PACK):
            stored = self._listing.packs.get(row.name)
            if stored and stored.size in (None, row.size):
                self._catalogue.add_chunks(row.id, self._catalogue.indexes(row.id))
            else:
                missing += 1
                what = "is missing"
                if stored:
                    what = f"has {count_text(stored.size or 0, 'byte')}, {row.size:,} were sent"
                self._observer.problem(f"object {row.name} {what}")
        return missing

    def _set_settings(self, given: Settings, *, from_ini: bool) -> None:
        sealed = self._catalogue.settings
        values = recovered(sealed, given, from_ini=from_ini)
        try:
            parse(values, Path("/"))
        except SettingsError as error:
            self._observer.problem(f"the settings in the manifests cannot be used: {error}")
            values = given.values()
        if not (sealed or from_ini):
            self._observer.notice(
                "no manifest has the settings: to resume, recover with --config INI"
            )
        self._catalogue.set_settings(values)

    def _floor(self) -> tuple[int, int]:
        """Above all that was seen, and all that may be in packs which were not read."""
        run, sequence = self._job.run, self._catalogue.highest_sequence()
        unread = any(state == UNREAD for _, state, _, _ in self._catalogue.object_totals())
        return (run + 1, (sequence // _APART + 1) * _APART) if unread else (run, sequence)

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._catalogue.close()
