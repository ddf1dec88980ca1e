"""Writes the man pages, pyarchiver.1 and one for each command, from what `--help` says.

python bench/manpages.py [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from pyarchiver.cas.version import VERSION
from pyarchiver.cmd.exits import MEANING
from pyarchiver.cmd.main import COMMANDS, cli
from pyarchiver.cmd.secrets import CODE_VARIABLE, NEW_PASSWORD_VARIABLE, PASSWORD_VARIABLE

TARGET = Path(__file__).parents[1] / "build" / "man"
_VARIABLES = {
    PASSWORD_VARIABLE: "the password, where no --password-file is given",
    NEW_PASSWORD_VARIABLE: "the new password, for pyarchiver password",
    CODE_VARIABLE: "the recovery code, for --recovery-code and pyarchiver kit",
    "NO_COLOR": "if set, nothing is coloured",
}


def pages() -> dict[str, str]:
    """The text of each page, in the language of man(7), by its file's name."""
    root = click.Context(cli, info_name="pyarchiver")
    found = {"pyarchiver.1": _page(root, "pyarchiver", "archives for cold storage", _commands())}
    for name, summary in COMMANDS.items():
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, root, name)
        short = summary[0].lower() + summary[1:].rstrip(".")
        found[f"pyarchiver-{name}.1"] = _page(context, f"pyarchiver-{name}", short, [])
    return found


def _page(context: click.Context, name: str, summary: str, more: list[str]) -> str:
    command = context.command
    synopsis = " ".join(command.collect_usage_pieces(context))
    others = [f"pyarchiver-{other}" for other in COMMANDS] if name == "pyarchiver" else []
    lines = [
        f'.TH "{name.upper()}" "1" "" "pyarchiver {VERSION}" "pyarchiver"',
        ".SH NAME", f"{_text(name)} \\- {_text(summary)}",
        ".SH SYNOPSIS", f"\\fB{_text(context.command_path)}\\fR {_text(synopsis)}",
        ".SH DESCRIPTION", *_paragraphs(cleandoc(command.help or "")),
        *more,
        ".SH OPTIONS", *_options(context),
        *_epilog(command.epilog or ""),
        ".SH EXIT STATUS", *_list({str(int(code)): text for code, text in MEANING.items()}),
        ".SH ENVIRONMENT", *_list(_VARIABLES),
        ".SH SEE ALSO",
        ", ".join(f"\\fB{_text(other)}\\fR(1)" for other in others or ["pyarchiver"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _commands() -> list[str]:
    return [".SH COMMANDS", *_list({f"pyarchiver {name}": text for name, text in COMMANDS.items()})]


def _options(context: click.Context) -> Iterator[str]:
    params = context.command.get_params(context)
    records = [param.get_help_record(context) for param in params if param.opts[0][0] == "-"]
    yield from _list({record[0]: record[1] for record in records if record})


def _epilog(text: str) -> Iterator[str]:
    """Examples; the exit status of the root help has a section of its own."""
    head, _, rest = text.removeprefix("\b\n").partition("\n")
    if head.startswith("Example"):
        yield ".SH EXAMPLES"
        yield from _verbatim(rest.splitlines())


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b"):
            head, *rest = paragraph.removeprefix("\b\n").splitlines()
            yield from (".PP", _text(head))
            yield from _verbatim(rest)
        else:
            yield from (".PP", *map(_text, paragraph.splitlines()))


def _verbatim(lines: list[str]) -> list[str]:
    return [".PP", ".nf", ".RS 4", *(_text(line.strip()) for line in lines), ".RE", ".fi"]


def _list(items: dict[str, str]) -> Iterator[str]:
    for term, text in items.items():
        yield from (".TP", f"\\fB{_text(term)}\\fR", _text(text))


def _text(text: str) -> str:
    """Text for roff: neither a backslash nor a line's first character is to mean anything."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + plain if plain[:1] in (".", "'") else plain


def main() -> None:
    """Write all pages."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")
    print(f"wrote {len(COMMANDS) + 1} pages: man -l {folder / 'pyarchiver.1'}")


if __name__ == "__main__":
    main()
