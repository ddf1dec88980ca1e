"""What a hostile object does to somebody at the command line: a message, a code, nothing lost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from forger import GOOD, OTHER, Forger
from helpers_cli import PASSWORD, Place, Sizes, contents, differences, make_tree, noise, small
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats import keys
from pyarchiver.formats.block import ZSTD, block_head
from pyarchiver.formats.header import Kind
from pyarchiver.formats.keys import Slot
from pyarchiver.formats.payload import Type
from pyarchiver.formats.records import About

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
Captured = pytest.CaptureFixture[str]


LOST = noise("lost", 1000)


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    with small(Sizes()):
        yield


def bomb() -> bytes:
    """1 GiB of zeros in a frame that does not say so."""
    made = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join([*(made.compress(bytes(1 << 20)) for _ in range(1024)), made.flush()])


def _pack(forger: Forger, folder: Path, kind: Type) -> None:
    """A pack of two good chunks, and a bomb in a record of a kind."""
    assert forger.header
    good, lost = (b"good", forger.good()), (b"lost", forger.file((2, LOST)))
    records, blocks = forger.records([good, lost]), []
    if kind == Type.BLOCK:
        blocks = [([1000], [forger.keys.chunk_id(LOST)], block_head(ZSTD, [1000]) + bomb())]
    else:
        records.append((kind, bomb()))
    about = About(1, 0, bytes(32))
    data, _ = forger.seal(forger.header, forger.key, records, [GOOD, OTHER], about, blocks)
    (folder / "pack").write_bytes(data)


@pytest.mark.parametrize("kind", [Type.BLOCK, Type.ENTRIES], ids=["block", "entries"])
def test_a_bomb(tmp_path: Path, capsys: Captured, kind: Type) -> None:
    """No more is decompressed than may be; what it stood for is named, the rest comes back."""
    folder, out = tmp_path / "objects", tmp_path / "out"
    folder.mkdir()
    _pack(Forger(), folder, kind)
    tracemalloc.start()
    try:
        assert run(["decrypt", str(folder), str(out)]) == Exit.PARTIAL
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()
    assert contents(out) == {"good": GOOD}
    said = capsys.readouterr().err
    assert "lost: not restored: " in said
    if kind == Type.BLOCK:
        assert "a block's data does not match its lengths" in said


# A slot that asks for more memory than there is


def _greedy(slot: Slot) -> Slot:
    return {**slot, "mem": 64 << 30}


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory of each key derivation."""
    memory: list[int] = []
    original = keys._password_key

    def noted(slot: Slot, password: str) -> bytes:
        memory.append(slot["mem"])
        return original(slot, password)

    monkeypatch.setattr(keys, "_password_key", noted)
    return memory


def test_a_slot_that_asks_for_64_gib(tmp_path: Path, capsys: Captured, derived: list[int]) -> None:
    """It is not tried: an object with it alone does not open, and all others do."""
    forger, folder = Forger(), tmp_path / "objects"
    folder.mkdir()
    (folder / "good").write_bytes(forger.pack([(b"good", forger.good())])[0])
    stranger = Forger()
    stranger.slots = (_greedy(stranger.slots[0]),)
    stranger.header, stranger.key = stranger.new_header(Kind.PACK)
    (folder / "greedy").write_bytes(stranger.pack([(b"greedy", stranger.good())])[0])
    assert run(["decrypt", str(folder), str(tmp_path / "out")]) == Exit.DONE
    assert contents(tmp_path / "out") == {"good": GOOD}
    assert (
        "greedy: of another archive or under another password; skipped" in capsys.readouterr().err
    )
    assert run(["decrypt", str(folder / "greedy"), str(tmp_path / "none")]) == Exit.FAILED
    assert "wrong password" in capsys.readouterr().err
    assert max(derived) < 1 << 30


def test_an_archive_whose_slots_ask_for_64_gib(
    tmp_path: Path, capsys: Captured, derived: list[int]
) -> None:
    """restore does not try them; what is in the storage opens with what it brings itself."""
    place = Place(tmp_path / "place")
    make_tree(place.source, files=2, size=10_000)
    place.start(Sizes())
    with Catalogue.open(place.archive, write=True) as catalogue:
        catalogue.set_slots(tuple(map(_greedy, catalogue.slots)))
    capsys.readouterr()
    before = contents(place.storage)
    assert run(["restore", str(place.archive), str(tmp_path / "out")]) == Exit.FAILED
    assert f"wrong password for {place.archive}" in capsys.readouterr().err
    assert run(["decrypt", str(place.storage), str(tmp_path / "out")]) == Exit.DONE
    assert differences(place.source, tmp_path / "out") == ""
    url = place.storage.as_uri()
    assert run(["recover", url, str(tmp_path / "new.archive")]) == Exit.DONE
    assert contents(place.storage) == before
    assert max(derived) < 1 << 30
