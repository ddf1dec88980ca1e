"""verify: what the storage holds is what was sent, and whatever is not is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from helpers_cli import Place, Sizes, make_tree, noise, small, write
from helpers_cold import HOUR, ColdFolder, FakeClock
from pyarchiver.cas import verify as verifying
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.clock import SystemClock
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.rows import DELETED, STAGED, ThawRow
from pyarchiver.cas.storage import PART, Checksums, Heat, Stored
from pyarchiver.cas.verify import VerifyResult, verify
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats.errors import StorageError

SIZES = Sizes(pack=400 << 10, block=128 << 10, segment=64 << 10)
ALL = Fraction(1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two runs and some ten objects."""
    made = Place(tmp_path_factory.mktemp("kept") / "work")
    make_tree(made.source, files=16, size=80_000)
    with small(SIZES):
        made.start(SIZES)
        write(made.source / "later.raw", noise("later", 50_000))
        made.resume()
    return made.work


@pytest.fixture
def place(kept: Path, tmp_path: Path) -> Iterator[Place]:
    """A copy of it."""
    made = Place(tmp_path / "work")
    shutil.copytree(kept, made.work, symlinks=True)
    with Catalogue.open(made.archive, write=True) as catalogue, catalogue.transaction():
        here = {"url": made.storage.as_uri(), "source": str(made.source)}
        catalogue.set_settings({**catalogue.settings, **here})
    with small(SIZES):
        yield made


def verified(
    place: Place, share: Fraction | None = None, storage: LocalStorage | None = None
) -> tuple[VerifyResult, Quiet]:
    observer = Quiet()
    with Catalogue.open(place.archive, write=False) as catalogue:
        return verify(catalogue, storage or LocalStorage(place.storage), observer, share), observer


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


class Telling(LocalStorage):
    """A storage that tells the MD5 of each object, as S3 does."""

    def put(self, name: str, spooled: Path) -> Checksums:
        told = (("md5", hashlib.md5(spooled.read_bytes()).hexdigest()),)
        super().put(name, spooled)
        return told

    def list(self) -> Iterator[Stored]:
        for stored in super().list():
            told = hashlib.md5((self.folder / stored.name).read_bytes()).hexdigest()
            yield Stored(stored.name, stored.size, checksums=(("md5", told),))


# By the listing


def test_all_is_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One listing, no object is read, and it says so."""

    def never(*_: object) -> int:
        raise AssertionError("an object was read")

    monkeypatch.setattr(LocalStorage, "get_into", never)
    result, observer = verified(place)
    count = len(place.objects())
    assert (result.names, result.sizes, result.checksums) == (count, count, {})
    assert result.size == sum(path.stat().st_size for path in place.objects())
    assert not observer.problems
    assert result.unread == count


def test_what_the_user_reads(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(place.archive)]) == Exit.DONE
    out = capsys.readouterr().out
    assert "nothing is missing, different or foreign" in out
    count = len(place.objects())
    assert f"{count} objects" in out
    assert f"{count} by size" in out
    assert "no object was read" in out
    place.objects()[0].unlink()
    assert run(["verify", str(place.archive), "--json"]) == Exit.PARTIAL
    told = json.loads(capsys.readouterr().out)
    assert (told["missing"], told["names"], told["exit"]) == (1, count, Exit.PARTIAL)


def test_missing_cut_and_grown_objects_are_named(place: Place) -> None:
    gone, cut, grown = place.objects("p")[0], place.objects("m")[0], place.objects("p")[1]
    gone.unlink()
    os.truncate(cut, cut.stat().st_size - 1)
    with grown.open("ab") as file:
        file.write(b"!")
    result, observer = verified(place)
    assert (result.missing, result.differing) == (1, 2)
    assert f"object {gone.name} is missing" in observer.problems
    for path in (cut, grown):
        assert any(path.name in text and "bytes" in text for text in observer.problems)
    assert len(observer.problems) == 3


def test_checksums_find_what_sizes_do_not(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStorage, "of_url", lambda _: Telling(place.storage))
    write(place.source / "third.raw", noise("third", 60_000))
    place.resume()
    pack = max(place.objects("p"), key=lambda path: path.stat().st_mtime_ns)
    result, observer = verified(place, storage=Telling(place.storage))
    # Only what was put while the storage told of checksums has one to compare.
    assert (result.checksums, observer.problems) == ({"md5": 2}, [])
    flip(pack, 5000)
    result, observer = verified(place, storage=Telling(place.storage))
    assert (result.differing, len(observer.problems)) == (1, 1)
    assert pack.name in observer.problems[0]
    assert "md5" in observer.problems[0]
    # What is read and sound is compared by its checksum from then on.
    result, _ = verified(place, ALL, Telling(place.storage))
    result, _ = verified(place, storage=Telling(place.storage))
    assert result.checksums == {"md5": len(place.objects())}


def test_foreign_files_are_named_and_other_archives_are_not(place: Place, tmp_path: Path) -> None:
    write(place.storage / "holiday.jpg", b"not ours")
    other = Place(tmp_path / "other")
    make_tree(other.source, files=2, size=20_000)
    other.start(SIZES)
    for path in other.objects():
        shutil.copy(path, place.storage)
    result, observer = verified(place)
    assert (result.foreign, result.others) == (1, len(other.objects()))
    assert observer.problems == ["file holiday.jpg is no object of the archive: foreign"]


def test_leftovers_are_named_with_what_to_do(place: Place) -> None:
    """A part file of what is stored, one of what never was, and an object recorded as deleted."""
    stored, deleted = place.objects("p")[:2]
    write(place.storage / (stored.name + PART), b"half")
    never = stored.name[:-4] + "beef" + PART
    write(place.storage / never, b"half")
    with Catalogue.open(place.archive, write=True) as catalogue:
        (row,) = [row for row in catalogue.objects() if row.name == deleted.name]
        catalogue.record_deleted(row.id)
    result, observer = verified(place)
    assert (result.foreign, result.missing) == (3, 0)
    assert all("delete it by hand" in text for text in observer.problems)
    for name in (stored.name + PART, never, deleted.name):
        assert any(name in text for text in observer.problems)


def test_what_is_yet_to_be_sent_is_no_finding(place: Place) -> None:
    """Staged: its put was not confirmed, whether it got through or not."""
    through, waiting = place.objects("p")[:2]
    waiting.rename(place.storage / (waiting.name + PART))
    with Catalogue.open(place.archive, write=True) as catalogue, catalogue.transaction():
        catalogue._db.execute(
            "UPDATE objects SET state = ? WHERE name IN (?, ?)",
            (STAGED, through.name, waiting.name),
        )
    result, observer = verified(place)
    assert (result.staged, result.names) == (2, len(place.objects()) - 2)
    assert not observer.problems


def test_a_run_under_way_is_no_finding(place: Place) -> None:
    """Objects that are named and sent between the look at the catalogue and the listing."""
    observer = Quiet()
    with Catalogue.open(place.archive, write=False) as catalogue:
        job = verifying._Verification(catalogue, LocalStorage(place.storage), observer, "")
        before = len(place.objects())
        write(place.source / "meanwhile.raw", noise("meanwhile", 50_000))
        place.resume()
        assert len(place.objects()) > before
        job.compare()
    assert not observer.problems
    assert job.result.names == before


def test_a_disk_that_is_not_mounted(place: Place) -> None:
    for path in place.objects():
        path.unlink()
    with pytest.raises(StorageError, match=r"none of .* is its disk mounted"):
        verified(place)
    place.storage.rmdir()
    with pytest.raises(StorageError, match="not there"):
        verified(place)


# By reading


def test_deep_finds_any_flipped_bit(place: Place) -> None:
    victims = {path: at for path in place.objects() for at in [path.stat().st_size // 3]}
    sound, observer = verified(place, ALL)
    assert (sound.read, sound.damaged, sound.unread) == (len(victims), 0, 0)
    assert sound.read_size == sound.size
    assert not observer.problems
    for path, at in victims.items():
        flip(path, at)
        result, observer = verified(place, ALL)
        assert (result.damaged, result.differing) == (1, 0)
        assert observer.problems == [
            f"object {path.name} is damaged: these are not the bytes that were sent"
        ]
        flip(path, at)


def test_what_is_damaged_is_not_remembered_as_read(place: Place) -> None:
    flip(place.objects("p")[0], 9000)
    result, _ = verified(place, ALL)
    assert result.unread == 1
    # It is among the first that are read again.
    result, _ = verified(place, Fraction(1, 1000))
    assert (result.read, result.damaged) == (1, 1)


def test_samples_cover_everything(place: Place) -> None:
    count = len(place.objects())
    read: list[VerifyResult] = []
    while not read or read[-1].unread:
        result, observer = verified(place, Fraction(1, 5))
        assert not observer.problems
        assert result.read_size >= result.size / 5
        read.append(result)
    assert len(read) <= 5
    assert sum(result.read for result in read) >= count
    assert all(result.read < count for result in read)
    # The next ones begin with what was not read for longest.
    first = read[0].read
    with Catalogue.open(place.archive, write=False) as catalogue:
        oldest = sorted(catalogue.expected(), key=lambda row: row.checked)[:first]
        verify(catalogue, LocalStorage(place.storage), Quiet(), Fraction(1, 1000))
        newest = max(catalogue.expected(), key=lambda row: row.checked)
    assert newest.name in {row.name for row in oldest}


@pytest.mark.parametrize("text", ["0", "-1", "101%", "a few", "5/0", ""])
def test_impossible_samples(place: Place, text: str) -> None:
    assert run(["verify", str(place.archive), f"--sample={text}"]) == Exit.USAGE


def test_samples_on_the_command_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(place.archive), "--sample", "0.1", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["read"] == 1
    flip(place.objects("p")[0], 9000)
    assert run(["verify", str(place.archive), "--deep"]) == Exit.PARTIAL
    told = capsys.readouterr()
    assert "1 damaged" in told.out
    assert "1 problem, listed above" in told.err


def test_cold_objects_are_left_out_and_said_to_be(place: Place) -> None:
    storage = ColdFolder(place.storage, FakeClock())
    storage.warm = {path.name for path in place.objects() if "-p-" not in path.name}
    result, observer = verified(place, ALL, storage)
    assert (result.read, result.cold) == (len(storage.warm), len(place.objects("p")))
    assert result.cold_size == sum(path.stat().st_size for path in place.objects("p"))
    assert not observer.problems
    assert not storage.requests


class Mute(ColdFolder):
    """Objects are cold in its listing, whatever they are."""

    def list(self) -> Iterator[Stored]:
        return (Stored(found.name, found.size, Heat.COLD) for found in super().list())


@pytest.mark.parametrize("way", ["request", "reading"])
def test_what_was_thawed_is_read_though_the_listing_calls_it_cold(
    place: Place, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """And what is not open, or may be sealed again, is left alone: a read would ask for it."""
    with Catalogue.open(place.archive, write=True) as catalogue, catalogue.transaction():
        profile = {"profile": "ovh-cloud-archive", "profile.thaw": way}
        catalogue.set_settings({**catalogue.settings, **profile})
    clock = FakeClock()
    monkeypatch.setattr(SystemClock, "now", lambda self: clock.now())
    storage = Mute(place.storage, clock, blind=way == "reading")
    asked = [path.name for path in place.objects("p")[:2]]
    with Catalogue.open(place.archive, write=True) as catalogue:
        for row in catalogue.expected():
            if row.name in asked:
                storage.thaw(row.name, 1, "")
                ready = clock.now() + storage.delay
                catalogue.record_thaw(row.id, ThawRow(clock.now(), ready, None))
    names = len(place.objects())
    for hours, read in ((1, 0), (5, 2), (40, 0)):
        clock.time += (hours - 1) * HOUR
        result, observer = verified(place, ALL, storage)
        assert (result.read, result.cold) == (read, names - read), hours
        assert not observer.problems
        assert dict(storage.requests) == dict.fromkeys(asked, 1)


def test_an_archive_that_cannot_be_written_to(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is verified all the same; what was read cannot be remembered."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    result, observer = verified(place, ALL)
    assert (result.read, result.unread) == (result.names, result.names)
    assert not observer.problems
    assert [text for text in observer.notices if "is not remembered" in text]


def test_a_deleted_archive_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["delete", str(place.archive), "--yes"]) == Exit.DONE
    with Catalogue.open(place.archive, write=False) as catalogue:
        assert {row.state for row in catalogue.objects()} == {DELETED}
    assert run(["verify", str(place.archive)]) == Exit.FAILED
    assert "is deleted" in capsys.readouterr().err


# Old copies


def test_resume_refuses_an_old_copy(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    old = place.work / "old.archive"
    shutil.copy(place.archive, old)
    write(place.source / "newer.raw", noise("newer", 50_000))
    place.resume()
    seen = {path: path.read_bytes() for path in place.storage.iterdir()}
    before = old.read_bytes()
    write(place.source / "newest.raw", noise("newest", 50_000))
    assert run(["resume", str(old)]) == Exit.FAILED
    told = capsys.readouterr().err
    assert "is an old copy" in told
    assert "the storage has manifest" in told
    assert f"pyarchiver recover {place.storage.as_uri()}" in told
    assert {path: path.read_bytes() for path in place.storage.iterdir()} == seen
    assert old.read_bytes() == before
    assert run(["verify", str(old)]) == Exit.PARTIAL
    assert "is an old copy" in capsys.readouterr().err
    # The newest one goes on.
    assert place.resume().new


def test_packs_of_an_unfinished_run_give_an_old_copy_away(place: Place) -> None:
    """The newer copy was killed after its first pack, before any manifest told of it."""
    with Catalogue.open(place.archive, write=True) as catalogue, catalogue.transaction():
        pack = place.objects("p")[-1].name
        catalogue._db.execute("DELETE FROM objects WHERE name = ?", (pack,))
    assert run(["resume", str(place.archive)]) == Exit.FAILED


def test_a_storage_that_may_only_be_written_to(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: LocalStorage) -> Iterator[Stored]:
        raise StorageError("not allowed")

    monkeypatch.setattr(LocalStorage, "list", refused)
    observer = Quiet()
    write(place.source / "newer.raw", noise("newer", 50_000))
    assert place.resume(observer).new
    assert [text for text in observer.notices if "not checked" in text]
