"""Whatever happens to the objects: no wrong byte is written, and what is damaged is named."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest

from helpers_cli import (
    Place,
    Sizes,
    contents,
    copied,
    differences,
    make_tree,
    noise,
    patched,
    small,
    tree_of,
    words,
    write,
)
from pyarchiver.cas import create
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.objects import ChunkMap
from pyarchiver.cas.planner import Request, RestoreResult
from pyarchiver.cas.progress import Quiet, show
from pyarchiver.cas.verify import verify
from pyarchiver.formats.entry import EntryKind, Run, decode_node
from pyarchiver.formats.errors import ArchiverError, PasswordError, StorageError
from pyarchiver.formats.header import Kind, parse_front
from pyarchiver.formats.payload import FRAME_SIZE, Index

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

SEGMENT = 16 << 10
SIZES = Sizes(pack=300 << 10, block=64 << 10, segment=SEGMENT, manifest_every=2)
SEEDS = 200


@pytest.fixture(autouse=True)
def sizes() -> Iterator[None]:
    with small(SIZES):
        yield


@dataclass(frozen=True)
class Made:
    """An archive of two runs, and what each file was in each of them."""

    place: Place
    versions: dict[str, set[bytes]]
    needs: dict[str, set[str]]
    latest: dict[str, bytes]

    def packs(self) -> list[Path]:
        """The packs that some file needs, largest first: names are random, sizes are not."""
        needed = set().union(*self.needs.values())
        packs = [path for path in self.place.objects("p") if path.name in needed]
        return sorted(packs, key=lambda path: path.stat().st_size, reverse=True)

    def right(self, destination: Path) -> dict[str, bytes]:
        """What is restored; fails where a file has bytes that it never had."""
        if not destination.exists():
            return {}
        found = contents(destination)
        for path, data in found.items():
            assert not path.endswith(".part"), f"left over: {path}"
            assert path in self.versions, f"a file that never was: {path}"
            assert data in self.versions[path], f"wrong bytes in {path}"
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two runs; the second changes and adds. Treated as read-only."""
    place = Place(tmp_path_factory.mktemp("made"))
    with small(SIZES):
        make_tree(place.source, files=10, size=80_000)
        place.start(SIZES)
        before = contents(place.source)
        write(place.source / "shoot0" / "p000.raw", noise("changed", 90_000))
        write(place.source / "text" / "later.txt", words("later", 150_000))
        for number in range(4):
            write(place.source / "new" / f"n{number}.raw", noise(("new", number), 80_000))
        place.resume()
        latest = contents(place.source)
    versions = {path: {data} for path, data in before.items()}
    for path, data in latest.items():
        versions.setdefault(path, set()).add(data)
    assert len(place.objects("p")) >= 5
    assert len(place.objects("m")) >= 3
    return Made(place, versions, _needs(place), latest)


def _needs(place: Place) -> dict[str, set[str]]:
    """Names of the packs that each file's newest version needs."""
    needs = {}
    with Catalogue.open(place.archive, write=False) as catalogue:
        for row in catalogue.latest():
            node = decode_node(row.fields)
            if node.kind != EntryKind.FILE:
                continue
            ids = {part.object_id for part in node.content if isinstance(part, Run)}
            rows = [catalogue.object_by_id(object_id) for object_id in ids]
            needs[os.fsdecode(row.path)] = {row.name for row in rows if row}
    return needs


def read(made: Made, way: str, objects: Path, destination: Path) -> tuple[Quiet, RestoreResult]:
    """Read `objects` back without the .archive, or with it."""
    observer = Quiet()
    if way == "decrypt":
        return observer, made.place.decrypt(objects, destination, observer)
    moved = Place(made.place.work)
    with patched((LocalStorage, "of_url", classmethod(lambda cls, _: cls(objects)))):
        return observer, moved.restore(destination, observer)


WAYS = pytest.mark.parametrize("way", ["decrypt", "restore"])


def assert_all_there(made: Made, destination: Path) -> None:
    assert differences(made.place.source, destination) == ""


# Whole objects, some of them


def test_packs_alone_are_enough(made: Made, tmp_path: Path) -> None:
    """No manifest: every file that is wholly in the packs comes back."""
    objects = copied(made.place.storage, tmp_path / "objects")
    for path in objects.iterdir():
        if "-p-" not in path.name:
            path.unlink()
    observer, _ = read(made, "decrypt", objects, tmp_path / "out")
    assert not observer.problems
    assert_all_there(made, tmp_path / "out")


def test_packs_and_manifests(made: Made, tmp_path: Path) -> None:
    observer, _ = read(made, "decrypt", made.place.storage, tmp_path / "out")
    assert not observer.problems
    assert not observer.notices
    assert_all_there(made, tmp_path / "out")


def test_the_recovery_code_reads_too(tmp_path: Path) -> None:
    from pyarchiver.cas.decrypt import decrypt
    from pyarchiver.formats import recovery

    place = Place(tmp_path)
    write(place.source / "file", b"content")
    code = place.start(SIZES)
    decrypt(place.storage, tmp_path / "out", recovery.decode(code), Request(), Quiet())
    assert differences(place.source, tmp_path / "out") == ""


@WAYS
def test_each_missing_pack_costs_its_files_only(made: Made, tmp_path: Path, way: str) -> None:
    """Exactly the files that need it are named, with the name of the pack."""
    for number, pack in enumerate(made.place.objects("p")):
        objects = copied(made.place.storage, tmp_path / f"objects{number}")
        (objects / pack.name).unlink()
        observer, result = read(made, way, objects, tmp_path / f"out{number}")
        lost = {path for path, packs in made.needs.items() if pack.name in packs}
        assert lost
        found = made.right(tmp_path / f"out{number}")
        assert {p: d for p, d in made.latest.items() if p not in lost} == found
        assert result.failed == len(observer.problems)
        assert all(pack.name in p or "other name" in p for p in observer.problems)
        for path in lost:
            assert any(_names(problem, path) for problem in observer.problems), path


def _names(problem: str, path: str) -> bool:
    return problem.startswith(f"{show(os.fsencode(path))}:")


def test_a_single_pack_by_itself(made: Made, tmp_path: Path) -> None:
    """One object as SOURCE; what else its files need is named."""
    for number, pack in enumerate(made.place.objects("p")):
        observer, _ = read(made, "decrypt", pack, tmp_path / f"out{number}")
        made.right(tmp_path / f"out{number}")
        own = {path for path, packs in made.needs.items() if packs == {pack.name}}
        assert own - {"copies/first.raw"} <= set(contents(tmp_path / f"out{number}"))
        assert all("missing" in p or "not restored" in p for p in observer.problems)


def test_a_single_manifest_names_what_it_needs(made: Made, tmp_path: Path) -> None:
    observer, result = read(made, "decrypt", made.place.objects("m")[0], tmp_path / "out")
    made.right(tmp_path / "out")
    assert result.failed
    assert any("-p-" in problem for problem in observer.problems)


def test_a_missing_manifest_is_reported(made: Made, tmp_path: Path) -> None:
    """The packs that it lists are read themselves."""
    objects = copied(made.place.storage, tmp_path / "objects")
    (objects / made.place.objects("m")[1].name).unlink()
    observer, _ = read(made, "decrypt", objects, tmp_path / "out")
    assert any("manifest 2 is missing" in problem for problem in observer.problems)
    assert made.right(tmp_path / "out") == made.latest


# Cut


def _whole_before(made: Made, pack: Path, size: int) -> tuple[set[str], set[str]]:
    """(files that lie wholly in segments before `size`, files that need the pack at all)."""
    with Catalogue.open(made.place.archive, write=False) as catalogue:
        row = next(row for row in catalogue.objects(Kind.PACK) if row.name == pack.name)
        chunk_map = ChunkMap(Index.decode(body) for body in catalogue.indexes(row.id))
        header = len(row.header)
        segments = max(0, (size - header) // (SEGMENT + 32))
        end = segments * SEGMENT
        safe, touched = set(), set()
        for version in catalogue.latest():
            node = decode_node(version.fields)
            runs = [p for p in node.content if isinstance(p, Run)]
            here = [run for run in runs if run.object_id == row.object_id]
            if node.kind != EntryKind.FILE or not here:
                continue
            path = os.fsdecode(version.path)
            touched.add(path)
            blocks = {
                block for run in here for block, _, _ in chunk_map.pieces(run.first, run.chunks)
            }
            placed = [chunk_map.blocks[block] for block in blocks]
            if all(p.offset + FRAME_SIZE + p.length <= end for p in placed):
                safe.add(path)
    return safe, touched


@pytest.mark.parametrize("way", ["decrypt", "restore", "packs only"])
def test_a_pack_cut_anywhere(made: Made, tmp_path: Path, way: str) -> None:
    """Every file whose blocks stand before the cut comes back, and all others are whole."""
    chosen = random.Random(way)
    packs = sorted(made.place.objects("p"), key=lambda path: path.stat().st_size)
    for number in range(SEEDS // 8):
        pack = packs[number % len(packs)]
        whole = pack.stat().st_size
        size = whole // 2 if number < len(packs) else chosen.randrange(whole)
        objects = copied(made.place.storage, tmp_path / "objects")
        os.truncate(objects / pack.name, size)
        if way == "packs only":
            for path in made.place.objects("m") + made.place.objects("c"):
                (objects / path.name).unlink()
        destination = tmp_path / "out"
        observer, _ = read(made, way.replace("packs only", "decrypt"), objects, destination)
        found = made.right(destination)
        safe, touched = _whole_before(made, pack, size)
        expected = {p for p in made.latest if p not in touched}
        if way != "packs only":
            expected |= safe
        else:
            # Entries stand behind their blocks, and what has no chunks may stand in any pack.
            expected = {p for p in expected if made.needs.get(p)} - {"copies/first.raw"}
        assert expected <= set(found), (pack.name, size)
        # A cut that costs no file (in padding, or in the second header) is worth a notice.
        said = observer.problems + ([] if touched - set(found) else observer.notices)
        if way != "restore" or touched - set(found):
            assert any(pack.name in words for words in said)
        if way != "packs only":
            for lost in touched - set(found):
                assert any(_names(problem, lost) for problem in observer.problems), lost
        shutil.rmtree(objects)
        shutil.rmtree(destination, ignore_errors=True)


def test_a_cut_pack_yields_the_files_before_the_cut(tmp_path: Path) -> None:
    """Without any manifest: what stands before the cut with its entry is restored."""
    place = Place(tmp_path)
    for number in range(16):
        write(place.source / f"{number:02}.raw", noise(number, 60_000))
    sizes = Sizes(pack=4 << 20, block=64 << 10, segment=SEGMENT)
    place.start(sizes)
    for path in place.objects("m"):
        path.unlink()
    (pack,) = place.objects("p")
    os.truncate(pack, pack.stat().st_size // 2)
    observer = Quiet()
    place.decrypt(place.storage, tmp_path / "out", observer)
    found = contents(tmp_path / "out")
    assert len(found) >= 6
    assert all(data == contents(place.source)[path] for path, data in found.items())
    assert any(pack.name in problem for problem in observer.problems)


# Altered


def _damage(chosen: random.Random, path: Path) -> tuple[int, int]:
    """Alter a file at a random place; returns from where to where."""
    data = bytearray(path.read_bytes())
    start = chosen.choice(
        [chosen.randrange(len(data)), chosen.randrange(min(4096, len(data))),
         len(data) - 1 - chosen.randrange(min(4096, len(data)))]
    )  # fmt: skip
    length = min(chosen.choice([1, 1, 16, 512, 4096]), len(data) - start)
    old = bytes(data[start : start + length])
    way = chosen.randrange(3)
    if way == 0:
        data[start] ^= 1 << chosen.randrange(8)
    elif way == 1:
        data[start : start + length] = bytes(length)
    else:
        data[start : start + length] = chosen.randbytes(length)
    if data[start : start + length] == old:
        data[start] ^= 255
    path.write_bytes(data)
    return start, start + length


def _undamaged(made: Made, pack: Path, start: int, end: int) -> set[str]:
    """Files that have no block in the segments from `start` to `end` of a pack."""
    with Catalogue.open(made.place.archive, write=False) as catalogue:
        row = next(row for row in catalogue.objects(Kind.PACK) if row.name == pack.name)
        chunk_map = ChunkMap(Index.decode(body) for body in catalogue.indexes(row.id))
        step = SEGMENT + 32
        header = len(row.header)
        low = max(0, (start - header) // step) * SEGMENT
        high = max(0, -(-(end - header) // step)) * SEGMENT
        damaged = set()
        for version in catalogue.latest():
            for part in decode_node(version.fields).content:
                if not isinstance(part, Run) or part.object_id != row.object_id:
                    continue
                for block, _, _ in chunk_map.pieces(part.first, part.chunks):
                    placed = chunk_map.blocks[block]
                    if placed.offset < high and placed.offset + FRAME_SIZE + placed.length > low:
                        damaged.add(os.fsdecode(version.path))
        return set(made.latest) - damaged


@WAYS
def test_damage_anywhere_in_a_pack(made: Made, tmp_path: Path, way: str) -> None:
    """Never a wrong byte; what does not depend on the damage comes back, the rest is named."""
    packs = made.place.objects("p")
    objects = copied(made.place.storage, tmp_path / "objects")
    for seed in range(SEEDS // 2):
        chosen = random.Random(f"{way} {seed}")
        pack = chosen.choice(packs)
        start, end = _damage(chosen, objects / pack.name)
        destination = tmp_path / "out"
        observer, _ = read(made, way, objects, destination)
        found = made.right(destination)
        missing = _undamaged(made, pack, start, end) - set(found)
        assert not missing, (seed, pack.name, start, end, missing, observer)
        for path in set(made.latest) - set(found):
            named = [p for p in observer.problems if _names(p, path)]
            assert any(pack.name in p or "other name" in p for p in named), (seed, path)
        shutil.copyfile(pack, objects / pack.name)
        shutil.rmtree(destination)


def test_damage_anywhere_with_packs_only(made: Made, tmp_path: Path) -> None:
    """Without manifests a damaged pack is still read as far as can be."""
    objects = copied(made.place.storage, tmp_path / "objects")
    for path in made.place.objects("m") + made.place.objects("c"):
        (objects / path.name).unlink()
    packs = made.place.objects("p")
    for seed in range(SEEDS // 2):
        chosen = random.Random(f"packs {seed}")
        pack = chosen.choice(packs)
        _damage(chosen, objects / pack.name)
        destination = tmp_path / "out"
        observer, _ = read(made, "decrypt", objects, destination)
        found = made.right(destination)
        others = {p for p, need in made.needs.items() if need and pack.name not in need}
        assert others - {"copies/first.raw"} <= set(found), seed
        if set(made.latest) - set(found):
            assert any(pack.name in problem for problem in observer.problems), seed
        shutil.copyfile(pack, objects / pack.name)
        shutil.rmtree(destination)


def test_damage_anywhere_in_a_manifest(made: Made, tmp_path: Path) -> None:
    """All packs are there, so that all files are, whatever the manifests say."""
    manifests = made.place.objects("m")
    objects = copied(made.place.storage, tmp_path / "objects")
    for seed in range(SEEDS // 2):
        chosen = random.Random(f"manifest {seed}")
        manifest = chosen.choice(manifests)
        _damage(chosen, objects / manifest.name)
        destination = tmp_path / "out"
        read(made, "decrypt", objects, destination)
        found = made.right(destination)
        assert {p for p in made.latest if made.needs[p]} <= set(found), seed
        shutil.copyfile(manifest, objects / manifest.name)
        shutil.rmtree(destination)


def test_much_damage_at_once(made: Made, tmp_path: Path) -> None:
    """Several objects altered, cut, missing and doubled: clear words, and no wrong byte."""
    for seed in range(SEEDS // 4):
        chosen = random.Random(f"much {seed}")
        objects = copied(made.place.storage, tmp_path / "objects")
        for path in chosen.sample(made.place.objects(), 6):
            there = objects / path.name
            kind = chosen.randrange(5)
            if kind == 0:
                there.unlink()
            elif kind == 1:
                os.truncate(there, chosen.randrange(path.stat().st_size))
            elif kind == 2:
                shutil.copyfile(there, objects / f"copy of {path.name}")
                _damage(chosen, there)
            elif kind == 3:
                there.rename(objects / f"renamed {seed}")
            else:
                for _ in range(20):
                    _damage(chosen, there)
        for way in ("decrypt", "restore"):
            destination = tmp_path / "out"
            observer = Quiet()
            try:
                observer, _ = read(made, way, objects, destination)
            except ArchiverError as error:
                pytest.fail(f"{way} of seed {seed}: {error}")
            found = made.right(destination)
            if set(made.latest) - set(found):
                assert observer.problems
            shutil.rmtree(destination, ignore_errors=True)
        shutil.rmtree(objects)


@WAYS
@pytest.mark.parametrize("end", ["front", "back"])
def test_a_header_damaged_at_one_end_costs_nothing(
    made: Made, tmp_path: Path, way: str, end: str
) -> None:
    """Wiped out, or altered in a single byte anywhere: the other copy is used."""
    objects = copied(made.place.storage, tmp_path / "objects")
    pack = made.packs()[0]
    data = pack.read_bytes()
    length = len(parse_front(data[: 64 << 10]).raw)
    places: list[tuple[int, int]] = [(0, length), (0, 512), (length - 40, 40)]
    chosen = random.Random(f"{way} {end}")
    places += [(chosen.randrange(length), 1) for _ in range(20)]
    for at, count in places:
        broken = bytearray(data)
        start = at if end == "front" else len(data) - length + at
        broken[start : start + count] = bytes(b ^ 0x20 for b in broken[start : start + count])
        (objects / pack.name).write_bytes(broken)
        read(made, way, objects, tmp_path / "out")
        assert made.right(tmp_path / "out") == made.latest, (at, count)
        shutil.rmtree(tmp_path / "out")


# Mixed up


@WAYS
def test_swapped_packs(made: Made, tmp_path: Path, way: str) -> None:
    """Each under the other's name: decrypt goes by the headers, restore names both."""
    objects = copied(made.place.storage, tmp_path / "objects")
    one, other = made.packs()[:2]
    (objects / one.name).rename(objects / "aside")
    (objects / other.name).rename(objects / one.name)
    (objects / "aside").rename(objects / other.name)
    observer, _ = read(made, way, objects, tmp_path / "out")
    found = made.right(tmp_path / "out")
    if way == "decrypt":
        assert found == made.latest
        return
    lost = {p for p, packs in made.needs.items() if packs & {one.name, other.name}}
    assert found == {p: d for p, d in made.latest.items() if p not in lost}
    assert any(one.name in problem for problem in observer.problems)
    assert any(other.name in problem for problem in observer.problems)


def test_a_pack_and_a_manifest_swapped(made: Made, tmp_path: Path) -> None:
    """Each under the other's name, found by `make damage`: decrypt goes by the headers."""
    objects = copied(made.place.storage, tmp_path / "objects")
    pack, manifest = made.packs()[0], made.place.objects("m")[0]
    shutil.copyfile(pack, objects / manifest.name)
    shutil.copyfile(manifest, objects / pack.name)
    read(made, "decrypt", objects, tmp_path / "out")
    assert made.right(tmp_path / "out") == made.latest


def test_renamed_doubled_and_foreign_files(made: Made, tmp_path: Path) -> None:
    """Names are not trusted; what is no object is passed over with a word."""
    objects = copied(made.place.storage, tmp_path / "objects")
    for number, path in enumerate(made.place.objects()):
        (objects / path.name).rename(objects / f"download ({number}).bin")
    shutil.copyfile(objects / "download (0).bin", objects / "download (0) (1).bin")
    (objects / "holiday.jpg").write_bytes(noise("jpg", 5000))
    (objects / "nothing").write_bytes(b"")
    (objects / "folder").mkdir()
    observer, _ = read(made, "decrypt", objects, tmp_path / "out")
    assert not observer.problems
    assert_all_there(made, tmp_path / "out")
    assert any("holiday.jpg" in notice for notice in observer.notices)
    assert any("same object" in notice for notice in observer.notices)


def test_of_two_copies_the_good_one_is_used(made: Made, tmp_path: Path) -> None:
    """A download that was damaged and one that was not, in one folder."""
    pack = made.packs()[0]
    for number, (good, bad) in enumerate([("a", "b"), ("b", "a")]):
        objects = copied(made.place.storage, tmp_path / f"objects{number}")
        data = bytearray((objects / pack.name).read_bytes())
        (objects / good).write_bytes(data)
        data[len(data) // 2] ^= 1
        (objects / bad).write_bytes(data)
        (objects / pack.name).unlink()
        read(made, "decrypt", objects, tmp_path / f"out{number}")
        assert made.right(tmp_path / f"out{number}") == made.latest


def test_an_object_of_ours_that_is_no_longer_one_is_a_problem(made: Made, tmp_path: Path) -> None:
    """Emptied or overwritten: its name still says what it was, and that it is lost."""
    cases = [(pack, b"") for pack in made.place.objects("p")]
    cases += [(cases[0][0], bytes(5000)), (cases[0][0], b"x" * 5)]
    for number, (pack, data) in enumerate(cases):
        objects = copied(made.place.storage, tmp_path / f"objects{number}")
        for path in made.place.objects("m") + made.place.objects("c"):
            (objects / path.name).unlink()
        (objects / pack.name).write_bytes(data)
        observer, _ = read(made, "decrypt", objects, tmp_path / f"out{number}")
        made.right(tmp_path / f"out{number}")
        assert any(pack.name in problem for problem in observer.problems)


@WAYS
def test_a_pack_that_cannot_be_read_costs_its_files_only(
    made: Made, tmp_path: Path, way: str
) -> None:
    """A bad sector gives an error instead of bytes: the other packs are restored."""
    pack = made.packs()[0]
    original = LocalStorage.get_into

    def failing(storage: LocalStorage, name: str, start: int, into: memoryview) -> int:
        if name == pack.name and start <= 100_000 < start + len(into):
            raise StorageError(f"object {name}: Input/output error")
        return original(storage, name, start, into)

    observer = Quiet()
    with patched((LocalStorage, "get_into", failing)):
        observer, _ = read(made, way, made.place.storage, tmp_path / "out")
    found = made.right(tmp_path / "out")
    others = {p: d for p, d in made.latest.items() if pack.name not in made.needs[p]}
    assert others.items() <= found.items()
    assert any(pack.name in problem for problem in observer.problems)


def test_a_pack_that_cannot_be_opened_costs_its_files_only(made: Made, tmp_path: Path) -> None:
    """Something else under its name, here a folder."""
    objects = copied(made.place.storage, tmp_path / "objects")
    pack = made.packs()[0]
    (objects / pack.name).unlink()
    (objects / pack.name).mkdir()
    observer, _ = read(made, "restore", objects, tmp_path / "out")
    found = made.right(tmp_path / "out")
    others = {p: d for p, d in made.latest.items() if pack.name not in made.needs[p]}
    assert others.items() <= found.items()
    assert any(pack.name in problem for problem in observer.problems)


def test_nothing_but_a_manifest_that_is_damaged_at_its_beginning(
    made: Made, tmp_path: Path
) -> None:
    """Clear words, not an exception that nobody expects."""
    objects = tmp_path / "objects"
    objects.mkdir()
    data = bytearray(made.place.objects("m")[0].read_bytes())
    length = len(parse_front(bytes(data)).raw)
    data[length + 10] ^= 1
    (objects / "one").write_bytes(data)
    observer = Quiet()
    try:
        made.place.decrypt(objects, tmp_path / "out", observer)
    except ArchiverError as error:
        assert "one" in str(error) or any("one" in p for p in observer.problems)
    else:
        assert any("one" in problem for problem in observer.problems)


def test_objects_of_many_other_archives_in_the_folder(made: Made, tmp_path: Path) -> None:
    """One folder for all archives: each opens with its own password."""
    objects = tmp_path / "objects"
    objects.mkdir()
    for path in made.place.objects():
        shutil.copyfile(path, objects / f"z{path.name}")
    for number in range(10):
        other = Place(tmp_path / f"other{number}")
        write(other.source / "file", noise(number, 1000))
        settings = create.check(other.settings(SIZES), other.archive)
        with create.create(settings, other.archive, f"another password {number}")[0]:
            pass
        other.resume()
        for path in other.objects():
            shutil.copyfile(path, objects / f"a{path.name}")
    try:
        read(made, "decrypt", objects, tmp_path / "out")
    except PasswordError as error:
        pytest.fail(f"the password is right: {error}")
    assert made.right(tmp_path / "out") == made.latest


def test_two_archives_under_one_password(made: Made, tmp_path: Path) -> None:
    """One of them is restored, and the other is not passed over in silence."""
    objects = copied(made.place.storage, tmp_path / "objects")
    other = Place(tmp_path / "other")
    write(other.source / "other file", noise("other", 1000))
    other.start(SIZES)
    for path in other.objects():
        shutil.copyfile(path, objects / path.name)
    observer, _ = read(made, "decrypt", objects, tmp_path / "out")
    assert made.right(tmp_path / "out") == made.latest
    assert any("another archive" in problem for problem in observer.problems)


def test_a_fork_gives_back_both_sides(tmp_path: Path) -> None:
    """An old copy of the .archive was used again, on a storage that hid what is newer."""
    place = Place(tmp_path)
    write(place.source / "before", noise("before", 1000))
    place.start(SIZES)
    shutil.copyfile(place.archive, tmp_path / "old")
    seen = set(place.objects())
    write(place.source / "one", noise("one", 50_000))
    place.resume()
    (tmp_path / "hidden").mkdir()
    for path in set(place.objects()) - seen:
        path.rename(tmp_path / "hidden" / path.name)
    shutil.copyfile(tmp_path / "old", place.archive)
    (place.source / "one").rename(tmp_path / "kept")
    write(place.source / "two", noise("two", 50_000))
    place.resume()
    for path in (tmp_path / "hidden").iterdir():
        path.rename(place.storage / path.name)
    observer = Quiet()
    place.decrypt(place.storage, tmp_path / "out", observer)
    found = contents(tmp_path / "out")
    assert found.get("two") == noise("two", 50_000), observer.problems
    assert found.get("one") == noise("one", 50_000), observer.problems
    assert any("fork" in problem for problem in observer.problems)


@WAYS
def test_the_wrong_password_writes_nothing(made: Made, tmp_path: Path, way: str) -> None:
    from pyarchiver.cas.decrypt import decrypt
    from pyarchiver.cas.unlock import unlock

    with pytest.raises(PasswordError, match="password"):
        if way == "decrypt":
            decrypt(made.place.storage, tmp_path / "out", "wrong", Request(), Quiet())
        else:
            with Catalogue.open(made.place.archive, write=False) as catalogue:
                unlock(catalogue, "wrong")
    assert not (tmp_path / "out").exists()


def test_restoring_over_what_is_there(made: Made, tmp_path: Path) -> None:
    """With a pack missing: what is there and equal is kept, and nothing is taken away."""
    destination = tmp_path / "out"
    read(made, "restore", made.place.storage, destination)
    objects = copied(made.place.storage, tmp_path / "objects")
    shutil.rmtree(objects)
    objects.mkdir()
    before = set(tree_of(destination))
    observer, result = read(made, "restore", objects, destination)
    assert not observer.problems
    assert result.kept >= len(made.latest) - 1
    assert set(tree_of(destination)) == before


def test_overwrite_takes_nothing_away_that_it_cannot_replace(made: Made, tmp_path: Path) -> None:
    """A file that differs stays until the one that replaces it is complete."""
    pack = made.packs()[0]
    objects = copied(made.place.storage, tmp_path / "objects")
    (objects / pack.name).unlink()
    lost = sorted(path for path, packs in made.needs.items() if pack.name in packs)
    destination = tmp_path / "out"
    for path in lost:
        write(destination / path, b"the only copy of something")
    observer = Quiet()
    with patched((LocalStorage, "of_url", classmethod(lambda cls, _: cls(objects)))):
        made.place.restore(destination, observer, Request(overwrite=True))
    for path in lost:
        assert (destination / path).exists(), path


def test_an_other_name_never_gets_the_content_of_a_stranger(tmp_path: Path) -> None:
    """Of two names of one file, one is taken by something else in the destination."""
    place = Place(tmp_path)
    write(place.source / "a", b"archived content")
    os.link(place.source / "a", place.source / "b")
    place.start(SIZES)
    write(tmp_path / "out" / "a", b"a stranger")
    observer = Quiet()
    place.restore(tmp_path / "out", observer)
    assert (tmp_path / "out" / "a").read_bytes() == b"a stranger"
    other = tmp_path / "out" / "b"
    if other.exists():
        assert other.read_bytes() == b"archived content"
    else:
        assert any(problem.startswith("b:") for problem in observer.problems)


def test_links_in_the_destination_lead_nowhere(tmp_path: Path) -> None:
    """Where the archive has a folder and the destination a link, nothing behind it changes."""
    place = Place(tmp_path)
    write(place.source / "d" / "e" / "file", b"content")
    (place.source / "d").chmod(0o711)
    (place.source / "d" / "e").chmod(0o711)
    place.start(SIZES)
    outside = tmp_path / "outside"
    write(outside / "e" / "own", b"own")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "d").symlink_to(outside)
    before = set(tree_of(outside))
    observer = Quiet()
    place.restore(tmp_path / "out", observer)
    assert set(tree_of(outside)) == before
    assert any("d" in problem for problem in observer.problems)


def test_a_file_where_a_folder_should_be_is_left_untouched(tmp_path: Path) -> None:
    place = Place(tmp_path)
    write(place.source / "d" / "file", b"content")
    place.start(SIZES)
    write(tmp_path / "out" / "d", b"a stranger")
    before = [item for item in tree_of(tmp_path / "out") if item[0] == b"d"]
    observer = Quiet()
    place.restore(tmp_path / "out", observer)
    assert [item for item in tree_of(tmp_path / "out") if item[0] == b"d"] == before
    assert observer.problems


# A campaign: everything above by chance, and verify besides


DAMAGES = int(os.environ.get("PYARCHIVER_DAMAGE", "24"))
"""How often; `make damage` says 1,000."""


@dataclass(frozen=True)
class Damage:
    """What was done: to which objects, and from where on or within which bytes of the first."""

    what: str
    names: tuple[str, ...]
    start: int = 0
    end: int = 1 << 40


def _do_damage(chosen: random.Random, made: Made, objects: Path) -> Damage:
    """One damage of a random kind at a random place of a random object."""
    one, other = chosen.sample(made.place.objects(), 2)
    path, data = objects / one.name, bytearray(one.read_bytes())
    near = chosen.randrange(min(4096, len(data)))
    at = chosen.choice([chosen.randrange(len(data)), near, len(data) - 1 - near])
    end = min(len(data), at + chosen.choice([1, 16, 512, 20_000]))
    what = chosen.choice(["flip", "zero", "cut", "swap", "double", "drop",
                          "lose", "exchange", "empty"])  # fmt: skip
    match what:
        case "flip":
            data[at] ^= 1 << chosen.randrange(8)
            end = at + 1
        case "zero":
            data[at:end] = bytes(end - at) if any(data[at:end]) else b"\1" * (end - at)
        case "cut":
            del data[at:]
        case "swap":
            piece, rest = bytes(data[at:end]), len(data) - (end - at)
            target = chosen.randrange(rest)
            if data[target : target + len(piece)] == piece:
                data[at] ^= 1
            data[target : target + len(piece)], data[at:end] = (
                piece, bytes(data[target : target + len(piece)]))  # fmt: skip
            at = min(at, target)
        case "double":
            data[at:at] = data[at:end]
        case "drop":
            del data[at:end]
        case "lose":
            path.unlink()
            return Damage(what, (one.name,))
        case "exchange":
            path.write_bytes(other.read_bytes())
            (objects / other.name).write_bytes(data)
            return Damage(what, (one.name, other.name))
        case "empty":
            data.clear()
            at = 0
    path.write_bytes(data)
    whole = what in ("cut", "swap", "double", "drop", "empty")
    return Damage(what, (one.name,), at, 1 << 40 if whole else end)


def _independent(made: Made, damage: Damage, way: str) -> set[str]:
    """The files that need nothing of what was damaged."""
    safe = set(made.latest)
    if damage.what == "exchange" and way == "decrypt":
        return safe
    for name in damage.names:
        if "-p-" in name:
            size = (made.place.storage / name).stat().st_size
            safe &= _undamaged(made, made.place.storage / name, damage.start, min(size, damage.end))
    return safe


def _verified(made: Made, objects: Path, archive: Path) -> Quiet:
    observer = Quiet()
    with (
        Catalogue.open(archive, write=True) as catalogue,
        contextlib.closing(LocalStorage(objects)) as storage,
    ):
        verify(catalogue, storage, observer, Fraction(1))
    return observer


def test_random_damage(made: Made, tmp_path: Path) -> None:
    """`verify` finds every one; what does not depend on it comes back, the rest is named."""
    objects = copied(made.place.storage, tmp_path / "objects")
    archive = tmp_path / "copy.archive"
    shutil.copyfile(made.place.archive, archive)
    assert not _verified(made, objects, archive).problems
    kinds: dict[str, int] = {}
    for number in range(DAMAGES):
        damage = _do_damage(random.Random(f"damage {number}"), made, objects)
        kinds[damage.what] = kinds.get(damage.what, 0) + 1
        problems = _verified(made, objects, archive).problems
        for name in damage.names:
            assert any(name in problem for problem in problems), (number, damage, problems)
        for way in ("decrypt", "restore"):
            observer, _ = read(made, way, objects, tmp_path / "out")
            found = made.right(tmp_path / "out")
            lost = _independent(made, damage, way) - set(found)
            assert not lost, (number, damage, way, lost, observer.problems)
            for path in set(made.latest) - set(found):
                assert any(_names(each, path) for each in observer.problems), (number, damage, path)
            shutil.rmtree(tmp_path / "out")
        for name in damage.names:
            shutil.copyfile(made.place.storage / name, objects / name)
    assert sum(kinds.values()) == DAMAGES
    print(f"{DAMAGES} damages: {kinds}")
