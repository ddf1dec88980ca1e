"""The catalogue: one SQLite file, NAME.archive, that knows everything that was sent.

Each object passes two commits. `stage` records a pack once its spool file is durable, together
with its chunks and the files it completes; `stored` flips one row when the storage has
confirmed it. Between the two the spooled pack is sent as it is, however often the program is
killed. A manifest is staged together with the log position that it reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import astuple
from pathlib import Path
from typing import Self

from pyarchiver.cas.inventory import Inventory
from pyarchiver.cas.rows import (
    STAGED,
    Batch,
    Head,
    NewObject,
)
from pyarchiver.formats import wire
from pyarchiver.formats.aead import KEY_SIZE
from pyarchiver.formats.errors import CatalogueError, FormatError, SettingsError
from pyarchiver.formats.header import Kind, parse_front
from pyarchiver.formats.keys import ID_SIZE, PUBLIC_KEY_SIZE, Slot, WriteKeys
from pyarchiver.formats.records import RunComplete

SUFFIX = ".archive"


class Catalogue(Inventory):
    """An open .archive: what was sent (objects, chunks, runs) and, inherited, all paths."""

    # Slots that are still being derived from the password, while the first files are read.
    _deriving: Future[tuple[Slot, ...]] | None = None
    _on_slots: Callable[[], None] | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        keys: WriteKeys,
        slots: tuple[Slot, ...] | Future[tuple[Slot, ...]],
        settings: dict[str, str],
        on_slots: Callable[[], None] | None = None,
    ) -> Catalogue:
        """The .archive of a new archive; see `make`. One that is `unfinished` is replaced.

        `on_slots` is called once the slots that were still being derived are durable in it. Where
        it fails there is no .archive any more: nothing can have been sent before.
        """
        values = {
            "archive_id": keys.archive_id,
            "archive_key": keys.archive_key,
            "public_key": keys.public_key,
            "settings": wire.pack(settings),
        }
        if isinstance(slots, Future):
            made = cls.make(path, values, replaces=cls.unfinished)
            made._deriving, made._on_slots = slots, on_slots
        else:
            values["slots"] = wire.pack(slots)
            made = cls.make(path, values, replaces=cls.unfinished)
        return made

    @classmethod
    def open(cls, path: Path, *, write: bool, older: bool = False) -> Self:
        """As of any `Database`; raises CatalogueError for a configuration that nobody made here."""
        opened = super().open(path, write=write, older=older)
        try:
            opened._check_config()
        except (FormatError, CatalogueError, TypeError, ValueError, KeyError):
            opened.close()
            raise CatalogueError(
                f"{path} is damaged (its configuration): use a copy of it, or get the files back "
                "with pyarchiver decrypt"
            ) from None
        except BaseException:
            opened.close()
            raise
        return opened

    def _check_config(self) -> None:
        settings, slots = wire.unpack(self._config["settings"]), self.config("slots")
        wire.unpack(self.config("checkpoint") or wire.pack(0))
        head, keys = self.head, self.keys
        sound = (
            [len(keys.archive_id), len(keys.archive_key)] == [ID_SIZE, KEY_SIZE]
            and len(keys.public_key) == PUBLIC_KEY_SIZE
            and isinstance(settings, dict)
            and {"name", "source", "url"} <= settings.keys()
            and all(type(text) is str for item in settings.items() for text in item)
            and all(isinstance(slot, dict) for slot in (wire.unpack(slots) if slots else ()))
            and [type(value) for value in astuple(head)] == [int, bytes, int, int]
            and [type(value) for value in self.floor] == [int, int]
            and 0 <= float(self.config("download_rate") or 0) < float("inf")
        )
        if not sound:
            raise CatalogueError("impossible configuration")

    @classmethod
    def unfinished(cls, path: Path) -> bool:
        """Whether this is an .archive whose `start` ended before it had slots: it holds nothing."""
        try:
            with cls.open(path, write=False) as found:
                return not found.config("slots")
        except CatalogueError:
            return False

    def close(self) -> None:
        """Close the file, with its slots."""
        try:
            if self._deriving and not self._deriving.exception():
                self._keep_slots(self._deriving.result())
        finally:
            super().close()

    @property
    def keys(self) -> WriteKeys:
        """What archiving needs of the keys."""
        c = self._config
        return WriteKeys(c["archive_id"], c["archive_key"], c["public_key"])

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The key slots that go into every header."""
        if self._deriving:
            self._keep_slots(self._deriving.result())
        packed = self.config("slots")
        if not packed:
            raise CatalogueError(
                f"the start of {self.path} was interrupted before anything was sent: start it again"
            )
        return tuple(wire.unpack(packed))

    def set_slots(self, slots: tuple[Slot, ...]) -> None:
        """Commit other slots for the objects that are written from now on."""
        self.configure(slots=wire.pack(slots))

    def amend(self, values: dict[str, str], *, moved: bool, sealed: bool) -> None:
        """Commit other settings; `sealed`: the next run is to send them, whatever else it does.

        `moved`: to another storage, of which nothing is known yet: neither thaws nor its speed.
        """
        with self.transaction():
            self.set_settings(values)
            if sealed and self.has_objects():
                self._configure({"settings_unsent": b"1"})
            if moved:
                self.forget_thaws()
                self._configure({"download_rate": b""})

    @property
    def settings_unsent(self) -> bool:
        """Whether no manifest has the settings as they are now."""
        return bool(self.config("settings_unsent"))

    def slots_unsent(self) -> bool:
        """Whether no object has the slots yet: the newest was written before they changed."""
        row = self._db.execute(
            "SELECT header FROM objects WHERE header != x'' ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return row is not None and parse_front(row[0]).slots != self.slots

    def _keep_slots(self, slots: tuple[Slot, ...]) -> None:
        self.configure(slots=wire.pack(slots))
        self._deriving = None
        try:
            if self._on_slots:
                self._on_slots()
        except Exception:
            self.discard()
            raise

    @property
    def settings(self) -> dict[str, str]:
        """The archive's settings, by the names they have in the ini file."""
        return dict(wire.unpack(self._config["settings"]))

    @property
    def head(self) -> Head:
        """Where the log stands."""
        packed = self.config("head")
        return Head(*wire.unpack(packed)) if packed else Head()

    @property
    def name(self) -> str:
        """The archive's name, from its settings."""
        return self.settings["name"]

    @property
    def url(self) -> str:
        """Where the objects are, from the settings."""
        return self.settings["url"]

    # Runs

    def begin_run(self, began: int) -> int:
        """The number of the run to work on: the one that was interrupted, or a new one."""
        row = self._db.execute("SELECT run FROM runs WHERE ended IS NULL").fetchone()
        if row:
            return int(row[0])
        with self.transaction():
            (last,) = self._db.execute("SELECT coalesce(max(run), 0) FROM runs").fetchone()
            run = max(int(last), self.floor[0]) + 1
            self._db.execute("INSERT INTO runs (run, began) VALUES (?, ?)", (run, began))
        return run

    def abandon_run(self, run: int) -> None:
        """Forget a run that found nothing new."""
        with self.transaction():
            self._db.execute("DELETE FROM runs WHERE run = ? AND ended IS NULL", (run,))

    def sent_in(self, run: int) -> bool:
        """Whether the run has staged any object."""
        query = "SELECT 1 FROM objects WHERE run = ? LIMIT 1"
        return self._db.execute(query, (run,)).fetchone() is not None

    def began(self, run: int) -> int:
        """When the run began, in ns since 1970."""
        (value,) = self._db.execute("SELECT began FROM runs WHERE run = ?", (run,)).fetchone()
        return int(value)

    def snapshots(self, after: int = 0) -> list[RunComplete]:
        """The complete runs later than run `after`, in order."""
        rows = self._db.execute(
            "SELECT run, began, ended, files, size FROM runs"
            " WHERE ended IS NOT NULL AND run > ? ORDER BY run",
            (after,),
        )
        return [RunComplete(*row) for row in rows]

    def last_snapshot(self) -> int:
        """The number of the last complete run, 0 for none."""
        (run,) = self._db.execute(
            "SELECT coalesce(max(run), 0) FROM runs WHERE ended IS NOT NULL"
        ).fetchone()
        return int(run)

    def check_snapshot(self, number: int) -> None:
        """Raise SettingsError where there is no such snapshot."""
        if all(done.run != number for done in self.snapshots()):
            last = self.last_snapshot()
            there = f"the newest is {last}" if last else "it has none yet"
            raise SettingsError(f"no snapshot {number} in the archive: {there}")

    def interrupted_run(self) -> int:
        """The run that was begun and is not complete, 0 for none."""
        query = "SELECT coalesce(max(run), 0) FROM runs WHERE ended IS NULL"
        return int(self._db.execute(query).fetchone()[0])

    def add_snapshot(self, done: RunComplete) -> None:
        """Record a complete run read from a manifest; what was told of it first stays."""
        self._db.execute(
            "REPLACE INTO runs SELECT ?1, ?2, ?3, ?4, ?5"
            " WHERE NOT EXISTS (SELECT 1 FROM runs WHERE run = ?1 AND ended IS NOT NULL)",
            (done.run, done.began, done.ended, done.files, done.size),
        )

    # Objects

    def stage(self, new: NewObject, batch: Batch, secured: Callable[[], None]) -> int:
        """Commit a pack, its chunks, and the files it completes.

        `secured` returns when the pack's spool file is durable, or raises; the rows, which take
        long as well, are written meanwhile.
        """
        with self.transaction():
            object_row = self.add_object(new, STAGED)
            self.add_chunks(object_row, new.indexes)
            self._record(batch)
            secured()
        return object_row

    def record(self, batch: Batch) -> None:
        """Commit versions that need no new pack."""
        with self.transaction():
            self._record(batch)

    def stage_manifest(self, new: NewObject, head: Head, done: RunComplete | None) -> int:
        """Commit a durable manifest, the log position it reaches, and the run it completes."""
        with self.transaction():
            object_row = self.add_object(new, STAGED)
            self.set_head(head)
            if done:
                self.add_snapshot(done)
                if self.settings_unsent:
                    self._configure({"settings_unsent": b""})
        return object_row

    def stage_checkpoint(self, new: NewObject, last: bool) -> int:
        """Commit a durable part of a checkpoint; with the last part the checkpoint counts."""
        with self.transaction():
            if last:
                self._configure({"checkpoint": wire.pack(new.number)})
            return self.add_object(new, STAGED)

    def set_head(self, head: Head) -> None:
        """Record where the log stands, within a transaction of the caller."""
        self._configure({"head": wire.pack([head.number, head.hash, head.version, head.object])})

    def log_since_checkpoint(self) -> tuple[int, int, int]:
        """(manifests since the last checkpoint, their bytes, the checkpoint's bytes)."""
        packed = self.config("checkpoint")
        last = wire.unpack(packed) if packed else 0
        query = "SELECT count(*), coalesce(sum(size), 0) FROM objects WHERE kind = ? AND number"
        count, size = self._db.execute(f"{query} > ?", (int(Kind.MANIFEST), last)).fetchone()
        _, checkpoint = self._db.execute(f"{query} = ?", (int(Kind.CHECKPOINT), last)).fetchone()
        return int(count), int(size), int(checkpoint)

    # Deletion

    @property
    def being_deleted(self) -> bool:
        """Whether objects may be gone, and some may be left."""
        return self.config("deletion") == b"begun"

    @property
    def deleted(self) -> bool:
        """Whether all objects are gone."""
        return self.config("deletion") == b"done"

    def refuse_deleted(self) -> None:
        """Raise CatalogueError where the archive is deleted or about to be."""
        if self.deleted:
            raise CatalogueError(
                f"{self.path} is deleted, its objects are gone: move it away to start anew"
            )
        if self.being_deleted:
            raise CatalogueError(
                f"{self.path} is being deleted: pyarchiver delete {self.path} goes on"
            )

    def begin_deletion(self) -> None:
        """Commit the intent, before the first object goes."""
        self.configure(deletion=b"begun")

    def end_deletion(self) -> None:
        """Commit that nothing is left."""
        self.configure(deletion=b"done")

    # The download rate that restores measured

    @property
    def download_rate(self) -> float | None:
        """Bytes a second that the last restores measured."""
        return float(self.config("download_rate") or 0) or None

    def set_download_rate(self, rate: float) -> None:
        """Commit a measured rate."""
        self.configure(download_rate=repr(rate).encode())

    # Rebuilding

    def set_settings(self, values: dict[str, str]) -> None:
        """Keep settings, within a transaction of the caller."""
        self._configure({"settings": wire.pack(values)})

    @property
    def floor(self) -> tuple[int, int]:
        """(run, sequence) that objects bear which the log does not say: new ones lie above."""
        packed = self.config("floor")
        run, sequence = wire.unpack(packed) if packed else (0, 0)
        return run, sequence

    def settle(
        self, head: Head, checkpoint: int, floor: tuple[int, int], open_run: tuple[int, int] | None
    ) -> None:
        """Go on where the log stands, within a transaction of the caller.

        `checkpoint`: the number of the last; `open_run`: (number, ns since 1970) of the run that
        the next one continues.
        """
        self.set_head(head)
        self._configure({"checkpoint": wire.pack(checkpoint), "floor": wire.pack(list(floor))})
        if open_run:
            self._db.execute("INSERT INTO runs (run, began) VALUES (?, ?)", open_run)
        self.settle_paths()
