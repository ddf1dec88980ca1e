"""What reading back takes and costs, and what deleting early costs; asks the storage nothing."""

from __future__ import annotations

from dataclasses import dataclass

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.plan import Needed
from pyarchiver.cas.profiles import DAY, Profile, Terms, Way
from pyarchiver.cas.settings import Settings
from pyarchiver.formats.errors import CostError
from pyarchiver.formats.header import Kind

_GB = 1e9
_MONTH = 30.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What reading objects takes. Sizes in bytes, `seconds` until all of it is here.

    `thaws` and `thaw_size`: objects to be asked for, whole; what was asked for and holds still is
    not among them. `cost` in `currency`, without tax; None where a price is not known.
    """

    objects: int
    wanted: int
    download: int
    thaws: int
    thaw_size: int
    seconds: float
    cost: float | None
    currency: str

    @property
    def amplification(self) -> float:
        """Bytes thawed or downloaded, whichever are more, for each byte wanted."""
        return max(self.thaw_size, self.download) / self.wanted if self.wanted else 1.0


def estimate(
    catalogue: Catalogue, settings: Settings, needed: list[Needed], now: float
) -> Estimate:
    """The estimate for objects that are needed, at `now`, in seconds since 1970."""
    terms, prices = settings.profile.terms, settings.profile.prices
    delays = [_delay(catalogue, terms, one.row.id, now) for one in needed]
    cold = [one.row.size for one, delay in zip(needed, delays, strict=True) if delay is None]
    whole = not settings.profile.ranges
    download = sum(one.row.size if whole else one.read for one in needed)
    pause = max((terms.delay if delay is None else delay for delay in delays), default=0.0)
    return Estimate(
        objects=len(needed),
        wanted=sum(one.wanted for one in needed),
        download=download,
        thaws=len(cold),
        thaw_size=sum(cold),
        seconds=pause + _transfer(terms, download_rate(catalogue, settings), download, sum(cold)),
        cost=_sum(
            (prices.thaw, sum(cold) / _GB),
            (prices.thaws, len(cold) / 1000),
            (prices.copy, sum(cold) / _GB * terms.days / _MONTH),
            (prices.download, download / _GB),
        ),
        currency=prices.currency,
    )


def download_rate(catalogue: Catalogue, settings: Settings) -> float:
    """Bytes a second: as measured, as the profile says before that, never above the limit."""
    rate = catalogue.download_rate or settings.profile.terms.rate
    return min(rate, settings.download_limit or rate)


def _delay(catalogue: Catalogue, terms: Terms, row: int, now: float) -> float | None:
    """Seconds until an object can be read; None where it must be asked for."""
    if terms.way == Way.NONE:
        return 0.0
    thaw = catalogue.thaw(row)
    if thaw is None or not thaw.confirmed or not terms.holds(thaw.asked, thaw.until, now):
        return None
    return max(0.0, thaw.ready - now)


def _transfer(terms: Terms, rate: float, download: int, cold: int) -> float:
    """Seconds of the downloads; what exceeds a wave waits for the next to thaw."""
    waves = max(0.0, cold / terms.budget(rate) - 1)
    return max(download / rate, waves * terms.delay)


def _sum(*parts: tuple[float | None, float]) -> float | None:
    """The sum of price times amount; None where a price is not known that matters."""
    total = 0.0
    for price, amount in parts:
        if price is None and amount:
            return None
        total += (price or 0.0) * amount
    return total


def refuse_above(limit: float, found: Estimate) -> None:
    """Raise CostError where the estimate is above the limit, or not known."""
    if found.cost is None:
        raise CostError(
            "what it would cost is not known: fill in the prices of the [profile] section, or "
            "leave --max-cost out; nothing was asked for"
        )
    if found.cost > limit:
        raise CostError(
            f"it would cost about {money(found.cost, found.currency)}, more than "
            f"{money(limit, found.currency)}: nothing was asked for"
        )


def money(amount: float | None, currency: str) -> str:
    """An amount in words; small ones with more digits."""
    if amount is None:
        return "not known"
    return f"{amount:,.{2 if amount >= 0.1 or not amount else 6}f} {currency}"


@dataclass(frozen=True, slots=True)
class Fee:
    """What is charged for objects that are deleted before their minimum time.

    `objects` of them, the youngest for `days` more; `cost` None where the price is not known.
    """

    objects: int
    days: float
    cost: float | None
    currency: str


def early_deletion(catalogue: Catalogue, profile: Profile, now: float) -> Fee:
    """The fee for deleting all that remains at `now`, in seconds since 1970."""
    objects, longest, gb_months = 0, 0.0, 0.0
    for kind, stored, count, size in catalogue.remaining_by_age():
        if kind != Kind.PACK and profile.manifest_class != profile.pack_class:
            continue
        age = 0.0 if stored is None else now - stored / 1e9
        left = profile.minimum_days - max(0.0, age) / DAY
        if left > 0:
            objects += count
            longest = max(longest, left)
            gb_months += (size + count * profile.overhead) / _GB * left / _MONTH
    cost = _sum((profile.prices.storage, gb_months))
    return Fee(objects, longest, cost, profile.prices.currency)
