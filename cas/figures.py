"""The figures of a profile as ini files show them, and a profile from what they say.

`PROFILES` are those of profiles.ini, which has the same lines as the section [profile] of an
archive's ini.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from typing import Any, NamedTuple

from pyarchiver.cas.profiles import Profile, Way
from pyarchiver.cas.units import duration_text, parse_duration, parse_size, size_text
from pyarchiver.formats.errors import SettingsError


class Figure(NamedTuple):
    """One line of the ini's section [profile]."""

    field: str
    read: Callable[[str], Any]
    text: Callable[[Any], str]
    about: str = ""

    def of(self, profile: Profile) -> Any:
        """Its value in a profile."""
        value: Any = profile
        for part in self.field.split("."):
            value = getattr(value, part)
        return value


def profile_of(name: str, scheme: str, figures: Mapping[str, str]) -> Profile:
    """The profile of that name, or of a URL's scheme where it is empty, with edited figures.

    Raises SettingsError, which names the setting, also where the profile is for URLs of another
    scheme. A folder may be a mount of anything; an empty scheme is not known yet.
    """
    if not name:
        return with_figures(OF_SCHEME.get(scheme, PROFILES["local-disk"]), figures)
    if name not in PROFILES:
        raise SettingsError(f"setting 'profile' must be one of {', '.join(PROFILES)}")
    known = PROFILES[name]
    if scheme not in ("", "file", known.scheme):
        others = (other.name for other in PROFILES.values() if other.scheme == scheme)
        raise SettingsError(
            f"setting 'profile': {name} is for {known.scheme}://, and 'url' begins with "
            f"{scheme}://: correct one of them (for {scheme}://: {', '.join(others) or 'none'})"
        )
    return with_figures(known, figures)


def with_figures(known: Profile, figures: Mapping[str, str]) -> Profile:
    """A profile with some figures replaced; SettingsError names the one that is wrong."""
    values: dict[str, dict[str, Any]] = {"": {}, "terms": {}, "prices": {}}
    for setting, text in figures.items():
        part, _, field = FIGURES[setting].field.rpartition(".")
        try:
            values[part][field] = FIGURES[setting].read(text)
        except (ValueError, SettingsError) as error:
            raise SettingsError(f"setting {setting!r}: {error}") from None
    return replace(
        known,
        terms=replace(known.terms, **values["terms"]),
        prices=replace(known.prices, **values["prices"]),
        **values[""],
    )


# Values as the ini file has them


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _rate(text: str) -> float:
    if not (size := parse_size(text)):
        raise ValueError("it must be more than 0")
    return float(size)


def _duration(text: str) -> float:
    if not (seconds := parse_duration(text)):
        raise ValueError("it must be more than 0")
    return seconds


def _price(text: str) -> float | None:
    if text and not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        raise ValueError(f"{text!r} is no price such as 0.0025; empty says that it is not known")
    return float(text) if text else None


def _price_text(price: float | None) -> str:
    return "" if price is None else f"{price:.9f}".rstrip("0").rstrip(".")


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"{text!r} is neither yes nor no")
    return text == "yes"


def _yes_text(value: bool) -> str:
    return "yes" if value else "no"


def _way(text: str) -> Way:
    if text not in list(Way):
        raise ValueError(f"{text!r} is none of {', '.join(Way)}")
    return Way(text)


FIGURES = {
    "rename": Figure(
        "rename", _yes, _yes_text, "What the storage can do with a file that is there: yes or no."
    ),
    "append": Figure("append", _yes, _yes_text),
    "utime": Figure("utime", _yes, _yes_text),
    "sizes": Figure("sizes", _yes, _yes_text, "Whether it tells the true size of an object."),
    "ranges": Figure("ranges", _yes, _yes_text, "Whether a part of an object can be read alone."),
    "pack class": Figure(
        "pack_class", str, str,
        "Storage classes (s3:// only), of packs and of manifests; empty: the bucket's own.",
    ),
    "manifest class": Figure("manifest_class", str, str),
    "thaw": Figure(
        "terms.way", _way, str,
        "How an object becomes readable: none (it always is), request (by a request), reading (a\n"
        "first read that fails starts it).",
    ),
    "thaw delay": Figure(
        "terms.delay", parse_duration, duration_text,
        "How long that takes, as a rule and at most: s, min, h or d.",
    ),
    "thaw longest": Figure("terms.longest", parse_duration, duration_text),
    "thaw window": Figure(
        "terms.window", _duration, duration_text,
        "How long it can then be read. Requests for a thaw name it in days.",
    ),
    "thaw tier": Figure("terms.tier", str, str, "The tier of the request, such as Bulk."),
    "thaw poll": Figure(
        "terms.poll", _duration, duration_text, "How often to look at what is overdue."
    ),
    "download rate": Figure(
        "terms.rate", _rate, size_text,
        "Downloaded in a second, until that was measured: bounds what is thawed at once.",
    ),
    "minimum days": Figure(
        "minimum_days", _number, str,
        "An object deleted sooner is charged as if it had stayed for so many days.",
    ),
    "overhead": Figure("overhead", _number, str, "Bytes charged for each object beside its own."),
    "currency": Figure(
        "prices.currency", str, str,
        "Prices without tax; empty: not known, and then --max-cost refuses. Of a GB (10^9 bytes)\n"
        "stored for 30 days, of a GB thawed, of 1,000 thaws, of the thawed copy of a GB for 30\n"
        "days, of a GB downloaded.",
    ),
    "price of storage": Figure("prices.storage", _price, _price_text),
    "price of thaw": Figure("prices.thaw", _price, _price_text),
    "price of thaws": Figure("prices.thaws", _price, _price_text),
    "price of copy": Figure("prices.copy", _price, _price_text),
    "price of download": Figure("prices.download", _price, _price_text),
    "prices from": Figure("prices.source", str, str, "Date and source of the prices."),
}  # fmt: skip


def _known_profiles() -> dict[str, Profile]:
    """The profiles in profiles.ini; one that is `like` another follows it."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(resources.files(__package__).joinpath("profiles.ini").read_text("utf-8"))
    found: dict[str, Profile] = {}
    for name in parser.sections():
        lines = dict(parser[name])
        like = found.get(lines.pop("like", ""), Profile(name))
        known = replace(like, name=name, scheme=lines.pop("scheme", like.scheme))
        found[name] = with_figures(known, lines)
    return found


PROFILES = _known_profiles()
# The first of each kind of URL is the simplest.
OF_SCHEME = {profile.scheme: profile for profile in reversed(PROFILES.values())}


def figures(profile: Profile) -> dict[str, str]:
    """All figures by their names in the ini file."""
    return {name: figure.text(figure.of(profile)) for name, figure in FIGURES.items()}


def edited(profile: Profile) -> dict[str, str]:
    """The figures that are not those of the profile of this name."""
    own = figures(PROFILES[profile.name])
    return {name: text for name, text in figures(profile).items() if text != own[name]}


def ini_section(profile: Profile) -> str:
    """The section [profile] of an ini file, with a comment for each group of figures."""
    lines = ["[profile]"]
    for name, text in figures(profile).items():
        if about := FIGURES[name].about:
            lines += ["", *(f"# {line}" for line in about.splitlines())]
        lines.append(f"{name} = {text}".rstrip())
    return "\n".join(lines) + "\n"
