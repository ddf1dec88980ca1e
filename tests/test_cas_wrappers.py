"""Wrappers of a storage: calls made again, limits kept, nothing written."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import servers_s3
import servers_sftp
from helpers_cold import FakeClock
from helpers_faults import Fault, Faulty
from pyarchiver.cas import storage as storage_module
from pyarchiver.cas.figures import PROFILES
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.pace import Pace
from pyarchiver.cas.s3 import S3Storage
from pyarchiver.cas.settings import Settings
from pyarchiver.cas.sftp import SftpStorage
from pyarchiver.cas.storage import Storage, open_storage
from pyarchiver.cas.wrappers import ATTEMPTS, FIRST_ATTEMPTS, Limited, Patient, ReadOnly, Whole
from pyarchiver.formats.errors import MissingError, StorageError, TransientError

CONTENT = bytes(range(256)) * 4096
LOST = TransientError("the connection to the moon was lost")


def never(_: float) -> None:
    raise AssertionError("no pause was expected")


CALLS: dict[str, Callable[[Storage], Any]] = {
    "prepare": lambda storage: storage.prepare(),
    "check": lambda storage: storage.check(),
    "get_into": lambda storage: storage.get_into("there", 1, memoryview(bytearray(7))),
    "size": lambda storage: storage.size("there"),
    "list": lambda storage: sorted(stored.name for stored in storage.list()),
    "look": lambda storage: storage.look("there"),
    "thaw": lambda storage: storage.thaw("there", 1, ""),
    "delete": lambda storage: storage.delete("there"),
    "put": lambda storage: storage.put("new", (storage.spool or Path()).parent / "spooled"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[LocalStorage]:
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "there").write_bytes(CONTENT)
    (tmp_path / "spooled").write_bytes(CONTENT)
    with closing(LocalStorage(tmp_path / "packs")) as storage:
        yield storage


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("method", CALLS)
def test_a_lost_connection_is_made_again(folder: LocalStorage, method: str, late: bool) -> None:
    """Also where the call had its effect and only the answer was lost."""
    clock, told = FakeClock(), list[str]()
    expected = CALLS[method](Patient(folder)) if method not in ("put", "delete") else None
    faulty = Faulty(folder, Fault(method, 1, LOST, late), Fault(method, 2, LOST))
    answer = CALLS[method](Patient(faulty, told.append, clock.sleep))
    assert answer == expected or method == "put"
    faulty.fired()
    assert faulty.calls[method] == 3
    assert len(told) == 2
    assert all(re.fullmatch(rf"{LOST}: again in \d+\.\d s", text) for text in told)
    assert not any(text.endswith(" 0.0 s") for text in told)
    assert 0 < clock.slept < 10
    if method == "put":
        assert (folder.folder / "new").read_bytes() == CONTENT
        assert not (folder.folder.parent / "spooled").exists()
    assert (folder.folder / "there").exists() == (method != "delete")


def test_in_the_end_it_gives_up(folder: LocalStorage) -> None:
    clock = FakeClock()
    faulty = Faulty(folder, *(Fault("size", number + 1, LOST) for number in range(ATTEMPTS)))
    with pytest.raises(TransientError, match="the moon"):
        Patient(faulty, sleep=clock.sleep).size("there")
    faulty.fired()
    assert 60 < clock.slept < 1800


@pytest.mark.parametrize("method", ["check", "prepare"])
def test_whether_anybody_is_there_is_soon_known(folder: LocalStorage, method: str) -> None:
    clock = FakeClock()
    faulty = Faulty(folder, *(Fault(method, number + 1, LOST) for number in range(FIRST_ATTEMPTS)))
    with pytest.raises(TransientError, match="the moon"):
        CALLS[method](Patient(faulty, sleep=clock.sleep))
    faulty.fired()
    assert 0 < clock.slept < 60


@pytest.mark.parametrize("error", [StorageError("no"), MissingError("no"), KeyboardInterrupt()])
def test_other_errors_are_not_repeated(folder: LocalStorage, error: BaseException) -> None:
    faulty = Faulty(folder, Fault("size", 1, error))
    with pytest.raises(type(error)):
        Patient(faulty, sleep=never).size("there")
    faulty.fired()
    assert faulty.calls["size"] == 1


def test_a_listing_that_breaks_gives_each_name_once(folder: LocalStorage) -> None:
    class Breaks(Faulty):
        def list(self) -> Any:
            found = [*super().list()]
            self.calls["halves"] += 1
            yield from found[:1]
            if self.calls["halves"] == 1:
                raise LOST
            yield from found[1:]

    for number in range(3):
        (folder.folder / f"{number}").write_bytes(b"")
    faulty = Breaks(folder)
    names = [stored.name for stored in Patient(faulty, sleep=lambda _: None).list()]
    assert sorted(names) == ["0", "1", "2", "there"]
    assert faulty.calls["halves"] == 2


def test_a_limit_is_kept(folder: LocalStorage) -> None:
    clock = FakeClock()
    limited = Limited(folder, Pace(100_000, clock.now, clock.sleep))
    into = memoryview(bytearray(len(CONTENT) + 5))
    assert limited.get_into("there", 3, into) == len(CONTENT) - 3
    assert into[: len(CONTENT) - 3] == CONTENT[3:]
    assert clock.slept == pytest.approx(len(CONTENT) / 100_000, abs=0.3)


def test_a_pause_gives_no_right_to_a_burst() -> None:
    clock = FakeClock()
    pace = Pace(1000, clock.now, clock.sleep)
    pace.spend(1000)
    clock.time += 3600
    before = clock.slept
    pace.spend(1000)
    assert clock.slept - before == pytest.approx(0.75)


def test_no_limit_never_sleeps() -> None:
    clock = FakeClock()
    Pace(0, clock.now, never).spend(1 << 40)


def test_a_storage_that_gives_whole_objects_only(folder: LocalStorage) -> None:
    """Each is fetched once, from its beginning to its end, however it is read."""
    (folder.folder / "other").write_bytes(b"other")
    faulty = Faulty(folder)
    whole = Whole(faulty)
    into = memoryview(bytearray(1000))
    for start in (500_000, 0, len(CONTENT) - 10):
        count = whole.get_into("there", start, into)
        assert into[:count] == CONTENT[start : start + 1000]
    assert faulty.calls["get_into"] == 2
    assert whole.get_into("other", 1, into) == 4
    with pytest.raises(MissingError):
        whole.get_into("none", 0, into)
    whole.close()


def test_read_only(folder: LocalStorage) -> None:
    guarded = ReadOnly(folder)
    for method in ("prepare", "put", "delete"):
        with pytest.raises(StorageError, match="for reading only"):
            CALLS[method](guarded)
    for method in set(CALLS) - {"prepare", "put", "delete"}:
        assert CALLS[method](guarded) == CALLS[method](folder)
    assert sorted(path.name for path in folder.folder.iterdir()) == ["there"]


def test_to_another_process(folder: LocalStorage) -> None:
    wrapped = Limited(Patient(folder, tell=lambda _: None), Pace(5))
    copy = pickle.loads(pickle.dumps(wrapped))
    assert copy.size("there") == len(CONTENT)
    assert copy._pace.rate == 5


def test_what_the_settings_wrap(folder: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(storage: Any) -> list[str]:
        kind = [type(storage).__name__]
        return kind + (kinds(storage.inner) if hasattr(storage, "inner") else [])

    monkeypatch.setattr(storage_module, "_adapter", lambda _: folder)
    local = Settings("n", Path("/s"), "file:///packs")
    far = Settings("n", Path("/s"), "sftp://host/packs", download_limit=7)
    assert kinds(open_storage(local)) == ["LocalStorage"]
    assert kinds(open_storage(local, write=False)) == ["ReadOnly", "LocalStorage"]
    assert kinds(open_storage(far)) == ["Limited", "Patient", "LocalStorage"]
    whole = replace(local, profile=replace(local.profile, ranges=False))
    assert kinds(open_storage(whole)) == ["Whole", "LocalStorage"]


def test_the_upload_limit_is_shared_by_the_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Settings("n", Path("/s"), "sftp://host/packs", upload_limit=9000)
    storage = open_storage(far)
    assert (storage.uploads, storage.pace.rate) == (3, 3000)
    assert pickle.loads(pickle.dumps(storage)).inner.pace.rate == 3000


@pytest.mark.parametrize("kind", ["sftp", "s3"])
def test_uploads_keep_their_limit(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    storage: Storage
    if kind == "sftp":
        sshd: servers_sftp.Server = request.getfixturevalue("sshd_server")
        storage = SftpStorage(sshd.url("paced"), sshd.options, PROFILES["sftp"])
    else:
        moto: servers_s3.Moto = request.getfixturevalue("moto_server")
        moto.make_bucket()
        url = f"s3://{servers_s3.BUCKET}/paced"
        storage = S3Storage(url, moto.options, PROFILES["s3-standard"])
    clock = FakeClock()
    storage.pace = Pace(100_000, clock.now, clock.sleep)
    (tmp_path / "spooled").write_bytes(CONTENT)
    with closing(storage):
        storage.prepare()
        storage.put("paced", tmp_path / "spooled")
        assert storage.size("paced") == len(CONTENT)
    # Signatures of plain HTTP are made of the whole body: it is read twice then.
    assert clock.slept >= len(CONTENT) / 100_000 - 0.3
