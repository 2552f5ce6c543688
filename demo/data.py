"""The data set: five CSV files without a header, in which an empty field is NULL. See ``demo/sample.py`` for one."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from tenantry.errors import InvalidInput
from tenantry.model import shown

Row = dict[str, Any]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _array(text: str) -> list[str]:
    """A one-dimensional array in PostgreSQL's text form: ``{a,"b c"}``."""
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError("not an array")
    return next(csv.reader([text[1:-1]], escapechar="\\"), [])


_DATES = (("created_at", _moment), ("updated_at", _moment))
_VISIT = (("user_ip", str), ("user_data", json.loads))

COMPANIES = (("id", int), ("name", str), ("image_url", str), *_DATES)

TABLES: Mapping[str, tuple[tuple[str, Callable[[str], Any]], ...]] = {
    "campaigns": (
        *(("id", int), ("company_id", int), ("name", str), ("cost_model", str), ("state", str)),
        *(("monthly_budget", int), ("blocked_site_urls", _array), *_DATES),
    ),
    "ads": (
        *(("id", int), ("company_id", int), ("campaign_id", int), ("name", str), ("image_url", str)),
        *(("target_url", str), ("impressions_count", int), ("clicks_count", int), *_DATES),
    ),
    "clicks": (
        *(("id", int), ("company_id", int), ("ad_id", int), ("clicked_at", _moment), ("site_url", str)),
        *(("cost_per_click_usd", Decimal), *_VISIT),
    ),
    "impressions": (
        *(("id", int), ("company_id", int), ("ad_id", int), ("seen_at", _moment), ("site_url", str)),
        *(("cost_per_impression_usd", Decimal), *_VISIT),
    ),
}
"""The columns of each file in their order, in the order in which foreign keys let the tables be filled."""


@dataclass(frozen=True)
class Company:
    """A tenant to be, with its rows by table. The rows don't name it: that is the tenant column's business."""

    key: int
    name: str
    slug: str
    rows: Mapping[str, list[Row]] = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each table has."""
        return {table: len(rows) for table, rows in self.rows.items()}


@dataclass(frozen=True)
class Dataset:
    """Companies in the order of their keys, and a word for people on where they come from."""

    companies: tuple[Company, ...]
    source: str

    @property
    def size(self) -> int:
        """The number of rows in all tables of all companies."""
        return sum(sum(company.counts.values()) for company in self.companies)


def read(folder: Path, source: str) -> Dataset:
    """Read a data set.

    Args:
        folder: holds ``companies.csv`` and a file for each of :data:`TABLES`.
        source: a word for people.

    Raises:
        InvalidInput: a file is missing, or a line has another form; ``where`` has the file and the line.
    """
    rows: dict[int, dict[str, list[Row]]] = {}
    names: dict[int, str] = {}
    for row, where in _lines(folder / "companies.csv", COMPANIES):
        if row["id"] in names:
            raise InvalidInput(f"the company {row['id']} stands twice", where=where)
        names[row["id"]] = row["name"]
        rows[row["id"]] = {table: [] for table in TABLES}
    for table, columns in TABLES.items():
        for row, where in _lines(folder / f"{table}.csv", columns):
            company = row.pop("company_id")
            if company not in rows:
                raise InvalidInput(f"there is no company {shown(company)}", where=where, hint="add it to companies.csv")
            rows[company][table].append(row)
    slugs = _slugs(names)
    companies = (Company(key, names[key], slugs[key], rows[key]) for key in sorted(rows))
    return Dataset(tuple(companies), source)


def _lines(file: Path, columns: tuple[tuple[str, Callable[[str], Any]], ...]) -> Iterator[tuple[Row, str]]:
    hint = f"name a folder with companies.csv, {', '.join(f'{table}.csv' for table in TABLES)}"
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"can't be read: {error.strerror}"
        raise InvalidInput(f"{file.name} {reason}", where=str(file.parent), hint=hint) from None
    reader = csv.reader(io.StringIO(text, newline=""))
    for values in reader:
        where = f"{file}, line {reader.line_num}"
        if len(values) != len(columns):
            raise InvalidInput(f"{len(values)} columns where {len(columns)} belong", where=where)
        try:
            pairs = zip(columns, values, strict=True)
            yield {name: convert(value) if value else None for (name, convert), value in pairs}, where
        except (ValueError, ArithmeticError) as error:
            raise InvalidInput(f"a value has a wrong form: {error}", where=where) from None


def _slugs(names: Mapping[int, str]) -> dict[int, str]:
    taken: set[str] = set()
    slugs = {}
    for key in sorted(names):
        slug = slugify(names[key]) or "company"
        if slug in taken:
            slug = f"{slug[:40]}-{key}"
        taken.add(slug)
        slugs[key] = slug
    return slugs


def slugify(name: str) -> str:
    """A name as it may stand in a host: ``Åkerlund & O'Hara`` -> ``akerlund-ohara``; empty if no letter is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower().replace("'", "")
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-")
