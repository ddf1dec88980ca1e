"""What the program prints, and with which exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers_cli import PASSWORD, environment, make_tree, write
from pyarchiver.cmd import main, secrets
from pyarchiver.cmd.exits import MEANING, Exit, exit_of
from pyarchiver.cmd.main import COMMANDS, run
from pyarchiver.formats import errors

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.setattr("click.prompt", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setattr("pyarchiver.cas.tree.sync_below", lambda folder: None)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """As from a shell: sys.argv holds the arguments too."""
    monkeypatch.setattr(sys, "argv", ["pyarchiver", *map(str, arguments)])
    return run()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_tree(tmp_path / "source", files=2, size=10_000)
    arguments = ["--name", "photos", "--source", "source", "--storage", "storage", "-q"]
    assert call(monkeypatch, "init", tmp_path / "photos.ini", *arguments) == Exit.DONE
    return tmp_path


def each_command(home: Path, way: str) -> list[tuple[list[str], set[str]]]:
    """Every command as it works, in an order that works, and fields of its result."""
    archive, out = str(home / "photos.archive"), str(home / f"out {way}")
    return [
        (["init", str(home / "other.ini")], {"ini"}),
        (["start", str(home / "photos.ini")], {"archive", "recovery_code", "snapshot", "head"}),
        (["resume", archive], {"archive", "new", "snapshot", "files", "size"}),
        (["restore", archive, out, "--plan"], {"files", "size", "objects"}),
        (["restore", archive, out], {"restored", "kept", "destination"}),
        (["decrypt", str(home / "storage"), out + "2"], {"restored", "kept", "destination"}),
    ]


def test_json_is_one_object_on_stdout(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, names in each_command(home, "json"):
        capsys.readouterr()
        assert call(monkeypatch, *arguments, "--json") == Exit.DONE
        out = capsys.readouterr()
        result = json.loads(out.out)
        assert out.out.count("\n") == 1
        assert names <= set(result), arguments
        assert result["exit"] == 0
        assert result["problems"] == []
        assert PASSWORD not in out.out + out.err


def test_json_tells_problems(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same that is printed on stderr."""
    assert call(monkeypatch, "start", home / "photos.ini", "-q") == Exit.DONE
    write(home / "out" / "empty", b"mine")
    capsys.readouterr()
    arguments = ["restore", home / "photos.archive", home / "out", "no such", "empty", "--json"]
    assert call(monkeypatch, *arguments) == Exit.PARTIAL
    out = capsys.readouterr()
    result = json.loads(out.out)
    assert result["exit"] == Exit.PARTIAL
    assert len(result["problems"]) == 2
    assert all(problem in out.err for problem in result["problems"])


ERRORS = [
    (["resume", "@/no.archive"], Exit.FAILED),
    (["restore", "@/photos.archive", "@/photos.ini"], Exit.FAILED),
    (["restore", "@/photos.archive", "@/out", "--snapshot", "9"], Exit.USAGE),
    (["decrypt", "@/none", "@/out"], Exit.FAILED),
    (["start", "@/photos.ini"], Exit.FAILED),
    (["start", "@/none.ini"], Exit.USAGE),
    (["init", "@/photos.ini"], Exit.USAGE),
    (["restore"], Exit.USAGE),
    (["resume", "@/photos.archive", "--colour"], Exit.USAGE),
    (["restore", "@/photos.archive", "@/out", "--snapshot", "x"], Exit.USAGE),
]


@pytest.mark.parametrize(("arguments", "code"), ERRORS, ids=[" ".join(e[0]) for e in ERRORS])
def test_errors(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: Exit,
) -> None:  # fmt: skip
    """One line on stderr; with --json an object on stdout as well."""
    assert call(monkeypatch, "start", home / "photos.ini", "-q") == Exit.DONE
    arguments = [argument.replace("@", str(home)) for argument in arguments]
    capsys.readouterr()
    assert call(monkeypatch, *arguments) == code
    out = capsys.readouterr()
    assert out.err
    assert "Traceback" not in out.err
    assert not out.out
    assert call(monkeypatch, *arguments, "--json") == code
    result = json.loads(capsys.readouterr().out)
    assert result["exit"] == code
    assert result["error"]


def test_json_errors_do_not_depend_on_how_it_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run([...])` is the same as the shell."""
    assert run(["resume", str(tmp_path / "none.archive"), "--json"]) == Exit.FAILED
    assert json.loads(capsys.readouterr().out)["exit"] == Exit.FAILED


def test_a_file_that_is_called_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind `--` it is no option."""
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "resume", "--", "--json") == Exit.FAILED
    assert capsys.readouterr().out == ""


def test_quiet_prints_nothing_on_success(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But the recovery code, which is never shown again, and what was asked for."""
    for arguments, _ in each_command(home, "quiet"):
        capsys.readouterr()
        assert call(monkeypatch, *arguments, "-q") == Exit.DONE
        out = capsys.readouterr()
        assert not out.err, arguments
        if arguments[0] == "start":
            assert "recovery code" in out.out
        else:
            assert bool(out.out) == ("--plan" in arguments), arguments


def test_what_a_command_is_asked_for_is_printed_with_quiet_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`settings ARCHIVE -q > INI` is no empty file."""
    assert call(monkeypatch, "start", home / "photos.ini", "-q") == Exit.DONE
    archive = home / "photos.archive"
    for words in (
        ["settings", archive], ["status", archive], ["list", archive], ["find", archive, "empty"],
        ["diff", archive], ["restore", archive, home / "out", "--plan"], ["bench", home / "source"],
    ):  # fmt: skip
        capsys.readouterr()
        assert call(monkeypatch, *words) == Exit.DONE
        said = capsys.readouterr().out
        assert call(monkeypatch, *words, "-q") == Exit.DONE
        quietly = capsys.readouterr().out
        if words[0] in ("bench", "diff"):
            assert bool(quietly) == (words[0] == "bench")
        else:
            assert quietly == said, words


SINGLE = re.compile(
    r"(?<![\d.,])1 (?:(?:[a-z]+ ){0,3}(?:file|object|pack|byte|chunk|problem)s|are|were)\b"
)


def test_one_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An archive of a single file: no command speaks of `1 files`, `1 objects`."""
    write(tmp_path / "source" / "only", b"the only file")
    (tmp_path / "manifest").mkdir()
    ini, archive, storage = (tmp_path / name for name in ("p.ini", "photos.archive", "storage"))
    words = ["--name", "photos", "--source", "source", "--storage", "storage"]
    assert call(monkeypatch, "init", ini, *words) == Exit.DONE
    ini.write_text(ini.read_text().replace("kit = yes", "kit = no"))
    assert call(monkeypatch, "start", ini) == Exit.DONE
    [manifest] = storage.glob("*-m-*")
    (tmp_path / "manifest" / manifest.name).write_bytes(manifest.read_bytes())
    for code, *command in [
        (0, "resume", archive), (0, "status", archive), (0, "verify", archive, "--deep"),
        (0, "restore", archive, tmp_path / "out", "--plan"),
        (0, "restore", archive, tmp_path / "out"), (0, "restore", archive, tmp_path / "out"),
        (3, "decrypt", tmp_path / "manifest", tmp_path / "out2"),
        (0, "recover", storage, tmp_path / "new.archive"),
        (3, "recover", tmp_path / "manifest", tmp_path / "newer.archive"),
        (0, "bench", tmp_path / "source"), (0, "delete", archive, "--yes"),
    ]:  # fmt: skip
        assert call(monkeypatch, *command) == code, command
    told = capsys.readouterr()
    assert not SINGLE.findall(told.out + told.err)
    for one in ("1 file,", "read 1 new or changed file,", "1 was there already", "1 problem,"):
        assert one in told.out + told.err


def test_quiet_prints_problems(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "start", home / "photos.ini", "-q") == Exit.DONE
    capsys.readouterr()
    arguments = ["restore", home / "photos.archive", home / "out", "no such", "-q"]
    assert call(monkeypatch, *arguments) == Exit.PARTIAL
    out = capsys.readouterr()
    assert "no such" in out.err
    assert not out.out


def test_verbose_prints_more(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "start", home / "photos.ini", "-q") == Exit.DONE
    capsys.readouterr()
    lines: list[list[str]] = []
    for more in ([], ["-v"]):
        out = home / f"out{len(lines)}"
        assert call(monkeypatch, "decrypt", home / "storage", out, *more) == Exit.DONE
        lines.append(capsys.readouterr().err.splitlines())
    assert len(lines[1]) > len(lines[0])


def test_lines_elsewhere_than_on_a_terminal(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No control characters, each line begins with the program's name."""
    assert call(monkeypatch, "start", home / "photos.ini") == Exit.DONE
    out = capsys.readouterr()
    assert "\x1b" not in out.err + out.out
    assert "\r" not in out.err + out.out
    assert all(line.startswith("pyarchiver: ") for line in out.err.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself and shows an example."""
    for flag in ("--help", "-h"):
        assert run([command, flag]) == Exit.DONE
        text = capsys.readouterr().out
        assert "Example" in text
        assert f"  pyarchiver {command} " in text
        for option in ("--quiet", "--verbose", "--json", "--help"):
            assert option in text


def test_the_help_lists_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == Exit.DONE
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
        assert f"pyarchiver {command} " in text
    assert set(MEANING) == set(Exit)
    for code, meaning in MEANING.items():
        assert re.search(rf"^ +{int(code)} +{re.escape(meaning)}$", text, re.MULTILINE)
    assert {code.value for code in Exit} == {0, 1, 2, 3, 4, 130}


def test_every_error_has_an_exit_code() -> None:
    assert exit_of(errors.SettingsError("x")) == Exit.USAGE
    for kind in (errors.StorageError, errors.PasswordError, errors.DamagedError):
        assert exit_of(kind("x")) == Exit.FAILED


def test_no_command_and_unknown_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == Exit.USAGE
    out = capsys.readouterr()
    assert "Usage" in out.out + out.err
    assert run(["destroy"]) == Exit.USAGE
    assert "destroy" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import metadata

    assert run(["--version"]) == Exit.DONE
    assert capsys.readouterr().out == f"pyarchiver {metadata.version('pyarchiver')}\n"


def test_help_is_quick() -> None:
    """It imports nothing that it does not need."""
    script = (
        "import sys; from pyarchiver.cmd.main import run; code = run(['--help']);"
        "heavy = {'nacl', 'rich', 'sqlite3', 'zstandard', 'cryptography', 'msgpack', 'blake3',"
        " 'pyarchiver.cas'} & set(sys.modules); sys.exit(repr(heavy) if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(),
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Exit status" in done.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (MemoryError("256 MiB"), Exit.FAILED),
        (RuntimeError("what nobody expects"), Exit.FAILED),
        (RecursionError("too deep"), Exit.FAILED),
    ],
)
def test_no_traceback_whatever_happens(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: BaseException, code: Exit,
) -> None:  # fmt: skip
    from pyarchiver.cas import archiver

    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.delenv("PYARCHIVER_DEBUG", raising=False)
    monkeypatch.setattr(archiver, "resume", failing)
    assert call(monkeypatch, "start", home / "photos.ini") == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.strip().startswith("pyarchiver: ")
    assert str(error) in err
    monkeypatch.setenv("PYARCHIVER_DEBUG", "1")
    if isinstance(error, RuntimeError):
        with pytest.raises(type(error)):
            call(monkeypatch, "resume", home / "photos.archive")


def test_the_names_of_secrets_are_stable() -> None:
    """Scripts rely on them."""
    assert secrets.PASSWORD_VARIABLE == "PYARCHIVER_PASSWORD"
    assert secrets.CODE_VARIABLE == "PYARCHIVER_RECOVERY_CODE"
    assert main.COMMANDS


def test_without_a_command_the_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch) == Exit.USAGE
    assert capsys.readouterr().err.startswith("Usage: pyarchiver")


@pytest.mark.parametrize("words", [["frobnicate"], ["resume"], ["list", "a", "--snapshot", "x"]])
def test_usage_errors_read_as_all_others_do(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *words) == Exit.USAGE
    assert re.fullmatch(
        r"pyarchiver: [a-z].*[^.] \(see pyarchiver.* --help\)\n", capsys.readouterr().err
    )
