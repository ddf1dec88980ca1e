"""kill -9 with many packs on their way; `make crash` does it 200 times."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kill_campaign import campaign

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]


def test_killed_with_packs_in_flight(tmp_path: Path) -> None:
    """Restore equal, nothing sent twice, no object unaccounted for."""
    report = campaign(tmp_path, kills=6)
    assert not report.wrong, report.text()
    assert report.kills >= 6
    assert max(report.in_flight) >= 5, report.text()
