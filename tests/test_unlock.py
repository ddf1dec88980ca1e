"""One secret and objects of unknown origin: what is tried, in which order, and what is not."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import nacl.exceptions
import nacl.pwhash.argon2id
import pytest

from helpers_cli import PASSWORD, Place, Sizes, contents, copied, make_tree, small
from pyarchiver.cas import unlock
from pyarchiver.cas.decrypt import decrypt
from pyarchiver.cas.ini import located
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.planner import Request
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.recover import Wanted, recover
from pyarchiver.cas.recover_packs import Packs
from pyarchiver.cas.unlock import Keyring
from pyarchiver.formats import keys, recovery
from pyarchiver.formats.aead import AEGIS256
from pyarchiver.formats.errors import AccessError, PasswordError
from pyarchiver.formats.header import Header, Kind, new_header, parse_front
from pyarchiver.formats.keys import Slot

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
MIB = 1 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, bytes]:
    """An archive of two runs, and the secret of its recovery code."""
    place = Place(tmp_path_factory.mktemp("unlock"))
    make_tree(place.source, files=3, size=20_000)
    with small(Sizes()):
        code = place.start(Sizes())
        (place.source / "empty").unlink()
        place.resume()
    return place, recovery.decode(code)


@pytest.fixture
def place(made: tuple[Place, bytes], tmp_path: Path) -> Iterator[Place]:
    """A copy of it without the .archive, to which strangers add."""
    copy = Place(tmp_path)
    shutil.copytree(made[0].source, copy.source, symlinks=True)
    copied(made[0].storage, copy.storage)
    with small(Sizes()):
        yield copy


def slot(memory: int = 8192, kind: int = 1) -> Slot:
    """A key slot that nothing opens."""
    made = {"type": kind, "salt": os.urandom(16), "nonce": bytes(24), "sealed": bytes(80)}
    return {**made, "ops": 1, "mem": memory} if kind == 1 else made


def foreign(*slots: Slot) -> Header:
    return new_header(AEGIS256, keys.new_keys().writer(), slots, Kind.MANIFEST)[0]


def add(place: Place, names: list[str], count: int, memory: int = 8192, kind: int = 1) -> None:
    """Files of these names, each with so many slots of its own."""
    for name in names:
        slots = [slot(memory, kind) for _ in range(count)]
        (place.storage / name).write_bytes(foreign(*slots).raw)


def first_in(place: Place, count: int) -> list[str]:
    """Names that sort before all others."""
    return [f"000000000000-m-0000000{number}-{number:032x}" for number in range(count)]


def newest_in(place: Place, count: int) -> list[str]:
    """Names that would be those of the newest manifests."""
    tag = place.objects("m")[0].name.partition("-")[0]
    return [f"{tag}-m-9999999{number}-{number:032x}" for number in range(count)]


def recovered(place: Place, secret: str | bytes) -> int:
    """How many files a new .archive tells of."""
    settings = located(str(place.storage), place.archive, None)
    tag = place.objects()[-1].name.partition("-")[0]
    wanted = Wanted(None, Packs.UNLISTED, tag, wait=False)
    with closing(LocalStorage(place.storage)) as storage:
        return recover(settings, storage, Keyring(secret), place.archive, wanted, Quiet()).files


def decrypted(place: Place, secret: str | bytes, source: Path | None = None) -> Quiet:
    observer = Quiet()
    source = source or place.storage
    decrypt(source, place.work / "out", secret, Request(), observer)
    assert contents(place.work / "out")
    return observer


@pytest.mark.parametrize("kind", ["password", "code"])
def test_many_slots_that_cost_nothing(place: Place, made: tuple[Place, bytes], kind: str) -> None:
    """64 of them, in four files that are read first, and no password was tried any more."""
    add(place, first_in(place, 20), 16, kind=1 if kind == "password" else 2)
    add(place, newest_in(place, 9), 16, kind=1 if kind == "password" else 2)
    secret = PASSWORD if kind == "password" else made[1]
    decrypted(place, secret)
    assert contents(place.work / "out").items() >= contents(place.source).items()
    assert recovered(place, secret) > 8


def test_slots_of_most_objects_come_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where strangers ask for more work than there is, what is ours is tried still."""
    monkeypatch.setattr(unlock, "_WORK_MAX", 8 * MIB)
    add(place, first_in(place, 9), 16, memory=MIB)
    add(place, newest_in(place, 9), 16, memory=MIB)
    observer = decrypted(place, PASSWORD)
    assert contents(place.work / "out").items() >= contents(place.source).items()
    untried = [problem for problem in observer.problems if "were not tried" in problem]
    assert len(untried) == 18
    assert recovered(place, PASSWORD) > 8


def test_what_is_not_tried_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that his password is wrong where it was not tried."""
    monkeypatch.setattr(unlock, "_WORK_MAX", 8 * MIB)
    shared = foreign(*(slot(MIB) for _ in range(16))).raw
    strange = newest_in(place, 9)
    for name in [*strange, *(f"more{number}" for number in range(20))]:
        (place.storage / name).write_bytes(shared)
    pack = place.objects("p")[0]
    for path in place.objects():
        if path != pack and path.name not in strange:
            path.unlink()
    with pytest.raises(AccessError, match=r"objects not, as .*: its key slots were not") as caught:
        decrypted(place, PASSWORD)
    assert not isinstance(caught.value, PasswordError)
    assert "30 objects" in str(caught.value)
    with pytest.raises(AccessError, match=r"9 objects not, as .* were not tried"):
        recovered(Place(place.work), PASSWORD)
    decrypted(place, PASSWORD, pack)


def test_a_wrong_password_is_called_wrong_where_all_was_tried(place: Place) -> None:
    add(place, first_in(place, 3), 16)
    with pytest.raises(PasswordError):
        decrypted(place, "wrong")
    with pytest.raises(PasswordError):
        recovered(place, "wrong")


@pytest.mark.parametrize(
    "fields", [{"mem": 1 << 60}, {"ops": 1 << 60}, {"mem": 0}, {"ops": -1}, {"mem": "much"}]
)
def test_impossible_slots_cost_nothing(fields: dict[str, object]) -> None:
    assert Keyring(PASSWORD).keys(foreign({**slot(), **fields})) is None


# Where memory is short


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no room for 1 GiB."""
    derive = nacl.pwhash.argon2id.kdf

    def kdf(size: int, password: bytes, salt: bytes, opslimit: int, memlimit: int) -> bytes:
        if memlimit >= 1 << 30:
            raise nacl.exceptions.RuntimeError("no memory")
        made: bytes = derive(size, password, salt, opslimit, memlimit)
        return made

    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", kdf)


def greedy(data: bytes) -> bytes:
    """An object whose header in front asks for 2 GiB."""
    at = data.index(b"\xa3mem\xce") + 5
    return data[:at] + (2 << 30).to_bytes(4, "big") + data[at + 4 :]


def test_the_copy_of_the_header_counts_where_the_first_asks_for_much(
    place: Place, short_of_memory: None
) -> None:
    for path in place.objects():
        path.write_bytes(greedy(path.read_bytes()))
    decrypted(place, PASSWORD)
    assert contents(place.work / "out").items() >= contents(place.source).items()
    assert recovered(place, PASSWORD) > 8


def test_the_next_slot_counts_where_one_asks_for_much(place: Place, short_of_memory: None) -> None:
    header = parse_front(place.objects("p")[0].read_bytes())
    slots = (slot(2 << 30), *header.slots)
    twin = Header(header.suite, header.archive_id, bytes(16), 1, slots, header.raw)
    assert Keyring(PASSWORD).keys(twin) is not None
    assert unlock._open_any(slots, header.archive_id, PASSWORD) is not None


def test_an_object_that_needs_much_memory_is_tried_again(
    place: Place, short_of_memory: None
) -> None:
    """The first one is greedy at both ends: the keys come from another object."""
    first = min(place.objects("p"))
    data = first.read_bytes()
    first.write_bytes(greedy(data[:-3000]))
    observer = decrypted(place, PASSWORD)
    assert not [problem for problem in observer.problems if "memory" in problem]
    (problem,) = [problem for problem in observer.problems if first.name in problem][:1]
    assert "altered" in problem


def test_a_lack_of_memory_is_called_so(place: Place, short_of_memory: None) -> None:
    for path in place.objects():
        path.unlink()
    add(place, first_in(place, 2), 1, memory=2 << 30)
    with pytest.raises(AccessError, match=r"2 objects not, as .*needs 2048 MiB of memory"):
        decrypted(place, PASSWORD)
    with pytest.raises(AccessError, match="needs 2048 MiB of memory"):
        recovered(place, PASSWORD)


@pytest.mark.parametrize("logs", ["manifests", "packs alone"])
def test_a_pack_of_a_stranger_ends_no_recovery(place: Place, logs: str) -> None:
    """Under a name of ours, which no manifest lists, and which comes first."""
    pack = min(place.objects("p"))
    tag = pack.name.partition("-")[0]
    (place.storage / f"{tag}-p-{bytes(16).hex()}").write_bytes(foreign(slot()).raw)
    if logs == "packs alone":
        for path in place.objects("m"):
            path.unlink()
    assert recovered(place, PASSWORD) > 8


@pytest.mark.parametrize("depth", [500, 520, 1000])
def test_slots_that_are_nested_deeply_end_nothing(place: Place, depth: int) -> None:
    """Deeper than what the packer takes, and not deeper than what the unpacker does."""
    nested = b"\x81\xa1x" + b"\x91" * depth + b"\x90"
    header = foreign({**slot(), "x": 77}).raw
    fields = header[12:-1212].replace(b"\xa1x\x4d", nested[1:])
    sealed = header[-1212:-12]
    size = 12 + len(fields) + 1212
    raw = header[:8] + struct.pack("<I", len(fields)) + fields + sealed
    raw += struct.pack("<I", size) + header[-8:]
    (place.storage / first_in(place, 1)[0]).write_bytes(raw)
    observer = decrypted(place, PASSWORD)
    assert contents(place.work / "out").items() >= contents(place.source).items()
    assert any("0000" in told for told in (*observer.notices, *observer.problems))
