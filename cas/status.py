"""What an archive holds, as its catalogue knows it; asks neither source nor storage."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.clock import SystemClock
from pyarchiver.cas.rows import DELETED, STAGED, STORED, UNREAD
from pyarchiver.cas.settings import settings_of
from pyarchiver.formats import wire
from pyarchiver.formats.entry import EntryKind
from pyarchiver.formats.header import Kind
from pyarchiver.formats.payload import Index

_KINDS = {int(kind): kind.name.lower() for kind in Kind}
_STATES = {STAGED: "staged", STORED: "stored", DELETED: "deleted", UNREAD: "unread"}


@dataclass(frozen=True, slots=True)
class SnapshotStatus:
    """A snapshot: times in ns since 1970, the tree's files and bytes, and what it added."""

    snapshot: int
    began: int
    ended: int
    files: int
    size: int
    new: int
    gone: int
    stored: int


@dataclass(frozen=True, slots=True)
class ObjectsStatus:
    """So many objects of one kind in one state, and their bytes."""

    kind: str
    state: str
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class ThawStatus:
    """Objects that were asked for: times in seconds since 1970, None where not known.

    `state`: thawing (until about `ready`), thawed (until `until`), or readable (since about
    `ready`, where the storage does not tell).
    """

    name: str
    size: int
    asked: float
    ready: float
    until: float | None
    state: str


@dataclass(frozen=True, slots=True)
class Status:
    """All that `status` tells.

    `versions_size`: bytes of every version of every file; `chunks_size`: of their distinct
    chunks; `stored`: of the objects that hold them. `interrupted`: the run that a resume completes,
    0 for none. `slots_unsent`, `settings_unsent`: whether a changed password or recovery code, or
    changed settings, are in no object yet.
    """

    name: str
    source: str
    url: str
    deletion: str
    snapshots: list[SnapshotStatus]
    objects: list[ObjectsStatus]
    versions_size: int
    chunks: int
    chunks_size: int
    stored: int
    interrupted: int
    slots_unsent: bool = False
    settings_unsent: bool = False
    thaws: list[ThawStatus] = field(default_factory=list)

    @property
    def deduplication(self) -> float | None:
        """Bytes archived for each byte of distinct chunks.

        None where nobody knows: without any, or while the files of a run are not complete.
        """
        if not self.chunks_size or self.interrupted:
            return None
        return self.versions_size / self.chunks_size

    @property
    def compression(self) -> float | None:
        """Bytes of distinct chunks for each byte stored; None without any."""
        return self.chunks_size / self.stored if self.chunks_size and self.stored else None


def status(catalogue: Catalogue) -> Status:
    """The status of an archive; works while another process archives."""
    chunks, chunks_size = _chunks(catalogue)
    objects = [
        ObjectsStatus(
            _KINDS.get(kind, f"kind {kind}"), _STATES.get(state, f"state {state}"), count, size
        )
        for kind, state, count, size in catalogue.object_totals()
    ]
    deletion = "deleted" if catalogue.deleted else "begun" if catalogue.being_deleted else ""
    return Status(
        name=catalogue.name,
        source=catalogue.settings["source"],
        url=catalogue.url,
        deletion=deletion,
        snapshots=_snapshots(catalogue),
        objects=objects,
        versions_size=_versions_size(catalogue),
        chunks=chunks,
        chunks_size=chunks_size,
        stored=sum(row.size for row in objects if row.state != _STATES[DELETED]),
        interrupted=catalogue.interrupted_run(),
        slots_unsent=not deletion and catalogue.slots_unsent(),
        settings_unsent=not deletion and catalogue.settings_unsent,
        thaws=_thaws(catalogue, SystemClock().now()),
    )


def _thaws(catalogue: Catalogue, now: float) -> list[ThawStatus]:
    """What was asked for and did not lapse."""
    terms = settings_of(catalogue).profile.terms
    found = []
    for name, size, asked, ready, until in catalogue.thaws():
        if terms.holds(asked, until, now):
            state = "thawed" if until else "thawing" if now < ready else "readable"
            found.append(ThawStatus(name, size, asked, ready, until, state))
    return found


def _snapshots(catalogue: Catalogue) -> list[SnapshotStatus]:
    changes, stored = catalogue.changes_by_run(), catalogue.size_by_run()
    return [
        SnapshotStatus(
            done.run, done.began, done.ended, done.files, done.size,
            *changes.get(done.run, (0, 0)), stored.get(done.run, 0),
        )
        for done in catalogue.snapshots()
    ]  # fmt: skip


def _chunks(catalogue: Catalogue) -> tuple[int, int]:
    count = size = 0
    for body in catalogue.all_indexes():
        lengths = Index.decode(body).lengths
        count += len(lengths)
        size += sum(lengths)
    return count, size


def _versions_size(catalogue: Catalogue) -> int:
    total = 0
    for fields in catalogue.fields_of_kind(EntryKind.FILE):
        value = wire.unpack(fields)
        size = value.get("size") if isinstance(value, dict) else None
        total += size if isinstance(size, int) else 0
    return total
