"""What every storage promises, tried on each of them; then what only a local folder can do."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import servers_s3 as s3
import servers_sftp as sftp
from pyarchiver.cas.figures import PROFILES
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.profiles import Profile, Terms
from pyarchiver.cas.settings import Settings
from pyarchiver.cas.sftp import SftpStorage
from pyarchiver.cas.storage import Checksums, Heat, Storage, Stored, open_storage
from pyarchiver.formats.errors import MissingError, SettingsError, StorageError

NAME = "0123456789ab-p-" + "c" * 32
OTHER = "0123456789ab-m-00000001-" + "d" * 32
DATA = bytes(range(256)) * 40
WARM_GATEWAY = replace(PROFILES["ovh-cloud-archive"], terms=Terms(), sizes=True)


def nothing() -> None:
    pass


def opened(url: str, options: Mapping[str, str] | None = None) -> Storage:
    return open_storage(Settings("photos", Path("/source"), url, options=options or {}))


@dataclass
class Place:
    """A storage under test, and where its spool files come from.

    `provide` does what its owner must have done before it can be prepared.
    """

    storage: Storage
    spool: Path
    provide: Callable[[], None] = nothing

    def spooled(self, data: bytes, name: str = NAME, folder: Path | None = None) -> Path:
        path = (folder or self.spool) / f"{name}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def put(self, data: bytes, name: str = NAME) -> Checksums:
        return self.storage.put(name, self.spooled(data, name))

    def get(self, name: str, start: int, length: int) -> bytes:
        into = bytearray(length)
        count = self.storage.get_into(name, start, memoryview(into))
        assert 0 <= count <= length
        return bytes(into[:count])

    def names(self) -> set[str]:
        return {found.name for found in self.storage.list()}

    def sizes(self) -> dict[str, int | None]:
        """By name; what is found is warm, and found once."""
        found = list(self.storage.list())
        assert {stored.heat for stored in found} <= {Heat.WARM}
        assert len({stored.name for stored in found}) == len(found)
        return {stored.name: stored.size for stored in found}


def local(_: pytest.FixtureRequest, folder: Path) -> Place:
    storage = LocalStorage(folder / "place" / "inner")
    return Place(storage, storage.folder)


def sshd(request: pytest.FixtureRequest, folder: Path) -> Place:
    return sftp_place(request.getfixturevalue("sshd_server"), folder, PROFILES["sftp"])


def rclone_sftp(request: pytest.FixtureRequest, folder: Path) -> Place:
    return sftp_place(request.getfixturevalue("rclone_sftp_server"), folder, PROFILES["sftp"])


def gateway(request: pytest.FixtureRequest, folder: Path) -> Place:
    return sftp_place(request.getfixturevalue("warm_gateway"), folder, WARM_GATEWAY)


def sftp_place(server: sftp.Server, folder: Path, profile: Profile) -> Place:
    url = server.url(f"{uuid.uuid4().hex}/with%20space")
    return Place(SftpStorage(url, server.options, profile), folder / "spool")


def rclone_s3(request: pytest.FixtureRequest, folder: Path) -> Place:
    return s3_place(request.getfixturevalue("rclone_s3_server"), folder)


def moto_s3(request: pytest.FixtureRequest, folder: Path) -> Place:
    return s3_place(request.getfixturevalue("moto_server"), folder)


def s3_place(server: s3.Server, folder: Path) -> Place:
    bucket = f"bucket-{uuid.uuid4().hex}"
    storage = opened(f"s3://{bucket}/photos/all", server.options)
    return Place(storage, folder / "spool", lambda: server.make_bucket(bucket))


# Each makes a storage whose place is not there yet, from an empty folder of its own.
STORAGES: dict[str, Callable[[pytest.FixtureRequest, Path], Place]] = {
    "file": local,
    "sshd": sshd,
    "rclone-sftp": rclone_sftp,
    "gateway": gateway,
    "rclone-s3": rclone_s3,
    "moto-s3": moto_s3,
}


@pytest.fixture(params=STORAGES)
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A storage that nobody has prepared."""
    place = STORAGES[request.param](request, tmp_path)
    yield place
    place.storage.close()


@pytest.fixture
def place(bare: Place) -> Place:
    bare.provide()
    bare.storage.prepare()
    return bare


def test_put_then_get(place: Place) -> None:
    spooled = place.spooled(DATA)
    place.storage.put(NAME, spooled)
    assert not spooled.exists()
    assert place.get(NAME, 0, len(DATA)) == DATA
    assert place.storage.size(NAME) == len(DATA)
    assert place.storage.look(NAME).size == len(DATA)
    assert place.sizes() == {NAME: len(DATA)}


def test_checksums_are_those_that_the_storage_tells(place: Place) -> None:
    given = place.put(DATA)
    assert given == place.storage.look(NAME).checksums
    assert [given] == [found.checksums for found in place.storage.list()]
    for algorithm, value in given:
        assert hashlib.new(algorithm, DATA).hexdigest() == value


def test_put_of_nothing(place: Place) -> None:
    place.put(b"")
    assert place.storage.size(NAME) == 0
    assert place.get(NAME, 0, 10) == b""


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (1, 0), (255, 3), (len(DATA) - 1, 1), (17, len(DATA) - 17), (0, len(DATA))],
)
def test_ranges(place: Place, start: int, length: int) -> None:
    place.put(DATA)
    assert place.get(NAME, start, length) == DATA[start : start + length]


@pytest.mark.parametrize("start", [len(DATA) - 5, len(DATA), len(DATA) + 1, 1 << 40])
def test_ranges_past_the_end_are_short(place: Place, start: int) -> None:
    place.put(DATA)
    assert place.get(NAME, start, 20) == DATA[start : start + 20]


def test_reading_to_and_fro(place: Place) -> None:
    place.put(DATA)
    place.put(DATA[::-1], OTHER)
    for start in (500, 0, 300):
        assert place.get(NAME, start, 50) == DATA[start : start + 50]
        assert place.get(OTHER, start, 50) == DATA[::-1][start : start + 50]


def test_reading_on_in_small_pieces(place: Place) -> None:
    place.put(DATA)
    pieces = [place.get(NAME, start, 100) for start in range(50, len(DATA) + 200, 100)]
    assert b"".join(pieces) == DATA[50:]


def test_get_writes_nothing_behind_what_it_got(place: Place) -> None:
    place.put(b"abc")
    into = bytearray(b"......")
    assert place.storage.get_into(NAME, 1, memoryview(into)) == 2
    assert into == b"bc...."


def test_never_overwritten(place: Place) -> None:
    place.put(DATA)
    again = place.spooled(b"other bytes")
    with pytest.raises(StorageError, match="not overwritten"):
        place.storage.put(NAME, again)
    assert place.get(NAME, 0, len(DATA)) == DATA
    assert again.read_bytes() == b"other bytes"


def test_put_again_after_it_got_through(place: Place) -> None:
    spooled = place.spooled(DATA)
    place.storage.put(NAME, spooled)
    place.storage.put(NAME, spooled)
    assert place.get(NAME, 0, len(DATA)) == DATA
    assert place.names() == {NAME}


def test_put_without_spooled_file_or_object(place: Place) -> None:
    with pytest.raises(StorageError):
        place.storage.put(NAME, place.spool / f"{NAME}.part")
    assert place.names() == set()


def test_put_from_another_folder(place: Place, tmp_path: Path) -> None:
    spooled = place.spooled(DATA, folder=tmp_path / "elsewhere")
    place.storage.put(NAME, spooled)
    assert not spooled.exists()
    place.storage.put(NAME, spooled)
    assert place.get(NAME, 0, len(DATA)) == DATA
    assert place.names() == {NAME}


def test_never_overwritten_from_another_folder(place: Place, tmp_path: Path) -> None:
    place.put(DATA)
    again = place.spooled(b"other bytes", folder=tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="not overwritten"):
        place.storage.put(NAME, again)
    assert place.get(NAME, 0, len(DATA)) == DATA
    assert place.names() == {NAME}
    assert again.read_bytes() == b"other bytes", "refused, and yet consumed"


def test_missing_object(place: Place) -> None:
    place.put(DATA, OTHER)
    with pytest.raises(MissingError, match=NAME):
        place.get(NAME, 0, 1)
    with pytest.raises(MissingError, match=NAME):
        place.storage.size(NAME)


def test_delete(place: Place) -> None:
    place.put(DATA)
    place.put(DATA, OTHER)
    place.storage.delete(NAME)
    place.storage.delete(NAME)
    assert place.names() == {OTHER}
    with pytest.raises(MissingError):
        place.storage.size(NAME)


def test_list_of_nothing(place: Place) -> None:
    assert list(place.storage.list()) == []


def test_list_of_many(place: Place) -> None:
    wanted = {f"object-{number}": number for number in range(50)}
    for name, size in wanted.items():
        place.put(bytes(size), name)
    assert place.sizes() == wanted


def test_prepare_again_keeps_everything(place: Place) -> None:
    place.put(DATA)
    place.storage.prepare()
    place.storage.check()
    assert place.names() == {NAME}
    assert place.get(NAME, 0, len(DATA)) == DATA


def test_check_creates_nothing(bare: Place, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(StorageError):
            bare.storage.check()
    assert not any(tmp_path.iterdir())


def test_without_a_place_everything_is_a_storage_error(bare: Place) -> None:
    with pytest.raises(StorageError):
        bare.get(NAME, 0, 1)
    with pytest.raises(StorageError):
        bare.storage.size(NAME)
    with pytest.raises(StorageError):
        list(bare.storage.list())


# Local only


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[LocalStorage]:
    storage = LocalStorage(tmp_path / "storage")
    storage.prepare()
    yield storage
    storage.close()


def test_folder_gone(folder: LocalStorage, tmp_path: Path) -> None:
    folder.folder.rmdir()
    spooled = tmp_path / "spooled"
    spooled.write_bytes(DATA)
    with pytest.raises(StorageError, match="mounted"):
        folder.check()
    with pytest.raises(StorageError):
        folder.put(NAME, spooled)
    assert not folder.folder.exists()
    assert spooled.read_bytes() == DATA


@pytest.mark.parametrize("below", ["", "inner", "inner/deeper"])
def test_a_file_in_place_of_the_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    storage = LocalStorage(tmp_path / "file" / below)
    spooled = tmp_path / "spooled"
    spooled.write_bytes(DATA)
    for use in (
        storage.prepare,
        storage.check,
        lambda: list(storage.list()),
        lambda: storage.size(NAME),
        lambda: storage.look(NAME),
        lambda: storage.delete(NAME),
        lambda: storage.get_into(NAME, 0, memoryview(bytearray(1))),
        lambda: storage.put(NAME, spooled),
    ):
        with pytest.raises(StorageError):
            use()
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert spooled.read_bytes() == DATA


def test_a_folder_in_place_of_an_object(folder: LocalStorage) -> None:
    (folder.folder / NAME).mkdir()
    with pytest.raises(StorageError):
        folder.get_into(NAME, 0, memoryview(bytearray(1)))
    with pytest.raises(StorageError):
        folder.delete(NAME)
    spooled = folder.folder / f"{NAME}.part"
    spooled.write_bytes(DATA)
    with pytest.raises(StorageError):
        folder.put(NAME, spooled)


def test_no_space_is_said(
    folder: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    spooled = tmp_path / "spooled"
    spooled.write_bytes(DATA)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left in the storage"):
        folder.put(NAME, spooled)
    assert not (folder.folder / NAME).exists()
    assert spooled.read_bytes() == DATA


def test_half_a_copy_is_made_anew(folder: LocalStorage, tmp_path: Path) -> None:
    (folder.folder / f"{NAME}.part").write_bytes(DATA[:100])
    spooled = tmp_path / "spooled"
    spooled.write_bytes(DATA)
    folder.put(NAME, spooled)
    assert (folder.folder / NAME).read_bytes() == DATA


@pytest.mark.parametrize("step", ["fsync", "rename", "unlink"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_put_from_elsewhere_that_is_ended_can_be_made_again(
    folder: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    """Until the object is durable under its name, the file that was spooled is there."""
    spooled = tmp_path / "spooled"
    spooled.write_bytes(DATA)
    original = getattr(os, step)

    def ended(*arguments: Any, **named: Any) -> None:
        if when == "after":
            original(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, step, ended)
        with pytest.raises(KeyboardInterrupt):
            folder.put(NAME, spooled)
    assert spooled.exists() or (folder.folder / NAME).exists()
    folder.put(NAME, spooled)
    assert (folder.folder / NAME).read_bytes() == DATA
    assert [path.name for path in folder.folder.iterdir()] == [NAME]
    assert not spooled.exists()


def test_put_syncs_before_and_after(
    folder: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    spooled = tmp_path / "spooled"
    spooled.write_bytes(DATA)
    folder.put(NAME, spooled)
    assert order == ["file", "rename", "folder"]


def test_list_shows_files_only(folder: LocalStorage) -> None:
    (folder.folder / "note.txt").write_bytes(b"mine")
    (folder.folder / "folder").mkdir()
    (folder.folder / "link").symlink_to("note.txt")
    assert list(folder.list()) == [Stored("note.txt", 4)]


def test_size_after_growth_is_seen(folder: LocalStorage) -> None:
    """An object that is being copied into the folder while it is read."""
    path = folder.folder / NAME
    path.write_bytes(b"abc")
    into = memoryview(bytearray(6))
    assert folder.get_into(NAME, 0, into) == 3
    with path.open("ab") as file:
        file.write(b"def")
    assert folder.get_into(NAME, 0, into) == 6


@pytest.mark.parametrize("name", ["plain", "with space", "ümläut", "per%20cent", "a#b", "a?b"])
def test_url_of_a_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    storage = opened(folder.as_uri())
    assert isinstance(storage, LocalStorage)
    assert storage.folder == folder
    assert storage.spool == folder
    assert not folder.exists()


@pytest.mark.parametrize(
    "url", ["file://server/share", "file:relative", "file://", "ftp://host/x", "no url", ""]
)
def test_impossible_urls(url: str) -> None:
    with pytest.raises(SettingsError, match="'url'"):
        opened(url)


@pytest.mark.parametrize("url", ["file:///archive#1", "file:///archive?1"])
def test_url_that_loses_its_end_is_refused_or_kept(url: str) -> None:
    """As a user types it: another folder than the one he named must not be used."""
    try:
        storage = opened(url)
    except SettingsError:
        return
    assert isinstance(storage, LocalStorage)
    assert storage.folder == Path(url.removeprefix("file://"))
