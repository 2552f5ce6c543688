"""A small data set of the demo's own, invented by a seeded generator: ``python -m demo.sample FOLDER`` writes it.

Eight companies of different sizes, half a year of visits with weekends, growth, and campaigns that begin and end. The
same seed gives the same bytes on every machine. Names of companies and campaigns hold what pages have to escape.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

SEED = 20
START = datetime(2026, 1, 5)  # noqa: DTZ001  # a Monday; the files hold times without a zone, which are UTC
WEEKS = 26

_COMPANIES = (  # name, how much it advertises, where most of its customers are
    ("Meridian Coffee", 1.2, "US"),
    ("Bramble & Fitch", 0.7, "GB"),
    ("Åkerlund Cycles", 0.5, "SE"),
    ("O'Hara Audio", 0.8, "IE"),
    ("Kestrel Outdoor", 1.5, "CA"),
    ("Nimbus <Labs>", 1.0, "DE"),
    ("Sólarsýn Travel", 2.0, "IS"),
    ("Tidewater Books", 3.0, "US"),
)
_SEASONS = "Winter|Spring|Summer|Early bird|Launch|Members' week|Back again|Last chance".split("|")
_GOODS = "sale|collection|newsletter|“2 for 1”|free delivery|trial|& friends|gift cards".split("|")
_ADS = "Leaderboard|Skyscraper|Story|Carousel|Square|Half page|Video 6s|Text link|Billboard <b>new</b>|Sticker".split(
    "|"
)
_SITES = "news|recipes|weather|travel|games|music|forum|maps".split("|")
_COUNTRIES = "US GB DE FR SE NO IS IE CA ES IT NL PL JP BR IN AU MX KE ZA".split()
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")  # for examples: RFC 5737

Values = list[Any]


@dataclass
class _Ad:
    id: int
    company: int
    by_click: bool
    begins: float
    ends: float
    appeal: float


class Generator:
    """Makes the rows of all files, from one source of chance.

    Args:
        seed: another one, another data set.
    """

    def __init__(self, seed: int = SEED) -> None:
        self._chance = Random(seed)  # noqa: S311  # no secret
        self._ids = {name: count(1) for name in ("campaigns", "ads", "clicks", "impressions")}
        self.rows: dict[str, list[Values]] = {name: [] for name in ("companies", *self._ids)}
        for key, (name, size, home) in enumerate(_COMPANIES, 1):
            made = self._made()
            self.rows["companies"].append([key, name, f"https://images.example/{key}.png", made, made])
            ads = list(self._campaigns(key, round(4 + 2 * size)))
            for _ in range(round(1000 * size)):
                self._visit(self._chance.choices(ads, [ad.appeal for ad in ads])[0], home)

    def _campaigns(self, company: int, number: int) -> Iterator[_Ad]:
        names = [f"{season} {goods}" for season in _SEASONS for goods in _GOODS]
        for name in self._chance.sample(names, number):
            campaign, made = next(self._ids["campaigns"]), self._made()
            by_click = self._chance.random() < 0.6
            state = self._chance.choices(("running", "paused", "archived"), (6, 3, 2))[0]
            budget = self._chance.randrange(5, 90) * 100
            model = "cost_per_click" if by_click else "cost_per_impression"
            self.rows["campaigns"].append([campaign, company, name, model, state, budget, "", made, made])
            begins = self._chance.uniform(0, 0.6)
            ends = 1.0 if state == "running" else self._chance.uniform(begins + 0.2, 1)
            for ad in self._chance.sample(_ADS, self._chance.randrange(3, 8)):
                yield self._ad(company, campaign, ad, by_click, begins, ends)

    def _ad(self, company: int, campaign: int, name: str, by_click: bool, begins: float, ends: float) -> _Ad:
        number, made = next(self._ids["ads"]), self._made()
        image, target = f"https://images.example/ad-{number}.png", f"https://shop.example/{company}/{number}"
        self.rows["ads"].append([number, company, campaign, name, image, target, 0, 0, made, made])
        return _Ad(number, company, by_click, begins, ends, self._chance.paretovariate(1.6))

    def _visit(self, ad: _Ad, home: str) -> None:
        cost = "" if ad.by_click else f"{self._chance.uniform(0.002, 0.02):.10f}"
        self._seen("impressions", ad, self._moment(ad), home, cost)
        if self._chance.random() < 0.12:
            cost = f"{self._chance.uniform(0.2, 2.5):.10f}" if ad.by_click else ""
            self._seen("clicks", ad, self._moment(ad), home, cost)

    def _seen(self, table: str, ad: _Ad, when: str, home: str, cost: str) -> None:
        chance = self._chance
        place = home if chance.random() < 0.45 else _COUNTRIES[int(len(_COUNTRIES) * chance.random() ** 1.7)]
        site = f"https://{chance.choice(_SITES)}-{chance.randrange(1, 30)}.example/"
        address = f"{chance.choice(_NETWORKS)}.{chance.randrange(1, 255)}"
        about = json.dumps({"location": place, "is_mobile": chance.random() < 0.6})
        self.rows[table].append([next(self._ids[table]), ad.company, ad.id, when, site, cost, address, about])

    def _moment(self, ad: _Ad) -> str:
        """Later days are likelier than earlier ones, and weekends quieter."""
        while True:
            at = ad.begins + (ad.ends - ad.begins) * self._chance.random() ** 0.8
            moment = START + timedelta(days=at * WEEKS * 7)
            if moment.weekday() < 5 or self._chance.random() < 0.55:
                return moment.isoformat(sep=" ", timespec="seconds")

    def _made(self) -> str:
        return (START - timedelta(days=self._chance.uniform(1, 300))).isoformat(sep=" ", timespec="seconds")


def write(folder: Path, seed: int = SEED) -> None:
    """Write the five files into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in Generator(seed).rows.items():
        _write(folder / f"{name}.csv", rows)


def _write(file: Path, rows: Iterable[Values]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m demo.sample FOLDER")
    write(Path(sys.argv[1]))
