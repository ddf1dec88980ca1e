"""bench: what it measures is what a run does, within bounds of time and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import noise, words, write
from pyarchiver.cas import speed as engine
from pyarchiver.cas.press import press_block
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.speed import Rate, read_sample, recommended, speed
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats.errors import SourceError

BLOCK = 256 << 10


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BLOCK_RAW_MAX", BLOCK)
    monkeypatch.setattr(engine, "LEVELS", (1, 9))


def test_noise_is_stored_as_it_is_and_text_shrinks(tmp_path: Path) -> None:
    for number in range(9):
        write(tmp_path / "noise" / f"{number}.raw", noise(number, BLOCK))
        write(tmp_path / "text" / f"{number}.txt", words(number, BLOCK))
    raw, text = (speed(tmp_path / name, Quiet()) for name in ("noise", "text"))
    assert raw.files == text.files == 9
    assert raw.size == text.size == 9 * BLOCK
    assert raw.sampled == engine.BLOCKS * BLOCK
    assert {row.stored for row in raw.rates} == {1.0}
    assert all(row.stored < 0.5 for row in text.rates)
    assert {(row.suite, row.level) for row in raw.rates} == {
        (suite, level) for suite in ("aegis256", "xchacha20poly1305") for level in (1, 9)
    }
    assert all(row.rate > 0 for row in raw.rates)
    assert raw.recommended in raw.rates


def test_a_slow_level_is_judged_by_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SECONDS", 0.0)
    pressed = 0

    def counted(*given: Any) -> tuple[bytes, memoryview]:
        nonlocal pressed
        pressed += 1
        return press_block(*given)

    monkeypatch.setattr(engine, "press_block", counted)
    for number in range(4):
        write(tmp_path / f"{number}.txt", words(number, BLOCK))
    assert len(speed(tmp_path, Quiet()).rates) == 4
    assert pressed == 2


def test_the_sample_is_spread_over_the_bytes(tmp_path: Path) -> None:
    big = noise("big", 40 * BLOCK)
    write(tmp_path / "a.raw", big)
    write(tmp_path / "b.raw", noise("b", 100))
    sample = read_sample(tmp_path, Quiet())
    assert len(sample.blocks) == engine.BLOCKS
    places = [big.find(block[:64]) for block in sample.blocks]
    size = len(big) + 100
    assert places == [size * number // engine.BLOCKS for number in range(engine.BLOCKS)]


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "gone.raw", noise(1, 5_000))
    write(tmp_path / "here.raw", noise(2, 5_000))
    (tmp_path / "link").symlink_to("gone.raw")
    (tmp_path / "gone.raw").unlink()
    assert read_sample(tmp_path, Quiet()).size == 5_000


def test_nothing_to_sample(tmp_path: Path) -> None:
    write(tmp_path / "empty", b"")
    with pytest.raises(SourceError, match="no file with anything"):
        speed(tmp_path, Quiet())


def rate(level: int, speed: float, stored: float, suite: str = "aegis256") -> Rate:
    return Rate(suite, level, speed, stored)


def test_what_is_recommended() -> None:
    slow = rate(1, 300e6, 0.5, "xchacha20poly1305")
    rows = [rate(1, 500e6, 0.5), rate(3, 300e6, 0.4), rate(9, 130e6, 0.398), rate(15, 5e6, 0.3)]
    assert recommended([slow, *rows]) == rows[1], "9 stores too little less, 15 is too slow"
    assert recommended([rate(1, 90e6, 0.5), rate(3, 80e6, 0.3)]).level == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.txt", words("a", BLOCK))
    assert run(["bench", str(tmp_path)]) == Exit.DONE
    assert "recommended: suite = " in capsys.readouterr().out
    assert run(["bench", "--json"]) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["exit"] == 0
    assert found["sampled"] == engine.BLOCKS * BLOCK
    assert run(["bench", str(tmp_path / "nowhere")]) == Exit.USAGE
