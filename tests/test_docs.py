"""The documents say what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from pyarchiver.cmd.exits import MEANING
from pyarchiver.cmd.main import COMMANDS

ROOT = Path(__file__).parents[1]


def test_the_command_reference_is_up_to_date() -> None:
    script = ROOT / "bench" / "reference.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_names_every_command_and_exit_code() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for name in COMMANDS:
        assert re.search(rf"\| `{name} ", text), name
    for code in MEANING:
        assert re.search(rf"\b{int(code)} [a-z]", text), code


def test_contributing_says_why_each_dependency_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for requirement in metadata.requires("pyarchiver") or []:
        if "extra ==" not in requirement:
            name = re.match(r"[A-Za-z0-9]+", requirement)
            assert name is not None
            assert f"| {name[0].lower()} |" in text, requirement


def test_contributing_maps_every_module_of_the_store() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for path in (ROOT / "cas").glob("*.py"):
        assert path.name == "__init__.py" or path.name in text, path.name
