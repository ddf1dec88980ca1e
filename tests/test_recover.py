"""recover: an .archive that was thrown away comes back from the storage and a secret alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from forger import Forger
from helpers_cas import said_by, tuned
from helpers_cli import (
    PASSWORD,
    Place,
    Sizes,
    contents,
    differences,
    make_tree,
    noise,
    patched,
    small,
    write,
)
from helpers_cold import HOUR, ColdFolder, FakeClock
from pyarchiver.cas import log, packer
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.decrypt import decrypt
from pyarchiver.cas.fetch import Fetcher
from pyarchiver.cas.ini import located
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.planner import Request
from pyarchiver.cas.profiles import Terms, Way
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.recover import RecoverResult, Wanted, recover
from pyarchiver.cas.recover_packs import Packs
from pyarchiver.cas.rows import STORED, UNREAD
from pyarchiver.cas.settings import settings_of
from pyarchiver.cas.storage import Stored
from pyarchiver.cas.units import count_text
from pyarchiver.cas.unlock import Keyring, unlock
from pyarchiver.cas.verify import verify
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats.errors import ArchiverError, ColdError
from pyarchiver.formats.header import Kind, parse_front
from pyarchiver.formats.names import another_name, object_name, parse_name
from pyarchiver.formats.records import About

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
VECTORS = Path(__file__).with_name("vectors")
SIZES = Sizes(pack=400 << 10, block=128 << 10, segment=4 << 10, manifest_every=2)
RUNS = 4


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An archive of four runs, with a checkpoint in the midst; and its recovery code."""
    made = Place(tmp_path_factory.mktemp("kept") / "work")
    make_tree(made.source, files=12, size=80_000)
    # A copy of the source has other inodes, and so other groups of hard links.
    (made.source / "secret's other name").unlink()
    with small(SIZES), patched((log, "CHECKPOINT_AFTER", 4)):
        code = made.start(SIZES)
        for number in range(2, RUNS + 1):
            write(made.source / f"run{number}.raw", noise(number, 90_000))
            (made.source / "shoot0" / f"p{3 * number - 6:03}.xmp").unlink()
            made.resume()
    assert made.objects("c")
    return made.work, code


@pytest.fixture
def place(kept: tuple[Path, str], small_sizes: None, tmp_path: Path) -> Place:
    made = Place(tmp_path / "work")
    subprocess.run(["cp", "-a", kept[0], made.work], check=True)
    with Catalogue.open(made.archive, write=True) as catalogue, catalogue.transaction():
        here = {"url": made.storage.as_uri(), "source": str(made.source)}
        catalogue.set_settings({**catalogue.settings, **here})
    return made


@pytest.fixture
def small_sizes() -> Iterator[None]:
    with small(SIZES):
        yield


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)


def lost(place: Place) -> Path:
    """The .archive, under another name to compare with."""
    return place.archive.rename(place.work / "lost.archive")


def recovered(
    place: Place,
    wanted: Wanted | None = None,
    storage: LocalStorage | None = None,
    way: Way = Way.NONE,
) -> tuple[RecoverResult, Quiet]:
    observer = Quiet()
    settings = located(str(place.storage), place.archive, None)
    terms = Terms(way, 4 * HOUR, 12 * HOUR)
    settings = replace(settings, profile=replace(settings.profile, terms=terms))
    result = recover(
        settings, storage or LocalStorage(place.storage), Keyring(PASSWORD), place.archive,
        wanted or Wanted(), observer,
    )  # fmt: skip
    return result, observer


def move_in(place: Place) -> None:
    """The settings in the manifests name the source of the archive that was copied."""
    with Catalogue.open(place.archive, write=True) as catalogue, catalogue.transaction():
        catalogue.set_settings({**catalogue.settings, "source": str(place.source)})


def same(place: Place, before: Path) -> None:
    """The new .archive says what the lost one said, but where the source is."""
    ours, theirs = said_by(place.archive), said_by(before)
    for one in (ours, theirs):
        one["settings"] = {**one["settings"], "source": ""}
    assert ours == theirs


def number(name: str) -> int:
    parsed = parse_name(name)
    assert parsed
    return parsed.number


def clean(place: Place) -> list[str]:
    observer = Quiet()
    with Catalogue.open(place.archive, write=False) as catalogue:
        verify(catalogue, LocalStorage(place.storage), observer)
    return observer.problems


# What comes back


def test_through_the_commands(
    place: Place, kept: tuple[Path, str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = lost(place)
    sent = contents(place.storage)
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE)
    monkeypatch.setenv(secrets.CODE_VARIABLE, kept[1])
    words = ["recover", str(place.storage), str(place.archive), "--recovery-code"]
    assert run(words) == Exit.DONE
    with Catalogue.open(before, write=False) as catalogue:
        head = f"snapshot {RUNS}:{catalogue.head.hash.hex()}"
    assert head in capsys.readouterr().out
    same(place, before)
    assert sorted(path.name for path in place.work.iterdir() if path.is_dir()) == [
        "source", "storage"
    ]  # fmt: skip
    assert place.archive.stat().st_mode & 0o777 == 0o600
    move_in(place)
    assert run(["resume", str(place.archive)]) == Exit.DONE
    assert head in capsys.readouterr().out
    assert contents(place.storage) == sent
    assert run(["verify", str(place.archive), "--deep"]) == Exit.DONE
    for snapshot in range(1, RUNS + 1):
        one, other = place.work / f"one{snapshot}", place.work / f"other{snapshot}"
        for archive, folder in ((before, one), (place.archive, other)):
            words = ["restore", str(archive), str(folder), "--snapshot", str(snapshot)]
            assert run([*words, "--recovery-code"]) == Exit.DONE
        assert differences(one, other) == ""
    assert differences(place.source, other) == ""
    # The log goes on, for old and new readers alike.
    write(place.source / "next.raw", noise("next", 50_000))
    assert place.resume().snapshot == RUNS + 1
    observer = Quiet()
    place.decrypt(place.storage, place.work / "decrypted", observer)
    assert not observer.problems
    assert (place.work / "decrypted" / "next.raw").read_bytes() == noise("next", 50_000)


def test_one_checkpoint_and_the_tail_are_read_and_no_pack(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lost(place)
    read = set()
    get_into = LocalStorage.get_into

    def watched(storage: LocalStorage, name: str, start: int, into: memoryview) -> int:
        if storage.folder == place.storage:
            read.add(name)
        return get_into(storage, name, start, into)

    monkeypatch.setattr(LocalStorage, "get_into", watched)
    result, observer = recovered(place)
    assert not observer.problems
    newest = max(path.name for path in place.objects("c"))
    later = {path.name for path in place.objects("m") if number(path.name) >= number(newest)}
    assert read == {newest, *later}
    assert later
    assert len(place.objects("m")) > len(later)
    assert result.fetched == len(read)
    same(place, before)


def test_the_kept_archive_of_version_1(tmp_path: Path) -> None:
    """What the first version of the program wrote is recovered by every later one."""
    place = Place(tmp_path)
    shutil.copytree(VECTORS / "catalogue-v1", place.storage)
    words = ["recover", str(place.storage), str(place.archive)]
    assert run(words) == Exit.DONE
    assert run(["verify", str(place.archive), "--deep"]) == Exit.DONE
    assert run(["restore", str(place.archive), str(tmp_path / "out"), "--snapshot", "1"]) == 0
    assert (tmp_path / "out" / "rejected.raw").read_bytes() == noise("rejected", 5_000)


@pytest.mark.parametrize("checkpoints", [True, False])
def test_golden_objects(tmp_path: Path, checkpoints: bool) -> None:
    told = json.loads((VECTORS / "vectors.json").read_text())
    place = Place(tmp_path)
    place.storage.mkdir()
    for item in told["objects"]:
        if checkpoints or "checkpoint" not in item["file"]:
            shutil.copy(VECTORS / item["file"], place.storage / item["name"])
    observer = Quiet()
    keyring = Keyring(told["password"])
    settings = located(str(place.storage), place.archive, None)
    recover(settings, LocalStorage(place.storage), keyring, place.archive, Wanted(), observer)
    with Catalogue.open(place.archive, write=False) as catalogue:
        runs = [run["run"] for item in told["objects"] for run in item.get("runs", ())]
        assert {done.run for done in catalogue.snapshots()} == set(runs)
        manifests = [item for item in told["objects"] if "manifest" in item["file"]]
        assert catalogue.head.hash.hex() in {item["blake3"] for item in manifests}
        assert catalogue.keys.archive_id.hex() == told["archive_id"]


def test_settings_travel_and_the_location_given_wins(place: Place) -> None:
    lost(place)
    moved = place.storage.rename(place.work / "moved disk")
    assert run(["recover", str(moved), str(place.archive)]) == Exit.DONE
    with Catalogue.open(place.archive, write=False) as catalogue:
        settings = settings_of(catalogue)
    assert (settings.name, settings.url) == ("photos", moved.as_uri())
    assert settings.source.name == "source"
    assert settings.pack_size == SIZES.pack


def test_what_an_ini_says_of_the_storage_counts(place: Place) -> None:
    lost(place)
    ini = place.work / "new.ini"
    ini.write_text(
        "[archive]\nname = other\nsource = elsewhere\n"
        f"[storage]\nurl = {place.storage}\nupload limit = 2000 KiB\n"
        "[format]\npack size = 20000000\nchunk size = 65536\n"
    )
    words = ["recover", str(place.storage), str(place.archive), "--config", str(ini)]
    assert run(words) == Exit.DONE
    with Catalogue.open(place.archive, write=False) as catalogue:
        assert catalogue.name == "photos"
        assert catalogue.settings["upload limit"]
        assert catalogue.settings["pack size"] == str(SIZES.pack)


# What is not there, or not what it was


def interrupted_run(place: Place) -> int:
    """A run that ends after some packs, before any manifest tells of them; returns how many."""

    def ended(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = len(place.objects("p"))
    for number in range(12):
        write(place.source / "more" / f"{number}.raw", noise(("more", number), 80_000))
    with (
        patched((packer, "MANIFEST_EVERY", 1000), (log.Log, "write", ended)),
        pytest.raises(KeyboardInterrupt),
    ):
        place.resume()
    return len(place.objects("p")) - before


def test_an_interrupted_run_goes_on(place: Place) -> None:
    new = interrupted_run(place)
    assert new >= 2
    before = lost(place)
    packs = len(place.objects("p"))
    result, observer = recovered(place)
    assert not observer.problems
    assert result.unread == 0
    ours, theirs = said_by(place.archive), said_by(before)
    assert ours["open run"] == theirs["open run"] == RUNS + 1
    assert len(list(ours["pending"])) == new
    assert ours["chunks"] == theirs["chunks"]
    move_in(place)
    assert place.resume().snapshot == RUNS + 1
    assert len(place.objects("p")) == packs
    assert clean(place) == []
    place.restore(place.work / "out", observer)
    assert not observer.problems
    exact = differences(place.source, place.work / "out")
    assert all("*deleting" in line for line in exact.splitlines())


def test_packs_in_no_manifest_left_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Their numbers are not given again, so that they never pass for newer than what comes."""
    new = interrupted_run(place)
    with Catalogue.open(place.archive, write=False) as catalogue:
        highest = catalogue.last_version()
    lost(place)
    write(place.source / "more" / "0.raw", noise("newer than in the packs", 80_000))
    words = ["recover", str(place.storage), str(place.archive), "--packs", "none"]
    assert run(words) == Exit.PARTIAL
    told = capsys.readouterr()
    assert f"{count_text(new, 'pack')} in no manifest and not read" in told.err
    with Catalogue.open(place.archive, write=False) as catalogue:
        states = [row[0] for row in catalogue._db.execute("SELECT state FROM objects")]
        assert states.count(UNREAD) == new
        assert not catalogue.interrupted_run()
    problems = clean(place)
    assert len(problems) == new
    assert all("in no manifest" in text for text in problems)
    move_in(place)
    result = place.resume()
    assert result.snapshot == RUNS + 2
    with Catalogue.open(place.archive, write=False) as catalogue:
        assert catalogue.last_version() > highest
    observer = Quiet()
    place.decrypt(place.storage, place.work / "out", observer)
    assert not observer.problems
    newest = (place.work / "out" / "more" / "0.raw").read_bytes()
    assert newest == noise("newer than in the packs", 80_000)
    # And once more from what is there by now.
    lost(place)
    _, observer = recovered(place)
    assert not observer.problems
    move_in(place)
    packs = len(place.objects("p"))
    place.resume()
    assert len(place.objects("p")) == packs
    assert not place.resume().new
    place.restore(place.work / "again", observer)
    assert (place.work / "again" / "more" / "0.raw").read_bytes() == newest


def test_no_manifest_at_all(place: Place) -> None:
    """From the packs alone: as much as decrypt finds, and a log to go on with."""
    lost(place)
    for path in [*place.objects("m"), *place.objects("c")]:
        path.unlink()
    packs = len(place.objects("p"))
    result, observer = recovered(place)
    assert (result.snapshot, result.fetched) == (0, packs)
    assert [text for text in observer.notices if "--config INI" in text]
    with Catalogue.open(place.archive, write=True) as catalogue, catalogue.transaction():
        here = place.settings(SIZES).values()
        catalogue.set_settings(here)
    sent = place.resume()
    assert sent.new
    assert len(place.objects("p")) == packs
    observer = Quiet()
    place.restore(place.work / "out", observer)
    assert not observer.problems
    assert clean(place) == []


def test_a_missing_manifest_is_named(place: Place) -> None:
    """Its packs are read, and give back what they hold."""
    lost(place)
    for path in place.objects("c"):
        path.unlink()
    gone = place.objects("m")[1]
    gone.unlink()
    _, observer = recovered(place)
    missing, hint = observer.problems
    assert "manifest 2 is missing" in missing
    assert "--packs all reads them" in hint
    out = Quiet()
    place.restore(place.work / "out", out)
    assert not out.problems
    for name, data in contents(place.source).items():
        assert (place.work / "out" / name).read_bytes() == data


def test_damaged_manifests_are_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    lost(place)
    for path in place.objects("c"):
        path.unlink()
    victim = max(place.objects("m"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 100] = bytes(100)
    victim.write_bytes(data)
    words = ["recover", str(place.storage), str(place.archive)]
    assert run([*words, "--packs", "all"]) == Exit.PARTIAL
    told = capsys.readouterr().err
    assert victim.name in told
    observer = Quiet()
    place.restore(place.work / "out", observer)
    assert not observer.problems
    place.archive.unlink()
    assert run(words) == Exit.PARTIAL
    told = capsys.readouterr().err
    # A manifest of which nothing is left counts as missing: the packs that only it lists are read.
    assert "--packs all reads them" in told


def test_a_missing_manifest_of_a_pack_that_another_lists(
    small_sizes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One manifest lists the pack, and the next ones have the entries of its files."""
    place = Place(tmp_path / "work")
    for count in range(300):
        write(place.source / f"{count:03}.txt", noise(count, 100))
    with tuned(log_size=20_000):
        place.start(SIZES)
    manifests = place.objects("m")
    assert len(manifests) > 3
    assert len(place.objects("p")) == 1
    manifests[2].unlink()
    lost(place)
    words = ["recover", str(place.storage), str(place.archive)]
    for packs, whole in (("unlisted", False), ("none", False), ("all", True)):
        assert run([*words, "--packs", packs]) == Exit.PARTIAL
        told = capsys.readouterr().err
        assert "manifest 3 is missing" in told
        assert ("--packs all reads them too" in told) != whole
        out, observer = place.work / packs, Quiet()
        place.restore(out, observer)
        assert (contents(out) == contents(place.source)) == whole
        place.archive.unlink()
    # Without an .archive, all packs that are there are read at once.
    place.decrypt(place.storage, place.work / "decrypted", Quiet())
    assert contents(place.work / "decrypted") == contents(place.source)


def test_a_damaged_checkpoint_costs_nothing_but_the_older_manifests(place: Place) -> None:
    before = lost(place)
    (victim,) = [p for p in place.objects("c") if p.name == max(q.name for q in place.objects("c"))]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    _, observer = recovered(place)
    assert any(victim.name in text for text in observer.problems)
    assert any("checkpoint" in text and "incomplete" in text for text in observer.problems)
    ours, theirs = said_by(place.archive), said_by(before)
    for what in ("versions", "paths", "packs", "chunks", "runs", "head"):
        assert ours[what] == theirs[what], what


def test_a_missing_pack_is_named_and_sent_again(place: Place) -> None:
    lost(place)
    gone = place.objects("p")[0]
    gone.unlink()
    result, observer = recovered(place)
    assert result.missing == 1
    assert observer.problems == [f"object {gone.name} is missing"]
    assert clean(place) == [f"object {gone.name} is missing"]
    move_in(place)
    # The source has what was in it: it is not taken for known.
    assert place.resume().new
    out = Quiet()
    place.restore(place.work / "out", out)
    for path, data in contents(place.source).items():
        assert (place.work / "out" / path).read_bytes() == data


def test_a_withheld_tail_is_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with Catalogue.open(place.archive, write=False) as catalogue:
        head = catalogue.head.hash.hex()
    before = lost(place)
    words = ["recover", str(place.storage), str(place.archive)]
    assert run([*words, "--expect", f"{RUNS}:{head}"]) == Exit.DONE
    place.archive.unlink()
    assert run([*words, "--expect", f"snapshot {RUNS}, head {head}"]) == Exit.DONE
    same(place, before)
    place.archive.unlink()
    withheld = place.objects("m")[-1]
    withheld.rename(place.work / withheld.name)
    assert run([*words, "--expect", f"{RUNS}:{head}"]) == Exit.FAILED
    told = capsys.readouterr().err
    assert f"snapshot {RUNS}, head {head}: its newest objects are missing or withheld" in told
    assert not place.archive.exists()
    assert run([*words, "--expect", f"1:{'00' * 32}"]) == Exit.FAILED
    assert "it differs" in capsys.readouterr().err
    assert run([*words, "--expect", "1"]) == Exit.USAGE


def forged(place: Place, number: int, hash_: bytes, part: int = 0) -> Path:
    """A checkpoint with the keys of the lost .archive, which says nothing but run 7."""
    with Catalogue.open(place.work / "lost.archive", write=False) as catalogue:
        forger = Forger(unlock(catalogue, PASSWORD))
        head = blake3(place.objects("m")[-1].read_bytes()).digest()
        assert head == catalogue.head.hash
    data = forger.log_object(Kind.CHECKPOINT, About(7, number, hash_, number, part), [], 7)
    header = parse_front(data)
    name = object_name(header.archive_id, Kind.CHECKPOINT, number, header.object_id)
    write(place.storage / name, data)
    return place.storage / name


def snapshots(place: Place) -> set[int]:
    with Catalogue.open(place.archive, write=False) as catalogue:
        return {done.run for done in catalogue.snapshots()}


def test_a_checkpoint_of_impossibly_many_parts(place: Place) -> None:
    """As many as nobody can count cost neither memory nor time."""
    lost(place)
    last = number(place.objects("m")[-1].name)
    head = blake3(place.objects("m")[-1].read_bytes()).digest()
    forged(place, last, head, part=1 << 60)
    observer = Quiet()
    decrypt(place.storage, place.work / "out", PASSWORD, Request(1), observer)
    assert f"checkpoint {last} is incomplete: parts are missing or damaged" in observer.problems


def test_a_forged_checkpoint_hides_nothing(place: Place) -> None:
    """Whatever it says its manifest is, older snapshots stay, in what `decrypt` reads too."""
    before = lost(place)
    last = number(place.objects("m")[-1].name)
    heads = [blake3(path.read_bytes()).digest() for path in place.objects("m")]
    for at, hash_, problem in [
        (99, bytes(32), "manifest 99 is missing: nothing shows that checkpoint 99"),
        (last, bytes(32), f"checkpoint {last} is not of the manifest of that number"),
        (last - 1, bytes(32), f"checkpoint {last - 1} is not of the manifest of that number"),
        (last, heads[-1], ""),
    ]:
        checkpoint = forged(place, at, hash_)
        observer = Quiet()
        decrypt(place.storage, place.work / "out", PASSWORD, Request(1), observer)
        shutil.rmtree(place.work / "out")
        assert not problem or any(problem in text for text in observer.problems), (at, observer)
        if problem:
            _, observer = recovered(place)
            assert any(problem in text for text in observer.problems)
            assert snapshots(place) >= set(range(1, RUNS + 1))
            ours, theirs = said_by(place.archive), said_by(before)
            for what in ("versions", "paths", "packs", "chunks"):
                assert ours[what] == theirs[what], what
            place.archive.unlink()
        wanted = Wanted((1, heads[0]))
        if at <= last:
            recovered(place, wanted)
            assert snapshots(place) == set(range(1, RUNS + 1))
            place.archive.unlink()
        else:
            with pytest.raises(ArchiverError, match="manifests are missing"):
                recovered(place, wanted)
        checkpoint.unlink()


def test_what_a_checkpoint_hides_where_no_head_is_expected(place: Place) -> None:
    """What SECURITY.md says remains possible: no manifest before it is read."""
    lost(place)
    head = blake3(place.objects("m")[-1].read_bytes()).digest()
    forged(place, number(place.objects("m")[-1].name), head)
    _, observer = recovered(place)
    assert any("was not read: checkpoint" in text for text in observer.notices)
    assert snapshots(place) == {RUNS, 7}
    place.archive.unlink()
    recovered(place, Wanted((RUNS, head)))
    assert snapshots(place) == set(range(1, RUNS + 1))


def test_a_checkpoint_proves_no_head(place: Place) -> None:
    """Where its manifest is lost it is used, with a word, and not for what is expected."""
    before = lost(place)
    checkpoint = max(path.name for path in place.objects("c"))
    its_own, *later = [p for p in place.objects("m") if number(p.name) >= number(checkpoint)]
    head = blake3(its_own.read_bytes()).digest()
    for path in (its_own, *later):
        path.unlink()
    _, observer = recovered(place)
    assert any("nothing shows that checkpoint" in text for text in observer.problems)
    place.archive.unlink()
    with pytest.raises(ArchiverError, match="a checkpoint alone proves nothing"):
        recovered(place, Wanted((1, head)))
    for path in place.objects("m"):
        path.unlink()
    _, observer = recovered(place)
    assert any("nothing shows that checkpoint" in text for text in observer.problems)
    ours, theirs = said_by(place.archive), said_by(before)
    assert ours["packs"] == theirs["packs"]
    assert snapshots(place)


def test_manifests_that_a_checkpoint_stands_for(place: Place) -> None:
    """They may be gone; what is expected does not rest on it without a word."""
    before = lost(place)
    checkpoint = max(path.name for path in place.objects("c"))
    for path in place.objects("m"):
        if number(path.name) < number(checkpoint):
            path.unlink()
    for wanted in (Wanted(), Wanted((RUNS, blake3(place.objects("m")[-1].read_bytes()).digest()))):
        _, observer = recovered(place, wanted)
        told = observer.problems if wanted.expected else observer.notices
        assert any(f"checkpoint {number(checkpoint)} replaces it" in text for text in told)
        assert wanted.expected or not observer.problems
        ours, theirs = said_by(place.archive), said_by(before)
        for what in ("versions", "paths", "packs", "chunks", "runs", "head"):
            assert ours[what] == theirs[what], what
        place.archive.unlink()


def test_an_older_head_is_found_before_the_checkpoint(place: Place) -> None:
    """What was noted long ago still proves that the log goes on from there."""
    observer = Quiet()
    heads = []
    lost(place)
    keyring, settings = Keyring(PASSWORD), located(str(place.storage), place.archive, None)
    storage = LocalStorage(place.storage)
    for path in place.objects("m"):
        heads.append(blake3(path.read_bytes()).digest())
    for head in heads:
        wanted = Wanted((1, head))
        recover(settings, storage, keyring, place.archive, wanted, observer)
        place.archive.unlink()
    assert not observer.problems
    # A gap between what was noted and what is there breaks the proof.
    place.objects("m")[1].unlink()
    with pytest.raises(ArchiverError, match="manifests are missing"):
        recover(settings, storage, keyring, place.archive, Wanted((1, heads[0])), observer)


def fork(place: Place) -> tuple[Path, Path]:
    """Two copies of the .archive went on, into a storage that hid what was newest."""
    other = place.work / "other.archive"
    shutil.copy(place.archive, other)
    seen = set(place.storage.iterdir())
    write(place.source / "first.raw", noise("first", 40_000))
    write(place.source / "both.raw", noise("both", 40_000))
    place.resume()
    hidden = place.work / "hidden"
    hidden.mkdir()
    for path in set(place.storage.iterdir()) - seen:
        path.rename(hidden / path.name)
    (place.source / "first.raw").unlink()
    ahead = place.archive.rename(place.work / "ahead.archive")
    other.rename(place.archive)
    write(place.source / "second.raw", noise("second", 40_000))
    place.resume()
    write(place.source / "third.raw", noise("third", 40_000))
    place.resume()
    for path in hidden.iterdir():
        path.rename(place.storage / path.name)
    return ahead, place.archive.rename(place.work / "longer.archive")


@pytest.mark.parametrize("shorter", [False, True])
def test_a_fork_is_named_and_both_branches_are_kept(place: Place, shorter: bool) -> None:
    ahead, longer = fork(place)
    followed = ahead if shorter else longer
    with Catalogue.open(followed, write=False) as catalogue:
        head = catalogue.head
    expected = (RUNS + 1, head.hash) if shorter else None
    result, observer = recovered(place, Wanted(expected))
    assert result.head == head.hash.hex()
    assert any("a fork" in text for text in observer.problems)
    ours, theirs = said_by(place.archive), said_by(followed)
    assert ours["paths"] == theirs["paths"]
    assert ours["runs"] == theirs["runs"]
    assert ours["head"] == theirs["head"]
    # Snapshots are those of the branch that is followed; all else comes back too.
    move_in(place)
    out, exact = place.work / "out", place.work / "exact"
    assert run(["restore", str(place.archive), str(out)]) == Exit.DONE
    for name in ("first", "second", "third", "both"):
        assert (out / f"{name}.raw").read_bytes() == noise(name, 40_000)
    assert run(["restore", str(place.archive), str(exact), "--exact"]) == Exit.DONE
    mine = {"both.raw", *(["first.raw"] if shorter else ["second.raw", "third.raw"])}
    assert {p.name for p in exact.glob("*.raw") if not p.name.startswith("run")} == mine
    assert clean(place) == []
    # It goes on, with numbers that neither branch has, and everything in the source is in it.
    write(place.source / "fourth.raw", noise("fourth", 40_000))
    done = place.resume()
    assert done.snapshot > RUNS + 2
    # What both have sent keeps the place that it has on the branch followed.
    with Catalogue.open(place.archive, write=False) as catalogue:
        assert done.snapshot not in {run for _, _, name, run, _, _ in catalogue.versions(0)
                                     if name == b"both.raw"}  # fmt: skip
    again = Quiet()
    place.decrypt(place.storage, place.work / "decrypted", again)
    assert all("fork" in text for text in again.problems)
    for path, data in contents(place.source).items():
        assert (place.work / "decrypted" / path).read_bytes() == data
    place.archive.unlink()
    with Catalogue.open(ahead, write=False):
        _, observer = recovered(place)
    move_in(place)
    # Of branches of one length that is followed which was gone on with last: it says all this.
    assert not place.resume().new


def test_names_that_the_storage_made_up(place: Place) -> None:
    """A pack's id under a manifest's name must not hide the pack; nor must a copy of one."""
    before = lost(place)
    pack = place.objects("p")[0]
    tag, _, object_id = pack.name.split("-")
    write(place.storage / f"{tag}-m-00000001-{object_id}", b"made up")
    _, observer = recovered(place)
    ours, theirs = said_by(place.archive), said_by(before)
    assert observer.problems
    for what in ("versions", "packs", "chunks", "head"):
        assert ours[what] == theirs[what], what


@pytest.mark.parametrize("packs", list(Packs), ids=str)
@pytest.mark.parametrize("kind", ["c", "m", "p"])
def test_a_forged_object_with_the_id_of_another_costs_nothing(
    place: Place, kind: str, packs: Packs
) -> None:
    """The true one is neither hidden nor deleted by the next run."""
    with Catalogue.open(place.archive, write=False) as catalogue:
        forger = Forger(unlock(catalogue, PASSWORD))
        about = About(RUNS, catalogue.head.number, catalogue.head.hash, catalogue.head.number + 1)
    before = lost(place)
    sent = contents(place.storage)
    name = parse_name(place.objects(kind)[-1].name)
    assert name
    forged = forger.log_object(Kind.MANIFEST, about, [], RUNS, object_id=name.object_id)
    parsed = replace(name, kind=Kind.MANIFEST, number=about.number)
    write(place.storage / str(parsed), forged)
    _, observer = recovered(place, Wanted(packs=packs))
    assert any("two objects have one id" in text for text in observer.problems)
    ours, theirs = said_by(place.archive), said_by(before)
    for what in ("versions", "packs", "chunks"):
        assert ours[what] == theirs[what], what
    move_in(place)
    place.resume()
    assert contents(place.storage).items() >= sent.items()


@pytest.mark.parametrize("cut", [True, False])
def test_objects_that_were_sent_again_under_another_name(place: Place, cut: bool) -> None:
    """After puts that were cut, with and without what those left under the first names."""
    pack, manifest = place.objects("p")[0], place.objects("m")[-1]
    with Catalogue.open(place.archive, write=True) as catalogue:
        for path in (pack, manifest):
            new = place.storage / another_name(path.name)
            path.rename(new)
            (row,) = [row for row in catalogue.objects() if row.name == path.name]
            catalogue.rename_object(row.id, new.name)
            if cut:
                path.write_bytes(new.read_bytes()[:-500])
    before = lost(place)
    _, observer = recovered(place)
    assert not observer.problems
    ours, theirs = said_by(place.archive), said_by(before)
    for what in ("versions", "paths", "packs", "runs", "head"):
        assert ours[what] == theirs[what], what
    move_in(place)
    done = place.resume()
    assert (done.snapshot, done.new) == (RUNS, False)
    assert clean(place) == []
    out = Quiet()
    place.restore(place.work / "out", out)
    assert not out.problems


class Sizeless(LocalStorage):
    """Tells no sizes, as some gateways do, and thus cannot tell a cut object from a whole one."""

    def list(self) -> Iterator[Stored]:
        return (Stored(found.name, None) for found in super().list())


@pytest.mark.parametrize("packs", list(Packs), ids=str)
@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("whole", ["first", "second"])
@pytest.mark.parametrize("kind", ["pack", "new pack", "manifest", "old manifest"])
def test_of_two_attempts_the_whole_one_is_kept(
    place: Place, kind: str, whole: str, sizes: bool, packs: Packs
) -> None:
    """Wherever the cut one is, the whole one must neither be passed over nor ever be deleted."""
    if kind == "new pack":
        interrupted_run(place)
        with Catalogue.open(place.archive, write=False) as catalogue:
            name = catalogue.objects(Kind.PACK)[-1].name
        victim = place.storage / name
    else:
        choice = {"pack": ("p", 0), "manifest": ("m", -1), "old manifest": ("m", 0)}[kind]
        victim = place.objects(choice[0])[choice[1]]
    data, other = victim.read_bytes(), place.storage / another_name(victim.name)
    first, second = (data, data[:-5000]) if whole == "first" else (data[:-5000], data)
    victim.write_bytes(first)
    other.write_bytes(second)
    kept = victim if whole == "first" else other
    lost(place)
    storage = LocalStorage(place.storage) if sizes else Sizeless(place.storage)
    recovered(place, Wanted(packs=packs), storage)
    move_in(place)
    place.resume()
    assert kept.read_bytes() == data
    assert {path for path in (victim, other) if path.exists()} == {kept}
    with Catalogue.open(place.archive, write=False) as catalogue:
        assert catalogue.state_of(kept.name) in (STORED, UNREAD)
    place.resume()
    observer = Quiet()
    place.restore(place.work / "out", observer)
    assert not observer.problems
    for name, found in contents(place.source).items():
        assert (place.work / "out" / name).read_bytes() == found


def test_an_object_that_has_only_its_second_name_is_not_read(place: Place) -> None:
    before = lost(place)
    for path in place.objects("p"):
        path.rename(place.storage / another_name(path.name))
    result, observer = recovered(place, storage=Sizeless(place.storage))
    assert not observer.problems
    assert not list((place.work / "photos.archive.recovery").glob("*"))
    assert result.fetched <= len(place.objects("m")) + len(place.objects("c"))
    assert _chunks(place.archive) == _chunks(before)
    assert clean(place) == []


def _chunks(archive: Path) -> set[tuple[bytes, int]]:
    """Ids and ordinals of all chunks, whatever the packs are called."""
    return {(id_, ordinal) for id_, _, ordinal in said_by(archive)["chunks"]}


# Refusals, and going on


def test_refusals(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["recover", str(place.storage), str(place.archive)]
    assert run(words) == Exit.FAILED
    assert "is already there" in capsys.readouterr().err
    lost(place)
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, "another")
    assert run(words) == Exit.FAILED
    assert "wrong password" in capsys.readouterr().err
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    empty = place.work / "empty"
    empty.mkdir()
    assert run(["recover", str(empty), str(place.archive)]) == Exit.FAILED
    assert "no object of pyarchiver" in capsys.readouterr().err
    assert run([*words, "--only", "zzz"]) == Exit.FAILED
    tag = place.objects()[0].name.split("-")[0]
    assert f"no object of zzz is there, but of {tag}" in capsys.readouterr().err
    assert run(["recover", str(place.work / "none"), str(place.archive)]) == Exit.FAILED
    assert not place.archive.exists()


def test_several_archives_with_one_password(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lost(place)
    other = Place(tmp_path / "other")
    make_tree(other.source, files=2, size=20_000)
    other.start(SIZES)
    tag = place.objects()[0].name[:12]
    for path in other.objects():
        shutil.copy(path, place.storage)
    words = ["recover", str(place.storage), str(place.archive)]
    assert run(words) == Exit.USAGE
    assert f"--only {tag}" in capsys.readouterr().err
    assert run([*words, "--only", tag]) == Exit.DONE
    same(place, before)


def test_ended_in_its_midst(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """No .archive is there before it is whole; what was fetched is not fetched again."""
    before = lost(place)
    for path in place.objects("c"):
        path.unlink()
    count = len(place.objects("m"))
    copy, copied = Fetcher._copy, []

    def counting(fetcher: Fetcher, name: str, file: Path) -> None:
        copied.append(name)
        if len(copied) == count // 2:
            raise KeyboardInterrupt
        copy(fetcher, name, file)

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fetcher, "_copy", counting)
    with pytest.raises(KeyboardInterrupt):
        recovered(place)
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "settle", ended)
        with pytest.raises(KeyboardInterrupt):
            recovered(place)
    assert not place.archive.exists()
    _, observer = recovered(place)
    assert not observer.problems
    assert len(copied) == count + 1
    ours, theirs = said_by(place.archive), said_by(before)
    assert ours["versions"] == theirs["versions"]
    assert not (place.work / "photos.archive.recovery").exists()


@pytest.mark.parametrize("blind", [True, False])
def test_cold_manifests_are_waited_for(place: Place, blind: bool) -> None:
    """Asked for once; run again, it goes on. `blind`: only a read shows whether it can be read."""
    before = lost(place)
    storage = ColdFolder(place.storage, FakeClock(), blind=blind)
    way = Way.READING if blind else Way.REQUEST
    for _ in range(200):
        try:
            _, observer = recovered(place, storage=storage, way=way)
            break
        except ColdError:
            assert not place.archive.exists()
            storage.clock.time += HOUR
    assert not observer.problems
    assert set(storage.requests.values()) == {1}
    assert not [name for name in storage.requests if "-p-" in name]
    ours, theirs = said_by(place.archive), said_by(before)
    for what in ("versions", "paths", "packs", "chunks", "runs", "head"):
        assert ours[what] == theirs[what], what
    # Sizes that nobody told are no finding once somebody does.
    assert clean(place) == []
