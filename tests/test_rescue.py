"""rescue.py, the one-file decoder of the kit: as good as decrypt, and nothing of ours in it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from blake3 import blake3

from forger import Forger
from helpers_cli import (
    PASSWORD,
    Place,
    Sizes,
    contents,
    make_tree,
    noise,
    small,
    tree_of,
    write,
)
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.password import change_password
from pyarchiver.cas.planner import Request
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.unlock import unlock
from pyarchiver.formats.entry import EntryKind, Node
from pyarchiver.formats.header import Kind, parse_front
from pyarchiver.formats.records import About

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
SCRIPT = Path(__file__).parents[1] / "cas" / "kit_files" / "rescue.py"
VECTORS = Path(__file__).parent / "vectors"
LIBRARIES = {"blake3", "cryptography", "msgpack", "nacl", "zstandard"}
NEW = "another Gazebo 52 marmalade"


def rescue(
    source: Path, destination: Path, secret: str = PASSWORD
) -> subprocess.CompletedProcess[str]:
    """The script as a user runs it, apart from everything else; the secret comes by a pipe."""
    return subprocess.run(
        [sys.executable, "-I", SCRIPT, source, destination],
        input=secret + "\n",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An archive of three runs in small packs, with a path that was a file and is a folder."""
    made = Place(tmp_path_factory.mktemp("rescue"))
    make_tree(made.source)
    with small(Sizes()):
        made.start(Sizes())
        (made.source / "shoot0").rename(made.source / "moved")
        (made.source / "empty").unlink()
        write(made.source / "empty" / "inside", b"now a folder")
        write(made.source / "text" / "long.txt", noise("another", 50_000))
        made.resume()
        (made.source / "copies" / "first.raw").unlink()
        made.resume()
    return made


@pytest.fixture
def packs(place: Place, tmp_path: Path) -> Path:
    """A copy of the packs alone, to be damaged."""
    folder = tmp_path / "packs"
    folder.mkdir()
    for path in place.objects("p"):
        shutil.copy(path, folder)
    return folder


def decrypted(place: Place, source: Path, destination: Path) -> Path:
    """What pyarchiver itself makes of the same objects."""
    with small(Sizes()):
        place.decrypt(source, destination, Quiet())
    return destination


def test_it_is_one_file_that_needs_five_libraries_and_nothing_of_ours() -> None:
    text = SCRIPT.read_text("utf-8")
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert ast.get_docstring(node) or node.name.startswith("_") or node.col_offset, (
                node.name
            )
    assert names - set(sys.stdlib_module_names) == LIBRARIES
    assert len(text.splitlines()) < 800


def test_what_it_needs_is_named_where_it_is_missing(tmp_path: Path) -> None:
    # Without site-packages there is nothing but the standard library.
    done = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT, tmp_path, tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    for library in ("blake3", "cryptography", "msgpack", "pynacl", "zstandard"):
        assert library in done.stderr
    assert "Traceback" not in done.stderr


def test_packs_and_manifests_give_what_decrypt_gives(place: Place, tmp_path: Path) -> None:
    done = rescue(place.storage, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    expected = decrypted(place, place.storage, tmp_path / "expected")
    assert dict(tree_of(tmp_path / "out")) == dict(tree_of(expected))
    assert len(contents(expected)) > 25


def test_packs_alone_give_what_decrypt_gives(place: Place, packs: Path, tmp_path: Path) -> None:
    done = rescue(packs, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    expected = decrypted(place, packs, tmp_path / "expected")
    assert dict(tree_of(tmp_path / "out")) == dict(tree_of(expected))


def test_a_missing_pack_is_named_with_the_files_that_need_it(place: Place, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(place.storage, tmp_path / "some"))
    gone = max(folder.glob("*-p-*"), key=lambda path: path.stat().st_size)
    gone.unlink()
    done = rescue(folder, tmp_path / "out")
    assert done.returncode == 3
    assert f"it needs {gone.name}" in done.stderr
    expected = decrypted(place, folder, tmp_path / "expected")
    assert contents(tmp_path / "out") == contents(expected)
    assert contents(expected)


def test_a_missing_manifest_is_named(place: Place, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(place.storage, tmp_path / "some"))
    second = sorted(folder.glob("*-m-*"))[1]
    second.unlink()
    done = rescue(folder, tmp_path / "out")
    assert done.returncode == 3
    assert "manifest 2 is missing" in done.stderr


def test_wrong_secrets_and_wrong_arguments(place: Place, tmp_path: Path) -> None:
    done = rescue(place.storage, tmp_path / "out", "wrong")
    assert done.returncode == 1
    assert "opens nothing" in done.stderr
    assert not (tmp_path / "out").exists()
    write(tmp_path / "full" / "file", b"mine")
    done = rescue(place.storage, tmp_path / "full")
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert rescue(tmp_path / "full", tmp_path / "out").returncode == 1
    assert rescue(tmp_path / "nowhere", tmp_path / "out").returncode == 1
    usage = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert usage.returncode == 2
    assert "python3 rescue.py FOLDER DEST" in usage.stdout


def test_the_recovery_code_and_objects_under_two_passwords(tmp_path: Path) -> None:
    made = Place(tmp_path)
    make_tree(made.source, files=2, size=5_000)
    with small(Sizes()):
        code = made.start(Sizes())
        with Catalogue.open(made.archive, write=True) as catalogue:
            change_password(catalogue, unlock(catalogue, PASSWORD), NEW)
        write(made.source / "added", b"later")
        made.resume()
    for number, secret in enumerate([PASSWORD, NEW, code, code.lower().replace("-", " ")]):
        done = rescue(made.storage, tmp_path / f"out{number}", secret)
        assert done.returncode == 0, done.stderr
        assert contents(tmp_path / f"out{number}") == contents(made.source)
        assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize("suite", ["aegis256", "xchacha20poly1305"])
def test_golden_vectors(suite: str, tmp_path: Path) -> None:
    vectors = json.loads((VECTORS / "vectors.json").read_text("utf-8"))
    objects = tmp_path / "objects"
    objects.mkdir()
    expected = {}
    for found in vectors["objects"]:
        if found["suite"] == suite and found["kind"] == 1:
            shutil.copy(VECTORS / found["file"], objects)
            for file in found["files"]:
                expected[file["path"]] = file["size"], file["blake3"]
    done = rescue(objects, tmp_path / "out", vectors["password"])
    assert done.returncode in (0, 3), done.stderr
    checked = 0
    for path, (size, digest) in expected.items():
        where = tmp_path / "out" / os.fsdecode(bytes.fromhex(path))
        if where.exists() and size < 1 << 26:
            assert where.stat().st_size == size
            assert blake3(where.read_bytes()).hexdigest() == digest
            checked += 1
    assert checked >= 5


# In this process, for what is tried often


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """The script, loaded as a module."""
    spec = importlib.util.spec_from_file_location("rescue_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["rescue_script"] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def run_in_process(module: ModuleType, source: Path, destination: Path) -> int:
    """Restore, and return how many things were missing or damaged."""
    module.__dict__["TROUBLES"] = 0
    found = {path: module.headers_of(path) for path in sorted(source.iterdir())}
    archive = module.open_all(source, PASSWORD, found)
    archive.read()
    module.restore(archive, destination)
    return int(module.__dict__["TROUBLES"])


def test_damage_is_named_and_no_wrong_byte_is_written(
    module: ModuleType, place: Place, packs: Path, tmp_path: Path
) -> None:
    """Flipped, cut, zeroed, lengthened: what is written is right, and as much as by decrypt."""
    chosen = random.Random("rescue")
    with small(Sizes()):
        for number in (1, 2, 3):
            place.restore(tmp_path / "ever" / str(number), Quiet(), Request(number))
    ever = set(contents(tmp_path / "ever").values())
    whole = contents(decrypted(place, packs, tmp_path / "whole"))
    for number in range(12):
        folder = Path(shutil.copytree(packs, tmp_path / f"damaged{number}"))
        victim = chosen.choice(sorted(folder.iterdir()))
        data = bytearray(victim.read_bytes())
        at = chosen.randrange(len(data))
        match number % 4:
            case 0:
                data[at] ^= 1 << chosen.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at : at + 4096] = bytes(len(data[at : at + 4096]))
            case 3:
                data += chosen.randbytes(at % 5000 + 1)
        victim.write_bytes(data)
        out = tmp_path / f"out{number}"
        troubles = run_in_process(module, folder, out)
        written = contents(out)
        assert ever.issuperset(written.values())
        assert troubles or written == whole
        by_decrypt = contents(decrypted(place, folder, tmp_path / f"decrypted{number}"))
        assert by_decrypt.items() <= written.items()
        for path in (folder, out, tmp_path / f"decrypted{number}"):
            shutil.rmtree(path)


def test_two_manifests_with_one_id(module: ModuleType, tmp_path: Path) -> None:
    """One of them is forged; neither is lost."""
    forger = Forger()
    links = [(name, Node(EntryKind.SYMLINK, 0o777, 1, link=b"there")) for name in (b"a", b"b")]
    first = forger.manifest(forger.records(links[:1]))
    about = About(1, 1, blake3(first).digest(), number=2)
    second = forger.log_object(
        Kind.MANIFEST, about, forger.records(links[1:], 2), object_id=parse_front(first).object_id
    )
    for name, data in (("first", first), ("second", second)):
        write(tmp_path / "objects" / name, data)
    assert not run_in_process(module, tmp_path / "objects", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "b"]


HOSTILE = [
    b"../outside", b"/absolute", b"a/../../outside", b"a//b", b"./a", b"a/.", b"..", b"a\0b",
    b"link/through", b"", b"/", b"x" * 300, b"/".join([b"d"] * 800),
]  # fmt: skip


def test_no_path_leads_out_of_the_destination(module: ModuleType, tmp_path: Path) -> None:
    outside = tmp_path / "outside folder"
    outside.mkdir()
    archive = module.Archive(module.Keys(bytes(16), bytes(32), bytes(32)))
    empty = blake3(bytes(8), key=archive.keys.file).digest()
    for number, path in enumerate(HOSTILE):
        state = module.State((1, number + 1), 1, 0o4777, 0, 0, empty, [], b"")
        archive.states[path, False] = state
    link = module.State((1, 99), 3, 0o777, 0, 0, b"", [], os.fsencode(outside))
    archive.states[b"link", False] = link
    folder = module.State((1, 100), 2, 0o777, 0, 0, b"", [], b"")
    archive.states[b"../outside folder", True] = folder
    mode = outside.stat().st_mode
    before = sorted(os.listdir(tmp_path))
    module.__dict__["TROUBLES"] = 0
    module.restore(archive, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "out"])
    assert os.listdir(outside) == []
    assert outside.stat().st_mode == mode
    assert sorted(os.listdir(tmp_path / "out")) == ["d", "link"]
    assert (tmp_path / "out" / "link" / "through").is_file()
    assert module.__dict__["TROUBLES"] == len(HOSTILE)


def test_declared_sizes_are_not_believed(module: ModuleType, tmp_path: Path) -> None:
    archive = module.Archive(module.Keys(bytes(16), bytes(32), bytes(32)))
    for runs in ([], [1 << 61], [[bytes(16), 0, 1 << 31]]):
        state = module.State((1, 1), 1, 0o644, 0, 1 << 60, bytes(32), runs, b"")
        archive.states[b"huge", False] = state
        module.restore(archive, tmp_path / f"out{len(str(runs))}")
        assert list((tmp_path / f"out{len(str(runs))}").iterdir()) == []
