"""The program as a process: signals, a terminal, pipes."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
from pathlib import Path

import pytest

from helpers_cli import (
    PASSWORD,
    PROGRAM,
    Stalled,
    contents,
    differences,
    environment,
    make_tree,
    noise,
    on_terminal,
    run_program,
    write,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")
CODE = re.compile(r"recovery code: ([0-9A-Z-]+)")


def prepare(home: Path) -> Path:
    """An ini file for `home`/source; returns it."""
    ini = home / "photos.ini"
    done = run_program(
        "init", ini, "--name", "photos", "--source", home / "source", "--storage", "storage"
    )
    assert done.returncode == 0, done.stderr
    ini.write_text(ini.read_text().replace("pack size = 232 MiB", "pack size = 16 MiB"))
    return ini


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_tree(tmp_path / "source", files=3, size=20_000)
    prepare(tmp_path)
    return tmp_path


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_start(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 130, no traceback; resume completes it, and nothing is stored twice.

    The pipes in folder `b` fill stderr with notices, so that the run stands still there.
    """
    source = tmp_path / "source"
    for index in range(12):
        write(source / "a" / f"{index:02}.raw", noise(index, 4 << 20))
        write(source / "c" / f"{index:02}.raw", noise(("c", index), 2 << 20))
    (source / "b").mkdir()
    for index in range(3000):
        os.mkfifo(source / "b" / f"a pipe that cannot be archived {index:05}")
    ini, archive, storage = prepare(tmp_path), tmp_path / "photos.archive", tmp_path / "storage"
    started = Stalled("start", ini, PYARCHIVER_PASSWORD=PASSWORD)
    started.read_until(b"left out\n")
    code, output = started.end(number)
    assert code == 130, output
    assert "Traceback" not in output
    assert "Exception" not in output
    assert "interrupted" in output
    assert PASSWORD not in output
    sent = {path.name for path in storage.iterdir() if path.suffix != ".part"}
    for path in (source / "b").iterdir():
        path.unlink()
    done = run_program("resume", archive, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["snapshot"] == 1
    stored = {path.name: path.stat().st_size for path in storage.iterdir()}
    assert sent <= set(stored)
    assert sum(stored.values()) < (12 * 6 << 20) * 1.13
    restored = run_program("restore", archive, tmp_path / "out", PYARCHIVER_PASSWORD=PASSWORD)
    assert restored.returncode == 0, restored.stderr
    assert differences(source, tmp_path / "out") == ""


def test_a_second_signal_while_the_first_is_handled(tmp_path: Path) -> None:
    """Somebody who is impatient gets no traceback either."""
    source = tmp_path / "source"
    for index in range(6):
        write(source / "a" / f"{index:02}.raw", noise(index, 4 << 20))
    (source / "b").mkdir()
    for index in range(3000):
        os.mkfifo(source / "b" / f"a pipe that cannot be archived {index:05}")
    ini = prepare(tmp_path)
    started = Stalled("start", ini, PYARCHIVER_PASSWORD=PASSWORD)
    started.read_until(b"left out\n")
    started.process.send_signal(signal.SIGINT)
    code, output = started.end(signal.SIGINT)
    assert code == 130, output
    assert "Traceback" not in output
    done = run_program("resume", tmp_path / "photos.archive", "-q")
    assert done.returncode == 0, done.stderr


def test_a_reader_that_closes_its_pipe(home: Path) -> None:
    """`pyarchiver ... | head -0`: no traceback."""
    process = subprocess.Popen(
        [PROGRAM, "start", home / "photos.ini"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYARCHIVER_PASSWORD=PASSWORD),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() in (0, 1)
    assert b"Traceback" not in errors
    assert not (home / "photos.archive").exists()


def test_the_recovery_code_is_not_lost_with_a_closed_pipe(home: Path) -> None:
    """What is printed once must have been printed: an archive whose code nobody saw is none."""
    process = subprocess.Popen(
        [PROGRAM, "start", home / "photos.ini", "-q"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(PYARCHIVER_PASSWORD=PASSWORD),
    )
    assert process.stdout is not None
    process.stdout.close()
    code = process.wait()
    assert code == 0 or not (home / "photos.archive").exists()


# A terminal


def test_a_whole_life_on_a_terminal(home: Path) -> None:
    """Passwords are asked for without echo; progress is drawn."""
    started = on_terminal("start", home / "photos.ini")
    started.answer("six random words): ", "password")
    started.expect("weak")
    started.answer("six random words): ", PASSWORD)
    started.answer("password again: ", PASSWORD)
    assert started.wait() == 0, started.output
    assert PASSWORD not in started.output
    assert "\x1b[" in started.output
    assert "archiving" in started.output
    (code,) = CODE.findall(started.output)
    # While progress is drawn: at the beginning of a line that was cleared for it.
    assert re.search(r"(\n|\x1b\[2K)recovery code: ", started.output)
    assert re.search(r"if the password is lost\r?\n", started.output)

    resumed = on_terminal("resume", home / "photos.archive")
    assert resumed.wait() == 0
    assert "nothing new" in resumed.output

    restored = on_terminal("restore", home / "photos.archive", home / "out")
    restored.answer("password: ", PASSWORD)
    assert restored.wait() == 0, restored.output
    assert PASSWORD not in restored.output
    assert "restoring" in restored.output
    assert differences(home / "source", home / "out") == ""

    decrypted = on_terminal("decrypt", home / "storage", home / "out2", "--recovery-code")
    decrypted.answer("recovery code: ", code)
    assert decrypted.wait() == 0, decrypted.output
    assert code not in decrypted.output
    assert differences(home / "source", home / "out2") == ""


def test_generated_words_on_a_terminal(home: Path) -> None:
    started = on_terminal("start", home / "photos.ini")
    started.answer("six random words): ", "")
    shown = started.expect("write it down now")
    found = re.search(r"generated password: ([a-z -]+)", shown)
    assert found is not None
    words = found[1].strip()
    assert len(words.split()) == 6
    started.answer("type it once more: ", words)
    assert started.wait() == 0, started.output
    assert started.output.count(words) == 1
    done = run_program("restore", home / "photos.archive", home / "out", PYARCHIVER_PASSWORD=words)
    assert done.returncode == 0, done.stderr


def test_the_wrong_password_on_a_terminal(home: Path) -> None:
    assert run_program("start", home / "photos.ini", PYARCHIVER_PASSWORD=PASSWORD).returncode == 0
    restored = on_terminal("restore", home / "photos.archive", home / "out")
    restored.answer("password: ", "wrong horse battery")
    assert restored.wait() == 1
    assert "wrong password" in restored.output
    assert "wrong horse" not in restored.output
    assert not (home / "out").exists()


def test_ctrl_c_at_the_prompt(home: Path) -> None:
    """Nothing is made."""
    started = on_terminal("start", home / "photos.ini")
    started.expect("six random words): ")
    started.interrupt()
    assert started.wait() == 130, started.output
    assert "Traceback" not in started.output
    assert not (home / "photos.archive").exists()
    assert not (home / "storage").exists()


def test_a_terminal_of_another_kind(home: Path) -> None:
    """A dumb one still gets its results."""
    started = on_terminal("start", home / "photos.ini", PYARCHIVER_PASSWORD=PASSWORD, TERM="dumb")
    assert started.wait() == 0
    assert "snapshot 1" in started.output


def test_json_on_a_terminal(home: Path) -> None:
    """Nothing is drawn."""
    started = on_terminal("start", home / "photos.ini", "--json", PYARCHIVER_PASSWORD=PASSWORD)
    assert started.wait() == 0
    assert "\x1b[" not in started.output


# Pipes


def test_a_pipe_gets_plain_lines(home: Path) -> None:
    done = run_program("start", home / "photos.ini", PYARCHIVER_PASSWORD=PASSWORD)
    assert done.returncode == 0
    assert "pyarchiver: archiving\n" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert len(CODE.findall(done.stdout)) == 1
    assert PASSWORD not in done.stdout + done.stderr
    again = run_program("restore", home / "photos.archive", home / "out", "--json",
                        PYARCHIVER_PASSWORD=PASSWORD)  # fmt: skip
    assert json.loads(again.stdout)["exit"] == 0
    assert contents(home / "out") == contents(home / "source")


def test_exit_codes_of_the_real_program(home: Path) -> None:
    assert run_program("--help").returncode == 0
    assert run_program("resume", home / "none.archive").returncode == 1
    assert run_program("resume").returncode == 2
    assert run_program("start", home / "none.ini").returncode == 2
    assert run_program("start", home / "photos.ini", PYARCHIVER_PASSWORD=PASSWORD).returncode == 0
    more: list[str | Path] = ["restore", home / "photos.archive", home / "out", "no such path"]
    assert run_program(*more, PYARCHIVER_PASSWORD=PASSWORD).returncode == 3


def test_a_destination_whose_name_is_no_utf8(home: Path) -> None:
    """The result is printed all the same, whatever the locale makes of it."""
    assert run_program("start", home / "photos.ini", PYARCHIVER_PASSWORD=PASSWORD).returncode == 0
    out = Path(os.fsdecode(os.fsencode(home) + b"/out \xff"))
    done = subprocess.run(
        [PROGRAM, "restore", home / "photos.archive", out],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(PYARCHIVER_PASSWORD=PASSWORD, PYTHONIOENCODING="utf-8:strict"),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert differences(home / "source", out) == ""


def test_stderr_is_ready_before_it_ends(home: Path) -> None:
    """A pipe sees lines while the run goes on, not at its end only."""
    process = subprocess.Popen(
        [PROGRAM, "start", home / "photos.ini"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(PYARCHIVER_PASSWORD=PASSWORD),
    )
    assert process.stderr is not None
    select.select([process.stderr], [], [])
    assert process.stderr.readline() == b"pyarchiver: archiving\n"
    process.stderr.close()
    process.wait()
