"""Shared by the tests of cas/: an archive in a folder, and trees compared in every respect."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from pyarchiver.cas import archiver, create, database, intake, log, packer, press, settings, tree
from pyarchiver.cas import decrypt as decrypting
from pyarchiver.cas import restore as restoring
from pyarchiver.cas.archiver import RunResult
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.folder import ObjectFolder
from pyarchiver.cas.ini import located
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.planner import Request, RestoreResult
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.recover import Wanted, recover
from pyarchiver.cas.settings import Settings
from pyarchiver.cas.unlock import Keyring, unlock
from pyarchiver.formats import entry, recovery
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import parse_name

PASSWORD = "cold storage"
LONG_AGO = 1_000_000_000_123_456_789


def noise(label: object, size: int) -> bytes:
    """Bytes that look random and are the same everywhere."""
    return blake3(repr(label).encode()).digest(length=size)


# One archive


@dataclass
class World:
    """A source, a storage and the archive between them, in one folder."""

    root: Path
    settings: Settings
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    code: bytes = b""
    _made: int = 0

    @property
    def source(self) -> Path:
        return self.settings.source

    @property
    def storage(self) -> Path:
        return self.root / "storage"

    @property
    def archive(self) -> Path:
        return self.root / "test.archive"

    def start(self) -> None:
        """Make the .archive."""
        catalogue, code = create.create(self.settings, self.archive, PASSWORD)
        catalogue.close()
        self.code = recovery.decode(code)

    def resume(self, **options: bool) -> RunResult:
        """One run; what it complains of is in `problems`."""
        observer = self._observer()
        with Catalogue.open(self.archive, write=True) as catalogue:
            return archiver.resume(catalogue, observer, **options)

    def restore(
        self, into: str | Path = "", secret: str | bytes = PASSWORD, **wanted: Any
    ) -> tuple[Path, RestoreResult]:
        """Restore, privileges and all, into a new folder, or the one named."""
        folder = self._folder(into)
        storage = LocalStorage(self.storage)
        try:
            with Catalogue.open(self.archive, write=False) as catalogue:
                keys = unlock(catalogue, secret)
                request = Request(privileges=True, **wanted)
                observer = self._observer()
                result = restoring.restore(catalogue, storage, keys, folder, request, observer)
        finally:
            storage.close()
        return folder, result

    def decrypt(
        self,
        source: Path | None = None,
        into: str | Path = "",
        secret: str | bytes = PASSWORD,
        **wanted: Any,
    ) -> tuple[Path, RestoreResult]:
        """Decrypt the storage's folder, or another."""
        folder = self._folder(into)
        with _closing_folders():
            result = decrypting.decrypt(
                source or self.storage,
                folder,
                secret,
                Request(privileges=True, **wanted),
                self._observer(),
            )
        return folder, result

    def recover(self, into: str = "recovered.archive", wanted: Wanted | None = None) -> Path:
        """A new .archive from the storage's folder alone."""
        path = self.root / into
        keyring, settings = Keyring(PASSWORD), located(str(self.storage), path, None)
        storage = LocalStorage(self.storage)
        recover(settings, storage, keyring, path, wanted or Wanted(), self._observer())
        return path

    def objects(self, *kinds: Kind) -> dict[str, int]:
        """Names and sizes of what is in the storage."""
        found = {}
        for path in sorted(self.storage.iterdir()):
            name = parse_name(path.name)
            assert name is not None, f"{path.name} in the storage"
            if not kinds or name.kind in kinds:
                found[path.name] = path.stat().st_size
        return found

    def some(self, *names: str) -> Path:
        """A folder with copies of these objects only."""
        folder = self._folder("")
        folder.mkdir()
        for name in names:
            shutil.copy(self.storage / name, folder / name)
        return folder

    def write(self, path: str, data: bytes, mtime: int = LONG_AGO) -> Path:
        """A file in the source, last modified long ago."""
        where = self.source / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data)
        os.utime(where, ns=(mtime, mtime))
        return where

    def _folder(self, into: str | Path) -> Path:
        if into:
            return self.root / into
        self._made += 1
        return self.root / f"out{self._made}"

    def _observer(self) -> Quiet:
        self.problems, self.notices = [], []
        return Quiet(problems=self.problems, notices=self.notices)


@contextmanager
def _closing_folders() -> Iterator[None]:
    """Closes what decrypt leaves open; that it does is the business of one test only."""
    made: list[ObjectFolder] = []

    def make(source: Path) -> ObjectFolder:
        made.append(ObjectFolder(source))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decrypting, "ObjectFolder", make)
        try:
            yield
        finally:
            for folder in made:
                folder.raw.close()


def new_world(root: Path, **wanted: Any) -> World:
    """An archive of an empty source, with small chunks."""
    source, storage = root / "source", root / "storage"
    source.mkdir(parents=True)
    chosen = Settings("test", source, storage.as_uri(), chunk_size=64 << 10)
    world = World(root, replace(chosen, **wanted))
    world.start()
    return world


@contextmanager
def tuned(
    *,
    block_size: int = 0,
    pack_size: int = 0,
    manifest_every: int = 0,
    log_size: int = 0,
    checkpoint_after: int = 0,
    entries_raw: int = 0,
    racy: int | None = None,
) -> Iterator[None]:
    """The same program with smaller limits, so that small trees reach them; without fsync."""
    with pytest.MonkeyPatch.context() as patch:
        if pack_size:

            def smaller(catalogue: Catalogue) -> Settings:
                return replace(settings.settings_of(catalogue), pack_size=pack_size)

            patch.setattr(archiver, "settings_of", smaller)
        if block_size:
            patch.setattr(intake, "BLOCK_RAW_MAX", block_size)
            patch.setattr(press, "BLOCK_RAW_MAX", block_size)
        if manifest_every:
            patch.setattr(packer, "MANIFEST_EVERY", manifest_every)
        if log_size:
            patch.setattr(log, "OBJECT_MAX", log_size)
            patch.setattr(log, "_CLOSING_SIZE", 4096)
            patch.setattr(log, "ENTRIES_RAW", log_size // 8)
        if checkpoint_after:
            patch.setattr(log, "CHECKPOINT_AFTER", checkpoint_after)
        if entries_raw:
            patch.setattr(entry, "ENTRIES_RAW", entries_raw)
            patch.setattr(entry, "PART_SIZE", entries_raw)
        if racy is not None:
            patch.setattr(archiver, "_RACY_NS", racy)
        connect = database._connect

        def hasty(path: Path, mode: str) -> sqlite3.Connection:
            connection = connect(path, mode)
            connection.execute("PRAGMA synchronous = OFF")
            return connection

        patch.setattr(database, "_connect", hasty)
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(tree, "sync_below", lambda folder: None)
        yield


# Catalogues, compared


def said_by(archive: Path) -> dict[str, Any]:
    """All that a catalogue says, but what the file system said, and of objects that are covered."""
    with Catalogue.open(archive, write=False) as opened:
        db, head = opened._db, opened.head
        packs = "SELECT name, run, size, blake3, header, state FROM objects WHERE kind = 1"
        return {
            "versions": list(opened.versions()),
            "paths": set(
                db.execute(
                    "SELECT f.path, p.name, p.version, p.kind, p.size"
                    " FROM paths p JOIN folders f ON f.id = p.folder"
                )
            ),
            "packs": set(db.execute(packs)),
            "indexes": set(
                db.execute(
                    "SELECT o.name, i.part, i.body FROM indexes i JOIN objects o ON o.id = i.object"
                )
            ),
            "objects": set(
                db.execute("SELECT name, size, number, kind, state FROM objects WHERE kind")
            ),
            "chunks": set(
                db.execute(
                    "SELECT c.id, o.name, c.ordinal FROM chunks c JOIN objects o ON o.id = c.object"
                )
            ),
            "runs": opened.snapshots(),
            "open run": opened.interrupted_run(),
            "head": (head.number, head.hash, head.version),
            "pending": opened.objects(Kind.PACK, head.object),
            "since checkpoint": opened.log_since_checkpoint(),
            "settings": opened.settings,
            "slots": opened.slots,
            "keys": opened.keys,
            "totals": opened.totals(),
        }


# Trees, compared


@dataclass(frozen=True)
class Look:
    """All there is to see of one path. `inode` is 0 for what has one name only."""

    kind: int
    mode: int
    mtime: int
    owner: tuple[int, int]
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    inode: int = 0
    sparse: bool = False


Tree = dict[bytes, Look]


def look(root: Path) -> Tree:
    """A whole tree, its root (the empty path) included; sockets and devices are none of it."""
    found: Tree = {}
    pending = [b""]
    base = os.fsencode(root)
    while pending:
        path = pending.pop()
        where = base + b"/" + path if path else base
        seen = _look(where)
        if seen.kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            continue
        found[path] = seen
        if stat.S_ISDIR(seen.kind):
            pending += [path + b"/" + name if path else name for name in os.listdir(where)]
    return found


def _look(where: bytes) -> Look:
    st = os.lstat(where)
    kind = stat.S_IFMT(st.st_mode)
    content = b""
    if kind == stat.S_IFREG:
        with open(where, "rb") as file:
            content = file.read()
    elif kind == stat.S_IFLNK:
        content = os.readlink(where)
    xattrs = tuple(
        (name, os.getxattr(where, name, follow_symlinks=False))
        for name in sorted(os.listxattr(where, follow_symlinks=False))
    )
    linked = st.st_nlink > 1 and kind != stat.S_IFDIR
    return Look(
        kind, stat.S_IMODE(st.st_mode), st.st_mtime_ns, (st.st_uid, st.st_gid), content, xattrs,
        st.st_ino if linked else 0,
        kind == stat.S_IFREG and st.st_blocks * 512 < st.st_size,
    )  # fmt: skip


def plain(tree: Tree) -> dict[bytes, Look]:
    """What must be equal after a restore, inode numbers and holes apart."""
    return {path: replace(seen, inode=0, sparse=False) for path, seen in tree.items()}


def links(tree: Tree) -> set[frozenset[bytes]]:
    """Which paths are names of one file: of those in this tree, and in the same state."""
    groups: dict[tuple[int, Look], set[bytes]] = {}
    for path, seen in tree.items():
        if seen.inode:
            groups.setdefault((seen.inode, replace(seen, sparse=False)), set()).add(path)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def assert_same(found: Tree, wanted: Tree) -> None:
    """Two trees are equal in every respect."""
    ours, theirs = plain(found), plain(wanted)
    assert ours.keys() == theirs.keys()
    for path, seen in ours.items():
        assert replace(seen, content=b"") == replace(theirs[path], content=b""), path
        assert seen.content == theirs[path].content, path
    assert links(found) == links(wanted)


def rsync_says(one: Path, other: Path) -> str:
    """What rsync would change to make `other` like `one`; empty where nothing."""
    done = subprocess.run(
        ["rsync", "-aHAXnc", "--delete", "--modify-window=-1", "-i", f"{one}/", f"{other}/"],
        capture_output=True, text=True, errors="replace", check=True,
    )  # fmt: skip
    return done.stdout


def contents(root: Path) -> dict[str, bytes]:
    """The files of a tree by name."""
    return {
        os.fsdecode(path): seen.content
        for path, seen in look(root).items()
        if seen.kind == stat.S_IFREG
    }
