"""The folders, the arrows between the layers, and where each third-party library lives."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("formats", "cas", "cmd")
# Copied into kits and run by itself, never imported: tests/test_rescue.py has its rules.
SCRIPT = ROOT / "cas" / "kit_files" / "rescue.py"
SOURCES = sorted({path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")} - {SCRIPT})
LINES_MAX = 420
FUNCTION_MAX = 60

# Who may import a library. A folder's name stands for all files in it.
HOMES = {
    "blake3": {"formats", "cas"},
    "boto3": {"cas/s3.py"},
    "botocore": {"cas/s3.py", "cas/s3_errors.py"},
    "click": {"cmd"},
    "cryptography": {"formats"},
    "filelock": {"cas/database.py"},
    "humanize": {"cmd"},
    "msgpack": {"formats/wire.py"},
    "nacl": {"formats"},
    "paramiko": {"cas/sftp.py", "cas/sftp_client.py", "cas/sftp_login.py"},
    "pathspec": {"cas"},
    "pyfastcdc": {"cas/cutter.py"},
    "rich": {"cmd"},
    "segno": {"cas/kit.py"},
    "sqlite3": {"cas/database.py", "cas/plan.py"},
    "tenacity": {"cas/wrappers.py"},
    "urllib3": {"cas/s3_errors.py"},
    "xkcdpass": {"cmd"},
    "zstandard": {"formats", "cas/press.py"},
    "zxcvbn": {"cmd"},
}


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path)}: relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_there_is_something_to_check() -> None:
    assert {path.parent.name for path in SOURCES} == set(LAYERS)
    assert len(SOURCES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_imports_point_inwards(path: Path) -> None:
    allowed = LAYERS[: LAYERS.index(path.relative_to(ROOT).parts[0]) + 1]
    for name in imports_of(path):
        first, *rest = name.split(".")
        assert first not in LAYERS, f"{name}: bare name of a layer"
        if first == "pyarchiver":
            assert rest[0] in allowed, f"{place(path)} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_each_library_has_its_home(path: Path) -> None:
    for name in imports_of(path):
        library = name.split(".")[0]
        if library == "pyarchiver" or (library in sys.stdlib_module_names and library != "sqlite3"):
            continue
        assert library in HOMES, f"{place(path)} imports {name}, which has no home"
        homes = HOMES[library]
        assert homes & {place(path), path.relative_to(ROOT).parts[0]}, f"{place(path)}: {name}"


def test_formats_imports_only_what_reading_in_thirty_years_needs() -> None:
    found = {name.split(".")[0] for path in SOURCES if path.parent.name == "formats"
             for name in imports_of(path)}  # fmt: skip
    libraries = found - set(sys.stdlib_module_names) - {"pyarchiver"}
    assert libraries == {"msgpack", "zstandard", "nacl", "cryptography", "blake3"}


def test_formats_has_no_network_clock_or_thread() -> None:
    banned = {"socket", "time", "datetime", "threading", "concurrent", "asyncio", "urllib"}
    for path in SOURCES:
        if path.parent.name == "formats":
            assert not banned & {name.split(".")[0] for name in imports_of(path)}, place(path)


def test_the_engines_never_print() -> None:
    for path in SOURCES:
        if path.parent.name == "cmd":
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "input"), f"{place(path)}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LINES_MAX
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_MAX, f"{node.name}: {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_modules_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), place(path)


def test_pyproject_lists_the_folders() -> None:
    tool = project()["tool"]
    assert isinstance(tool, dict)
    folders = {path.parent for path in SOURCES}
    names = {"pyarchiver." + place(folder).replace("/", ".") for folder in folders}
    listed = tool["setuptools"]
    assert set(listed["packages"]) == names
    assert listed["package-dir"] == {
        "pyarchiver." + place(folder).replace("/", "."): place(folder) for folder in folders
    }


def test_every_dependency_is_imported_and_every_import_declared() -> None:
    declared = project()["project"]
    assert isinstance(declared, dict)
    needed = {text.split(">=")[0].split("[")[0].lower() for text in declared["dependencies"]}
    named = {"nacl": "pynacl"}
    imported = {
        named.get(library, library)
        for library in HOMES
        if library not in sys.stdlib_module_names
        and any(name.split(".")[0] == library for path in SOURCES for name in imports_of(path))
    }
    extras = {text.split(">=")[0].lower() for extra in declared["optional-dependencies"].values()
              for text in extra}  # fmt: skip
    assert needed <= imported
    assert imported <= needed | extras


def test_cmd_never_hides_the_standard_library() -> None:
    assert not (ROOT / "cmd" / "__init__.py").exists()


@pytest.mark.parametrize("layer", LAYERS)
def test_typed(layer: str) -> None:
    assert (ROOT / layer / "py.typed").is_file()
    link = ROOT / ".typing" / "pyarchiver" / layer
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / layer


def test_typing_has_nothing_else() -> None:
    assert [path.name for path in (ROOT / ".typing").iterdir()] == ["pyarchiver"]
    assert {path.name for path in (ROOT / ".typing" / "pyarchiver").iterdir()} == set(LAYERS)
