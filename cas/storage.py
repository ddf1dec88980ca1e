"""What every storage can do. Objects are immutable: named once, never overwritten.

Retry, rate limits and faults are wrappers of this protocol, not branches in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pyarchiver.cas.pace import Pace
from pyarchiver.cas.settings import FORMS, Settings
from pyarchiver.formats.errors import SettingsError

PART = ".part"
"""Ends the name of what is not whole yet, in a spool or in a storage that can rename."""
PROBE = ".pyarchiver-probe"
"""Written and removed to see whether a storage takes anything."""


class Heat(StrEnum):
    """Whether an object can be read now."""

    WARM = "warm"
    """At once, always."""
    COLD = "cold"
    """Only after a thaw."""
    THAWING = "thawing"
    """A thaw was asked for and is under way."""
    THAWED = "thawed"
    """At once, until it becomes cold again."""


Checksums = tuple[tuple[str, str], ...]
"""(algorithm as hashlib names it, lower-case hex) of a whole object, each algorithm once."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as the storage tells of it.

    `size` in bytes, None where the storage does not say. `until` in seconds since 1970, None
    where it does not say: of a thawing object about when it can be read, of a thawed one until
    when. `checksums`: those that the storage knows.
    """

    name: str
    size: int | None
    heat: Heat = Heat.WARM
    until: float | None = None
    checksums: Checksums = ()


class Readable(Protocol):
    """What reading needs. All failures are StorageError; a missing object is MissingError."""

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """Fill `into` with the object's bytes from `start` on; returns how many there were.

        ColdError where the object must be thawed first. A connection that is lost in the middle
        is made again: the caller sees all bytes, or an error.
        """

    def size(self, name: str) -> int:
        """The object's size in bytes."""

    def close(self) -> None:
        """Let go of what reading kept open. Reading again is allowed."""


class Storage(Readable, Protocol):
    """A place for objects. All failures are StorageError; a missing object is MissingError."""

    spool: Path | None
    """The folder in which packs must be built to be `put` without a copy; None: anywhere."""
    uploads: int
    """Puts to have under way at once, in processes that get a copy of it; 0: one, in a thread."""
    atomic: bool
    """Whether a put that was cut leaves nothing under its name, and can be made again."""

    pace: Pace
    """That of each upload: `put` spends on it what it sends. A disk needs none."""

    def prepare(self) -> None:
        """Create the place if need be, and prove that it can be written to. Idempotent."""

    def check(self) -> None:
        """Raise StorageError unless the place is there; never creates it."""

    def put(self, name: str, spooled: Path) -> Checksums:
        """Make the fsynced file `spooled` the object `name`, and consume the file.

        Returns the checksums of the file, computed on the way from its bytes, in the algorithms
        that `list` tells of; none where it tells none, or where an earlier call got through.
        When it returns, the object is durable under its name. Where the storage is `atomic`, the
        name is there with all bytes or not at all; where not, UncertainError says that there may
        be anything, and that the name is spent. Idempotent: if `spooled` is gone and the object
        is there, an earlier call got through.
        """

    def list(self) -> Iterator[Stored]:
        """All files in the place, ours and others, in no particular order. Reads no object."""

    def look(self, name: str) -> Stored:
        """One object, without reading it and without asking for a thaw; MissingError."""

    def thaw(self, name: str, days: int, tier: str) -> None:
        """Ask for a cold object to become readable for `days`, by the way that `tier` names.

        Idempotent, and no second charge: asking again while it is thawing, thawed or warm does
        nothing. Where the storage fixes days or tier, they are ignored.
        """

    def delete(self, name: str) -> None:
        """Remove an object durably. Idempotent: a missing one is no error."""


def open_storage(
    settings: Settings, *, write: bool = True, tell: Callable[[str], None] | None = None
) -> Storage:
    """The storage that the settings name. Nothing is contacted yet.

    Without `write` it refuses to be changed. `tell` hears of connections that were lost and are
    made again.
    """
    storage = _adapter(settings)
    storage.pace = Pace(settings.upload_limit / max(1, storage.uploads))
    if settings.scheme != "file":
        from pyarchiver.cas.wrappers import Patient

        storage = Patient(storage, tell)
    if settings.download_limit:
        from pyarchiver.cas.wrappers import Limited

        storage = Limited(storage, Pace(settings.download_limit))
    if not settings.profile.ranges:
        from pyarchiver.cas.wrappers import Whole

        storage = Whole(storage)
    if not write:
        from pyarchiver.cas.wrappers import ReadOnly

        storage = ReadOnly(storage)
    return storage


def reason(name: str, error: Exception) -> str:
    """What is wrong with an object, for a message that names it already."""
    return str(error).removeprefix(f"object {name}: ")


def _adapter(settings: Settings) -> Storage:
    """Adapters are imported when they are used: what they stand on takes long to load."""
    match settings.scheme:
        case "file":
            from pyarchiver.cas.local import LocalStorage

            return LocalStorage.of_url(settings.url)
        case "sftp":
            from pyarchiver.cas.sftp import SftpStorage

            return SftpStorage(settings.url, settings.options, settings.profile)
        case "s3":
            try:
                from pyarchiver.cas.s3 import S3Storage
            except ImportError as error:
                raise SettingsError(
                    f"setting 'url': s3:// needs boto3 ({error}): pip install 'pyarchiver[s3]'"
                ) from None
            return S3Storage(settings.url, settings.options, settings.profile)
    raise SettingsError(
        f"setting 'url': no storage of kind {settings.scheme}://; use {' or '.join(FORMS.values())}"
    )
