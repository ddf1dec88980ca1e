"""Hostile input: a short run of tests/fuzz.py, and what its longer runs found."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path

import pytest

import fuzz
import independent_reader as second
from fuzz_targets import HOSTILE_SCHEMA, TARGETS
from helpers_cli import Place, Sizes, make_tree, small
from pyarchiver.cas import archiver, database, delete, unlock, verify
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.settings import settings_of
from pyarchiver.cas.status import status
from pyarchiver.cas.storage import open_storage
from pyarchiver.cas.unlock import Keyring
from pyarchiver.formats import keys, wire
from pyarchiver.formats.aead import AEGIS256
from pyarchiver.formats.entry import decode_node
from pyarchiver.formats.errors import AccessError, CatalogueError, DamagedError
from pyarchiver.formats.header import Header

INPUTS = {"decrypt": 12, "rescue": 12, "catalogue": 60, "sealed again": 120, "forged header": 60}


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_campaign(target: str) -> None:
    for number in range(INPUTS.get(target, 300)):
        fuzz.attempt(TARGETS[target], target, 0, number)


def test_a_find_is_seen_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A campaign that can find nothing would prove nothing."""

    def broken(_: random.Random) -> None:
        raise KeyError("found")

    TARGETS["broken"] = broken
    try:
        finds = fuzz.campaign(["broken"], 0.1, seed=7)
    finally:
        del TARGETS["broken"]
    assert list(finds.values()) == ["--only 'broken' --seed 7 --at 0"]
    assert "KeyError" in capsys.readouterr().out


# An .archive that somebody made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("made"))
    with small(Sizes()):
        make_tree(place.source, files=2, size=10_000)
        place.start(Sizes())
    return place


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Iterator[Place]:
    """A copy of its .archive, to be changed."""
    shutil.copyfile(made.archive, tmp_path / "photos.archive")
    with small(Sizes()):
        yield Place(tmp_path)


def change(place: Place, statements: str) -> None:
    with closing(sqlite3.connect(place.archive)) as connection:
        connection.executescript(statements)


@pytest.mark.parametrize("statements", HOSTILE_SCHEMA)
@pytest.mark.parametrize("write", [False, True])
def test_parts_that_are_not_ours_are_refused(place: Place, statements: str, write: bool) -> None:
    """A view that never ends, a trigger that empties a table: nothing of it is run."""
    change(place, statements)
    with pytest.raises(CatalogueError, match="tampered"):
        Catalogue.open(place.archive, write=write)


def _verify(catalogue: Catalogue) -> None:
    with closing(open_storage(settings_of(catalogue))) as storage:
        verify.verify(catalogue, storage, Quiet(), Fraction(1))


WAYS: dict[str, Callable[[Catalogue], object]] = {
    "delete": lambda catalogue: delete.delete(catalogue, Quiet()),
    "resume": lambda catalogue: archiver.resume(catalogue, Quiet()),
    "verify": _verify,
}


@pytest.mark.parametrize("name", ["../own", "{}/own", "own", "", "a" * 300])
@pytest.mark.parametrize(
    ("way", "statement"),
    [("delete", "UPDATE objects SET name = '{}' WHERE id = 1"),
     ("verify", "UPDATE objects SET name = '{}' WHERE id = 1"),
     ("delete", "INSERT INTO abandoned VALUES ('{}')"),
     ("resume", "INSERT INTO abandoned VALUES ('{}')")],
)  # fmt: skip
def test_objects_whose_names_lead_elsewhere_are_left_alone(
    place: Place, name: str, way: str, statement: str
) -> None:
    """An .archive from elsewhere deletes and reads nothing but objects."""
    (place.work / "own").write_bytes(b"own")
    change(place, statement.format(name.format(place.work)))
    with (
        pytest.raises(CatalogueError, match="tampered"),
        Catalogue.open(place.archive, write=True) as catalogue,
    ):
        WAYS[way](catalogue)
    assert (place.work / "own").read_bytes() == b"own"


@pytest.mark.parametrize(
    ("name", "value"),
    [("settings", wire.pack({})), ("settings", wire.pack([])), ("settings", b"\xc1"),
     ("settings", wire.pack({"name": 1, "source": 2, "url": 3})), ("public_key", b""),
     ("archive_key", bytes(31)), ("slots", wire.pack([7])), ("head", wire.pack([1, 2])),
     ("head", wire.pack(["a", 1, 1, 1])), ("checkpoint", b"\xc1"), ("archive_id", None),
     ("floor", wire.pack(["a", 1])), ("download_rate", b"abc"), ("download_rate", b"nan")],
)  # fmt: skip
def test_a_configuration_that_nobody_made_here(
    place: Place, name: str, value: bytes | None
) -> None:
    with closing(sqlite3.connect(place.archive)) as connection:
        if value is None:
            connection.execute("DELETE FROM config WHERE name = ?", (name,))
        else:
            connection.execute("REPLACE INTO config VALUES (?, ?)", (name, value))
        connection.commit()
    with pytest.raises(CatalogueError, match="damaged"):
        Catalogue.open(place.archive, write=False)


def test_sizes_below_nothing(place: Place) -> None:
    change(place, "UPDATE objects SET size = -1 WHERE id = 1")
    with (
        pytest.raises(CatalogueError, match="tampered"),
        Catalogue.open(place.archive, write=False) as catalogue,
    ):
        catalogue.objects()


def test_values_that_would_fill_the_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite gives out up to a gigabyte at once where nobody says otherwise."""
    monkeypatch.setattr(database, "_VALUE_MAX", 1 << 20)
    change(place, f"UPDATE objects SET header = zeroblob({2 << 20}) WHERE id = 1")
    with (
        pytest.raises(CatalogueError, match="damaged"),
        Catalogue.open(place.archive, write=False) as catalogue,
    ):
        list(catalogue.objects())


def test_kinds_and_states_of_a_later_version_are_shown(place: Place) -> None:
    change(place, "UPDATE objects SET kind = 255, state = 9 WHERE id = 1")
    with Catalogue.open(place.archive, write=False) as catalogue:
        assert ("kind 255", "state 9") in {
            (row.kind, row.state) for row in status(catalogue).objects
        }


# Objects


def test_a_field_that_stands_twice_is_refused() -> None:
    """Another reader might take the other one."""
    with pytest.raises(DamagedError):
        wire.unpack(b"\x82\xa1a\x01\xa1a\x02")
    with pytest.raises(DamagedError):
        list(wire.unpack_each(b"\x82\xa1a\x01\xa1a\x02", 100))


def test_an_attribute_that_stands_twice_is_refused() -> None:
    """Which of the two counts is for no reader to guess; their order is nothing."""
    entry = {"kind": 2, "mode": 0, "mtime": 0, "uid": 0, "gid": 0}
    other_order = [[b"user.b", b"1"], [b"user.a", b"2"]]
    decode_node(wire.pack({**entry, "xattr": other_order}))
    second.parse_entry([b"p", 1, 1, {**entry, "xattr": other_order}])
    twice = [[b"user.a", b"1"], [b"user.a", b"2"]]
    with pytest.raises(DamagedError):
        decode_node(wire.pack({**entry, "xattr": twice}))
    with pytest.raises(second.Refused):
        second.parse_entry([b"p", 1, 1, {**entry, "xattr": twice}])


def test_key_derivations_that_strangers_ask_for_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """16 passes over 2 GiB, in each of 50 headers: a quarter of an hour, were all tried."""
    spent: list[int] = []

    def tried(slots: list[keys.Slot], *_: object) -> None:
        spent.extend(slot["ops"] * slot["mem"] for slot in slots)

    monkeypatch.setattr(unlock, "_open_any", tried)
    ring = Keyring("secret")

    def bring(number: int, passes: int, memory: int) -> None:
        slot = {"type": 1, "salt": os.urandom(16), "ops": passes, "mem": memory,
                "nonce": bytes(24), "sealed": bytes(80)}  # fmt: skip
        header = Header(AEGIS256, bytes([number] * 16), bytes(16), 1, (slot,), b"")
        with suppress(AccessError):
            assert ring.keys(header) is None

    for number in range(50):
        bring(number, 16, 2 << 30)
    bring(50, 3, 256 << 20)
    assert spent == [3 << 28]
    assert ring.try_rest()
    assert spent == [3 << 28, 32 << 30]
    for number in range(100):
        bring(number, 1, 8192)
    ring.try_rest()
    assert spent[2:] == [8192] * 100
    for _ in range(50_000):
        bring(0, 1, 8192)
    ring.try_rest()
    assert sum(spent) <= 48 << 30
    assert len(spent) < 50_000
