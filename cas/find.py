"""Finds versions of files across all snapshots, and the packs that they lie in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.plan import runs_of
from pyarchiver.cas.rows import VersionRow
from pyarchiver.cas.walk import path_matcher
from pyarchiver.formats.entry import EntryKind, Node, decode_node
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import object_name


@dataclass(frozen=True, slots=True)
class Filters:
    """Only files of these sizes in bytes, modified from `newer` to `older` in ns since 1970."""

    larger: int | None = None
    smaller: int | None = None
    newer: int | None = None
    older: int | None = None

    def match(self, node: Node) -> bool:
        """Whether a state passes; those on size are for files only."""
        sized = self.larger is not None or self.smaller is not None
        if sized and node.kind != EntryKind.FILE:
            return False
        return (
            (self.larger is None or node.size >= self.larger)
            and (self.smaller is None or node.size <= self.smaller)
            and (self.newer is None or node.mtime >= self.newer)
            and (self.older is None or node.mtime < self.older)
        )


@dataclass(frozen=True, slots=True)
class Found:
    """One state of a path: in snapshots `first` to `last` (None: it still stands), in `packs`."""

    path: bytes
    node: Node
    first: int
    last: int | None
    packs: list[str]


def find(catalogue: Catalogue, pattern: str, filters: Filters) -> Iterator[Found]:
    """Every state of every path that matches a gitignore pattern, by path, oldest first.

    Raises SettingsError for a pattern that is none.
    """
    matches = path_matcher([pattern], f"pattern {pattern!r}")
    for path, states in groupby(catalogue.history(), lambda row: row.path):
        if matches(path):
            yield from _states(catalogue, path, list(states), filters)


def _states(
    catalogue: Catalogue, path: bytes, states: list[VersionRow], filters: Filters
) -> Iterator[Found]:
    ends = [row.run - 1 for row in states[1:]]
    for row, last in zip(states, [*ends, None], strict=True):
        node = decode_node(row.fields)
        # What changed twice within one run was in no snapshot.
        in_snapshot = last is None or row.run <= last
        if node.kind != EntryKind.GONE and in_snapshot and filters.match(node):
            yield Found(path, node, row.run, last, _packs(catalogue, node))


def _packs(catalogue: Catalogue, node: Node) -> list[str]:
    archive_id = catalogue.keys.archive_id
    names = (object_name(archive_id, Kind.PACK, 0, run.object_id) for run in runs_of(node))
    return list(dict.fromkeys(names))
