"""Rebuilds a catalogue from objects alone: manifests where there are any, packs otherwise.

::

    the manifests -> a checkpoint for those that are not there -> the packs that none of them lists

No manifest names a checkpoint, so that whoever has the keys can make one that leaves out what he
likes: it never stands before a manifest that is there. A pack is read through its index where that
is whole and front to back where it is not. Whatever is found is kept, and what is missing or
damaged is reported.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.chain import Chain, Manifest, follow
from pyarchiver.cas.folder import ObjectFolder
from pyarchiver.cas.objects import (
    Contents,
    entries_of,
    hash_object,
    open_object,
    read_contents,
)
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import STORED, Batch, Head, NewObject, VersionRow, split
from pyarchiver.cas.stock import Found, Stock, take_stock
from pyarchiver.cas.units import count_text
from pyarchiver.cas.unlock import Keyring
from pyarchiver.formats import header as headers
from pyarchiver.formats.entry import Entry, encode_node
from pyarchiver.formats.errors import DamagedError, FormatError, StorageError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.keys import ID_SIZE, ReadKeys
from pyarchiver.formats.names import object_name, parse_name
from pyarchiver.formats.payload import Type
from pyarchiver.formats.records import PackInfo, RunComplete, Settings

_BATCH = 10_000
# An entry may be large, and zstd makes little of many that are equal.
_BATCH_BYTES = 16 << 20


def rebuild(
    folder: ObjectFolder, keyring: Keyring, path: Path, observer: Observer
) -> tuple[Catalogue, ReadKeys]:
    """A catalogue at `path` of all that the objects in a folder say, to be restored from."""
    stock = take_stock(folder, folder.files(), keyring, observer)
    slots = stock.newest().header.slots
    catalogue = Catalogue.create(path, stock.keys.writer(), slots, {"name": "rebuilt"})
    try:
        job = Rebuild(folder, stock, catalogue, observer)
        with catalogue.transaction():
            job.log()
            packs = [f for f in stock.packs.values() if job.gaps or not job.is_listed(f)]
            observer.begin("reading packs", len(packs), None)
            for found in packs:
                job.pack(found)
                observer.advance(files=1)
            job.flush()
        for found in stock.packs.values():
            folder.add(found.name, found.file)
    except BaseException:
        catalogue.close()
        raise
    return catalogue, stock.keys


class Rebuild:
    """Fills a catalogue from the objects of one archive, within a transaction of the caller.

    `gaps`: some manifest is missing, or not all of it could be read, and no checkpoint stands for
    it; `covered`: the number of the newest checkpoint that the manifests lead to, which stands for
    those up to its own; `run`: the highest seen anywhere; `begun`: when the objects of each run
    that is followed began to be written, in seconds since 1970.
    """

    def __init__(
        self, folder: ObjectFolder, stock: Stock, catalogue: Catalogue, observer: Observer
    ) -> None:
        self._folder = folder
        self._stock = stock
        self._catalogue = catalogue
        self._observer = observer
        self._batch, self._batch_bytes = Batch(), 0
        self._branch = 0
        self._settings_from = 0
        # Ranges of numbers of manifests that are not there; numbers of those that are not whole.
        self._missing: list[tuple[int, int]] = []
        self._damaged: set[int] = set()
        self.gaps = False
        self.covered = 0
        self.run = 0
        self.begun: dict[int, int] = {}

    # The log

    def log(self, expected: bytes = b"") -> tuple[Chain, Head]:
        """Replay the log; `expected` is a manifest's hash, to choose a branch by.

        Nothing but manifests leads to that, so that a checkpoint in their place is a problem then.
        Returns the manifests and where the log stands.
        """
        log = list(self._stock.log.values())
        chain = follow([self._manifest(f) for f in log if f.header.kind == Kind.MANIFEST], expected)
        for number in chain.forks:
            self._observer.problem(
                f"two manifests have number {number}: a fork; both used, one is followed"
            )
        self._observer.begin("reading manifests", len(log), None)
        head = Head()
        for manifest in chain.branch:
            self._check_link(manifest, head)
            if self._replay(manifest.found, manifest.hash).damage:
                self._damaged.add(manifest.number)
            head = Head(manifest.number, manifest.hash)
        self.flush()
        found = [f for f in log if f.header.kind == Kind.CHECKPOINT]
        head = self._checkpoints(found, chain, head)
        self.flush()
        self._report_missing(is_problem=bool(expected))
        head = Head(head.number, head.hash, self._catalogue.last_version())
        # Entries of the other branches bear the same numbers: they are kept apart.
        self._branch = 1
        for manifest in chain.others:
            damage = self._replay(manifest.found, manifest.hash).damage
            self.gaps = self.gaps or bool(damage)
        self.flush()
        self._branch = 0
        return chain, Head(head.number, head.hash, head.version, self._catalogue.last_object())

    def _manifest(self, found: Found) -> Manifest:
        assert found.about is not None
        return Manifest(found, found.about, hash_object(self._folder.raw, found.file))

    def _check_link(self, manifest: Manifest, head: Head) -> None:
        """Note manifests that are missing, report others: each names the one before it."""
        about, before = manifest.about, manifest.number - 1
        if before != head.number:
            self._missing.append((head.number + 1, before))
        elif (about.previous, about.previous_hash) != (head.number, head.hash):
            self._damaged.add(before)
            self._observer.problem(
                f"manifest {before} is not the one that {manifest.number} continues"
            )

    def _report_missing(self, *, is_problem: bool) -> None:
        """Say which manifests are missing, and whether the checkpoint stands for them."""
        stand_in = self._observer.problem if is_problem else self._observer.notice
        for first, last in self._missing:
            if first <= self.covered:
                numbers = _numbers(first, min(last, self.covered))
                stand_in(f"manifest {numbers} was not read: checkpoint {self.covered} replaces it")
            if last > self.covered:
                numbers = _numbers(max(first, self.covered + 1), last)
                self._observer.problem(
                    f"manifest {numbers} is missing: what only it says is not restored"
                )
        # Their packs are in no manifest then, but for those of which it had the last entries.
        lost = {*self._damaged, *(last for _, last in self._missing)}
        self.gaps = max(lost, default=0) > self.covered

    def _checkpoints(self, found: list[Found], chain: Chain, head: Head) -> Head:
        """Fill up what the manifests up to `head` lack from checkpoints, the newest first.

        Done with the first that is whole and that the manifests lead to; those that are forged are
        named all the same. Returns where the log stands.
        """
        groups: dict[tuple[int, bytes], list[Found]] = {}
        for part in found:
            assert part.about is not None
            groups.setdefault((part.number, part.about.previous_hash), []).append(part)
        last = head.number
        for (number, hash_), parts in sorted(groups.items(), reverse=True):
            known = _hashes(number, [m for m in chain.branch if m.number not in self._damaged])
            known |= _named(number, chain.branch)
            if hash_ not in known:
                if hash_ in _hashes(number, chain.others) | _named(number, chain.others):
                    # That of another branch: its manifests say what it says.
                    continue
                if known:
                    self._observer.problem(
                        f"checkpoint {number} is not of the manifest of that number: left out"
                    )
                    continue
            if self.covered:
                continue
            fill = number > last or bool(self._missing or self._damaged)
            if not self._checkpoint(number, parts, fill=fill):
                if number > last:
                    self._damaged.add(number)
                continue
            if number >= head.number:
                head = Head(number, hash_)
            if known:
                self.covered = number
                continue
            self._damaged.add(number)
            self._observer.problem(
                f"manifest {number} is missing: nothing shows that checkpoint {number}, which is "
                "used, tells all and nothing else"
            )
        return head

    def _checkpoint(self, number: int, parts: list[Found], *, fill: bool) -> bool:
        """Whether a checkpoint counts: all its parts are there, each once and whole."""
        last = -1
        seen: set[int] = set()
        whole = True
        for found in sorted(parts, key=_part):
            whole = whole and _part(found) not in seen
            seen.add(_part(found))
            digest = hash_object(self._folder.raw, found.file)
            contents = self._replay(found, digest, use=fill)
            whole = whole and not contents.damage
            if any(kind == Type.RUN for kind, _ in contents.records):
                last = _part(found)
        if last >= 0 and whole and len(seen) == last + 1 and max(seen) == last and min(seen) == 0:
            return True
        self._observer.problem(f"checkpoint {number} is incomplete: parts are missing or damaged")
        return False

    def _replay(self, found: Found, blake3: bytes, *, use: bool = True) -> Contents:
        """List an object of the log and, with `use`, take what it says."""
        contents = self._contents(found)
        if use:
            self._take(contents, found.number)
        self._report(found, contents)
        self._add_object(found, _place(found), blake3, ())
        self._observer.advance(files=1)
        return contents

    def _take(self, contents: Contents, number: int) -> None:
        records = contents.records
        try:
            for at, (kind, body) in enumerate(records):
                if kind == Type.PACK:
                    self._add_pack(PackInfo.decode(body), records[at + 1 :])
                elif kind == Type.RUN and not self._branch:
                    self._catalogue.add_snapshot(RunComplete.decode(body))
                elif kind == Type.SETTINGS and number > self._settings_from:
                    self._settings_from = number
                    self._catalogue.set_settings(Settings.decode(body).values)
        except FormatError as error:
            contents.damage.append(str(error))
        self._add_entries(contents)

    def _add_pack(self, info: PackInfo, following: list[tuple[int, memoryview]]) -> None:
        bodies = []
        for kind, body in following[: info.indexes]:
            if kind != Type.PACK_INDEX:
                break
            bodies.append(bytes(body))
        # Without all of its index the pack is read itself, if it is there.
        if len(bodies) < info.indexes or self._has_pack(info.object_id):
            return
        header = headers.parse_front(info.header)
        if header.object_id != info.object_id:
            raise DamagedError("a pack's header is that of another object")
        name = object_name(header.archive_id, Kind.PACK, 0, header.object_id)
        self._add(
            NewObject(
                info.object_id, name, Kind.PACK, 0, info.run, info.size, info.blake3,
                header.raw, tuple(bodies),
            )
        )  # fmt: skip

    # Packs

    def is_listed(self, found: Found) -> bool:
        """Whether the catalogue has the pack already."""
        return self._has_pack(found.header.object_id)

    def _has_pack(self, object_id: bytes) -> bool:
        known = self._catalogue.object_by_id(object_id)
        return known is not None and known.kind == Kind.PACK

    def pack(self, found: Found, blake3: bytes = b"", name: str = "") -> None:
        """Take what a pack says of itself: its index and its entries; `name`: in the storage."""
        contents = self._contents(found)
        if not self.is_listed(found):
            self._add_object(found, name or found.name, blake3, tuple(contents.indexes))
        self._add_entries(contents)
        self._report(found, contents)

    def _add_object(
        self, found: Found, name: str, blake3: bytes, indexes: tuple[bytes, ...]
    ) -> None:
        header, run = found.header, found.about.run if found.about else 0
        if found.about:
            self.run = max(self.run, run)
            if not self._branch:
                self.begun[run] = min(self.begun.get(run, found.about.written), found.about.written)
        size = self._folder.raw.size(found.file)
        self._add(
            NewObject(
                header.object_id, name, Kind(header.kind), found.number, run, size, blake3,
                header.raw, indexes,
            )
        )  # fmt: skip

    # Both

    def _add(self, new: NewObject) -> None:
        """List an object. Of several with one id, which only a forger makes, a pack keeps it."""
        known = self._catalogue.object_by_id(new.object_id)
        if known:
            self._observer.problem(f"two objects have one id: {known.name} and {new.name}")
            if new.kind == Kind.PACK:
                self._catalogue.set_object_id(known.id, stand_in_id(known.name))
            else:
                new = replace(new, object_id=stand_in_id(new.name))
        self._catalogue.add_object(new, STORED)

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

    def _add_entries(self, contents: Contents) -> None:
        for entry in entries_of(contents):
            version = _version(entry)
            self._batch.versions.append(version)
            self._batch_bytes += len(entry.path) + len(version.fields)
            if len(self._batch.versions) >= _BATCH or self._batch_bytes >= _BATCH_BYTES:
                self.flush()

    def flush(self) -> None:
        """Bring the entries that were read into the catalogue."""
        left_out, contradictions = self._catalogue.add_versions(self._batch, self._branch)
        # That branches of a fork contradict each other was said of them all.
        if contradictions and not self._branch:
            entries = count_text(contradictions, "entry contradicts", "entries contradict")
            self._observer.problem(f"{entries} what was told of the same state before: both kept")
        if left_out:
            entries = count_text(left_out, "entry", "entries")
            self._observer.problem(f"left out: {entries} of too many forks")
        self._batch, self._batch_bytes = Batch(), 0


def stand_in_id(name: str) -> bytes:
    """What the catalogue lists an object by whose own id another one has."""
    return blake3(name.encode()).digest(ID_SIZE)


def _place(found: Found) -> str:
    """What an object is called in the storage; its own name where it lies under another."""
    parsed = parse_name(found.file)
    is_own = parsed is not None and parsed.object_id == found.header.object_id
    return found.file if is_own else found.name


def _hashes(number: int, manifests: list[Manifest]) -> set[bytes]:
    """The hashes of the manifests of a number."""
    return {m.hash for m in manifests if m.number == number}


def _named(number: int, manifests: list[Manifest]) -> set[bytes]:
    """The hashes that manifest `number` has as those say that continue it."""
    return {m.about.previous_hash for m in manifests if m.about.previous == number}


def _numbers(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _part(found: Found) -> int:
    assert found.about is not None
    return found.about.part


def _version(entry: Entry) -> VersionRow:
    folder, name = split(entry.path)
    node = entry.node
    fields = encode_node(node)
    return VersionRow(entry.sequence, folder, name, entry.run, int(node.kind), fields)
