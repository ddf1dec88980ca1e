"""A reader that shares nothing with the program restores what the program wrote.

`independent_reader.py` was written from FORMAT.md alone. Where the two disagree, one of the three
is wrong: the program, the reader, or FORMAT.md.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from blake3 import blake3

import independent_reader as second
from forger import Forger
from helpers_cli import OLD, PASSWORD, differences, make_tree, noise, run_program, words, write
from helpers_formats import Json
from independent_reader import Archive, Entry, Object, Ring, restore
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.unlock import unlock
from pyarchiver.formats.header import Kind
from pyarchiver.formats.records import About

FOLDER = Path(__file__).parent / "vectors"
VECTORS: Json = json.loads((FOLDER / "vectors.json").read_text(encoding="ascii"))
OBJECTS: dict[str, Json] = {item["file"]: item for item in VECTORS["objects"]}
RESUMES = 9
"""Enough small manifests for a checkpoint."""

every_object = pytest.mark.parametrize("name", OBJECTS)


def test_it_imports_nothing_of_the_project_and_no_hpke() -> None:
    tree = ast.parse(Path(second.__file__).read_text("utf-8"))
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    libraries = {name.split(".")[0] for name in named} - set(sys.stdlib_module_names)
    assert libraries == {"msgpack", "nacl", "zstandard", "blake3", "cryptography"}
    assert not any("hpke" in name for name in named)


# --- golden vectors -----------------------------------------------------------------------


def opened(name: str, secret: str = VECTORS["password"]) -> Object:
    said = OBJECTS[name]
    return Object(said["name"], (FOLDER / name).read_bytes(), Ring(secret))


def short(data: bytes) -> Json:
    """Bytes as vectors.json gives them."""
    if len(data) <= 32:
        return {"hex": data.hex()}
    return {"length": len(data), "blake3": blake3(data).hexdigest()}


def said_of(entry: Entry) -> Json:
    """An entry as vectors.json gives it."""
    fields = entry.fields
    kinds = {second.FILE: "file", second.FOLDER: "folder", second.LINK: "symlink"}
    return {
        "path": entry.path.hex(),
        "run": entry.run,
        "sequence": entry.sequence,
        "kind": kinds.get(entry.kind, "gone"),
        **{name: fields.get(name, 0) for name in ("mode", "mtime", "uid", "gid", "size")},
        **{name: fields.get(name, "") for name in ("user", "group")},
        "hash": fields.get("hash", b"").hex(),
        "content": [
            {"hole": run}
            if isinstance(run, int)
            else {"object": run[0].hex(), "first": run[1], "count": run[2]}
            for run in fields.get("runs", [])
        ],
        "link": fields.get("link", b"").hex(),
        "hardlink": fields.get("hardlink", 0),
        "xattrs": [{"name": a.hex(), "value": short(b)} for a, b in fields.get("xattr", [])],
    }


@every_object
@pytest.mark.parametrize("secret", ["password", "password_nfkc_utf8", "recovery_code"])
def test_every_secret_opens_every_object(name: str, secret: str) -> None:
    typed = VECTORS[secret]
    this = opened(name, bytes.fromhex(typed).decode() if secret.endswith("utf8") else typed)
    said = OBJECTS[name]
    assert this.payload.key.hex() == said["object_key"]
    assert blake3(this.header.raw).hexdigest() == said["header_hash"]
    assert (this.id.hex(), this.kind) == (said["object_id"], said["kind"])


@every_object
def test_records_chunks_and_entries_are_the_published_ones(name: str) -> None:
    this, said = opened(name), OBJECTS[name]
    assert not this.damage
    assert this.hash.hex() == said["blake3"]
    assert len(this.payload) == said["payload_length"]
    assert blake3(this.payload.read(0, len(this.payload))).hexdigest() == said["payload_blake3"]
    assert [(r.type, r.offset, r.size) for r in this.records] == [
        (row["record"], row["offset"], row["length"]) for row in said["index"]
    ]
    assert [
        (place.block.offset, place.id and place.id.hex(), short(this.chunk(ordinal)[0]))
        for ordinal, place in enumerate(this.chunks)
    ] == [(row["block"], row["id"], row["data"]) for row in said["chunks"]]
    assert [said_of(entry) for entry in this.entries()] == said["entries"]


@pytest.mark.parametrize("packs_only", [True, False])
def test_the_golden_archive_comes_back(tmp_path: Path, packs_only: bool) -> None:
    for name, said in OBJECTS.items():
        if not packs_only or said["kind"] == 1:
            shutil.copy(FOLDER / name, tmp_path / said["name"])
    archive = Archive(tmp_path, VECTORS["password"])
    assert not archive.notices
    assert set(archive.log.snapshots) == (set() if packs_only else {1, 2})
    newest = {item["path"]: item for said in VECTORS["objects"] for item in said["files"]}
    files = {path.hex(): entry for path, entry in archive.tree(packs_only=packs_only).items()
             if entry.kind == second.FILE}  # fmt: skip
    assert files.keys() <= newest.keys()
    assert len(files) > 8
    for path, entry in files.items():
        data = b"".join(bytes(p) if isinstance(p, int) else p for p in archive.file(entry))
        assert (len(data), blake3(data).hexdigest()) == (
            newest[path]["size"],
            newest[path]["blake3"],
        )


@pytest.mark.parametrize("name", [name for name in OBJECTS if "large" not in name])
def test_no_flipped_byte_gives_other_values(name: str) -> None:
    """Either refused, or reported, or in the copy of the header that was not needed."""
    good, data = opened(name), bytearray((FOLDER / name).read_bytes())
    ring = Ring(VECTORS["password"])
    ring.header(bytes(data))
    entries = [said_of(entry) for entry in good.entries()]
    header = len(good.header.raw)
    for at in range(0, len(data), 7):
        data[at] ^= 0x55
        try:
            this = Object(name, bytes(data), ring)
            found = [said_of(entry) for entry in this.entries()]
            assert this.damage or found == entries
            assert this.damage or at < header or at >= len(data) - header
        except second.Refused:
            assert header <= at < len(data) - header
        data[at] ^= 0x55


# --- archives that the program made -------------------------------------------------------------


def change(source: Path, number: int) -> None:
    """What happens between two runs: new, changed, renamed and deleted files, other modes."""
    write(source / f"new {number}.raw", noise(("new", number), 90_000))
    write(source / "text" / "long.txt", words(("other", number), 100_000))
    if number == 1:
        (source / "shoot1" / "p001.raw").unlink()
        (source / "link").unlink()
        (source / "shoot2").rename(source / "shoot two")
        (source / "secret").chmod(0o640)
        os.setxattr(source / "empty", "user.rating", b"5")


def make_archive(home: Path, suite: str, resumes: int) -> None:
    """home/source, home/storage, and copies of the source as each run saw it."""
    source = home / "source"
    make_tree(source, files=6, size=400_000)
    write(source / "film", noise("film", 9 << 20))
    os.setxattr(source / "shoot0", "user.place", b"\xff\0binary")
    os.utime(source, (OLD, OLD))
    ini = home / "photos.ini"
    done = run_program("init", ini, "--name", "photos", "--source", source, "--storage", "storage")
    assert done.returncode == 0, done.stderr
    text = ini.read_text("utf-8").replace("pack size = 232 MiB", "pack size = 16 MiB")
    ini.write_text(text.replace("suite = aegis256", f"suite = {suite}"))
    for number in range(resumes + 1):
        if number:
            change(source, number)
        command = ("resume", home / "photos.archive") if number else ("start", ini)
        done = run_program(*command, PYARCHIVER_PASSWORD=PASSWORD)
        assert done.returncode == 0, done.stderr
        if number < 2:
            kept = home / f"snapshot {number + 1}"
            shutil.copytree(source, kept, symlinks=True, copy_function=shutil.copy2)


@pytest.fixture(scope="module", params=["aegis256", "xchacha20poly1305"])
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp(request.param)
    make_archive(work, request.param, RESUMES if request.param == "aegis256" else 2)
    return work


def lenient(source: Path, restored: Path) -> list[str]:
    """What differs but for hard links, which copytree does not keep."""
    found = differences(source, restored).splitlines()
    return [line for line in found if not line.startswith("hf")]


def test_the_newest_state_from_the_log(home: Path, tmp_path: Path) -> None:
    archive = Archive(home / "storage", PASSWORD)
    assert not archive.notices
    assert len(archive.packs) > 2
    assert not restore(archive, archive.tree(), tmp_path / "out")
    assert differences(home / "source", tmp_path / "out") == ""
    sparse = (tmp_path / "out" / "sparse").stat()
    assert sparse.st_blocks * 512 < sparse.st_size
    names = [tmp_path / "out" / name for name in ("secret", "secret's other name")]
    assert names[0].stat().st_ino == names[1].stat().st_ino


@pytest.mark.parametrize("snapshot", [1, 2])
def test_each_snapshot(home: Path, tmp_path: Path, snapshot: int) -> None:
    archive = Archive(home / "storage", PASSWORD)
    assert not restore(archive, archive.tree(snapshot), tmp_path / "out")
    assert not lenient(home / f"snapshot {snapshot}", tmp_path / "out")


def test_a_checkpoint_stands_for_the_log_before_it(home: Path, tmp_path: Path) -> None:
    """Without the manifests that a checkpoint covers, the state is the same."""
    whole = Archive(home / "storage", PASSWORD)
    covered = [each.about["number"] for each in whole.objects if each.kind == second.CHECKPOINT]
    if "aegis256" not in str(home):
        assert not covered
        return
    assert covered
    objects = shutil.copytree(home / "storage", tmp_path / "some")
    for each in whole.objects:
        if each.kind == second.MANIFEST and each.about["number"] <= max(covered):
            (objects / each.name).unlink()
    rest = Archive(objects, PASSWORD)
    assert rest.tree() == whole.tree()
    assert rest.log.head == whole.log.head
    assert rest.log.snapshots.keys() == whole.log.snapshots.keys()


def test_a_forged_checkpoint_is_not_believed(home: Path, tmp_path: Path) -> None:
    whole = Archive(home / "storage", PASSWORD)
    with Catalogue.open(home / "photos.archive", write=False) as catalogue:
        forger, last = Forger(unlock(catalogue, PASSWORD)), catalogue.head.number
    objects = shutil.copytree(home / "storage", tmp_path / "some")
    (objects / "forged").write_bytes(
        forger.log_object(Kind.CHECKPOINT, About(99, last, bytes(32), last), [], 99)
    )
    assert Archive(objects, PASSWORD).tree() == whole.tree()
    first = min(each.name for each in whole.objects if each.kind == second.MANIFEST)
    (objects / first).unlink()
    found = Archive(objects, PASSWORD)
    assert any("no manifest that is there leads to it" in text for text in found.notices)
    assert 99 not in found.log.snapshots


def test_packs_alone_and_what_was_deleted(home: Path, tmp_path: Path) -> None:
    """The program and the second reader make the same of packs without manifests."""
    packs = tmp_path / "packs"
    packs.mkdir()
    for path in (home / "storage").glob("*-p-*"):
        shutil.copy(path, packs)
    done = run_program("decrypt", packs, tmp_path / "theirs", PYARCHIVER_PASSWORD=PASSWORD)
    archive = Archive(packs, PASSWORD)
    failed = restore(archive, archive.tree(deleted=True), tmp_path / "ours")
    assert done.returncode in (0, 3), done.stderr
    assert not failed
    assert differences(tmp_path / "theirs", tmp_path / "ours") == ""
    deleted = tmp_path / "ours" / "shoot1" / "p001.raw"
    assert deleted.read_bytes() == (home / "snapshot 1" / "shoot1" / "p001.raw").read_bytes()


def test_everything_ever_archived_from_the_log(home: Path, tmp_path: Path) -> None:
    done = run_program(
        "restore", home / "photos.archive", tmp_path / "theirs", PYARCHIVER_PASSWORD=PASSWORD
    )
    assert done.returncode == 0, done.stderr
    archive = Archive(home / "storage", PASSWORD)
    assert not restore(archive, archive.tree(deleted=True), tmp_path / "ours")
    assert differences(tmp_path / "theirs", tmp_path / "ours") == ""


# --- salvage ----------------------------------------------------------------------------------


def test_a_cut_pack_yields_every_chunk_before_the_cut(home: Path, tmp_path: Path) -> None:
    path = max((home / "storage").glob("*-p-*"), key=lambda each: each.stat().st_size)
    data, ring = path.read_bytes(), Ring(PASSWORD)
    whole = Object(path.name, data, ring)
    step = (1 << 20) + whole.payload.tag
    expected = 0
    for segments in (1, 3, len(whole.payload.segments) - 1):
        cut = Object(path.name, data[: len(whole.header.raw) + segments * step + 12345], ring)
        assert cut.damage
        for ordinal in range(len(whole.chunks)):
            if end_of(whole, ordinal) <= segments << 20:
                assert cut.chunk(ordinal) == whole.chunk(ordinal)
                expected += 1
    assert expected > 3


def end_of(pack: Object, ordinal: int) -> int:
    """Where a chunk ends in the payload; of a compressed one, where its block does."""
    place = pack.chunks[ordinal]
    start, size = place.block.offset + 5, place.block.size
    if pack.payload.read(start, 1) == b"\1":
        return start + size
    later = [each.length for each in pack.chunks[ordinal + 1 :] if each.block == place.block]
    return start + size - sum(later)


@pytest.mark.parametrize("spoiled", ["front", "end", "added", "cut header"])
def test_a_damaged_header_costs_nothing(home: Path, spoiled: str) -> None:
    path = min((home / "storage").glob("*-p-*"), key=lambda each: each.stat().st_size)
    data, ring = bytearray(path.read_bytes()), Ring(PASSWORD)
    whole = Object(path.name, bytes(data), ring)
    if spoiled == "front":
        data[:40] = bytes(40)
    elif spoiled == "end":
        data[-300:] = bytes(300)
    elif spoiled == "cut header":
        del data[-700:]
    else:
        data += b"some bytes more"
    this = Object(path.name, bytes(data), ring)
    assert not this.damage
    assert list(this.entries()) == list(whole.entries())
