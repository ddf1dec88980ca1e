"""The part of the catalogue that knows paths: every state they had, and the newest of each."""

from __future__ import annotations

from collections.abc import Iterator

from pyarchiver.cas.database import Database
from pyarchiver.cas.rows import (
    BRANCH,
    BRANCHES_MAX,
    LOOK_AGAIN,
    NOW,
    Batch,
    Known,
    VersionRow,
    join,
    split,
)
from pyarchiver.formats import wire
from pyarchiver.formats.entry import EntryKind

_GONE, _FOLDER = int(EntryKind.GONE), int(EntryKind.FOLDER)
_INTO_VERSIONS = " INTO versions VALUES (?, ?, ?, ?, ?, ?)"


class Versions(Database):
    """Paths and their versions."""

    def folder(self, path: bytes) -> dict[bytes, Known]:
        """The newest state of everything known in a folder, by name; deleted ones included."""
        query = (
            "SELECT name, version, kind, size, mtime, ctime, inode FROM paths"
            " WHERE folder = (SELECT id FROM folders WHERE path = ?)"
        )
        # As `Known(*row[1:])`, in half the time: an unchanged tree is little else.
        make = tuple.__new__
        return {row[0]: make(Known, row[1:]) for row in self._db.execute(query, (path,))}

    def below(self, path: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(folder, name) of all that is not deleted below a folder, at any depth."""
        query = (
            "SELECT f.path, p.name FROM folders f JOIN paths p ON p.folder = f.id"
            " WHERE (f.path = ?1 OR (f.path >= ?2 AND f.path < ?3)) AND p.kind != ?4"
        )
        values = (path, path + b"/", path + b"0", int(EntryKind.GONE))
        return iter(self._db.execute(query, values).fetchall())

    def has_path(self, path: bytes) -> bool:
        """Whether anything ever stood at a path."""
        folder, name = split(path)
        query = (
            "SELECT 1 FROM versions v JOIN folders f ON f.id = v.folder"
            " WHERE f.path = ? AND v.name = ? LIMIT 1"
        )
        return self._db.execute(query, (folder, name)).fetchone() is not None

    def fields(self, version: int) -> bytes:
        """The fields of a version."""
        (fields,) = self._db.execute(
            "SELECT fields FROM versions WHERE id = ?", (version,)
        ).fetchone()
        return bytes(fields)

    def last_version(self) -> int:
        """The highest sequence recorded, 0 for none."""
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM versions").fetchone()
        return int(last)

    def versions(self, after: int = 0, until: int = 1 << 62) -> Iterator[VersionRow]:
        """All versions with a sequence above `after` and up to `until`, in order."""
        return self._versions("v.id > ? AND v.id <= ? ORDER BY v.id", after, until)

    def state(self, run: int) -> Iterator[VersionRow]:
        """The tree as it was at the end of a run."""
        newest = "SELECT max(id) FROM versions WHERE id > 0 AND run <= ? GROUP BY folder, name"
        return self._versions(
            f"v.id IN ({newest}) AND v.kind != ? ORDER BY v.id", run, int(EntryKind.GONE)
        )

    def latest(self) -> Iterator[VersionRow]:
        """The latest state of every path ever archived, deleted ones included.

        A path that was both a folder and something else gives the latest of either.
        """
        newest = "SELECT max(id) FROM versions WHERE kind != ? GROUP BY folder, name, kind = ?"
        return self._versions(
            f"v.id IN ({newest}) ORDER BY v.id", int(EntryKind.GONE), int(EntryKind.FOLDER)
        )

    def replaced_kinds(self) -> list[VersionRow]:
        """The older state of each path that was both a folder and something else."""
        newest = (
            "SELECT max(id) AS id, folder, name FROM versions WHERE kind != ?"
            " GROUP BY folder, name, kind = ?"
        )
        older = f"SELECT min(id) FROM ({newest}) GROUP BY folder, name HAVING count(*) > 1"
        values = int(EntryKind.GONE), int(EntryKind.FOLDER)
        return list(self._versions(f"v.id IN ({older})", *values))

    def implied_folders(self) -> Iterator[tuple[VersionRow, VersionRow]]:
        """(state, newest state below it) of each path that has paths below and never was a folder.

        That it became one only a manifest said, which a catalogue rebuilt from packs did not have.
        """
        newest = f"SELECT max(id) FROM versions WHERE kind != {_GONE} GROUP BY folder, name"
        path = "CASE f.path WHEN x'' THEN v.name ELSE CAST(f.path || x'2f' || v.name AS BLOB) END"
        found = list(
            self._versions(
                f"v.id IN ({newest}) AND v.kind != {_FOLDER} AND EXISTS (SELECT 1 FROM folders g"
                f" WHERE g.path = {path} OR (g.path > CAST({path} || x'2f' AS BLOB)"
                f" AND g.path < CAST({path} || x'30' AS BLOB)))"
            )
        )
        for row in found:
            states = self._versions(
                "(f.path = ?1 AND v.name = ?2 AND v.kind = ?3)"
                " OR ((f.path = ?4 OR (f.path >= ?5 AND f.path < ?6)) AND v.kind != ?7)"
                " ORDER BY v.id",
                row.folder, row.name, _FOLDER, row.path, row.path + b"/", row.path + b"0", _GONE,
            )  # fmt: skip
            below = list(states)
            if below and not any(state.path == row.path for state in below):
                yield row, below[-1]

    def listing(self, run: int | None, deleted: bool) -> Iterator[VersionRow]:
        """As `latest` with `deleted`, as `state` otherwise (of now without a `run`); by path."""
        if deleted:
            newest = (
                "SELECT max(id) FROM versions WHERE kind != ?1 GROUP BY folder, name, kind = ?2"
            )
            values = int(EntryKind.GONE), int(EntryKind.FOLDER)
        else:
            newest = "SELECT max(id) FROM versions WHERE id > 0 AND run <= ?2 GROUP BY folder, name"
            values = int(EntryKind.GONE), NOW if run is None else run
        condition = f"v.id IN ({newest}) AND v.kind != ?1 ORDER BY f.path, v.name, v.id"
        return self._versions(condition, *values)

    def history(self) -> Iterator[VersionRow]:
        """Every state of every path, path by path and oldest first."""
        return self._versions("1 ORDER BY f.path, v.name, v.id")

    def is_newest(self, row: VersionRow) -> bool:
        """Whether a state still stands: nothing came after it, and it was not deleted."""
        query = (
            "SELECT p.version FROM paths p JOIN folders f ON f.id = p.folder"
            " WHERE f.path = ? AND p.name = ?"
        )
        found = self._db.execute(query, (row.folder, row.name)).fetchone()
        return found is not None and found[0] == row.sequence

    def fields_of_kind(self, kind: EntryKind) -> Iterator[bytes]:
        """The fields of every version of a kind."""
        rows = self._db.execute("SELECT fields FROM versions WHERE kind = ?", (int(kind),))
        return (fields for (fields,) in rows)

    def changes_by_run(self) -> dict[int, tuple[int, int]]:
        """For each run: paths that it found new or changed, paths that it found gone."""
        query = "SELECT run, sum(kind != ?1), sum(kind = ?1) FROM versions GROUP BY run"
        rows = self._db.execute(query, (int(EntryKind.GONE),))
        return {run: (new, gone) for run, new, gone in rows}

    def hold(self, run: int | None) -> None:
        """Keep the state of a run (None: of now) at hand, to be asked for by `held`."""
        newest = "SELECT max(id) FROM versions WHERE id > 0 AND run <= ?1 GROUP BY folder, name"
        self._db.execute("DROP TABLE IF EXISTS temp.held")
        self._db.execute(
            "CREATE TEMP TABLE held (folder BLOB, name BLOB, version INTEGER, kind INTEGER,"
            " PRIMARY KEY (folder, name)) WITHOUT ROWID"
        )
        self._db.execute(
            "INSERT INTO held SELECT f.path, v.name, v.id, v.kind"
            " FROM versions v JOIN folders f ON f.id = v.folder"
            f" WHERE v.id IN ({newest}) AND v.kind != ?2",
            (NOW if run is None else run, int(EntryKind.GONE)),
        )

    def held(self, folder: bytes) -> dict[bytes, tuple[int, int]]:
        """(version, kind) of what is held in a folder, by name."""
        rows = self._db.execute("SELECT name, version, kind FROM held WHERE folder = ?", (folder,))
        return {name: (version, kind) for name, version, kind in rows}

    def held_below(self, path: bytes) -> Iterator[bytes]:
        """The paths of all that is held below a folder, at any depth."""
        rows = self._db.execute(
            "SELECT folder, name FROM held WHERE folder = ?1 OR (folder >= ?2 AND folder < ?3)",
            (path, path + b"/", path + b"0"),
        )
        return (join(folder, name) for folder, name in rows)

    def _versions(self, condition: str, *values: object) -> Iterator[VersionRow]:
        query = (
            "SELECT v.id, f.path, v.name, v.run, v.kind, v.fields"
            f" FROM versions v JOIN folders f ON f.id = v.folder WHERE {condition}"
        )
        return (VersionRow(*row) for row in self._db.execute(query, values))

    def totals(self) -> tuple[int, int]:
        """(files, bytes) of the tree as it stands."""
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM paths WHERE kind = ?",
            (int(EntryKind.FILE),),
        ).fetchone()
        return int(row[0]), int(row[1])

    def _record(self, batch: Batch) -> None:
        # A third less time with bytearray: for bytes the module first looks for an adapter.
        folders = {folder: self._make_folder(folder) for folder in _folders(batch)}
        self._db.executemany(
            f"INSERT{_INTO_VERSIONS}",
            (
                (v[0], folders[v[1]], bytearray(v[2]), v[3], v[4], bytearray(v[5]))
                for v in batch.versions
            ),
        )
        self._db.executemany(
            "REPLACE INTO paths VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((folders[folder], bytearray(name), *known) for folder, name, known in batch.paths),
        )

    def _folder_id(self, path: bytes) -> int | None:
        row = self._db.execute("SELECT id FROM folders WHERE path = ?", (path,)).fetchone()
        return int(row[0]) if row else None

    def _make_folder(self, path: bytes) -> int:
        cursor = self._db.execute("INSERT OR IGNORE INTO folders (path) VALUES (?)", (path,))
        folder = cursor.lastrowid if cursor.rowcount else self._folder_id(path)
        assert folder is not None
        return folder

    def add_versions(self, batch: Batch, branch: int = 0) -> tuple[int, int]:
        """Insert versions read from objects, within a transaction of the caller.

        Those of another branch of the log than the one followed, and those that find their place
        taken by another, go below: see BRANCH. Returns how many find no place, and how many say
        other than what was there of the same path, run and sequence.
        """
        folders = {folder: self._make_folder(folder) for folder in _folders(batch)}
        rows = [
            (v.sequence, folders[v.folder], bytearray(v.name), v.run, v.kind, bytearray(v.fields))
            for v in batch.versions
        ]
        if not branch:
            before = self._db.total_changes
            self._db.executemany(f"INSERT OR IGNORE{_INTO_VERSIONS}", rows)
            if self._db.total_changes - before == len(rows):
                return 0, 0
        left_out = contradictions = 0
        for sequence, *values in rows:
            there, before = self._version_at(sequence), self._db.total_changes
            left_out += not self._place(sequence, tuple(values), branch)
            is_new = self._db.total_changes > before
            contradictions += is_new and there is not None and list(there[:3]) == values[:3]
        return left_out, contradictions

    def _version_at(self, sequence: int) -> tuple[object, ...] | None:
        query = "SELECT folder, name, run, kind, fields FROM versions WHERE id = ?"
        row: tuple[object, ...] | None = self._db.execute(query, (sequence,)).fetchone()
        return row

    def _place(self, sequence: int, values: tuple[object, ...], branch: int) -> bool:
        for place in dict.fromkeys((0, *range(branch, BRANCHES_MAX))):
            at = sequence - place * BRANCH
            there = self._version_at(at)
            if there == values:
                return True
            if there is None and place >= branch:
                self._db.execute(f"INSERT{_INTO_VERSIONS}", (at, *values))
                return True
        return False

    def highest_sequence(self) -> int:
        """The highest sequence of any branch."""
        query = f"SELECT coalesce(max(id & {BRANCH - 1}), 0) FROM versions"
        return int(self._db.execute(query).fetchone()[0])

    def settle_paths(self) -> None:
        """Make the newest state of every path, on the branch followed, what is known of it.

        Within a transaction of the caller. What the file system said is not known, so that the
        next run looks at every file again.
        """
        self._db.create_function("size_of", 1, _size_of, deterministic=True)
        newest = "SELECT max(id) FROM versions WHERE id > 0 GROUP BY folder, name"
        self._db.execute(
            "INSERT INTO paths SELECT folder, name, id, kind, size_of(fields), ?, 0, 0"
            f" FROM versions WHERE id IN ({newest})",
            (LOOK_AGAIN,),
        )


def _size_of(fields: bytes) -> int:
    """The size in a version's fields, 0 for what has none."""
    size = wire.unpack(fields).get("size")
    return size if isinstance(size, int) else 0


def _folders(batch: Batch) -> set[bytes]:
    return {v.folder for v in batch.versions} | {folder for folder, _, _ in batch.paths}
