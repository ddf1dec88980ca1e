"""Objects that somebody made with the keys of the archive: nothing is written outside DEST."""

from __future__ import annotations

import os
import re
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from forger import GOOD, OTHER, Forger
from helpers_cli import PASSWORD, Place, Sizes, contents, noise, patched, small, tree_of, write
from pyarchiver.cas import tree
from pyarchiver.cas.decrypt import decrypt
from pyarchiver.cas.folder import ObjectFolder
from pyarchiver.cas.objects import ChunkMap
from pyarchiver.cas.planner import PlanResult, Request, plan
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.rebuild import rebuild
from pyarchiver.cas.unlock import Keyring
from pyarchiver.formats.block import compressor
from pyarchiver.formats.entry import (
    EntryKind,
    Hole,
    Node,
    Run,
    encode_entry,
    encode_node,
    hash_content,
)
from pyarchiver.formats.errors import ArchiverError
from pyarchiver.formats.header import Kind, parse_front
from pyarchiver.formats.payload import RECORD_MAX, Index, PayloadWriter, Placed, Type
from pyarchiver.formats.records import About, PackInfo
from pyarchiver.formats.sealed import Layout, seal_object

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.skipif(os.name != "posix", reason="paths as POSIX has them"),
]


@pytest.fixture(autouse=True)
def sizes() -> Iterator[None]:
    with small(Sizes()):
        yield


def _restore(tmp_path: Path, objects: dict[str, bytes], request: Request | None = None) -> Quiet:
    """Decrypt; fails where anything outside DEST changes, or where it ends by an exception."""
    folder = tmp_path / "objects"
    folder.mkdir()
    for name, data in objects.items():
        (folder / name).write_bytes(data)
    outside = tmp_path / "outside"
    write(outside / "own", b"own")
    (outside / "folder").mkdir()
    (outside / "folder").chmod(0o711)
    (tmp_path / "out").mkdir(exist_ok=True)
    os.utime(tmp_path, ns=(0, 0))
    before = set(tree_of(outside)), sorted(os.listdir(tmp_path)), os.stat(tmp_path).st_mode
    observer = Quiet()
    decrypt(folder, tmp_path / "out", PASSWORD, request or Request(), observer)
    after = set(tree_of(outside)), sorted(os.listdir(tmp_path)), os.stat(tmp_path).st_mode
    assert after == before
    assert os.stat(tmp_path).st_mtime_ns == 0
    # Not by pathlib, which cannot walk trees deeper than Python's stack.
    out = os.fsencode(tmp_path / "out")
    left = subprocess.run(["find", out, "-name", ".pyarchiver-*"], capture_output=True, check=True)
    assert not left.stdout
    return observer


def _hostile(
    tmp_path: Path, forger: Forger, *entries: tuple[bytes, Node], request: Request | None = None
) -> Quiet:
    """A pack with these entries and a good one, which must come back."""
    data, _ = forger.pack([*entries, (b"good", forger.good())])
    observer = _restore(tmp_path, {"pack": data}, request)
    assert (tmp_path / "out" / "good").read_bytes() == GOOD
    return observer


def _kinds(out: Path) -> list[str]:
    """All that is below a folder: links end in @, folders in /."""
    return sorted(
        str(path.relative_to(out)) + ("@" if path.is_symlink() else "/" if path.is_dir() else "")
        for path in out.rglob("*")
    )


OUTSIDE = {
    "parent": b"../x",
    "parent's folder": b"../outside/folder",
    "parent's file": b"../outside/own",
    "absolute": b"/@/outside/x",
    "absolute, there": b"/@/outside/folder",
    "deep": b"a/../../outside/own",
    "dots": b"..",
    "dot": b".",
    "empty": b"",
    "empty part": b"a//b",
    "ends in slash": b"a/",
    "dot inside": b"a/./b",
    "NUL": b"nul\0here",
    "too long": b"n" * 300,
    "many folders": b"d/" * 1500 + b"x",
}


@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "empty file", "sparse"])
@pytest.mark.parametrize("path", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_paths_that_lead_elsewhere(tmp_path: Path, path: bytes, kind: str) -> None:
    """No path is followed out of the destination, for whatever kind of entry."""
    forger = Forger()
    path = path.replace(b"@", os.fsencode(tmp_path).strip(b"/"))
    node = {
        "file": forger.file((1, OTHER)),
        "folder": Node(EntryKind.FOLDER, 0o777, 12345),
        "symlink": Node(EntryKind.SYMLINK, 0o777, 12345, link=b"/"),
        "empty file": forger.file(),
        "sparse": forger.file(4096),
    }[kind]
    observer = _hostile(tmp_path, forger, (path, node))
    if (path, kind) != (b"", "folder") and not path.startswith(b"d/"):
        assert observer.problems
    if path.startswith(b"d/"):
        assert not observer.problems
        subprocess.run(["rm", "-rf", tmp_path / "out" / "d"], check=True)


def test_a_link_and_a_file_below_it(tmp_path: Path) -> None:
    """Both are made, the older as `x~N`: the file is never written through the link."""
    forger = Forger()
    link = Node(EntryKind.SYMLINK, 0o777, 1, link=os.fsencode(tmp_path / "outside"))
    folder = Node(EntryKind.FOLDER, 0o777, 12345)
    cases: list[tuple[list[tuple[bytes, Node]], list[str]]] = [
        ([(b"a", link), (b"a/b", forger.file((1, OTHER)))], ["a/", "a/b", "a~1@"]),
        ([(b"a/b", forger.file((1, OTHER))), (b"a", link)], ["a@", "a~1/", "a~1/b"]),
        ([(b"a", link), (b"a/own", forger.file((1, OTHER)))], ["a/", "a/own", "a~1@"]),
        (
            [(b"a", link), (b"a/b", link), (b"a/folder", folder)],
            ["a/", "a/b@", "a/folder/", "a~1@"],
        ),
        ([(b"a", link), (b"a/folder", folder)], ["a/", "a/folder/", "a~1@"]),
        ([(b"a", folder), (b"a/folder", folder), (b"a", link)], ["a@", "a~1/", "a~1/folder/"]),
    ]
    for number, (entries, restored) in enumerate(cases):
        place = tmp_path / str(number)
        place.mkdir()
        link = link._replace(link=os.fsencode(place / "outside"))
        entries = [(path, link if n.kind == EntryKind.SYMLINK else n) for path, n in entries]
        observer = _hostile(place, forger, *entries)
        assert not observer.problems
        assert _kinds(place / "out") == [*restored, "good"]


def test_the_new_name_of_an_older_state_is_taken_by_a_link(tmp_path: Path) -> None:
    """`x` was a folder and became a file, so the folder is restored as `x~1`, which is a link."""
    forger = Forger()
    _hostile(
        tmp_path, forger,
        (b"x~1", Node(EntryKind.SYMLINK, 0o777, 1, link=b"../outside/folder")),
        (b"x", Node(EntryKind.FOLDER, 0o777, 12345)),
        (b"x", forger.file((1, OTHER))),
    )  # fmt: skip


def test_a_file_that_is_a_folder_too(tmp_path: Path) -> None:
    """Of several pieces, so that it is named only when it is complete."""
    forger = Forger()
    observer = _hostile(
        tmp_path, forger,
        (b"a", forger.file((1, OTHER), 4096, (0, GOOD))),
        (b"a/b", forger.file((1, OTHER))),
        (b"c/b", forger.file((1, OTHER), 4096, (0, GOOD))),
        (b"c", forger.file((1, OTHER))),
    )  # fmt: skip
    assert not observer.problems
    out = tmp_path / "out"
    assert _kinds(out) == ["a/", "a/b", "a~1", "c", "c~1/", "c~1/b", "good"]
    assert (out / "a~1").read_bytes() == (out / "c~1" / "b").read_bytes() != OTHER
    assert (out / "a" / "b").read_bytes() == (out / "c").read_bytes() == OTHER


CONTENT: dict[str, Callable[[Forger], Node]] = {
    "size of 2^60": lambda f: f.file((1, OTHER))._replace(size=1 << 60),
    "hole of 2^60": lambda f: f.file(1 << 60),
    "hole of 2^60 and a chunk": lambda f: f.file((1, OTHER), 1 << 60),
    "holes of 2^62 each": lambda f: f.file(1 << 62)._replace(content=(Hole(1 << 62),) * 5),
    "beyond the pack": lambda f: f.file((1, OTHER))._replace(content=(Run(f.pack_id, 7, 1),)),
    "far beyond": lambda f: f.file((1, OTHER))._replace(
        content=(Run(f.pack_id, (1 << 32) - 1, (1 << 32) - 1),)
    ),
    "another chunk": lambda f: f.file((1, OTHER))._replace(content=(Run(f.pack_id, 0, 1),)),
    "an unknown pack": lambda f: f.file((1, OTHER))._replace(content=(Run(bytes(16), 0, 1),)),
    "wrong hash": lambda f: f.file((1, OTHER))._replace(file_hash=bytes(32)),
    "no content": lambda f: f.file((1, OTHER))._replace(content=()),
}


@pytest.mark.parametrize("what", CONTENT)
def test_content_that_is_not_there(tmp_path: Path, what: str) -> None:
    forger = Forger()
    node = CONTENT[what](forger)
    observer = _hostile(tmp_path, forger, (b"bad", node))
    made = tmp_path / "out" / "bad"
    if "hole" in what and made.exists():
        assert made.stat().st_size == node.size
    else:
        assert not made.exists()
        assert any(problem.startswith("bad:") for problem in observer.problems)


def _many_chunks(forger: Forger, count: int, size: int) -> tuple[list[bytes], Node]:
    """(chunks, a file of all of them in one run)."""
    chunks = [noise(number, size) for number in range(count)]
    return chunks, forger.file(*enumerate(chunks))._replace(
        content=(Run(forger.pack_id, 0, count),)
    )


def _repeated(forger: Forger, node: Node, chunks: list[bytes], times: int) -> Node:
    """The file so many times one after another, its size and hash right."""
    parts = [(forger.keys.chunk_id(chunk), len(chunk)) for chunk in chunks] * times
    size = node.size * times
    digest = hash_content(forger.keys.file_key, size, parts)
    return node._replace(size=size, file_hash=digest, content=node.content * times)


def _planned(tmp_path: Path, data: bytes) -> tuple[PlanResult, Quiet, int]:
    """What a restore of one pack would do, what it says, and the memory that planning it takes."""
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "pack").write_bytes(data)
    folder, observer = ObjectFolder(tmp_path / "objects"), Quiet()
    catalogue, _ = rebuild(folder, Keyring(PASSWORD), tmp_path / "x.archive", observer)
    with catalogue:
        tracemalloc.start()
        try:
            result = plan(catalogue, Request(), observer)
            return result, observer, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_runs_that_repeat_each_other_cost_no_memory(tmp_path: Path) -> None:
    """500 times all of a pack: honest, if somebody has such a file, and planned as it is read."""
    forger = Forger()
    chunks, node = _many_chunks(forger, 1000, 300)
    node = _repeated(forger, node, chunks, 500)
    assert forger.header
    entries = forger.records([(b"repeats", node)])
    data, _ = forger.seal(forger.header, forger.key, entries, chunks, About(1, 0, bytes(32)))
    result, observer, memory = _planned(tmp_path, data)
    assert not observer.problems
    assert (result.files, result.size) == (1, 150_000_000)
    assert memory < 4 << 20


@pytest.mark.parametrize("size", [0, 1, 100])
def test_runs_of_more_chunks_than_the_size_allows(tmp_path: Path, size: int) -> None:
    """40,000 runs of all the smallest chunks that a pack can hold would be 160 million of them."""
    forger = Forger()
    chunks, node = _many_chunks(forger, 4000, size)
    node = node._replace(size=node.size * 40_000, content=node.content * 40_000)
    assert forger.header
    entries = forger.records([(b"bad", node)])
    data, _ = forger.seal(forger.header, forger.key, entries, chunks, About(1, 0, bytes(32)))
    with patched((ChunkMap, "parts", lambda *_: pytest.fail("looked at"))):
        result, observer, _ = _planned(tmp_path, data)
    assert observer.problems == [
        "bad: not restored: its content is of more chunks than its size allows"
    ]
    assert result.lost == 1


def test_entries_that_expand_fill_no_memory(tmp_path: Path) -> None:
    """One in 150 bytes of a pack, each of 4 MiB: equal attributes throughout."""
    forger = Forger()
    pack = compressor(3, RECORD_MAX)
    records = []
    for number in range(1, 41):
        node = Node(EntryKind.FOLDER, 0o755, 1, xattrs={b"user.a": bytes(RECORD_MAX - 1000)})
        entry = encode_entry(b"%d" % number, 1, number, encode_node(node))
        records.append((Type.ENTRIES, pack.compress(entry)))
    assert forger.header
    data, _ = forger.seal(forger.header, forger.key, records, [GOOD], About(1, 0, bytes(32)))
    (tmp_path / "pack").write_bytes(data)
    assert len(data) < 60_000
    tracemalloc.start()
    try:
        catalogue, _ = rebuild(
            ObjectFolder(tmp_path / "pack"), Keyring(PASSWORD), tmp_path / "x.archive", Quiet()
        )
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with catalogue:
        assert catalogue.highest_sequence() == 40
    assert memory < 80 << 20


def test_names_of_one_file_that_differ_in_content(tmp_path: Path) -> None:
    """A hard-link group whose members point to different content: each is itself, or named."""
    forger = Forger()
    first = forger.file((0, GOOD), hardlink=7)
    observer = _hostile(
        tmp_path, forger,
        (b"a", first),
        (b"b", forger.file((1, OTHER), hardlink=7)),
        (b"c", first._replace(content=(Run(forger.pack_id, 1, 1),))),
        (b"d", forger.file((1, OTHER), hardlink=9)._replace(file_hash=first.file_hash)),
        (b"e", first._replace(content=(Run(forger.pack_id, 9, 1),), hardlink=9)),
        (b"f", Node(EntryKind.SYMLINK, 0o777, 1, link=b"good", hardlink=7)),
    )  # fmt: skip
    found = contents(tmp_path / "out")
    assert found["a"] == GOOD
    assert found["b"] == OTHER
    assert found.get("c", GOOD) == GOOD
    assert "d" not in found
    assert "e" not in found
    assert observer.problems


ATTRIBUTES: dict[str, dict[str, Any]] = {
    "NUL in user": {"user": "ro\0ot", "group": "ro\0ot"},
    "no UTF-8 in user": {"user": "\udcff", "group": "\udcff"},
    "greatest ids": {"uid": (1 << 32) - 1, "gid": (1 << 32) - 1},
    "oldest time": {"mtime": -(1 << 63)},
    "latest time": {"mtime": (1 << 63) - 1},
    "NUL in xattr": {"xattrs": {b"user.a\0b": b"x"}},
    "xattr without name": {"xattrs": {b"": b"x"}},
    "xattr of no namespace": {"xattrs": {b"nonsense": b"x"}},
    "huge xattr": {"xattrs": {b"user.big": bytes(200_000)}},
    "long xattr name": {"xattrs": {b"user." + b"n" * 1000: b"x"}},
    "all modes": {"mode": 0o7777},
}


@pytest.mark.parametrize("kind", ["file", "folder", "symlink"])
@pytest.mark.parametrize("what", ATTRIBUTES)
def test_impossible_attributes(tmp_path: Path, what: str, kind: str) -> None:
    """They cost themselves, or their file, and no other."""
    forger = Forger()
    node = {
        "file": forger.file((1, OTHER)),
        "folder": Node(EntryKind.FOLDER, 0o755, 1),
        "symlink": Node(EntryKind.SYMLINK, 0o777, 1, link=b"good"),
    }[kind]
    node = node._replace(**ATTRIBUTES[what])
    _hostile(tmp_path, forger, (b"strange", node), (b"other", forger.file((1, OTHER))))
    assert (tmp_path / "out" / "other").read_bytes() == OTHER


CAPABILITY = {b"security.capability": bytes.fromhex("0100000282000000000000000000000000000000")}


@pytest.mark.parametrize("privileges", [False, True])
@pytest.mark.parametrize("how", ["whole", "in pieces", "there already"])
def test_what_gives_rights_is_restored_only_if_asked_for(
    tmp_path: Path, how: str, privileges: bool
) -> None:
    """A forged program of root's: set-user-ID, or with a capability."""
    forger = Forger()
    chunks = [(1, OTHER), 4096, (0, GOOD)] if how == "in pieces" else [(1, OTHER)]
    program = forger.file(*chunks, mode=0o6755, xattrs={b"user.a": b"b", **CAPABILITY})
    if how == "there already":
        write(tmp_path / "out" / "program", OTHER)
    folder = Node(EntryKind.FOLDER, 0o2755, 1)
    request = Request(privileges=privileges)
    observer = _hostile(
        tmp_path, forger, (b"program", program), (b"folder", folder), request=request
    )
    made, root = tmp_path / "out" / "program", os.geteuid() == 0
    assert os.getxattr(made, "user.a") == b"b"
    assert bool(made.stat().st_mode & 0o6000) == (privileges and root)
    assert "security.capability" not in os.listxattr(made) or (privileges and root)
    assert bool((tmp_path / "out" / "folder").stat().st_mode & 0o2000) == root
    told = [each for each in observer.notices if "--privileges" in each]
    assert len(told) == (not privileges and how != "there already")


@pytest.mark.parametrize("target", [b"", b"\0", b"a\0b", b"x" * 10_000])
def test_impossible_link_targets(tmp_path: Path, target: bytes) -> None:
    observer = _hostile(
        tmp_path, Forger(), (b"link", Node(EntryKind.SYMLINK, 0o777, 1, link=target))
    )
    assert any(problem.startswith("link:") for problem in observer.problems)


# Manifests


def _info(forger: Forger, indexes: list[bytes], data: bytes, **more: Any) -> PackInfo:
    assert forger.header is not None
    info = PackInfo(forger.pack_id, 1, len(data), bytes(32), forger.header.raw, len(indexes))
    return replace(info, **more)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("forged", ["pack's id", "manifest's id"])
def test_two_objects_with_one_id(tmp_path: Path, forged: str, listed: bool) -> None:
    """It is said, and nothing of either is lost."""
    forger = Forger()
    data, indexes = forger.pack([(b"good", forger.good())])
    told = [(Type.PACK, _info(forger, indexes, data).encode())] if listed else []
    told += [(Type.PACK_INDEX, body) for body in indexes] if listed else []
    more = forger.records([(b"good", forger.good()), (b"more", forger.file((1, OTHER)))])
    manifest = forger.manifest(told + more)
    twin = forger.pack_id if forged == "pack's id" else parse_front(manifest).object_id
    strange = forger.records([(b"strange", forger.good())], first=3)
    about = About(1, 1, blake3(manifest).digest(), number=2)
    objects = {"pack": data, "manifest": manifest}
    objects["strange"] = forger.log_object(Kind.MANIFEST, about, strange, object_id=twin)
    observer = _restore(tmp_path, objects)
    assert contents(tmp_path / "out") == {"good": GOOD, "more": OTHER, "strange": GOOD}
    (problem,) = observer.problems
    assert problem.startswith("two objects have one id: ")


def test_entries_that_contradict_each_other(tmp_path: Path) -> None:
    """Of one path, run and sequence, with other fields: what was told first counts."""
    forger = Forger()
    data, _ = forger.pack([(b"good", forger.good()), (b"more", forger.good())])
    records = forger.records([(b"good", forger.good()), (b"more", forger.file((1, OTHER)))])
    observer = _restore(tmp_path, {"pack": data, "manifest": forger.manifest(records)})
    (problem,) = observer.problems
    assert problem.startswith("1 entry contradicts what was told of the same state before")
    assert contents(tmp_path / "out") == {"good": GOOD, "more": OTHER}


@pytest.mark.parametrize(
    "what",
    ["header of another", "twice", "garbage as index", "no index", "huge", "garbage as header",
     "index of another length", "run 2^61"],
)  # fmt: skip
def test_manifests_that_lie_about_packs(tmp_path: Path, what: str) -> None:
    """The pack itself is good: no exception, and no wrong byte."""
    forger = Forger()
    data, indexes = forger.pack([(b"good", forger.good()), (b"more", forger.file((1, OTHER)))])
    infos = [_info(forger, indexes, data)]
    bodies = list(indexes)
    if what == "header of another":
        header, _ = forger.new_header(Kind.PACK)
        infos = [replace(infos[0], header=header.raw)]
    elif what == "twice":
        infos = [infos[0], replace(infos[0], object_id=bytes(16))]
    elif what == "garbage as index":
        bodies = [b"\xc1garbage"] * len(indexes)
    elif what == "no index":
        infos, bodies = [replace(infos[0], indexes=0)], []
    elif what == "huge":
        infos = [replace(infos[0], size=1 << 61)]
    elif what == "garbage as header":
        infos = [replace(infos[0], header=b"garbage")]
    elif what == "run 2^61":
        infos = [replace(infos[0], run=1 << 61)]
    else:
        index = Index.decode(indexes[0])
        lengths = (index.lengths[0] + 1, *index.lengths[1:])
        bodies = [Index(index.records, lengths, index.ids).encode()]
    records = [
        record
        for info in infos
        for record in [(Type.PACK, info.encode()), *((Type.PACK_INDEX, body) for body in bodies)]
    ]
    records += forger.records([(b"good", forger.good()), (b"more", forger.file((1, OTHER)))])
    observer = _restore(tmp_path, {"pack": data, "manifest": forger.manifest(records)})
    found = contents(tmp_path / "out")
    assert found.get("good", GOOD) == GOOD
    assert found.get("more", OTHER) == OTHER
    if len(found) < 2:
        assert observer.problems


@pytest.mark.parametrize("what", ["contradicts itself", "records elsewhere", "huge offset"])
def test_a_pack_whose_index_lies(tmp_path: Path, what: str) -> None:
    """Another pack in the folder is restored all the same."""
    forger, writer = Forger(), PayloadWriter()
    good, _ = forger.pack([(b"good", forger.good())])
    header, key = forger.new_header(Kind.PACK)
    pieces = writer.add(Type.ABOUT, About(1, 0, bytes(32)).encode())
    layout = Layout(len(header.raw), header.suite.tag)
    original = PayloadWriter._indexes
    lie = {
        "contradicts itself": Index((Placed(Type.BLOCK, 0, 9, 3),), (1, 2), bytes(64)),
        "records elsewhere": Index((Placed(Type.ENTRIES, 3, 50, 0),), (), b""),
        "huge offset": Index((Placed(Type.ENTRIES, 1 << 61, 50, 0),), (), b""),
    }[what]
    try:
        PayloadWriter._indexes = lambda _: iter([lie])  # type: ignore[method-assign, assignment]
        closing, _ = writer.close(layout)
    finally:
        PayloadWriter._indexes = original  # type: ignore[method-assign]
    bad = seal_object(header, key, [*pieces, *closing])
    try:
        observer = _restore(tmp_path, {"bad": bad, "good": good})
    except ArchiverError as error:
        pytest.fail(f"one pack stopped all: {error}")
    assert contents(tmp_path / "out") == {"good": GOOD}
    assert any("bad" in problem for problem in observer.problems)


@pytest.mark.parametrize(
    "name",
    [b"a\\b", b"c:", b"file:stream", b"NUL", b"nul.txt", b"Con", b"com1", b"LPT9.raw", b"aux ",
     b"CONIN$", b"com\xc2\xb9", b"dot.", b"space "],
)  # fmt: skip
def test_names_that_windows_takes_for_something_else(name: bytes) -> None:
    with patched((tree, "_WINDOWS", True)):
        for path in (name, b"folder/" + name, name + b"/file"):
            with pytest.raises(tree.PathError):
                tree.check_path(path)
        tree.check_path(b"console/common.nul/com10/a.b c")
    tree.check_path(name)


class Folding:
    """The module `os` as it would be where names that differ in case only are the same."""

    def __init__(self, root: Path, module: Any = os) -> None:
        self._root, self._module = os.fsencode(root), module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name == "path":
            return Folding(Path(os.fsdecode(self._root)), found)
        return self._folding(found) if callable(found) else found

    def _folding(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def fold(value: Any) -> Any:
            inside = isinstance(value, bytes) and value.startswith(self._root)
            return self._root + value[len(self._root) :].lower() if inside else value

        # What a link points to is no path yet.
        return lambda *args, **more: function(*map(fold, args), **more)


def test_names_that_differ_in_case_only(tmp_path: Path) -> None:
    """Where they are one, a link of one name is no way out for a file below the other."""
    forger = Forger()
    outside = os.fsencode(tmp_path / "outside")
    link = Node(EntryKind.SYMLINK, 0o777, 1, link=outside)
    folder = Node(EntryKind.FOLDER, 0o777, 12345)
    with patched((tree, "os", Folding(tmp_path / "out"))):
        observer = _hostile(
            tmp_path, forger,
            (b"A", link), (b"a/own", forger.file((1, OTHER))),
            (b"d", link), (b"D/folder", folder), (b"D", folder),
            (b"Twice", forger.file((1, OTHER))), (b"twice", forger.good()),
            (b"pieces", forger.file((1, OTHER), 4096, (0, GOOD))), (b"PIECES", link),
            (b"e", link), (b"E", forger.file((1, OTHER), 4096, (0, GOOD))),
        )  # fmt: skip
    found = contents(tmp_path / "out")
    assert found["a/own"] == OTHER
    assert found["twice"] in (OTHER, GOOD)
    told = [problem.lower() for problem in observer.problems]
    for name in ("a", "d", "pieces", "e", "twice"):
        assert any(re.match(f"{name}[:/]", problem) for problem in told), name


def test_the_destination_may_hold_links_of_its_own(tmp_path: Path) -> None:
    """A link that was there before is not followed for files, folders or links."""
    forger = Forger()
    out = tmp_path / "out"
    out.mkdir()
    (out / "f").symlink_to("../outside/own")
    (out / "d").symlink_to("../outside/folder")
    (out / "l").symlink_to("../outside/new")
    observer = _hostile(
        tmp_path, forger,
        (b"f", forger.file((1, OTHER))),
        (b"d", Node(EntryKind.FOLDER, 0o777, 12345)),
        (b"d/x", forger.file((1, OTHER))),
        (b"l", forger.file((1, OTHER))),
    )  # fmt: skip
    assert len(observer.problems) >= 3


def test_a_place_of_its_own_is_left_alone(tmp_path: Path) -> None:
    """The same through the real archiver: nothing about it is hostile."""
    place = Place(tmp_path)
    write(place.source / "good", GOOD)
    place.start(Sizes())
    observer = Quiet()
    place.decrypt(place.storage, tmp_path / "out", observer)
    assert contents(tmp_path / "out") == {"good": GOOD}
    assert not observer.problems
