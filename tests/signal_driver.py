"""The program, standing still at one place until it is told to go on: `PLACE GATE ARGUMENTS...`.

PLACE is `module:attribute`. The first call there says "here" on stderr and then waits for the file
GATE. By looking again and again: a signal that comes just before a system call that blocks is seen
by Python only when that call has ended.
"""

from __future__ import annotations

import importlib
import operator
import sys
import time
from pathlib import Path
from typing import Any

from pyarchiver.cmd.main import main
from pyarchiver.formats import keys


def stand_still(place: str, gate: Path) -> None:
    """Make the first call of a function wait."""
    module, _, attribute = place.partition(":")
    owner, _, name = attribute.rpartition(".")
    found = importlib.import_module(module)
    if owner:
        found = operator.attrgetter(owner)(found)
    original = getattr(found, name)
    waited = False

    def waiting(*arguments: Any, **named: Any) -> Any:
        nonlocal waited
        if not waited:
            waited = True
            print("here", file=sys.stderr, flush=True)
            while not gate.exists():
                time.sleep(0.005)
        return original(*arguments, **named)

    setattr(found, name, waiting)


if __name__ == "__main__":
    keys.ARGON2_OPS, keys.ARGON2_MEMORY = 1, 1 << 20
    stand_still(sys.argv[1], Path(sys.argv[2]))
    del sys.argv[1:3]
    main()
