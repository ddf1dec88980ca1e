"""Hostile input for every decoder: a mutation loop that reaches what lies behind the seals.

    python tests/fuzz.py [--seconds 600] [--seed 1] [--only TARGET] [--at N]

The corpus are the golden vectors and what the tests of formats/ encode. Payloads are mutated as
bytes, as records and as msgpack values, and sealed again with the keys of the golden archive, as
somebody who stole them would. Only errors of the program's own tree may come out, within seconds
and a bound of memory; where the second reader accepts what ours accepts, both must have read the
same. Whatever is found names target, seed and number: `--at` repeats it.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from fuzz_targets import TARGETS
from pyarchiver.formats.errors import ArchiverError

SECONDS_MAX = 20
MEMORY_MAX = 3 << 30


class TooSlowError(Exception):
    """An input takes longer than any of its size may."""


@contextmanager
def bounded() -> Iterator[None]:
    """Fails what takes longer than SECONDS_MAX."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(target: Callable[[random.Random], None], name: str, seed: int, number: int) -> None:
    """One input; raises what is not one of our own errors."""
    with bounded(), suppress(ArchiverError):
        target(random.Random(f"{name} {seed} {number}"))


def where(error: BaseException) -> str:
    """The innermost line of ours in a traceback, to tell finds apart."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "fuzz" not in frame.filename
    ]
    last = frames[-1] if frames else None
    return f"{type(error).__name__} at {last.filename}:{last.lineno}" if last else repr(error)


def campaign(names: list[str], seconds: float, seed: int) -> dict[str, str]:
    """Every target in turn until the time is over; the finds, each place once."""
    finds: dict[str, str] = {}
    counts = dict.fromkeys(names, 0)
    spent = dict.fromkeys(names, 0.0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # The one that had least: a slow target must not starve the others.
        name = min(names, key=lambda each: spent[each])
        began = time.monotonic()
        try:
            attempt(TARGETS[name], name, seed, counts[name])
        except Exception as error:
            place = f"{name}: {where(error)}"
            if place not in finds:
                finds[place] = f"--only '{name}' --seed {seed} --at {counts[name]}"
                print(f"{place}: {error!s:.200}\n    {finds[place]}", flush=True)
        spent[name] += time.monotonic() - began
        counts[name] += 1
    for name in names:
        print(f"{name}: {counts[name]:,} inputs, {spent[name]:.0f} s")
    return finds


def main() -> None:
    """A campaign, or one input again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--at", type=int)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    if options.at is not None:
        attempt(TARGETS[options.only], options.only, options.seed, options.at)
        return
    names = [options.only] if options.only else list(TARGETS)
    finds = campaign(names, options.seconds, options.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(f"seed {options.seed}: {len(finds)} finds; peak memory {peak / 1e6:.0f} MB")
    sys.exit(1 if finds else 0)


if __name__ == "__main__":
    main()
