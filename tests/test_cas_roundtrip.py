"""Any tree, changed in any way and archived each time, comes back as it was at each time."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers_cas import (
    PASSWORD,
    Look,
    Tree,
    World,
    assert_same,
    contents,
    look,
    new_world,
    noise,
    rsync_says,
    said_by,
    tuned,
)
from helpers_cli import rescue
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.intake import SPARSE_MIN
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.verify import verify
from pyarchiver.formats.header import Kind

NAMES = [b"a", b"b.jpg", b"c.xmp", b"\xff\xfe", b"new\nline", "ü".encode(), b" ", b".hid", b"a0"]
MTIMES = [
    0,
    1,
    -1,
    -2_000_000_000_000_000_001,
    1_234_567_890_123_456_789,
    4_102_444_800_000_000_000,
]
MODES = [0o644, 0o600, 0o755, 0o444, 0o000, 0o4755, 0o2750, 0o1777]
TARGETS = [b"a", b"../b.jpg", b"nowhere/at all", b"/absolute", b"\xff", b"."]
SIZES = [0, 1, 100, 16 << 10, (16 << 10) + 1, 100_000, 300_000, 1_100_000]

# Trees


class Garden:
    """A real tree that grows by operations whose numbers pick whatever is there."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def apply(self, operation: tuple[str, int, int, int]) -> None:
        name, *numbers = operation
        getattr(self, name)(*numbers)

    def write(self, where: int, name: int, what: int) -> None:
        path = self._free(where, name)
        with open(path, "wb") as file:
            file.write(self._data(what))

    def edit(self, which: int, at: int, what: int) -> None:
        if path := self._file(which):
            with open(path, "r+b") as file:
                file.seek(at * 1009 % (1 + os.path.getsize(path)))
                file.write(noise(("edit", what), 20))

    def insert(self, which: int, what: int, _: int) -> None:
        if path := self._file(which):
            with open(path, "r+b") as file:
                data = file.read()
                file.seek(0)
                file.write(noise(("insert", what), 1 + what % 50) + data)

    def truncate(self, which: int, to: int, _: int) -> None:
        if path := self._file(which):
            os.truncate(path, to * 1009 % (1 + os.path.getsize(path)))

    def sparse(self, where: int, name: int, what: int) -> None:
        path = self._free(where, name)
        with open(path, "wb") as file:
            for step in range(what % 3):
                file.seek(step * 400_000 + (what % 2) * 300_000)
                file.write(noise(("sparse", step, what % 2), 50_000))
            file.truncate(1_000_000)

    def mkdir(self, where: int, name: int, _: int) -> None:
        os.mkdir(self._free(where, name))

    def symlink(self, where: int, name: int, what: int) -> None:
        os.symlink(TARGETS[what % len(TARGETS)], self._free(where, name))

    def hardlink(self, where: int, name: int, which: int) -> None:
        if path := self._pick(which, lambda mode: not stat.S_ISDIR(mode)):
            target = self._free(where, name, spare=path)
            if target:
                os.link(path, target, follow_symlinks=False)

    def move(self, which: int, where: int, name: int) -> None:
        if path := self._pick(which, lambda mode: True):
            target = self._free(where, name, spare=path)
            if target and not target.startswith(path + b"/"):
                os.rename(path, target)

    def copy(self, which: int, where: int, name: int) -> None:
        if path := self._file(which):
            target = self._free(where, name, spare=path)
            if target:
                shutil.copy2(path, target)

    def delete(self, which: int, _: int, __: int) -> None:
        if path := self._pick(which, lambda mode: True):
            self._remove(path)

    def touch(self, which: int, mtime: int, _: int) -> None:
        if path := self._pick(which, lambda mode: True):
            when = MTIMES[mtime % len(MTIMES)]
            os.utime(path, ns=(when, when), follow_symlinks=False)

    def chmod(self, which: int, mode: int, _: int) -> None:
        if path := self._pick(which, lambda mode: not stat.S_ISLNK(mode)):
            os.chmod(path, MODES[mode % len(MODES)])

    def chown(self, which: int, owner: int, _: int) -> None:
        if path := self._pick(which, lambda mode: True):
            os.chown(path, owner % 3, 54321 + owner % 2, follow_symlinks=False)

    def xattr(self, which: int, name: int, size: int) -> None:
        if path := self._pick(which, lambda mode: stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            attribute = b"user." + [b"x", b"\xff", b"long"][name % 3]
            if attribute.decode("utf-8", "surrogateescape") in os.listxattr(path):
                os.removexattr(path, attribute)
            else:
                os.setxattr(path, attribute, noise(("xattr", size), size * 37 % 900))

    def acl(self, which: int, rights: int, default: int) -> None:
        """Give an ACL or take it; a folder's default one too."""
        if path := self._pick(which, lambda mode: stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            is_default = default % 2 and os.path.isdir(path)
            name = "system.posix_acl_default" if is_default else "system.posix_acl_access"
            if name in os.listxattr(path):
                os.removexattr(path, name)
            else:
                owner = os.stat(path).st_mode >> 6 & 7
                os.setxattr(path, name, acl(owner, 1000 + rights % 3, rights % 8))

    def label(self, which: int, name: int, _: int) -> None:
        """An attribute that only root may set, of links too."""
        if path := self._pick(which, lambda mode: True):
            os.setxattr(path, f"trusted.{name % 3}", b"label", follow_symlinks=False)

    def special(self, where: int, name: int, what: int) -> None:
        """A pipe, a socket or a device, which are left out."""
        path = self._free(where, name)
        kind = [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK][what % 4]
        os.mknod(path, kind | 0o644, os.makedev(1, 3))

    def swap(self, one: int, other: int, _: int) -> None:
        """Two paths change places, whatever they are."""
        first, second = self._pick(one, lambda mode: True), self._pick(other, lambda mode: True)
        if (
            first
            and not (first + b"/").startswith(second + b"/")
            and (not (second + b"/").startswith(first + b"/"))
        ):
            spare = self.root + b"/\xfespare"
            os.rename(first, spare)
            os.rename(second, first)
            os.rename(spare, second)

    def recreate(self, which: int, _: int, __: int) -> None:
        """The same file again, under another inode number."""
        if path := self._file(which):
            shutil.copy2(path, path + b"~new")
            os.replace(path + b"~new", path)

    def turn(self, which: int, what: int, _: int) -> None:
        """A file becomes a folder, a folder a file."""
        if path := self._pick(which, lambda mode: True):
            was_folder = os.path.isdir(path) and not os.path.islink(path)
            self._remove(path)
            if not was_folder:
                os.mkdir(path)
                path += b"/" + NAMES[what % len(NAMES)]
            with open(path, "wb") as file:
                file.write(self._data(what))

    def _data(self, what: int) -> bytes:
        size = SIZES[what % len(SIZES)]
        if what % 5 == 0:
            return b"abc def " * (size // 8)
        skip = what % 3 * 70_000
        return noise("shared", 2_000_000)[skip : skip + size]

    def _all(self) -> list[bytes]:
        found, pending = [], [self.root]
        while pending:
            folder = pending.pop(0)
            for name in sorted(os.listdir(folder)):
                path = folder + b"/" + name
                found.append(path)
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    pending.append(path)
        return found

    def _pick(self, which: int, fits: Callable[[int], bool]) -> bytes:
        found = [path for path in self._all() if fits(os.lstat(path).st_mode)]
        return found[which % len(found)] if found else b""

    def _file(self, which: int) -> bytes:
        return self._pick(which, stat.S_ISREG)

    def _free(self, where: int, name: int, spare: bytes = b"") -> bytes:
        """A path where nothing is any more; empty if that would remove `spare`."""
        folders = [self.root] + [
            path for path in self._all() if stat.S_ISDIR(os.lstat(path).st_mode)
        ]
        path = folders[where % len(folders)] + b"/" + NAMES[name % len(NAMES)]
        if spare and (spare + b"/").startswith(path + b"/"):
            return b""
        if os.path.lexists(path):
            self._remove(path)
        return path

    def _remove(self, path: bytes) -> None:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def acl(owner: int, user: int, rights: int) -> bytes:
    """A POSIX ACL as Linux stores it, in which one user has `rights`: (tag, rights, id) each."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, owner, nobody), (0x02, rights, user), (0x04, 4, nobody),
               (0x10, 5, nobody), (0x20, 0, nobody)]  # fmt: skip
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


GROW = ("write", "write", "write", "mkdir", "mkdir", "symlink", "sparse", "hardlink", "copy")
ADORN = ("touch", "chmod", "chown", "xattr", "acl", "label")
CHANGE = (
    "edit", "insert", "truncate", "move", "delete", "turn", "swap", "recreate", "special", *ADORN,
)  # fmt: skip
number = st.integers(0, 60)


def steps(names: tuple[str, ...], least: int, most: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(
        st.tuples(st.sampled_from(names), number, number, number), min_size=least, max_size=most
    )


# What to expect


@dataclass
class History:
    """What each run saw, and what of it is the latest of every path."""

    snapshots: list[Tree] = field(default_factory=list)
    now: Tree = field(default_factory=dict)
    # By path and whether it is a folder: when it was last recorded, and how.
    recorded: dict[tuple[bytes, bool], tuple[int, Look]] = field(default_factory=dict)

    def add(self, tree: Tree) -> None:
        run = len(self.snapshots) + 1
        self.snapshots.append(tree)
        for path, seen in tree.items():
            if self.now.get(path) != seen:
                self.recorded[path, stat.S_ISDIR(seen.kind)] = (run, seen)
        self.now = tree

    def latest(self) -> Tree:
        """Everything there ever was; the older of file and folder is called x~N."""
        renamed = {}
        for (path, is_folder), (run, _) in self.recorded.items():
            other = self.recorded.get((path, not is_folder))
            if other and other[0] > run:
                renamed[path, is_folder] = path + b"~%d" % run
        return {
            self._name(path, is_folder, renamed): seen
            for (path, is_folder), (_, seen) in self.recorded.items()
        }

    def _name(
        self, path: bytes, is_folder: bool, renamed: dict[tuple[bytes, bool], bytes]
    ) -> bytes:
        parent, _, name = renamed.get((path, is_folder), path).rpartition(b"/")
        return self._name(parent, True, renamed) + b"/" + name if parent else name


class Trial:
    """One archive with its history, in a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.world = new_world(root)
        self.garden = Garden(self.world.source)
        self.history = History()
        self.blocks: list[dict[bytes, int]] = []

    def run(self) -> None:
        """Archive, compare what was archived with what is there."""
        tree = look(self.world.source)
        before = self.world.objects()
        result = self.world.resume(allow_empty=True)
        assert not self.world.problems
        assert look(self.world.source) == tree
        same = bool(self.history.snapshots) and tree == self.history.now
        assert result.new is not same
        if same:
            assert self.world.objects() == before
            return
        self.history.add(tree)
        self.blocks.append(blocks(self.world.source, tree))
        self.keep()
        assert result.snapshot == len(self.history.snapshots)
        assert result.files == sum(seen.kind == stat.S_IFREG for seen in tree.values())
        self.check_snapshot(result.snapshot)

    def kept(self, run: int) -> Path:
        """A copy of the source as it was in a run."""
        return self.world.root / f"kept{run}"

    def keep(self) -> None:
        """Copy the source, by a program that is not ours."""
        command = ["rsync", "-aHAXS", "--no-devices", "--no-specials", "--modify-window=-1", "-q"]
        source, copy = self.world.source, self.kept(len(self.history.snapshots))
        subprocess.run([*command, f"{source}/", f"{copy}/"], check=True)

    def check_snapshot(self, run: int) -> Path:
        folder, result = self.world.restore(snapshot=run)
        assert not self.world.problems
        assert (result.failed, result.differing, result.kept) == (0, 0, 0)
        assert_same(look(folder), self.history.snapshots[run - 1])
        assert rsync_says(self.kept(run), folder) == ""
        now = blocks(folder, self.history.snapshots[run - 1])
        assert all(count <= self.blocks[run - 1][path] + 8 for path, count in now.items())
        return folder

    def check_all(self) -> None:
        for run in range(1, len(self.history.snapshots) + 1):
            self.check_snapshot(run)
        latest, _ = self.world.restore()
        assert not self.world.problems
        assert_same(look(latest), self.history.latest())
        decrypted, _ = self.world.decrypt()
        assert not self.world.problems
        assert_same(look(decrypted), look(latest))
        assert rsync_says(latest, decrypted) == ""
        exact, _ = self.world.restore(exact=True)
        assert_same(look(exact), self.history.now)
        again, result = self.world.restore(into=latest)
        assert result.restored == 0
        assert not self.world.problems
        assert_same(look(again), self.history.latest())

    def check_recovered(self) -> None:
        """The .archive is lost: the new one says the same, restores the same, sends nothing."""
        if not self.history.snapshots:
            return
        said, sent = said_by(self.world.archive), self.world.objects()
        self.world.recover().rename(self.world.archive)
        assert not self.world.problems
        assert said_by(self.world.archive) == said
        self.run()
        assert self.world.objects() == sent
        self.check_snapshot(len(self.history.snapshots))
        observer = Quiet()
        with Catalogue.open(self.world.archive, write=False) as catalogue:
            verify(catalogue, LocalStorage(self.world.storage), observer, Fraction(1))
        assert not observer.problems

    def check_packs_alone(self) -> None:
        """Without manifests: each file is as it was at some time, and none is damaged."""
        packs = self.world.objects(Kind.PACK)
        if not packs:
            return
        folder, _ = self.world.decrypt(self.world.some(*packs))
        assert not self.world.problems
        ever: dict[bytes, list[bytes]] = {}
        for tree in self.history.snapshots:
            for path, seen in tree.items():
                if seen.kind == stat.S_IFREG:
                    ever.setdefault(path, []).append(seen.content)
        states = {content for every in ever.values() for content in every}
        found = {path: seen.content for path, seen in look(folder).items()
                 if seen.kind == stat.S_IFREG}  # fmt: skip
        assert set(found.values()) <= states
        # A path that was a file all along, and cost new data, is there.
        for path, every in ever.items():
            renamed = any((path[:end], False) in self.history.recorded
                          and (path[:end], True) in self.history.recorded
                          for end in range(len(path) + 1))  # fmt: skip
            if not renamed and path in found:
                assert found[path] in every


def blocks(root: Path, tree: Tree) -> dict[bytes, int]:
    """How much of the disk the files with holes take."""
    return {
        path: os.stat(os.fsencode(root) + b"/" + path).st_blocks
        for path, seen in tree.items()
        # Holes of smaller files are not worth an entry of their own.
        if seen.sparse and len(seen.content) >= SPARSE_MIN
    }


tuning = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([0, 1 << 20, 256 << 10]),
        "pack_size": st.sampled_from([0, 1 << 20, 64 << 10]),
        "manifest_every": st.sampled_from([0, 1]),
        "log_size": st.sampled_from([0, 24 << 10]),
        "checkpoint_after": st.sampled_from([0, 1]),
        "entries_raw": st.sampled_from([0, 64, 1000]),
        "racy": st.sampled_from([None, 20_000_000]),
    }
)


EXAMPLES = int(os.environ.get("PYARCHIVER_TREES", "30"))
"""How many trees are tried: `make trees` tries thousands."""


@settings(
    deadline=None, max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(
    tuning,
    steps((*GROW, *ADORN, "special"), 0, 25),
    st.lists(steps((*GROW, *CHANGE), 0, 8), max_size=4),
)
def test_any_tree(limits: dict[str, Any], first: list[Any], changes: list[list[Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, tuned(**limits):
        trial = Trial(Path(folder))
        for operations in [first, *changes]:
            for operation in operations:
                trial.garden.apply(operation)
            trial.run()
        trial.check_all()
        trial.check_recovered()
        trial.check_packs_alone()


def planted(root: Path) -> Trial:
    """A tree with one of everything."""
    trial = Trial(root)
    for operation in [
        ("write", 0, 0, 7), ("write", 0, 1, 6), ("mkdir", 0, 2, 0), ("write", 1, 3, 5),
        ("write", 1, 4, 0), ("symlink", 0, 5, 2), ("symlink", 1, 5, 0), ("hardlink", 1, 6, 0),
        ("sparse", 0, 7, 2), ("mkdir", 1, 8, 0), ("touch", 0, 3, 0), ("chmod", 1, 5, 0),
        ("xattr", 0, 0, 9), ("chown", 1, 1, 0),
    ]:  # fmt: skip
        trial.garden.apply(operation)
    return trial


@pytest.mark.parametrize("suite", ["aegis256", "xchacha20poly1305"])
def test_one_of_everything(tmp_path: Path, suite: str) -> None:
    trial = planted(tmp_path / "first")
    world = trial.world
    world.archive.unlink()
    world.settings = replace(world.settings, suite=suite)
    world.start()
    kinds = {seen.kind for seen in look(world.source).values()}
    assert kinds == {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
    assert any(seen.inode for seen in look(world.source).values())
    assert any(seen.sparse for seen in look(world.source).values())
    assert any(seen.xattrs for seen in look(world.source).values())
    with tuned():
        trial.run()
        trial.run()
        trial.check_all()
        trial.check_recovered()
        trial.check_packs_alone()


def test_file_folder_file_folder(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    source = trial.world.source
    with tuned():
        (source / "x").mkdir()
        (source / "x" / "in").mkdir()
        (source / "x" / "in" / "one").write_bytes(b"1")
        trial.run()
        shutil.rmtree(source / "x")
        (source / "x").write_bytes(b"file")
        trial.run()
        (source / "x").unlink()
        (source / "x").mkdir()
        (source / "x" / "in").write_bytes(b"file too")
        trial.run()
        trial.check_all()
        latest, _ = trial.world.restore()
    assert (latest / "x~2").read_bytes() == b"file"
    assert (latest / "x" / "in").read_bytes() == b"file too"
    assert (latest / "x" / "in~1" / "one").read_bytes() == b"1"


def test_a_folder_known_only_by_what_is_in_it(tmp_path: Path) -> None:
    """Packs alone do not say that a file became a folder; the older gets another name."""
    world = new_world(tmp_path)
    world.write("x", noise("file", 3000))
    world.write("y/below/deep", noise("deep", 3000))
    world.resume()
    (world.source / "x").unlink()
    world.write("x/below", noise("below", 3000))
    shutil.rmtree(world.source / "y")
    world.write("y", noise("y", 3000))
    world.resume()
    folder, _ = world.decrypt(world.some(*world.objects(Kind.PACK)))
    assert not world.problems
    assert contents(folder) == {
        "x~1": noise("file", 3000),
        "x/below": noise("below", 3000),
        "y~1/below/deep": noise("deep", 3000),
        "y": noise("y", 3000),
    }


def test_a_folder_known_only_by_what_is_deep_in_it(tmp_path: Path) -> None:
    """Folders that were moved are told of by a manifest alone, a file in them by a later pack."""
    world = new_world(tmp_path)
    source = world.source
    for path in ("x", "for y/a/b/deep", "for x/a/b/deep"):
        world.write(path, noise(path, 3000))
    world.resume()
    (source / "x").unlink()
    (source / "for x").rename(source / "x")
    (source / "for y").rename(source / "y")
    world.resume()
    world.write("x/a/b/deep", noise("x later", 3000))
    world.write("y/a/b/deep", noise("y later", 3000))
    world.resume()
    shutil.rmtree(source / "y")
    world.write("y", noise("y", 3000))
    world.resume()
    packs = world.some(*world.objects(Kind.PACK))
    expected = {
        "x~1": noise("x", 3000),
        "x/a/b/deep": noise("x later", 3000),
        "for x/a/b/deep": noise("for x/a/b/deep", 3000),
        "for y/a/b/deep": noise("for y/a/b/deep", 3000),
        "y~3/a/b/deep": noise("y later", 3000),
        "y": noise("y", 3000),
    }
    folder, _ = world.decrypt(packs)
    assert not world.problems
    assert contents(folder) == expected
    done = rescue(packs, tmp_path / "rescued", PASSWORD)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "rescued") == expected


def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    with (world.source / "sparse").open("wb") as file:
        file.write(noise(0, 100_000))
        file.truncate(1 << 32)
    with (world.source / "hole").open("wb") as file:
        file.truncate(1 << 33)
    world.resume()
    folder, result = world.restore()
    assert (folder / "sparse").stat().st_size == 1 << 32
    assert (folder / "sparse").stat().st_blocks < 1000
    assert (folder / "hole").stat().st_size == 1 << 33
    assert (folder / "hole").stat().st_blocks == 0
    with (folder / "sparse").open("rb") as restored:
        assert restored.read(100_000) == noise(0, 100_000)
    assert result.restored == 2


@pytest.mark.parametrize("mtime", [(1 << 63) - 1, 1 << 63, 15_000_000_000_000_000_000])
def test_files_of_a_far_future(tmp_path: Path, mtime: int) -> None:
    """A camera's clock may say anything; ext4 keeps it up to the year 2446."""
    world = new_world(tmp_path)
    world.write("good", b"good")
    world.write("odd", b"odd", mtime)
    if (world.source / "odd").stat().st_mtime_ns != mtime:
        pytest.skip("not possible on this file system")
    world.resume()
    folder, _ = world.restore()
    assert (folder / "good").read_bytes() == b"good"
    assert (folder / "odd").read_bytes() == b"odd"


def test_pack_size_is_never_exceeded(tmp_path: Path) -> None:
    world: World = new_world(tmp_path, pack_size=16 << 20)
    for count in range(5):
        world.write(f"large{count}", noise(count, 7_900_000))
    for count in range(3000):
        world.write(f"many/{count}", noise(("many", count), 1 + count % 3000))
    world.resume()
    packs = world.objects(Kind.PACK)
    assert len(packs) > 2
    assert max(packs.values()) <= 16 << 20
    assert sorted(packs.values())[1] > 6 << 20, "packs are not filled"
    folder, _ = world.restore()
    assert_same(look(folder), look(world.source))


def test_many_manifests_and_checkpoints(tmp_path: Path) -> None:
    """That the small limits of these tests do what they are for."""
    world = new_world(tmp_path)
    limits = {
        "block_size": 256 << 10,
        "pack_size": 64 << 10,
        "manifest_every": 1,
        "log_size": 24 << 10,
    }
    with tuned(**limits, checkpoint_after=1, entries_raw=64):
        for run in range(3):
            for count in range(40):
                world.write(f"{run}/{count}", noise((run, count), 10_000 + count * 1000))
            world.resume()
        assert len(world.objects(Kind.PACK)) > 10
        assert len(world.objects(Kind.MANIFEST)) > 6
        assert len(world.objects(Kind.CHECKPOINT)) > 3
        for folder in (world.restore()[0], world.decrypt()[0]):
            assert_same(look(folder), look(world.source))
        assert not world.problems
