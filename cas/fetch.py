"""Fetches objects of a storage into a folder, for a reader that has no catalogue yet.

What is in a storage is known from its listing: names say archive, kind and number. Names are the
storage's word; what an object is, its own header says when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pyarchiver.cas.objects import open_object
from pyarchiver.cas.profiles import HOUR, Terms, Way
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.storage import PART, Storage, Stored
from pyarchiver.cas.thaw import read_all
from pyarchiver.cas.units import count_text
from pyarchiver.cas.unlock import Keyring, nothing_opens
from pyarchiver.formats.errors import (
    AccessError,
    ColdError,
    FormatError,
    SettingsError,
    StorageError,
)
from pyarchiver.formats.header import HEADER_MAX, Kind, parse_front
from pyarchiver.formats.names import ObjectName, first_name, parse_name

_BUFFER = 4 << 20


@dataclass(slots=True)
class Listing:
    """The objects of one archive as the storage lists them, packs and log apart, by name."""

    packs: dict[str, Stored] = field(default_factory=dict)
    log: dict[str, Stored] = field(default_factory=dict)
    parsed: dict[str, ObjectName] = field(default_factory=dict)

    def add(self, stored: Stored, name: ObjectName) -> None:
        """One more object."""
        place = self.packs if name.kind == Kind.PACK else self.log
        place[stored.name] = stored
        self.parsed[stored.name] = name

    def attempts(self, names: Iterable[str]) -> dict[str, list[Stored]]:
        """Objects by the name of the first attempt at each: after cut puts there may be several."""
        found: dict[str, list[Stored]] = {}
        for name in names:
            found.setdefault(first_name(name), []).append(self._stored(name))
        return found

    def _stored(self, name: str) -> Stored:
        return self.packs.get(name) or self.log[name]

    def newest(self) -> list[str]:
        """Names in the log: the newest checkpoint, the manifest that it names, and what came after.

        All where it forks, or where something is there more than once: which is whole only reading
        shows, and what is not is deleted later.
        """
        names = sorted(self.log)
        attempts = self.attempts(names).values()
        manifests = [self._number(tried[0].name, Kind.MANIFEST) for tried in attempts]
        numbers = [number for number in manifests if number]
        if len(attempts) < len(names) or len(set(numbers)) < len(numbers):
            return names
        base = max((self._number(name, Kind.CHECKPOINT) for name in names), default=0)
        return [name for name in names if self.parsed[name].number >= base]

    def _number(self, name: str, kind: Kind) -> int:
        """The number of an object of that kind, 0 for others."""
        parsed = self.parsed[name]
        return parsed.number if parsed.kind == kind else 0


def find_archive(storage: Storage, keyring: Keyring, only: str = "") -> Listing:
    """What a storage lists of the one archive that the secret opens.

    `only`: the tag that begins the archive's names. Raises PasswordError or CodeError where the
    secret opens none, AccessError where not all could be tried, SettingsError where it opens
    several, StorageError where there is none.
    """
    found: dict[str, Listing] = {}
    for stored in storage.list():
        name = parse_name(stored.name)
        if name and name.kind != Kind.KIT:
            found.setdefault(name.tag, Listing()).add(stored, name)
    if not found:
        raise StorageError("no object of pyarchiver is there")
    if only:
        if only not in found:
            raise StorageError(f"no object of {only} is there, but of {', '.join(sorted(found))}")
        found = {only: found[only]}
    opened, locked = _opened(storage, keyring, found)
    if not opened and keyring.try_rest():
        opened, locked = _opened(storage, keyring, found)
    if not opened:
        raise nothing_opens(keyring.secret, locked)
    if len(opened) > 1:
        raise SettingsError(
            "several archives are there: choose one by the beginning of its objects' names, "
            f"--only {' or --only '.join(sorted(opened))}"
        )
    return found[opened[0]]


def _opened(
    storage: Storage, keyring: Keyring, found: dict[str, Listing]
) -> tuple[list[str], dict[str, AccessError | None]]:
    """(tags of the archives that the secret opens, objects that could not be tried)."""
    locked: dict[str, AccessError | None] = {}
    return [tag for tag in found if _opens(storage, keyring, found[tag], locked)], locked


def _opens(
    storage: Storage, keyring: Keyring, listing: Listing, locked: dict[str, AccessError | None]
) -> bool:
    """Whether the secret opens an archive, or may: what is cold cannot be tried.

    The newest first, which has the newest slots; where slots were changed, older ones do too.
    """
    newest = sorted(listing.log.values(), key=lambda s: listing.parsed[s.name].number, reverse=True)
    for stored in newest or listing.packs.values():
        try:
            if _is_opened(storage, keyring, stored):
                return True
        except ColdError:
            return True
        except AccessError as error:
            locked[stored.name] = error
        except (FormatError, StorageError):
            continue
    return False


def _is_opened(storage: Storage, keyring: Keyring, stored: Stored) -> bool:
    if stored.size is not None:
        return open_object(storage, stored.name, keyring.keys, stored.size) is not None
    # Without its size only the header in front can be found.
    front = bytearray(HEADER_MAX)
    count = storage.get_into(stored.name, 0, memoryview(front))
    return keyring.keys(parse_front(bytes(front[:count]))) is not None


class Fetcher:
    """Copies objects into a folder; what is there already, and whole, is not fetched again.

    What is cold is asked for; with `wait`, it stays until it can be read.
    """

    def __init__(
        self, storage: Storage, terms: Terms, folder: Path, observer: Observer, *, wait: bool
    ) -> None:
        self._storage = storage
        self._terms = terms
        self._folder = folder
        self._observer = observer
        self._wait = wait
        self.objects = self.size = 0

    def fetch(self, phase: str, wanted: Iterable[Stored], take: Callable[[str], None]) -> None:
        """Call `take` with the name of each object when it is in the folder.

        Raises ColdError at the end where some cannot be read yet: the same call goes on later.
        """
        objects = list(wanted)
        self._observer.begin(phase, len(objects), sum(stored.size or 0 for stored in objects))

        def read(name: str) -> None:
            file = self._folder / name
            if name in missing:
                self._copy(name, file)
            self._observer.advance(files=1)
            take(name)

        missing = {stored.name for stored in objects if not self._has(stored)}
        for stored in objects:
            if stored.name not in missing:
                read(stored.name)
        rest = [stored for stored in objects if stored.name in missing]
        if self._terms.way == Way.REQUEST or (self._terms.way == Way.READING and self._wait):
            read_all(self._storage, self._terms, rest, read, self._observer, wait=self._wait)
        else:
            self._try(rest, read)
        self._storage.close()

    def _has(self, stored: Stored) -> bool:
        file = self._folder / stored.name
        return file.exists() and stored.size in (None, file.stat().st_size)

    def _try(self, objects: list[Stored], read: Callable[[str], None]) -> None:
        """Read what can be. Where reading is the way to ask, what fails is asked for with that."""
        cold, budget = 0, self._terms.budget(self._terms.rate)
        for stored in objects:
            if budget < 0:
                cold += 1
                continue
            try:
                read(stored.name)
            except ColdError:
                cold += 1
                budget -= stored.size or 0
        if cold:
            when = _in_words(self._terms.delay)
            told = count_text(cold, "object is cold and was", "objects are cold and were")
            raise ColdError(f"{told} asked for: run it again{when}, it goes on")

    def _copy(self, name: str, file: Path) -> None:
        part = file.with_name(file.name + PART)
        buffer, at = memoryview(bytearray(_BUFFER)), 0
        with part.open("wb") as out:
            while count := self._storage.get_into(name, at, buffer):
                out.write(buffer[:count])
                at += count
                self._observer.advance(read=count)
        part.rename(file)
        self.objects += 1
        self.size += at


def _in_words(seconds: float) -> str:
    """When to come back, in words; empty where nobody knows."""
    return f" in about {count_text(round(seconds / HOUR), 'hour')}" if seconds else ""
