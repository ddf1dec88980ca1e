"""The packs of a recovery: which are read, and of several attempts at one which is the whole one.

Where uploads were cut, a storage that cannot rename has one object under several names (NAME,
NAME.2, ...), of which any may be the whole one. The others are abandoned, and thus deleted by the
next run: so which it is must be known, and not be guessed.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.fetch import Fetcher, Listing
from pyarchiver.cas.folder import ObjectFolder, OwnDisk
from pyarchiver.cas.objects import hash_object
from pyarchiver.cas.progress import Observer, Quiet
from pyarchiver.cas.rebuild import Rebuild, stand_in_id
from pyarchiver.cas.rows import UNREAD, NewObject, ObjectRow
from pyarchiver.cas.stock import Found, take_stock
from pyarchiver.cas.storage import Stored
from pyarchiver.cas.units import count_text
from pyarchiver.cas.unlock import Keyring
from pyarchiver.formats.errors import AccessError, StorageError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import first_name, parse_name


class Packs(StrEnum):
    """Which packs to read, beside those that are there under several names."""

    NONE = "none"
    UNLISTED = "unlisted"
    """Those that no manifest lists."""
    ALL = "all"
    """Also for what damaged or missing manifests said."""


class PackReader:
    """Reads packs into the catalogue that a rebuild fills; their names are those of a listing."""

    def __init__(
        self, catalogue: Catalogue, job: Rebuild, listing: Listing, folder: Path,
        keyring: Keyring, observer: Observer,
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._job = job
        self._listing = listing
        self._path = folder
        self._folder = ObjectFolder(folder, OwnDisk)
        self._keyring = keyring
        self._observer = observer
        self._rows = {first_name(row.name): row for row in catalogue.objects(Kind.PACK)}

    def read(self, which: Packs, fetcher: Fetcher) -> None:
        """Read the packs that are wanted, and note the names of the others."""
        if self._job.gaps and which != Packs.ALL:
            self._observer.problem(
                "what damaged or missing manifests said may be in packs that others list: "
                "--packs all reads them too"
            )
        wanted: dict[str, list[Stored]] = {}
        unread = []
        with self._catalogue.transaction():
            for first, attempts in self._listing.attempts(self._listing.packs).items():
                row = self._rows.get(first)
                left = self._fitting(row, attempts) if row else attempts
                if len(left) > 1 or which == Packs.ALL or (not row and which == Packs.UNLISTED):
                    wanted[first] = left
                elif not row:
                    unread += left
                    keep_name(self._catalogue, self._listing, left[0], UNREAD)
        if unread:
            self._observer.problem(
                f"{count_text(len(unread), 'pack')} in no manifest and not read, such as "
                f"{unread[0].name}: what only they hold is not recovered (--packs unlisted)"
            )
        self._fetch(wanted, which, fetcher)
        with self._catalogue.transaction():
            self._job.flush()

    def _fitting(self, row: ObjectRow, attempts: list[Stored]) -> list[Stored]:
        """The attempts that may be what was sent; where it is one, the row gets its name."""
        fitting = [stored for stored in attempts if stored.size in (None, row.size)]
        if len(fitting) == 1:
            self._settle(row, fitting[0].name, attempts)
        return fitting or attempts

    def _settle(self, row: ObjectRow, name: str, attempts: list[Stored]) -> None:
        """Of these names this one is the object's, within a transaction."""
        self._catalogue.place_object(row.id, name)
        for stored in attempts:
            if stored.name != name:
                self._catalogue.abandon(stored.name)

    def _fetch(self, wanted: dict[str, list[Stored]], which: Packs, fetcher: Fetcher) -> None:
        missing = {first: len(attempts) for first, attempts in wanted.items()}

        def take(name: str) -> None:
            first = first_name(name)
            missing[first] -= 1
            if not missing[first]:
                self._pack(first, wanted[first], which)

        objects = [stored for attempts in wanted.values() for stored in attempts]
        fetcher.fetch("reading packs", objects, take)

    def _pack(self, first: str, attempts: list[Stored], which: Packs) -> None:
        """Take what the fetched attempts at one pack say."""
        files = [stored.name for stored in attempts]
        # A cut attempt is no problem where another one is whole.
        told = Quiet() if len(files) > 1 else self._observer
        try:
            packs = take_stock(self._folder, files, self._keyring, told).packs.values()
        except (AccessError, StorageError) as error:
            self._observer.problem(f"object {first} is of no use: {error}")
            packs = {}.values()
        row = self._rows.get(first)
        with self._catalogue.transaction():
            for found in packs:
                self._take(found, row, attempts, which)
            for stored in attempts:
                keep_name(self._catalogue, self._listing, stored, UNREAD)
        self._folder.close()
        for file in files:
            (self._path / file).unlink()

    def _take(
        self, found: Found, row: ObjectRow | None, attempts: list[Stored], which: Packs
    ) -> None:
        name = parse_name(found.file)
        if name is None or name.object_id != found.header.object_id:
            self._observer.problem(f"{found.file} is {found.name}: rename it so; left out")
            return
        digest = partial(hash_object, self._folder.raw)
        if row is None:
            # Of several that one which has most of it: a cut one has the beginning.
            self._job.pack(found, digest(found.file), found.file)
            return
        whole = next((s.name for s in attempts if digest(s.name) == row.blake3), None)
        if whole is None:
            self._observer.problem(f"object {found.file} is not what was sent")
        self._settle(row, whole or found.file, attempts)
        if which == Packs.ALL or whole is None:
            self._job.pack(replace(found, file=whole or found.file), row.blake3)


def keep_name(catalogue: Catalogue, listing: Listing, stored: Stored, state: int) -> None:
    """Of an object that is not read its name is known, within a transaction.

    Where the name of another attempt at it is known already, this is what a cut put left. An id
    that another object has tells nothing of this one: what is under that name is never deleted.
    """
    parsed = listing.parsed[stored.name]
    if catalogue.state_of(stored.name) is not None:
        return
    known = catalogue.object_by_id(parsed.object_id)
    if known and first_name(known.name) == first_name(stored.name):
        catalogue.abandon(stored.name)
        return
    object_id = stand_in_id(stored.name) if known else parsed.object_id
    size = stored.size or 0
    new = NewObject(object_id, stored.name, parsed.kind, parsed.number, 0, size, b"", b"")
    catalogue.add_object(new, state)
