"""Rebuilds a catalogue from objects alone: manifests where there are any, packs otherwise.

Manifests and checkpoints are replayed; a pack that none of them lists is read itself, through
its index where that is whole and front to back where it is not. Whatever is found is kept, and
what is missing or damaged is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.folder import ObjectFolder
from pyarchiver.cas.objects import (
    Contents,
    OpenObject,
    entries_of,
    hash_object,
    open_object,
    read_about,
    read_contents,
)
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import FORKS_MAX, STORED, Batch, NewObject, VersionRow, split
from pyarchiver.cas.unlock import Keyring, refusal
from pyarchiver.formats import header as headers
from pyarchiver.formats.entry import Entry, encode_node
from pyarchiver.formats.errors import (
    AccessError,
    DamagedError,
    ForeignError,
    FormatError,
    StorageError,
    UnsupportedError,
)
from pyarchiver.formats.header import Header, Kind
from pyarchiver.formats.keys import ReadKeys
from pyarchiver.formats.names import object_name, parse_name
from pyarchiver.formats.payload import Type
from pyarchiver.formats.records import About, PackInfo, RunComplete, Settings

_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a file of the folder. `name` is the one that its header gives it."""

    file: str
    name: str
    header: Header
    about: About | None

    @property
    def number(self) -> int:
        """The manifest number."""
        return self.about.number if self.about else 0


@dataclass
class Inventory:
    """The objects of one archive that a folder holds."""

    keys: ReadKeys
    packs: dict[str, Found] = field(default_factory=dict)
    log: dict[str, Found] = field(default_factory=dict)


def take_stock(folder: ObjectFolder, keyring: Keyring, observer: Observer) -> Inventory:
    """Open every file of a folder that is an object of the archive the secret opens.

    Raises PasswordError or CodeError where there are objects and none opens.
    """
    found: dict[bytes, Inventory] = {}
    locked = _open_all(folder, folder.files(), keyring, found, observer)
    if found:
        # A slot that opens serves every object of its archive, those that were tried before too.
        locked = _open_all(folder, locked, keyring, found, observer)
    for file in locked:
        observer.notice(f"{file}: of another archive or under another password; skipped")
    if not found:
        if locked:
            raise refusal(keyring.secret, "any object there")
        raise StorageError("no object of pyarchiver is there")
    found = {key: stock for key, stock in found.items() if stock.packs or stock.log}
    if not found:
        raise StorageError("no object that can be used is there")
    best = max(found.values(), key=lambda stock: len(stock.packs) + len(stock.log))
    for stock in found.values():
        if stock is not best:
            count = len(stock.packs) + len(stock.log)
            observer.problem(f"{count} objects of another archive with this password: skipped")
    return best


def _open_all(
    folder: ObjectFolder,
    files: Iterable[str],
    keyring: Keyring,
    found: dict[bytes, Inventory],
    observer: Observer,
) -> list[str]:
    """Open files and sort what is in them into `found`, by archive; returns those locked."""
    locked = []
    for file in files:
        if (name := parse_name(file)) and name.kind == Kind.KIT:
            continue
        try:
            opened = open_object(folder.raw, file, keyring.keys)
        except ForeignError:
            if name:
                observer.problem(f"{file}: nothing of an object is left in it")
            else:
                observer.notice(f"{file}: not an object of pyarchiver; skipped")
            continue
        except UnsupportedError as error:
            observer.problem(f"{file}: {error}")
            continue
        except (AccessError, FormatError, StorageError) as error:
            observer.problem(f"{file}: cannot be opened: {error}")
            continue
        if opened is None:
            locked.append(file)
            continue
        for notice in opened.notices:
            observer.notice(f"{file}: {notice}")
        stock = found.setdefault(opened.header.archive_id, Inventory(opened.keys))
        _sort_in(folder, file, opened, stock, observer)
    return locked


def _sort_in(
    folder: ObjectFolder, file: str, opened: OpenObject, stock: Inventory, observer: Observer
) -> None:
    """Put an opened object into its place; of two copies the one that is whole."""
    header = opened.header
    if header.kind not in (Kind.PACK, Kind.MANIFEST, Kind.CHECKPOINT):
        observer.notice(f"{file}: an object of a later version; skipped")
        return
    about = read_about(opened.opener)
    if header.kind != Kind.PACK and about is None:
        observer.problem(f"{file}: damaged at its beginning; skipped")
        return
    number = about.number if about else 0
    name = object_name(header.archive_id, Kind(header.kind), number, header.object_id)
    place = stock.packs if header.kind == Kind.PACK else stock.log
    found = Found(file, name, header, about)
    twin = place.setdefault(name, found)
    if twin is not found:
        observer.notice(f"{file}: the same object as {twin.file}")
        other = open_object(folder.raw, twin.file, lambda _: stock.keys)
        assert other is not None
        if opened.opener.sound_segments() > other.opener.sound_segments():
            place[name] = found


def rebuild(
    folder: ObjectFolder, keyring: Keyring, path: Path, observer: Observer
) -> tuple[Catalogue, ReadKeys]:
    """A catalogue at `path` of all that the objects in a folder say, open for writing."""
    stock = take_stock(folder, keyring, observer)
    newest = max((stock.log or stock.packs).values(), key=_written)
    slots = newest.header.slots
    catalogue = Catalogue.create(path, stock.keys.writer(), slots, {"name": "rebuilt"})
    try:
        _Rebuild(folder, stock, catalogue, observer).run()
    except BaseException:
        catalogue.close()
        raise
    return catalogue, stock.keys


class _Rebuild:
    """Fills a catalogue from the objects of one archive."""

    def __init__(
        self, folder: ObjectFolder, stock: Inventory, catalogue: Catalogue, observer: Observer
    ) -> None:
        self._folder = folder
        self._stock = stock
        self._catalogue = catalogue
        self._observer = observer
        self._batch = Batch()
        self._log_damaged = False
        self._parts: dict[int, set[int]] = {}
        self._last_part: dict[int, int] = {}

    def run(self) -> None:
        """Log first, then the packs that it does not list."""
        log = sorted(self._stock.log.values(), key=_log_order)
        self._observer.begin("reading manifests", len(log), None)
        with self._catalogue.transaction():
            for found in log:
                self._replay(found)
                self._observer.advance(files=1)
            self._check_chain(log)
            unlisted = [
                found
                for found in self._stock.packs.values()
                if self._log_damaged or not self._is_listed(found)
            ]
            self._observer.begin("reading packs", len(unlisted), None)
            for found in unlisted:
                self._read_pack(found)
                self._observer.advance(files=1)
            self._flush()
        for found in self._stock.packs.values():
            self._folder.add(found.name, found.file)

    def _contents(self, found: Found) -> Contents:
        opened = open_object(self._folder.raw, found.file, lambda _: self._stock.keys)
        assert opened is not None
        try:
            return read_contents(opened)
        except StorageError as error:
            return Contents(damage=[str(error)])

    def _report(self, found: Found, contents: Contents) -> None:
        for damage in dict.fromkeys(contents.damage):
            self._observer.problem(f"{found.file}: {damage}; the rest of it is used")

    def _replay(self, found: Found) -> None:
        contents = self._contents(found)
        records = contents.records
        if found.header.kind == Kind.CHECKPOINT and found.about:
            self._parts.setdefault(found.number, set()).add(found.about.part)
        try:
            for at, (kind, body) in enumerate(records):
                if kind == Type.PACK:
                    self._add_pack(PackInfo.decode(body), records[at + 1 :])
                elif kind == Type.RUN:
                    self._catalogue.add_snapshot(RunComplete.decode(body))
                    self._last_part[found.number] = found.about.part if found.about else 0
                elif kind == Type.SETTINGS:
                    self._catalogue.set_settings(Settings.decode(body).values)
        except FormatError as error:
            contents.damage.append(str(error))
        self._add_entries(contents)
        self._report(found, contents)
        self._log_damaged = self._log_damaged or bool(contents.damage)

    def _is_listed(self, found: Found) -> bool:
        return self._catalogue.object_by_id(found.header.object_id) is not None

    def _add_pack(self, info: PackInfo, following: list[tuple[int, memoryview]]) -> None:
        bodies = []
        for kind, body in following[: info.indexes]:
            if kind != Type.PACK_INDEX:
                break
            bodies.append(bytes(body))
        # Without all of its index the pack is read itself, if it is there.
        if len(bodies) < info.indexes or self._catalogue.object_by_id(info.object_id):
            return
        header = headers.parse_front(info.header)
        if header.object_id != info.object_id:
            raise DamagedError("a pack's header is that of another object")
        self._add_object(header, info.run, info.size, info.blake3, bodies)

    def _read_pack(self, found: Found) -> None:
        contents = self._contents(found)
        size = self._folder.raw.size(found.file)
        run = found.about.run if found.about else 0
        if not self._is_listed(found):
            self._add_object(found.header, run, size, b"", contents.indexes)
        self._add_entries(contents)
        self._report(found, contents)

    def _add_object(
        self, header: Header, run: int, size: int, blake3: bytes, indexes: list[bytes]
    ) -> None:
        name = object_name(header.archive_id, Kind.PACK, 0, header.object_id)
        new = NewObject(
            header.object_id, name, Kind.PACK, 0, run, size, blake3, header.raw, tuple(indexes)
        )
        self._catalogue.add_object(new, STORED)

    def _add_entries(self, contents: Contents) -> None:
        for entry in entries_of(contents):
            self._batch.versions.append(_version(entry))
            if len(self._batch.versions) >= _BATCH:
                self._flush()

    def _flush(self) -> None:
        left_out = self._catalogue.add_versions(self._batch)
        if left_out:
            self._observer.problem(f"{left_out} entries of too many forks are left out")
        self._batch = Batch()

    def _covered(self) -> int:
        """The last manifest that a complete checkpoint stands for, 0 for none."""
        covered = 0
        for number, parts in self._parts.items():
            last = self._last_part.get(number)
            if last is not None and parts >= set(range(last + 1)):
                covered = max(covered, number)
            else:
                self._observer.problem(f"checkpoint {number} is incomplete: parts are missing")
        return covered

    def _check_chain(self, log: list[Found]) -> None:
        """Report manifests that are missing or doubled: each names the one before it."""
        manifests = [found for found in log if found.header.kind == Kind.MANIFEST]
        covered = self._covered()
        hashes: dict[int, set[bytes]] = {}
        for found in manifests:
            about = found.about
            assert about is not None
            if about.number in hashes:
                self._observer.problem(
                    f"two manifests have number {about.number}: a fork; both used"
                )
            before = hashes.get(about.previous)
            if before is None and about.previous > covered:
                self._observer.problem(
                    f"manifest {about.previous} is missing: what only it says is not restored"
                )
            elif before is not None and about.previous_hash not in before:
                self._observer.problem(
                    f"manifest {about.previous} is not the one that {about.number} continues"
                )
            mine = hash_object(self._folder.raw, found.file)
            hashes.setdefault(about.number, set()).add(mine)


def _written(found: Found) -> tuple[int, int]:
    """For the newest, which has the slots that count: objects bear the time of their making."""
    about = found.about
    return (about.number, about.written) if about else (0, 0)


def _log_order(found: Found) -> tuple[int, int, int]:
    assert found.about is not None
    return (found.about.number, found.header.kind, found.about.part)


def _version(entry: Entry) -> VersionRow:
    folder, name = split(entry.path)
    node = entry.node
    # Room for entries of a fork, which bear one sequence in different runs or of different paths.
    sequence = entry.sequence * FORKS_MAX
    return VersionRow(sequence, folder, name, entry.run, int(node.kind), encode_node(node))
