"""Writes docs/commands.md, the command reference, from what `--help` prints.

python bench/reference.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pyarchiver.cmd.main import COMMANDS, cli

TARGET = Path(__file__).parents[1] / "docs" / "commands.md"
WIDTH = 96


def reference() -> str:
    """The text of the command reference."""
    root = click.Context(cli, info_name="pyarchiver", terminal_width=WIDTH)
    parts = [
        "# Command reference",
        "",
        "Made from `--help` by `make docs`; do not edit.",
        *_section("pyarchiver", cli.get_help(root)),
    ]
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, root, name, terminal_width=WIDTH)
        parts += _section(f"pyarchiver {name}", command.get_help(context))
    return "\n".join(parts) + "\n"


def _section(title: str, text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    return ["", f"## {title}", "", "```", *lines, "```"]


def main() -> None:
    """Write the reference, or with --check fail where it is out of date."""
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text("utf-8") != reference():
            sys.exit(f"{TARGET} is out of date: make docs")
        return
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(reference(), "utf-8")


if __name__ == "__main__":
    main()
