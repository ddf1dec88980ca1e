"""Killed at any moment, the next run completes what was begun: nothing is lost or sent twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import (
    PASSWORD,
    PROGRAM,
    Place,
    Sizes,
    contents,
    differences,
    environment,
    noise,
    run_program,
    small,
    write,
)
from pyarchiver.cas import archiver, create
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.courier import Courier
from pyarchiver.cas.objectfile import ObjectFile
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.rows import STORED
from pyarchiver.formats.aead import Buffer
from pyarchiver.formats.errors import ArchiverError, StorageError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked off"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
DRIVER = Path(__file__).with_name("crash_driver.py")
EVERY = "PYARCHIVER_CRASH" in os.environ
"""Whether to try every single call, as `make crash` does."""

# Scenario, step, stride, ways to end a run there, and how often the step is reached at least.
# `kill` is os._exit; `raise` is what Ctrl-C or a failing disk does: the program ends in order.
CASES = [
    ("first", "prepare", 1, "kill-after", 1),
    ("first", "create", 1, "kill-before kill-after", 1),
    ("first", "rename", 1, "kill-before", 1),
    ("first", "begin_run", 1, "kill-before kill-after raise-after", 1),
    ("first", "open", 2, "kill-after", 7),
    ("first", "feed", 7, "kill-before", 40),
    ("first", "feed", 2, "raise-before", 40),
    ("first", "finish", 2, "kill-before raise-before", 7),
    ("first", "sync", 1, "kill-after raise-before", 8),
    ("first", "stage", 1, "kill-before kill-after", 5),
    ("first", "stage", 1, "raise-before raise-after", 5),
    ("first", "send", 1, "raise-after", 8),
    ("first", "put", 1, "kill-before kill-after", 9),
    ("first", "put", 1, "raise-before raise-after", 9),
    ("first", "renamed", 1, "kill-before", 8),
    ("first", "stored", 1, "kill-before kill-after raise-after", 8),
    ("first", "stage_manifest", 1, "kill-before kill-after raise-after", 2),
    ("first", "kit", 1, "kill-before kill-after raise-before", 1),
    ("first", "stage_checkpoint", 1, "kill-before kill-after raise-after", 1),
    ("first", "add_snapshot", 1, "kill-before kill-after", 1),
    ("first", "commit", 2, "kill-before", 15),
    ("later", "stage", 1, "kill-before kill-after", 2),
    ("later", "put", 1, "kill-after", 4),
    ("later", "stored", 2, "kill-before", 3),
    ("later", "stage_manifest", 1, "kill-before kill-after", 1),
    ("touched", "record", 1, "kill-before kill-after raise-after", 1),
    ("touched", "stage_manifest", 1, "kill-before kill-after", 1),
    ("twice", "resend", 1, "kill-before kill-after raise-after", 1),
    ("twice", "put", 1, "kill-after", 5),
    ("twice", "stored", 2, "kill-before", 5),
    ("twice", "begin_run", 1, "kill-after", 1),
    ("twice", "stage", 1, "kill-after", 2),
    ("nothing", "abandon_run", 1, "kill-before kill-after raise-after", 1),
]

# The same by calls of the system: of a few of them in turn, of all with `make crash`.
CASES += [
    ("first", "os.open", 40, "kill-before kill-after", 30),
    ("first", "os.write", 16, "kill-before torn-before full-before", 16),
    ("first", "os.fsync", 12, "kill-before full-before", 12),
    ("first", "os.rename", 4, "kill-before kill-after", 4),
    ("first", "os.unlink", 1, "kill-before kill-after", 1),
    ("first", "io.write", 1, "kill-before torn-before full-before", 1),
    ("later", "os.write", 16, "torn-before full-before", 1),
    ("later", "os.rename", 4, "kill-after", 1),
]
if EVERY:
    CASES = [(scenario, step, 1, ways, least) for scenario, step, _, ways, least in CASES]


@pytest.mark.parametrize(
    ("scenario", "step", "stride", "ways", "least"),
    CASES,
    ids=[f"{case[0]}-{case[1]}-{case[3].split()[0]}" for case in CASES],
)
def test_ended_at_every_step(
    tmp_path: Path, scenario: str, step: str, stride: int, ways: str, least: int
) -> None:
    """Ended at the N-th call for every N, the next run is as if nothing had happened."""
    done = subprocess.run(
        [sys.executable, DRIVER, tmp_path / "work", scenario, step, str(stride), *ways.split()],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=str(DRIVER.parent)),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert not report["wrong"], "\n".join(report["wrong"])
    for way, reached in report["reached"].items():
        print(f"{scenario}: {step} {way}: reached {reached} times")
        assert reached >= least, way


def test_a_failed_write_never_becomes_a_stored_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses one write in the midst of a pack, and takes all that follow."""
    sizes = Sizes(pack=4 << 20, block=128 << 10)
    place = Place(tmp_path)
    write(place.source / "film", noise("film", 300_000))
    closing = threading.Event()
    feed, secure = ObjectFile.feed, Courier.secure
    calls = 0

    def failing(file: ObjectFile, buffers: list[Buffer]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            # All that is to be written is queued behind this write.
            assert closing.wait(60)
            raise StorageError("no space left, for a moment")
        feed(file, buffers)

    def told(courier: Courier, file: ObjectFile, written: Future[None]) -> Future[None]:
        secured = secure(courier, file, written)
        closing.set()
        return secured

    with small(sizes):
        with monkeypatch.context() as patch:
            patch.setattr(ObjectFile, "feed", failing)
            patch.setattr(Courier, "secure", told)
            with pytest.raises(StorageError, match="no space left"):
                place.start(sizes)
        assert not list(place.storage.iterdir())
        place.resume()
        _assert_equal(place, tmp_path)


def _assert_equal(place: Place, tmp_path: Path) -> None:
    for way in ("restored", "decrypted"):
        observer = Quiet()
        if way == "restored":
            place.restore(tmp_path / way, observer)
        else:
            place.decrypt(place.storage, tmp_path / way, observer)
        assert not observer.problems
        assert differences(place.source, tmp_path / way) == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, ArchiverError])
def test_interrupted_between_staging_and_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """A pack that is staged is kept by whatever ends the run at that moment."""
    sizes = Sizes()
    place = Place(tmp_path)
    write(place.source / "film", noise("film", 300_000))
    send = Courier.send

    def interrupted(courier: Courier, row: int, name: str, size: int) -> None:
        raise error

    with small(sizes):
        with monkeypatch.context() as patch:
            patch.setattr(Courier, "send", interrupted)
            with pytest.raises(error):
                place.start(sizes)
        assert Courier.send is send
        with Catalogue.open(place.archive, write=False) as catalogue:
            staged = catalogue.staged()
        assert len(staged) == 1
        assert (place.storage / f"{staged[0].name}.part").stat().st_size == staged[0].size
        place.resume()
        _assert_equal(place, tmp_path)


def test_a_pack_that_is_lost_before_it_was_sent_is_named(tmp_path: Path) -> None:
    """Neither spooled nor stored: a clear error, not an archive with a hole."""
    sizes = Sizes()
    place = Place(tmp_path)
    write(place.source / "film", noise("film", 300_000))
    with small(sizes):
        place.start(sizes)
        with Catalogue.open(place.archive, write=True) as catalogue:
            row = catalogue.objects()[0]
            catalogue._db.execute("UPDATE objects SET state = 0 WHERE id = ?", (row.id,))
        (place.storage / row.name).unlink()
        with pytest.raises(StorageError, match=row.name):
            place.resume()


def test_a_checkpoint_of_which_a_part_is_missing_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted between two parts, the next checkpoint is due all the same."""
    sizes = Sizes()
    place = Place(tmp_path)
    write(place.source / "film", noise("film", 300_000))
    with small(sizes):
        made = create.check(place.settings(sizes), place.archive)
        catalogue, _ = create.create(made, place.archive, PASSWORD)
        with catalogue:
            monkeypatch.setattr("pyarchiver.cas.log.CHECKPOINT_AFTER", 1)
            stage = Catalogue.stage_checkpoint

            def interrupted(self: Catalogue, *arguments: Any) -> int:
                raise KeyboardInterrupt

            monkeypatch.setattr(Catalogue, "stage_checkpoint", interrupted)
            with pytest.raises(KeyboardInterrupt):
                archiver.resume(catalogue, Quiet())
            monkeypatch.setattr(Catalogue, "stage_checkpoint", stage)
        assert all(path.suffix == ".part" for path in place.objects("c"))
        write(place.source / "more", b"more")
        place.resume()
        assert len(place.objects("c")) == 1
        _assert_equal(place, tmp_path)


RESTORING = ["begin_part", "write_piece", "finish_part", "write_whole", "make_symlink",
             "make_hardlink", "make_folder", "dress", "sync"]  # fmt: skip


@pytest.mark.parametrize("step", RESTORING)
def test_restore_ended_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A restore that was interrupted and run again gives the source, and nothing else."""
    from pyarchiver.cas.tree import Tree

    sizes = Sizes(block=64 << 10, segment=64 << 10)
    place = Place(tmp_path)
    # Each file lies in several blocks, so that it is written in pieces.
    for number in range(4):
        write(place.source / f"d{number % 2}" / f"{number}.raw", noise(number, 150_000))
    write(place.source / "small", b"small")
    os.link(place.source / "small", place.source / "other name")
    (place.source / "link").symlink_to("small")
    original = getattr(Tree, step)
    with small(sizes):
        place.start(sizes)
        number = 0
        while True:
            number += 1
            calls = 0

            def ending(*arguments: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number:  # noqa: B023
                    raise KeyboardInterrupt
                return original(*arguments)

            destination = tmp_path / f"restored{number}"
            monkeypatch.setattr(Tree, step, ending)
            try:
                place.restore(destination, Quiet())
            except KeyboardInterrupt:
                pass
            else:
                break
            monkeypatch.setattr(Tree, step, original)
            # What is complete stays as it is, so that only the rest is written again.
            before = {
                path: data for path, data in contents(destination).items() if ".part" not in path
            }
            observer = Quiet()
            result = place.restore(destination, observer)
            assert not observer.problems
            assert differences(place.source, destination) == ""
            assert result.kept >= len(before) - 1
    assert number > 1


@pytest.fixture(scope="module")
def big_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to be killed in the midst of it."""
    root = tmp_path_factory.mktemp("big") / "source"
    for number in range(30):
        write(root / f"d{number % 3}" / f"{number}.raw", noise(number, 2 << 20))
    return root


def next_command(ini: Path, archive: Path) -> list[str | Path]:
    """What a user runs next: resume, which says so where start is to be run again."""
    holds = archive.exists() and not Catalogue.unfinished(archive)
    return ["resume", archive] if holds else ["start", ini]


def test_killed_at_random_moments(tmp_path: Path, big_source: Path) -> None:
    """kill -9 of the real program, again and again; then everything is there, once."""
    chosen = random.Random(20240229)
    source = tmp_path / "source"
    subprocess.run(["cp", "-a", big_source, source], check=True)
    ini, archive = tmp_path / "photos.ini", tmp_path / "photos.archive"
    storage = tmp_path / "storage"
    done = run_program("init", ini, "--name", "photos", "--source", source, "--storage", storage)
    assert done.returncode == 0
    ini.write_text(ini.read_text().replace("pack size = 232 MiB", "pack size = 16 MiB"))
    killed = 0
    for attempt in range(10):
        command = next_command(ini, archive)
        process = subprocess.Popen(
            [PROGRAM, *command, "-q"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(PYARCHIVER_PASSWORD=PASSWORD),
        )
        try:
            _, errors = process.communicate(timeout=chosen.uniform(0.1, 1.5))
            assert process.returncode == 0, errors
            for number in range(8):
                write(source / f"new{attempt}" / f"{number}", noise((attempt, number), 2 << 20))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
    assert killed
    command = next_command(ini, archive)
    done = run_program(*command, PYARCHIVER_PASSWORD=PASSWORD)
    assert done.returncode == 0, done.stderr
    with Catalogue.open(archive, write=False) as catalogue:
        rows = catalogue.objects()
    assert {row.name for row in rows} == {path.name for path in storage.iterdir()}
    assert all(row.state == STORED for row in rows)
    total = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert sum(row.size for row in rows) < total * 1.13
    for way in ("restore", "decrypt"):
        where = archive if way == "restore" else storage
        done = run_program(way, where, tmp_path / way, PYARCHIVER_PASSWORD=PASSWORD)
        assert done.returncode == 0, done.stderr
        assert differences(source, tmp_path / way) == ""
