"""docs/tour.md is what a new user sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tour_is_what_happens() -> None:
    """docs/tour.md, apart from figures, ids and codes, which differ each time."""
    script = ROOT / "bench" / "tour.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    text = (ROOT / "docs" / "tour.md").read_text("utf-8")
    for command in ("init", "start", "resume", "status", "find", "restore", "decrypt"):
        assert f"$ pyarchiver {command} " in text
    assert "echo the same\nthe same\n" in text
