"""Where passwords and recovery codes come from: a file, the environment, or a prompt."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pyarchiver.cmd.console import Console
from pyarchiver.cmd.files import AnyPath
from pyarchiver.formats import recovery
from pyarchiver.formats.errors import SettingsError

PASSWORD_VARIABLE = "PYARCHIVER_PASSWORD"
NEW_PASSWORD_VARIABLE = "PYARCHIVER_NEW_PASSWORD"
CODE_VARIABLE = "PYARCHIVER_RECOVERY_CODE"
_WORDS = 6
_SCORE_MIN = 3
_FILE_MAX = 64 << 10

password_file = click.option(
    "--password-file",
    type=AnyPath(dir_okay=False),
    metavar="FILE",
    help=f"Read the password from FILE; otherwise from ${PASSWORD_VARIABLE} or a prompt.",
)


def reading_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that need a password or the recovery code."""
    code = click.option(
        "--recovery-code",
        is_flag=True,
        help=f"Use the recovery code instead: from ${CODE_VARIABLE}, the FILE, or a prompt.",
    )
    return password_file(code(function))


def read_secret(file: Path | None, use_code: bool, what: str = "password") -> str | bytes:
    """The password, asked for as `what`, or what the recovery code stands for."""
    variable = CODE_VARIABLE if use_code else PASSWORD_VARIABLE
    text = _given(file, variable)
    if text is None:
        text = ask("recovery code" if use_code else what, "--password-file", f"${variable}")
    return recovery.decode(text) if use_code else text


def new_password(
    console: Console, file: Path | None, allow_weak: bool,
    what: str = "password", variable: str = PASSWORD_VARIABLE, option: str = "--password-file",
) -> str:  # fmt: skip
    """A new password; one that is typed is asked for twice."""
    given = _given(file, variable)
    if given is not None:
        if not given:
            raise SettingsError("the password is empty: an archive needs one")
        if not allow_weak and (why := weakness(given)):
            console.notice(f"the password is weak: {why}")
        return given
    while True:
        password = ask(f"{what} (empty: six random words)", option, f"${variable}")
        if not password:
            return _generated(console)
        why = "" if allow_weak else weakness(password)
        if why:
            click.echo(f"the password is weak: {why}; --weak-password allows it", err=True)
        elif ask(f"{what} again") == password:
            return password
        else:
            click.echo("the two are not the same", err=True)


def weakness(password: str) -> str:
    """Why a password is weak, empty if it is not: an archive can be attacked for decades."""
    from zxcvbn import zxcvbn

    found = zxcvbn(password[:72], max_length=72)
    if found["score"] >= _SCORE_MIN:
        return ""
    advice = found["feedback"]["warning"] or "it can be guessed"
    return str(advice).rstrip(".").lower()


def generate() -> str:
    """Six words of the EFF's long list: 77 bits."""
    from xkcdpass import xkcd_password

    words = xkcd_password.generate_wordlist(xkcd_password.locate_wordfile("eff-long"))
    return str(xkcd_password.generate_xkcdpassword(words, numwords=_WORDS))


def _generated(console: Console) -> str:
    while True:
        password = generate()
        console.secret(f"generated password: {password}", "write it down now")
        if ask("type it once more") == password:
            return password
        click.echo("that is not it; here is another", err=True)


def _given(file: Path | None, variable: str) -> str | None:
    if file is None:
        return os.environ.get(variable)
    try:
        if os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o044:
            click.echo(f"pyarchiver: {file} can be read by others: chmod 600 {file}", err=True)
        with file.open("rb") as opened:
            data = opened.read(_FILE_MAX + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"password file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"password file {file} is not UTF-8 text") from None
    if len(data) > _FILE_MAX:
        raise SettingsError(f"password file {file} has more than 64 KiB: it is something else")
    if not text.strip():
        raise SettingsError(f"password file {file} is empty")
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def ask(text: str, *instead: str) -> str:
    """What is typed at a prompt, unseen; `instead`: what else it could come from."""
    if not sys.stdin.isatty():
        hint = f": use {' or '.join(instead)}" if instead else ""
        raise SettingsError(f"cannot ask for the {text.split(' (')[0]} without a terminal{hint}")
    answer: str = click.prompt(text, hide_input=True, default="", show_default=False, err=True)
    return answer
