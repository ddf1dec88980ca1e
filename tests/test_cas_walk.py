"""The walk: order, what is left out, and what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyarchiver.cas.progress import Quiet, show
from pyarchiver.cas.walk import Folder, Walker
from pyarchiver.formats.errors import SettingsError, SourceError


def make(root: Path, *paths: str | bytes) -> None:
    for path in paths:
        where = Path(os.fsdecode(os.fsencode(root) + b"/" + os.fsencode(path)))
        if os.fsencode(path).endswith(b"/"):
            where.mkdir(parents=True, exist_ok=True)
        else:
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_bytes(b"")


def walker(root: Path, *exclude: str, skip: set[Path] | None = None) -> tuple[Walker, Quiet]:
    observer = Quiet()
    return Walker(root, exclude, skip or set(), observer), observer


def listing(root: Path, *exclude: str, skip: set[Path] | None = None) -> list[bytes]:
    """Paths in the order in which the walk names them."""
    walk, observer = walker(root, *exclude, skip=skip)
    found = []
    for folder in walk.folders():
        prefix = folder.path + b"/" if folder.path else b""
        found += [prefix + name for name, _ in folder.found]
    assert not observer.problems
    return found


def test_parents_first_and_one_suffix_together(tmp_path: Path) -> None:
    make(tmp_path, "b.xmp", "a.jpg", "b.JPG", "a.xmp", "sub/z.jpg", "sub/deep/y", "A/x", ".hidden")
    assert listing(tmp_path) == [
        b".hidden", b"A", b"sub", b"a.jpg", b"b.JPG", b"a.xmp", b"b.xmp",
        b"A/x", b"sub/deep", b"sub/z.jpg", b"sub/deep/y",
    ]  # fmt: skip


def test_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    names = [f"{letter}{number}.{end}" for letter in "ba" for number in (2, 1) for end in "yx"]
    for root, order in (("one", names), ("two", sorted(names)), ("three", sorted(names)[::-1])):
        make(tmp_path / root, *order)
    assert listing(tmp_path / "one") == listing(tmp_path / "two") == listing(tmp_path / "three")


def test_links_are_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "real/file")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert sorted(listing(tmp_path)) == [b"dangling", b"link", b"loop", b"real", b"real/file"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    names = [b"\xff\xfe", b"new\nline", "ümläut".encode(), b"\x01", b" ", b"-rf"]
    make(tmp_path, *(name + b"/" + name for name in names))
    assert sorted(listing(tmp_path)) == sorted(names + [name + b"/" + name for name in names])
    assert b"\xff\xfe" not in listing(tmp_path, "*.tmp", os.fsdecode(b"\xff\xfe"))


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ([], ["a.tmp", "keep.tmp", "cache/a.txt", "sub/cache/b.txt", "sub/a.tmp", "cache.txt"]),
        (["*.tmp"], ["cache/a.txt", "sub/cache/b.txt", "cache.txt"]),
        (["*.tmp", "!keep.tmp"], ["keep.tmp", "cache/a.txt", "sub/cache/b.txt", "cache.txt"]),
        (["!keep.tmp", "*.tmp"], ["cache/a.txt", "sub/cache/b.txt", "cache.txt"]),
        (["/a.tmp"], ["keep.tmp", "cache/a.txt", "sub/cache/b.txt", "sub/a.tmp", "cache.txt"]),
        (["cache/"], ["a.tmp", "keep.tmp", "sub/a.tmp", "cache.txt"]),
        (["/cache/"], ["a.tmp", "keep.tmp", "sub/cache/b.txt", "sub/a.tmp", "cache.txt"]),
        (["/cache"], ["a.tmp", "keep.tmp", "sub/cache/b.txt", "sub/a.tmp", "cache.txt"]),
        (["a.tmp/"], ["a.tmp", "keep.tmp", "cache/a.txt", "sub/cache/b.txt", "sub/a.tmp",
                      "cache.txt"]),
        (["sub/**/b.txt"], ["a.tmp", "keep.tmp", "cache/a.txt", "sub/a.tmp", "cache.txt"]),
        (["**/a.*"], ["keep.tmp", "sub/cache/b.txt", "cache.txt"]),
        (["[ak]*.tmp"], ["cache/a.txt", "sub/cache/b.txt", "cache.txt"]),
        (["/*", "!/sub/"], ["sub/cache/b.txt", "sub/a.tmp"]),
        (["# *"], ["a.tmp", "keep.tmp", "cache/a.txt", "sub/cache/b.txt", "sub/a.tmp",
                   "cache.txt"]),
    ],
)  # fmt: skip
def test_excludes(tmp_path: Path, patterns: list[str], left: list[str]) -> None:
    make(tmp_path, "a.tmp", "keep.tmp", "cache/a.txt", "sub/cache/b.txt", "sub/a.tmp", "cache.txt")
    found = [os.fsdecode(path) for path in listing(tmp_path, *patterns)]
    assert sorted(path for path in found if (tmp_path / path).is_file()) == sorted(left)


def test_an_excluded_folder_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "cache/deep/file", "kept/file")
    read: list[bytes] = []
    os_open = os.open

    def spy(path: bytes, flags: int) -> int:
        read.append(path)
        return os_open(path, flags)

    monkeypatch.setattr(os, "open", spy)
    assert listing(tmp_path, "cache/") == [b"kept", b"kept/file"]
    assert read == [os.fsencode(tmp_path), os.fsencode(tmp_path / "kept")]


def test_a_name_with_newline_is_excluded_only_by_its_own_pattern(tmp_path: Path) -> None:
    make(tmp_path, b"a.tmp", b"a.tmp\n", b"b.tmp\nx")
    assert listing(tmp_path, "*.tmp") == [b"a.tmp\n", b"b.tmp\nx"]


def test_impossible_pattern(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'exclude'"):
        walker(tmp_path, "fine", "!")


def test_skip_is_by_whole_path(tmp_path: Path) -> None:
    make(tmp_path, "x.archive", "sub/x.archive", "x.spool/pack")
    skip = {tmp_path / "x.archive", tmp_path / "x.spool"}
    assert listing(tmp_path, skip=skip) == [b"sub", b"sub/x.archive"]


def test_unreadable_folder_is_named_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "good/file", "bad/file", "z/file")
    os_open = os.open

    def refuse(path: bytes, flags: int) -> int:
        if path.endswith(b"/bad"):
            raise PermissionError(13, "Permission denied", path)
        return os_open(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    walk, observer = walker(tmp_path)
    found = list(walk.folders())
    assert [folder.path for folder in found] == [b"", b"good", b"z"]
    assert [name for name, _ in found[0].found] == [b"bad", b"good", b"z"]
    assert observer.problems == ["folder bad: Permission denied; left as it was"]


def test_folder_that_vanishes_is_empty(tmp_path: Path) -> None:
    make(tmp_path, "gone/file", "here/file")
    walk, observer = walker(tmp_path)
    folders = walk.folders()
    next(folders)
    (tmp_path / "gone" / "file").unlink()
    (tmp_path / "gone").rmdir()
    assert next(folders) == Folder(b"gone", [])
    assert not observer.problems


def test_entry_that_cannot_be_looked_at_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlucky:
        def __init__(self, descriptor: int) -> None:
            self._all = list(os_scandir(descriptor))

        def __enter__(self) -> Unlucky:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> object:
            return iter([Bad(entry) if entry.name == "bad" else entry for entry in self._all])

    class Bad:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name = entry.name

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise OSError(5, "Input/output error")

    os_scandir = os.scandir
    make(tmp_path, "bad", "good")
    monkeypatch.setattr(os, "scandir", Unlucky)
    walk, observer = walker(tmp_path)
    (folder,) = walk.folders()
    assert [name for name, _ in folder.found] == [b"good"]
    assert folder.hidden == {b"bad"}
    assert len(observer.problems) == 1
    assert "bad: Input/output error" in observer.problems[0]


def test_source_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, word in (("nothing", "No such file"), ("file", "folder|directory")):
        with pytest.raises(SourceError, match=word):
            walker(tmp_path / path)[0].root_stat()
    assert walker(tmp_path)[0].root_stat().st_ino == tmp_path.stat().st_ino


def test_show_is_one_printable_line() -> None:
    assert show(b"") == "."
    assert show("Ä b".encode()) == "Ä b"
    assert show(b"a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert show(b"\xff") == "\\xff"
