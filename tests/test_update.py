"""update: a catalogue of an older version becomes what a new one is, whatever comes between."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crash_driver import KILLED, forked
from helpers_cli import PASSWORD, Place, contents, differences, noise, words, write
from pyarchiver.cas import database, migrations
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.database import VERSION, Database
from pyarchiver.cas.migrations import update
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.settings import parse
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats.entry import decode_node
from pyarchiver.formats.errors import CatalogueError
from pyarchiver.formats.keys import new_keys

VECTORS = Path(__file__).with_name("vectors")
TIME = 1_500_000_000


def old_source(source: Path) -> None:
    """What the second run of the kept archive found; the first had `rejected.raw` as well."""
    write(source / "shoot" / "p1.raw", noise("p1", 9_000))
    write(source / "shoot" / "p1.xmp", words("p1 rated", 700))
    os.utime(source / "shoot" / "p1.xmp", ns=(TIME * 10**9 + 1, TIME * 10**9 + 1))
    write(source / "shoot" / "copy.raw", noise("p1", 9_000))
    write(source / "empty", b"")
    (source / "hollow").mkdir()
    (source / "link").symlink_to("shoot/p1.raw")
    os.utime(source / "link", (TIME, TIME), follow_symlinks=False)
    for folder in (source / "shoot", source / "hollow", source):
        os.utime(folder, (TIME, TIME))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The kept archive of version 1, its storage, and its source."""
    made = Place(tmp_path)
    shutil.copy(VECTORS / "catalogue-v1.archive", made.archive)
    made.archive.chmod(0o600)
    shutil.copytree(VECTORS / "catalogue-v1", made.storage)
    old_source(made.source)
    return made


def move_in(place: Place) -> None:
    """Source and storage are no longer where they were when the archive was made."""
    with Catalogue.open(place.archive, write=True) as catalogue:
        settings = parse(catalogue.settings, Path("/"))
        here = replace(settings, source=place.source, url=place.storage.as_uri())
        with catalogue.transaction():
            catalogue.set_settings(here.values())


def dump(path: Path) -> tuple[int, list[str]]:
    """Version and content of a catalogue."""
    with closing(sqlite3.connect(path)) as opened:
        (version,) = opened.execute("PRAGMA user_version").fetchone()
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return version, list(opened.iterdump())


def schema(path: Path) -> set[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as opened:
        return set(opened.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def copy_of(place: Place) -> Path:
    return place.work / "photos.archive.v1"


def beside(place: Place) -> set[str]:
    """Files beside the archive, its lock apart."""
    files = {path.name for path in place.work.iterdir() if path.is_file()}
    return files - {"photos.archive.lock"}


# What it makes


def test_the_kept_archive_goes_on(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updated, it resumes without sending anything again, and every snapshot comes back."""
    before = dump(place.archive)
    assert before[0] == 1
    assert run(["update", str(place.archive)]) == Exit.DONE
    assert "updated from version 1 to 2" in capsys.readouterr().out
    assert dump(place.archive)[0] == VERSION
    move_in(place)
    sent = contents(place.storage)
    result = place.resume()
    assert (result.new, result.snapshot, result.files) == (False, 2, 4)
    assert contents(place.storage) == sent

    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    now, then = place.work / "now", place.work / "then"
    assert run(["restore", str(place.archive), str(now), "--exact"]) == Exit.DONE
    assert differences(place.source, now) == ""
    assert run(["restore", str(place.archive), str(then), "--snapshot", "1"]) == Exit.DONE
    assert (then / "rejected.raw").read_bytes() == noise("rejected", 5_000)
    assert (then / "shoot" / "p1.xmp").read_bytes() == words("p1", 700)

    write(place.source / "new.raw", noise("new", 3_000))
    assert place.resume().snapshot == 3
    # A chunk of version 1 is known still: only the name is new.
    write(place.source / "again.raw", noise("p1", 9_000))
    assert place.resume().snapshot == 4
    with Catalogue.open(place.archive, write=False) as catalogue:
        content = {row.path: decode_node(row.fields).content for row in catalogue.state(4)}
    assert content[b"again.raw"] == content[b"shoot/copy.raw"]
    assert dump(copy_of(place)) == before


def test_the_schema_is_that_of_a_new_archive(place: Place) -> None:
    update(place.archive, Quiet())
    new = place.work / "new.archive"
    Catalogue.create(new, new_keys().writer(), (), {}).close()
    assert schema(place.archive) == schema(new)
    assert dump(new)[0] == VERSION
    assert sorted(migrations.MIGRATIONS) == list(range(2, VERSION + 1))


def test_sums_need_no_look_at_the_headers(place: Place) -> None:
    """What the index of version 2 is for."""
    update(place.archive, Quiet())
    with closing(sqlite3.connect(place.archive)) as opened:
        for query in (
            "SELECT run, kind, state, count(*), sum(size) FROM objects GROUP BY run, kind, state",
            "SELECT count(*), sum(size) FROM objects WHERE state != 2",
            "SELECT 1 FROM objects WHERE run = 9 LIMIT 1",
        ):
            plan = opened.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert any("COVERING INDEX sizes" in row[3] for row in plan), plan


def test_the_copy(place: Place) -> None:
    """As it was, for its owner's eyes only, and one file."""
    before = dump(place.archive)
    mask = os.umask(0)
    try:
        result = update(place.archive, Quiet())
    finally:
        os.umask(mask)
    assert (result.before, result.after, result.copy) == (1, VERSION, copy_of(place))
    assert stat.S_IMODE(copy_of(place).stat().st_mode) == 0o600
    assert beside(place) == {"photos.archive", "photos.archive.v1"}
    assert dump(copy_of(place)) == before


def test_a_copy_of_what_only_the_wal_file_holds(place: Place) -> None:
    """The program that wrote it was killed: its last commits are not in the file itself."""

    def killed() -> int:
        opened = sqlite3.connect(place.archive, isolation_level=None)
        opened.execute("PRAGMA wal_autocheckpoint = 0")
        opened.execute("REPLACE INTO config VALUES ('last', x'01')")
        os._exit(KILLED)

    assert forked(killed) == KILLED
    assert "photos.archive-wal" in beside(place)
    update(place.archive, Quiet())
    assert any("'last'" in line for line in dump(copy_of(place))[1])
    assert beside(place) == {"photos.archive", "photos.archive.v1"}


def test_nothing_to_do(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["update", str(place.archive), "--json"]) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["from"], told["to"], told["copy"]) == (1, VERSION, str(copy_of(place)))
    copy_of(place).unlink()
    before = place.archive.read_bytes()
    assert run(["update", str(place.archive)]) == Exit.DONE
    assert "of version 2 already: nothing to do" in capsys.readouterr().out
    assert run(["update", str(place.archive), "--json"]) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["from"], told["to"], told["copy"]) == (VERSION, VERSION, None)
    assert beside(place) == {"photos.archive"}
    assert place.archive.read_bytes() == before


# Who may open which


@pytest.mark.parametrize(
    "arguments",
    [["resume", "@"], ["restore", "@", "out"], ["restore", "@", "o", "--plan"], ["delete", "@"]],
    ids=" ".join,
)
def test_other_commands_ask_for_an_update(
    place: Place, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    words = [argument.replace("@", str(place.archive)) for argument in arguments]
    assert run(words) == Exit.FAILED
    assert f"run pyarchiver update {place.archive}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "message"),
    [(VERSION + 1, "was written by a newer pyarchiver"), (0, "version 0, which never was")],
)
def test_versions_that_it_does_not_know(
    place: Place, capsys: pytest.CaptureFixture[str], version: int, message: str
) -> None:
    with closing(sqlite3.connect(place.archive)) as opened:
        opened.execute(f"PRAGMA user_version = {version}")
    before = dump(place.archive)
    assert run(["update", str(place.archive)]) == Exit.FAILED
    assert message in capsys.readouterr().err
    assert dump(place.archive) == before
    assert beside(place) == {"photos.archive"}


def test_what_is_no_archive(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    text = place.work / "text.archive"
    text.write_bytes(b"no archive\n" * 100)
    assert run(["update", str(text)]) == Exit.FAILED
    assert "is no pyarchiver archive" in capsys.readouterr().err
    assert run(["update", str(place.work / "none.archive")]) == Exit.FAILED
    assert "no archive" in capsys.readouterr().err
    assert text.read_bytes() == b"no archive\n" * 100


# Bad days


def test_another_writer(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with Database.open(place.archive, write=True, older=True):
        assert run(["update", str(place.archive)]) == Exit.FAILED
    assert "in use by another pyarchiver" in capsys.readouterr().err
    assert beside(place) == {"photos.archive"}
    assert dump(place.archive)[0] == 1


def test_a_reader_of_the_old_version_does_not_matter(place: Place) -> None:
    """While one reads, the new version stands in the -wal file only; others see it there."""
    with closing(sqlite3.connect(place.archive, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        objects = reader.execute("SELECT * FROM objects").fetchall()
        update(place.archive, Quiet())
        with Catalogue.open(place.archive, write=False) as opened:
            assert len(opened.objects()) == len(objects) == 4
        assert update(place.archive, Quiet()).copy is None
    assert dump(place.archive)[0] == VERSION


def test_a_copy_that_is_another_is_never_overwritten(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of(place).write_bytes(b"something else")
    before = place.archive.read_bytes()
    assert run(["update", str(place.archive)]) == Exit.FAILED
    assert "photos.archive.v1 is there already, and is no copy" in capsys.readouterr().err
    assert copy_of(place).read_bytes() == b"something else"
    assert place.archive.read_bytes() == before
    assert beside(place) == {"photos.archive", "photos.archive.v1"}
    copy_of(place).rename(place.work / "moved away")
    assert run(["update", str(place.archive)]) == Exit.DONE


def full(monkeypatch: pytest.MonkeyPatch, end: str, pages: int) -> None:
    """A disk that has room for so many pages of the file whose name ends so."""
    connect = database._connect

    def connected(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        if path.name.endswith(end):
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(database, "_connect", connected)


@pytest.mark.parametrize(
    ("end", "message"),
    [(".v1.new", "cannot write the copy"), (".archive", "cannot write to the .archive")],
)
def test_a_full_disk(
    place: Place, capsys: pytest.CaptureFixture[str], end: str, message: str
) -> None:
    before = dump(place.archive)
    with pytest.MonkeyPatch.context() as patch:
        full(patch, end, 5)
        assert run(["update", str(place.archive)]) == Exit.FAILED
    told = capsys.readouterr().err
    assert message in told
    assert "full" in told
    assert dump(place.archive) == before
    assert beside(place) <= {"photos.archive", "photos.archive.v1"}
    assert run(["update", str(place.archive)]) == Exit.DONE
    assert dump(copy_of(place)) == before


def test_a_folder_that_is_read_only(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = place.archive.read_bytes()
    opened = os.open

    def refusing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(".new"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refusing)
    assert run(["update", str(place.archive)]) == Exit.FAILED
    assert "cannot write the copy" in (told := capsys.readouterr().err)
    assert "Read-only file system" in told
    assert place.archive.read_bytes() == before
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, m: m != os.W_OK and access(p, m))
    assert run(["update", str(place.archive)]) == Exit.FAILED
    assert "is read-only: make it writable" in capsys.readouterr().err


def test_a_step_that_fails_undoes_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dump(place.archive)
    broken = {2: (*migrations.MIGRATIONS[2], "CREATE INDEX sizes ON objects (run)")}
    monkeypatch.setattr(migrations, "MIGRATIONS", broken)
    with pytest.raises(CatalogueError, match="already exists"):
        update(place.archive, Quiet())
    assert dump(place.archive) == before


def test_the_copy_is_durable_before_anything_changes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def watch(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def told(*arguments: Any, **named: Any) -> Any:
            synced = name == "fsync" and not stat.S_ISREG(os.fstat(arguments[0]).st_mode)
            done.append("fsync of the folder" if synced else name)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, told)

    for owner, name in ((os, "fsync"), (Path, "rename"), (Database, "migrate")):
        watch(owner, name)
    update(place.archive, Quiet())
    assert done == ["fsync", "rename", "fsync of the folder", "migrate"]
