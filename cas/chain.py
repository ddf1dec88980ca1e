"""The chain of manifests: each names the hash of the one before, so gaps and forks show.

Of a fork one branch is followed: the one that the expected head is in, else the longest; of equal
ones that with the highest run, which went on from a catalogue that knew of the others. These are
kept apart from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyarchiver.cas.stock import Found
from pyarchiver.formats.records import About


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest, what its first record says, and the BLAKE3 of the whole object."""

    found: Found
    about: About
    hash: bytes

    @property
    def number(self) -> int:
        """Its place in the log."""
        return self.about.number


@dataclass(frozen=True, slots=True)
class Chain:
    """The manifests of the branch that is followed, and all others; each in order."""

    branch: list[Manifest]
    others: list[Manifest]

    @property
    def forks(self) -> list[int]:
        """The numbers that several manifests have."""
        return sorted({m.number for m in self.others})


def follow(manifests: list[Manifest], expected: bytes = b"") -> Chain:
    """Sort manifests out; `expected` is the hash of one that must be on the branch followed."""
    ordered = sorted(manifests, key=_age)
    if len({m.number for m in ordered}) == len(ordered):
        return Chain(ordered, [])
    by_hash = {m.hash: m for m in ordered}
    named = {m.about.previous_hash for m in ordered}
    tips = [m for m in reversed(ordered) if m.hash not in named]
    branches = [list(_back(tip, by_hash, ordered)) for tip in tips]
    chosen = next(
        (branch for branch in branches if any(m.hash == expected for m in branch)), branches[0]
    )
    on_it = {m.hash for m in chosen}
    return Chain(chosen[::-1], [m for m in ordered if m.hash not in on_it])


def _back(
    tip: Manifest, by_hash: Mapping[bytes, Manifest], ordered: list[Manifest]
) -> Iterator[Manifest]:
    """A manifest and those before it; over a gap to the nearest there is."""
    at: Manifest | None = tip
    while at is not None:
        yield at
        number = at.number
        before = by_hash.get(at.about.previous_hash)
        if before is None or before.number >= number:
            before = max((m for m in ordered if m.number < number), key=_age, default=None)
        at = before


def _age(manifest: Manifest) -> tuple[int, int, int, bytes]:
    about = manifest.about
    return (manifest.number, about.run, about.written, manifest.hash)
