"""Lists paths and their states, by path, as a catalogue has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.select import Selection
from pyarchiver.formats.entry import Node, decode_node


class Listed(NamedTuple):
    """A path and its state; `deleted`: it is in the source no more."""

    path: bytes
    node: Node
    deleted: bool


def listing(catalogue: Catalogue, selection: Selection, *, deleted: bool) -> Iterator[Listed]:
    """The states of a snapshot, by folder and name; with `deleted`, of all that ever was."""
    for row in catalogue.listing(selection.run, deleted):
        if selection.selected(row.path):
            gone = deleted and not catalogue.is_newest(row)
            yield Listed(row.path, decode_node(row.fields), gone)
