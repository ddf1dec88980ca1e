"""Verify: is all that the catalogue says in the storage, and is it what was sent?

::

    one listing -> names, sizes, checksums compared with the catalogue     (nothing read or thawed)
    deep -> the objects not read for longest first: every byte -> BLAKE3   (no password)

What was read and found sound is remembered with its time, so that samples, repeated, cover all.
"""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

from blake3 import blake3

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.clock import SystemClock
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import STAGED, STORED, UNREAD, Expected
from pyarchiver.cas.settings import settings_of
from pyarchiver.cas.storage import PART, Heat, Storage, Stored, reason
from pyarchiver.cas.survey import old_copy, refuse_none
from pyarchiver.cas.units import count_text
from pyarchiver.formats.errors import (
    CatalogueError,
    ColdError,
    FormatError,
    MissingError,
    StorageError,
)
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import parse_name, tag_of
from pyarchiver.formats.sealed import find_header

_BUFFER = 4 << 20
_READABLE = (Heat.WARM, Heat.THAWED)
_USELESS = "of no use, delete it by hand"


@dataclass(slots=True)
class VerifyResult:
    """What was compared and found. `names` objects should be there, `size` their bytes.

    Compared by the listing: `sizes` by size, `checksums` by each algorithm. `missing`, `differing`
    of them; `foreign` files that should not be there; `staged` objects that are yet to be sent;
    `others` objects of other archives. Of those to be read: `read`, `read_size` were, `damaged` of
    them; `cold`, `cold_size` could not be; `unread` never were in any verify.
    """

    names: int = 0
    size: int = 0
    sizes: int = 0
    checksums: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    differing: int = 0
    foreign: int = 0
    staged: int = 0
    others: int = 0
    read: int = 0
    read_size: int = 0
    damaged: int = 0
    cold: int = 0
    cold_size: int = 0
    unread: int = 0


def verify(
    catalogue: Catalogue, storage: Storage, observer: Observer, share: Fraction | None = None,
    url: str = "",
) -> VerifyResult:  # fmt: skip
    """Compare the storage with the catalogue; each finding is a problem of the observer.

    `url`: that of the storage, where it is not the archive's (yet). `share` of the bytes is read as
    well (1: all), what was not read for longest first. Raises StorageError where the storage is
    gone, or has nothing of the archive.
    """
    catalogue.refuse_deleted()
    storage.check()
    job = _Verification(catalogue, storage, observer, url or catalogue.url)
    job.compare()
    if share is not None:
        job.read(share)
    job.result.unread = catalogue.unchecked()
    return job.result


class _Verification:
    """The objects that should be there, and what was found of them."""

    def __init__(
        self, catalogue: Catalogue, storage: Storage, observer: Observer, url: str
    ) -> None:
        self._url = url
        self._catalogue = catalogue
        self._storage = storage
        self._observer = observer
        self._tag = tag_of(catalogue.keys.archive_id)
        self._rows = {row.name: row for row in catalogue.expected()}
        self._there: dict[str, Stored] = {}
        self._terms = settings_of(catalogue).profile.terms
        self._remembers = True
        self.result = VerifyResult()

    def compare(self) -> None:
        """One listing against the catalogue."""
        self._observer.begin("comparing", None, None)
        strange = []
        for stored in self._storage.list():
            if stored.name in self._rows:
                self._there[stored.name] = stored
            else:
                strange.append(stored.name)
        self._check_anything()
        for row in list(self._rows.values()):
            self._compare(row)
        self._strange(sorted(strange))

    def _check_anything(self) -> None:
        """A disk that is not mounted must not pass for thousands of lost objects."""
        stored = sum(row.state == STORED for row in self._rows.values())
        refuse_none(stored, len(self._there), self._url)

    def _compare(self, row: Expected) -> None:
        stored = self._there.get(row.name)
        if row.state == STAGED:
            self.result.staged += 1
            return
        self.result.names += 1
        self.result.size += row.size
        try:
            stored = stored or self._storage.look(row.name)
        except MissingError:
            self.result.missing += 1
            self._problem(row, "is missing")
            return
        self._there[row.name] = stored
        if reason := self._difference(row, stored):
            self.result.differing += 1
            self._problem(row, reason)

    def _difference(self, row: Expected, stored: Stored) -> str:
        # What recover did not read, of a storage that tells no sizes, has none.
        if stored.size is not None and row.size:
            self.result.sizes += 1
            if stored.size != row.size:
                return f"has {count_text(stored.size, 'byte')}, {row.size:,} were sent"
        if stored.checksums:
            sent = self._catalogue.checksums(row.id)
            for algorithm, value in stored.checksums:
                if algorithm not in sent:
                    continue
                counts = self.result.checksums
                counts[algorithm] = counts.get(algorithm, 0) + 1
                if sent[algorithm] != value:
                    return f"has another {algorithm} than what was sent: {value}"
        return ""

    def _strange(self, names: list[str]) -> None:
        """Files that were not expected: those of a run under way are expected by now."""
        unknown = []
        for text in names:
            name = parse_name(text.removesuffix(PART))
            if name is None:
                self._foreign(f"file {text} is no object of the archive: foreign")
            elif name.tag != self._tag:
                self.result.others += 1
            elif text.endswith(PART):
                self._unfinished(text)
            elif (state := self._catalogue.state_of(text)) is None and name.kind == Kind.KIT:
                continue
            elif state is None:
                self._foreign(f"object {text} is not in the catalogue")
                unknown.append(text)
            elif state == UNREAD:
                self._foreign(
                    f"object {text} is in no manifest and was not read by recover: what only it "
                    "holds comes with --packs unlisted"
                )
            elif state not in (STAGED, STORED):
                self._foreign(f"object {text} is left over from what failed: {_USELESS}")
        if unknown:
            self._observer.problem(old_copy(self._catalogue, unknown))

    def _unfinished(self, text: str) -> None:
        if self._catalogue.state_of(text.removesuffix(PART)) != STAGED:
            self._foreign(f"file {text} is left over from a put that failed: {_USELESS}")

    def _foreign(self, message: str) -> None:
        self.result.foreign += 1
        self._observer.problem(message)

    # Reading

    def read(self, share: Fraction) -> None:
        """Read a share of the bytes that are there and can be read."""
        chosen = self._choose(share)
        self._observer.begin("verifying", len(chosen), sum(row.size for row in chosen))
        for row in chosen:
            try:
                sound = self._read(row)
            except ColdError:
                self._left_cold(row)
            except StorageError as error:
                self.result.damaged += 1
                self._problem(row, f"cannot be read: {reason(row.name, error)}")
            else:
                self.result.read += 1
                self.result.read_size += row.size
                self.result.damaged += not sound
            self._observer.advance(files=1)
        self._storage.close()

    def _choose(self, share: Fraction) -> list[Expected]:
        """Least recently read first, at random among equals."""
        readable = []
        for row in self._rows.values():
            if row.state != STORED or row.name not in self._there:
                continue
            if self._can_be_read(row):
                readable.append(row)
            else:
                self._left_cold(row)
        random.shuffle(readable)
        readable.sort(key=lambda row: row.checked)
        left = share * sum(row.size for row in readable)
        chosen = []
        for row in readable:
            if left <= 0:
                break
            left -= row.size
            chosen.append(row)
        return chosen

    def _can_be_read(self, row: Expected) -> bool:
        """Whether an object is not cold, or no longer: not every listing tells of thaws."""
        if self._there[row.name].heat in _READABLE:
            return True
        thaw = self._catalogue.thaw(row.id)
        if thaw is None or not thaw.confirmed:
            return False
        try:
            is_thawed = self._storage.look(row.name).heat in _READABLE
        except StorageError:
            # Whoever reads it says what is wrong.
            return True
        return is_thawed or self._terms.is_open(thaw.asked, SystemClock().now())

    def _left_cold(self, row: Expected) -> None:
        self.result.cold += 1
        self.result.cold_size += row.size

    def _read(self, row: Expected) -> bool:
        """Whether every byte is as it was sent."""
        whole, buffer, at = blake3(), memoryview(bytearray(_BUFFER)), 0
        told = [name for name, _ in self._there[row.name].checksums]
        others = {name: hashlib.new(name) for name in told if name in hashlib.algorithms_available}
        while count := self._storage.get_into(row.name, at, buffer):
            whole.update(buffer[:count])
            for hasher in others.values():
                hasher.update(buffer[:count])
            at += count
            self._observer.advance(read=count)
        if not self._is_sound(row, whole.digest()):
            return False
        checksums = tuple((name, hasher.hexdigest()) for name, hasher in others.items())
        try:
            self._catalogue.record_check(row.id, time.time(), whole.digest(), checksums)
        except CatalogueError as error:
            if self._remembers:
                self._observer.notice(f"what was read is not remembered: {error}")
            self._remembers = False
        return True

    def _is_sound(self, row: Expected, digest: bytes) -> bool:
        if row.blake3:
            sound = digest == row.blake3
        else:
            # A recovered catalogue has not read what a checkpoint stands for: its header has to do.
            read_at = partial(self._storage.get_into, row.name)
            try:
                sound = find_header(read_at, row.size).header.authentic(self._catalogue.keys)
            except FormatError:
                sound = False
        if not sound:
            self._problem(row, "is damaged: these are not the bytes that were sent")
        return sound

    def _problem(self, row: Expected, reason: str) -> None:
        self._observer.problem(f"object {row.name} {reason}")
