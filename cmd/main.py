"""The command `pyarchiver`: finds the subcommand, and turns every error into words and a code.

Subcommands are imported when they are called, so that `pyarchiver --help` is quick.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
from functools import cache
from types import FrameType

import click

from pyarchiver.cmd.exits import MEANING, Exit, exit_of
from pyarchiver.cmd.streams import OutputError, guard
from pyarchiver.formats.errors import ArchiverError

COMMANDS = {
    "init": "Write an ini file that explains every setting.",
    "start": "Make a new archive and archive its source.",
    "resume": "Complete an interrupted run, and add what is new or changed.",
    "restore": "Get files back from the storage.",
    "thaw": "Ask cold storage for what a restore would need.",
    "decrypt": "Get files back from downloaded objects, without the .archive.",
    "status": "Tell what an archive holds, and what a resume would complete.",
    "list": "List what is in an archive.",
    "find": "Find files in all snapshots, and the packs they lie in.",
    "diff": "Tell what differs between snapshots, or in the source.",
    "verify": "See whether all objects are in the storage, and whole.",
    "kit": "Write what gives the files back without pyarchiver, for a drawer.",
    "recover": "Make a lost .archive anew from the storage.",
    "delete": "Delete an archive from the storage, for good.",
    "settings": "Show the settings of an archive, or change them.",
    "password": "Change the password, for all that is written from now on.",
    "bench": "Tell how fast an archive would run on this machine.",
    "update": "Bring an .archive of an older version up to date.",
}

_EXITS = "\n".join(f"  {code:<4} {text}" for code, text in MEANING.items())


class _Commands(click.Group):
    """Subcommands by name, each in its own module of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pyarchiver.cmd.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from pyarchiver.cas.version import PROGRAM

        click.echo(PROGRAM)
        ctx.exit()


@click.group(
    cls=_Commands,
    epilog=f"\b\nExit status:\n{_EXITS}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version and exit.",
)  # fmt: skip
def cli() -> None:
    """Archive folders into cold storage: deduplicated, encrypted, and readable with nothing but
    the packs and the password.

    \b
    Example:
      pyarchiver init photos.ini --name photos --source ~/Photos --storage file:///mnt/cold
      pyarchiver start photos.ini
      pyarchiver resume photos.archive
      pyarchiver restore photos.archive ~/restored
      pyarchiver thaw photos.archive 2019/wedding
      pyarchiver decrypt /mnt/cold ~/restored
      pyarchiver status photos.archive
      pyarchiver list photos.archive --long
      pyarchiver find photos.archive 'IMG_04*.CR3'
      pyarchiver diff photos.archive
      pyarchiver verify photos.archive --sample 5%
      pyarchiver kit photos.archive ~/for-the-drawer
      pyarchiver recover file:///mnt/cold photos.archive
      pyarchiver delete photos.archive
      pyarchiver settings photos.archive > photos.ini
      pyarchiver password photos.archive
      pyarchiver bench ~/Photos
      pyarchiver update photos.archive
    """
    from pyarchiver.cas import asking

    asking.ask = _ask


class _Interrupter:
    """The first signal ends the program in order; another one at once, whatever it waits for.

    Nothing is lost by either: a program that is killed at any moment leaves what the next run
    completes.
    """

    def __init__(self) -> None:
        self._before = False

    def __call__(self, _: int, __: FrameType | None) -> None:
        if self._before:
            # Progress on a terminal hides the cursor.
            show = b"\x1b[?25h" if os.isatty(2) else b""
            with contextlib.suppress(OSError):
                os.write(2, show + b"pyarchiver: interrupted again: ended at once\n")
            os._exit(Exit.INTERRUPTED)
        self._before = True
        raise KeyboardInterrupt


def run(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    options = words[: words.index("--")] if "--" in words else words
    try:
        code = cli.main(words, prog_name="pyarchiver", standalone_mode=False)
        sys.stdout.flush()
        return int(code or Exit.DONE)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    except SystemExit:
        # A shell asked for completions, and has its answer; or nobody reads stdout any more.
        raise
    except BaseException as error:
        message, code = _explain(error)
        from pyarchiver.cas.progress import printable

        click.echo(f"pyarchiver: {printable(message)}", err=True)
        if "--json" in options:
            import json

            with contextlib.suppress(OutputError, BrokenPipeError):
                click.echo(json.dumps({"exit": int(code), "error": message}))
        return code


def _explain(error: BaseException) -> tuple[str, Exit]:
    """What to say of an error that ends the program, and its exit code."""
    match error:
        case click.Abort() if error.__cause__ is None:
            return "interrupted", Exit.INTERRUPTED  # At a prompt: nothing has begun.
        case KeyboardInterrupt() | click.Abort():
            return "interrupted: what was done is kept, run again to go on", Exit.INTERRUPTED
        case ArchiverError():
            return str(error), exit_of(error)
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "pyarchiver"
            message = error.format_message().rstrip(".")
            return f"{message[:1].lower()}{message[1:]} (see {command} --help)", Exit.USAGE
        case MemoryError():
            return f"not enough memory {error}".rstrip(), Exit.FAILED
    if os.environ.get("PYARCHIVER_DEBUG"):
        raise error
    kind = type(error).__name__
    hint = "PYARCHIVER_DEBUG=1 shows where; please report it"
    return f"unexpected {kind}: {error} ({hint})", Exit.FAILED


@cache
def _ask(what: str, variable: str) -> str:
    """A secret that a storage needs: asked for once, however often the storage is opened."""
    from pyarchiver.cmd.secrets import ask

    return ask(what, f"${variable}")


def main() -> None:
    """Entry point of the console script."""
    interrupt = _Interrupter()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Who started this with nohup, or in the background, does not want it to be interrupted.
        if number and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    # Little here is cyclic, and looking for cycles among a million live rows costs a fifth.
    gc.set_threshold(200_000, 20, 100)
    guard()
    sys.exit(run())
