"""rescue.py, the one-file decoder of the kit: as good as decrypt, and nothing of ours in it."""

from __future__ import annotations

import ast
import errno
import importlib.util
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nacl.exceptions
import pytest
from blake3 import blake3

from forger import GOOD, OTHER, Forger
from helpers_cli import (
    PASSWORD,
    SCRIPT,
    Place,
    Sizes,
    contents,
    make_tree,
    noise,
    rescue,
    small,
    tree_of,
    write,
)
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.password import change_password
from pyarchiver.cas.planner import Request
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.unlock import unlock
from pyarchiver.formats import wire
from pyarchiver.formats.aead import AEGIS256
from pyarchiver.formats.block import compressor
from pyarchiver.formats.entry import ENTRIES_RAW, EntryKind, Node, encode_node
from pyarchiver.formats.header import Kind, new_header, parse_front
from pyarchiver.formats.keys import Slot, new_keys, password_slot
from pyarchiver.formats.payload import PayloadWriter, Type
from pyarchiver.formats.records import About, RunComplete
from pyarchiver.formats.sealed import Layout, seal_object

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
VECTORS = Path(__file__).parent / "vectors"
LIBRARIES = {"blake3", "cryptography", "msgpack", "nacl", "zstandard"}
NEW = "another Gazebo 52 marmalade"


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
    assert len(text.splitlines()) < 910


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


def test_a_forged_checkpoint_hides_no_gap(
    module: ModuleType, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Catalogue.open(place.archive, write=False) as catalogue:
        forger, last = Forger(unlock(catalogue, PASSWORD)), catalogue.head.number
    objects = Path(shutil.copytree(place.storage, tmp_path / "objects"))
    for path in (*objects.glob("*-c-*"), *objects.glob("*-kit-*"), min(objects.glob("*-m-*"))):
        path.unlink()
    about = About(9, last, bytes(32), last)
    (objects / "forged").write_bytes(forger.log_object(Kind.CHECKPOINT, about, [], 9))
    assert run_in_process(module, objects, tmp_path / "out")
    told = capsys.readouterr().err
    assert f"checkpoint {last} is not complete, or not of a manifest that is here" in told
    assert "manifest 1 is missing" in told


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


ONE_BYTE = [
    (b"\xa8aegis256", b"\x98aegis256"), (b"\xa5slots", b"\xa5slotz"), (b"\x86\xa7v", b"\x96\xa7v"),
    (b"\xa4type\1", b"\xa4type\x90"), (b"\xa3ops", b"\x93ops"), (b"\xa4kind\2", b"\xa4kind\x90"),
]  # fmt: skip


def test_one_bad_byte_in_a_header_costs_nothing(place: Place, tmp_path: Path) -> None:
    """Also where a field becomes of another type: the name of the suite a list, as one byte can."""
    whole = contents(decrypted(place, place.storage, tmp_path / "whole"))
    for number, (old, new) in enumerate(ONE_BYTE):
        folder = Path(shutil.copytree(place.storage, tmp_path / f"some{number}"))
        victim = min(folder.glob("*-m-*"))
        data = victim.read_bytes()
        assert data.count(old) >= 2
        victim.write_bytes(data.replace(old, new, 1))
        done = rescue(folder, tmp_path / f"out{number}")
        assert done.stderr.startswith("rescue: manifest 1 is not the one that manifest 2 continues")
        assert contents(tmp_path / f"out{number}") == whole
        shutil.rmtree(folder)


def unreadable(monkeypatch: pytest.MonkeyPatch, victim: Path, bad: Callable[[int], bool]) -> None:
    """A disk that gives EIO for the file where `bad` says so of an offset."""
    real = Path.open

    class Broken(io.FileIO):
        def readinto(self, into: Any) -> int:
            if bad(self.tell()):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            count = super().readinto(into)
            assert count is not None
            return count

    def opened(path: Path, mode: str = "r", *more: Any) -> Any:
        if path == victim and mode == "rb":
            return io.BufferedReader(Broken(path), 4096)
        return real(path, mode, *more)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("kind", ["m", "p"])
@pytest.mark.parametrize("where", ["everywhere", "in its midst", "at its end"])
def test_an_object_that_cannot_be_read_is_named(
    module: ModuleType, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], kind: str, where: str,
) -> None:  # fmt: skip
    victim = max(place.storage.glob(f"*-{kind}-*"), key=lambda path: path.stat().st_size)
    size = victim.stat().st_size
    bad: dict[str, Callable[[int], bool]] = {
        "everywhere": lambda _: True,
        "in its midst": lambda at: 4096 <= at < size - 8192,
        "at its end": lambda at: at > size - 4096,
    }
    whole = contents(decrypted(place, place.storage, tmp_path / "whole"))
    unreadable(monkeypatch, victim, bad[where])
    troubles = run_in_process(module, place.storage, tmp_path / "out")
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert victim.name in said or not troubles
    if where == "everywhere":
        assert f"{victim.name}: it cannot be read: {os.strerror(errno.EIO)}; skipped" in said
    found = contents(tmp_path / "out")
    assert found.items() <= whole.items()
    assert len(found) > 3


def test_a_manifest_that_says_the_impossible_of_itself(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sealed by somebody who has the keys: named, and what is good comes back."""
    forger = Forger()
    hostile: list[Any] = [
        [], 7, {"number": []}, {"number": "1"}, {"part": 1 << 62}, {"hash": 1}, {"previous": None},
    ]  # fmt: skip
    for number, wrong in enumerate(hostile):
        folder = tmp_path / f"objects{number}"
        folder.mkdir()
        (folder / "pack").write_bytes(forger.pack([(b"good", forger.good())])[0])
        about: Any = {"run": 1, "previous": 0, "hash": bytes(32), "number": 1, "part": 0}
        body = wire.pack({**about, **wrong} if isinstance(wrong, dict) else wrong)
        for kind in (Kind.MANIFEST, Kind.CHECKPOINT):
            header, key = forger.new_header(kind)
            writer = PayloadWriter()
            pieces = writer.add(Type.ABOUT, body)
            pieces += writer.add(Type.RUN, RunComplete(1, 1, 2, 3, 4).encode())
            closing, _ = writer.close(Layout(len(header.raw), header.suite.tag))
            (folder / f"{kind}").write_bytes(seal_object(header, key, [*pieces, *closing]))
        assert run_in_process(module, folder, tmp_path / f"out{number}")
        assert contents(tmp_path / f"out{number}") == {"good": GOOD}
        said = capsys.readouterr().err
        assert "impossible" in said or "Error" in said or "not complete" in said


IMPOSSIBLE: list[dict[str, Any]] = [
    {"runs": 7}, {"runs": [[]]}, {"runs": [["a", 0, 1]]}, {"runs": [[bytes(16), -1, 1]]},
    {"runs": [None]}, {"runs": [[[], 0, 1], [bytes(16), 0, 1]]}, {"size": -1}, {"size": 1 << 63},
    {"hash": []}, {"kind": []}, {"kind": True}, {"mtime": "now"}, {"mode": None}, {"link": 7},
]  # fmt: skip


def test_impossible_entries_are_named(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger = Forger()
    assert forger.header
    good = forger.records([(b"good", forger.good())])
    for number, wrong in enumerate(IMPOSSIBLE):
        fields = wire.unpack(encode_node(forger.good()))
        entry = wire.pack([b"bad", 1, 100, {**fields, **wrong}])
        records = [*good, (Type.ENTRIES, compressor(3, ENTRIES_RAW).compress(entry))]
        folder = tmp_path / f"objects{number}"
        folder.mkdir()
        data, _ = forger.seal(
            forger.header, forger.key, records, [GOOD, OTHER], About(1, 0, bytes(32))
        )
        (folder / "pack").write_bytes(data)
        assert run_in_process(module, folder, tmp_path / f"out{number}") == 1
        assert contents(tmp_path / f"out{number}") == {"good": GOOD}
        capsys.readouterr()


# Key slots


@pytest.mark.parametrize("kind", ["password", "code"])
def test_many_slots_of_strangers_keep_no_secret_from_being_tried(tmp_path: Path, kind: str) -> None:
    """160 cheap ones, which come first; the dear ones are below."""
    made = Place(tmp_path)
    make_tree(made.source, files=2, size=5_000)
    with small(Sizes()):
        code = made.start(Sizes())
    for number in range(10):
        slots = [strange_slot(1, 8192) for _ in range(16)]
        data = new_header(AEGIS256, new_keys().writer(), tuple(slots), Kind.PACK)[0].raw
        (made.storage / f"000000000000-m-0000000{number}").write_bytes(data)
    done = rescue(made.storage, tmp_path / "out", PASSWORD if kind == "password" else code)
    assert done.returncode == 3, done.stderr
    assert contents(tmp_path / "out") == contents(made.source)


def strange_slot(passes: int, memory: int) -> Slot:
    return {"type": 1, "salt": os.urandom(16), "ops": passes, "mem": memory,
            "nonce": bytes(24), "sealed": bytes(80)}  # fmt: skip


def test_key_derivations_are_bounded_and_those_of_most_objects_come_first(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[int] = []
    monkeypatch.setattr(module, "open_slot", lambda slot, *_: spent.append(slot.ops * slot.mem))
    owner = new_keys().writer()

    def header(*slots: Slot) -> Any:
        return module.Header(new_header(AEGIS256, owner, slots, Kind.PACK)[0].raw)

    strange = [header(*(strange_slot(16, 2 << 30) for _ in range(16))) for _ in range(10)]
    ours = header(strange_slot(3, 256 << 20))
    keys, left = module.unlock([*strange, ours, ours], "secret")
    assert spent == [3 << 28, 32 << 30]
    assert not keys
    assert left == {owner.archive_id}
    assert module.unlock([ours], "secret") == ({}, set())


def test_a_slot_that_lacks_memory_hides_no_other(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    derive = module.nacl.pwhash.argon2id.kdf

    def kdf(size: int, password: bytes, salt: bytes, opslimit: int, memlimit: int) -> Any:
        if memlimit >= 1 << 30:
            raise nacl.exceptions.RuntimeError
        return derive(size, password, salt, opslimit, memlimit)

    monkeypatch.setattr(module.nacl.pwhash.argon2id, "kdf", kdf)
    owner = new_keys()
    dear = strange_slot(1, 2 << 30)
    both = new_header(AEGIS256, owner.writer(), (dear, password_slot(owner, PASSWORD)), Kind.PACK)
    alone = new_header(AEGIS256, owner.writer(), (dear,), Kind.PACK)
    keys, _ = module.unlock([module.Header(both[0].raw)], PASSWORD)
    assert list(keys) == [owner.archive_id]
    assert module.unlock([module.Header(alone[0].raw)], PASSWORD) == ({}, {owner.archive_id})


@pytest.mark.parametrize(
    "data", [b"\xd6\xff" + bytes(4), b"\xc7\0\5", b"\xd4\5\0", b"\1\1", b"\x91", b""]
)
def test_no_extension_types_and_one_value_only(module: ModuleType, data: bytes) -> None:
    for before in (b"", b"\x91", b"\x81\xa1x"):
        with pytest.raises(module.Bad):
            module.unpack(before + data)


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
    # What lies below a link was never in it: there was a folder before.
    folder_of_link = "link~1"
    folder = module.State((1, 100), 2, 0o777, 0, 0, b"", [], b"")
    archive.states[b"../outside folder", True] = folder
    mode = outside.stat().st_mode
    before = sorted(os.listdir(tmp_path))
    module.__dict__["TROUBLES"] = 0
    module.restore(archive, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "out"])
    assert os.listdir(outside) == []
    assert outside.stat().st_mode == mode
    assert sorted(os.listdir(tmp_path / "out")) == ["d", "link", folder_of_link]
    assert (tmp_path / "out" / "link").is_symlink()
    assert (tmp_path / "out" / folder_of_link / "through").is_file()
    assert module.__dict__["TROUBLES"] == len(HOSTILE) - 1


def test_declared_sizes_are_not_believed(module: ModuleType, tmp_path: Path) -> None:
    archive = module.Archive(module.Keys(bytes(16), bytes(32), bytes(32)))
    for runs in ([], [1 << 61], [[bytes(16), 0, 1 << 31]]):
        state = module.State((1, 1), 1, 0o644, 0, 1 << 60, bytes(32), runs, b"")
        archive.states[b"huge", False] = state
        module.restore(archive, tmp_path / f"out{len(str(runs))}")
        assert list((tmp_path / f"out{len(str(runs))}").iterdir()) == []
