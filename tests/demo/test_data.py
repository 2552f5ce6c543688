from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import data
from tenantry.errors import InvalidInput
from tenantry.model import parse_slug

MADE = "2026-01-01 10:00:00,2026-01-02 11:30:00.5"
FILES = {
    "companies": f'7,"Bramble, ""Fitch"" & Co.",https://images.example/7.png,{MADE}\n',
    "campaigns": f'1,7,"two\nlines",cost_per_click,running,,"{{a,""b,c""}}",{MADE}\n',
    "ads": f"2,7,1,Ünï,,,0,0,{MADE}\n",
    "clicks": '3,7,2,2026-01-03 00:00:00,https://s.example/,0.1000000000,192.0.2.1,"{""location"": ""IS""}"\n',
    "impressions": "4,7,2,2026-01-03 00:00:00,https://s.example/,,192.0.2.1,{}\n",
}


def write(folder: Path, **changes: str | bytes | None) -> Path:
    for name, text in {**FILES, **changes}.items():
        if text is not None:
            (folder / f"{name}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_values_have_the_types_of_their_columns(tmp_path: Path) -> None:
    [company] = data.read(write(tmp_path), "test").companies
    assert (company.key, company.name, company.slug) == (7, 'Bramble, "Fitch" & Co.', "bramble-fitch-co")
    assert company.counts == {"campaigns": 1, "ads": 1, "clicks": 1, "impressions": 1}
    [campaign] = company.rows["campaigns"]
    assert (campaign["name"], campaign["monthly_budget"]) == ("two\nlines", None)
    assert campaign["blocked_site_urls"] == ["a", "b,c"]
    assert campaign["updated_at"] == datetime(2026, 1, 2, 11, 30, 0, 500_000, tzinfo=UTC)
    [click] = company.rows["clicks"]
    assert (click["cost_per_click_usd"], click["user_data"]) == (Decimal("0.1"), {"location": "IS"})
    assert company.rows["impressions"][0]["cost_per_impression_usd"] is None


def test_rows_do_not_say_whose_they_are(tmp_path: Path) -> None:
    [company] = data.read(write(tmp_path), "test").companies
    assert all("company_id" not in row for rows in company.rows.values() for row in rows)


@pytest.mark.parametrize(
    ("changes", "message", "place"),
    [
        ({"clicks": None}, "clicks.csv can't be read", ""),
        ({"companies": b"\xff\xfe"}, "companies.csv is not UTF-8", ""),
        ({"ads": "1,2,3\n"}, "3 columns where 10 belong", "ads.csv, line 1"),
        ({"ads": FILES["ads"] * 2 + "\n"}, "0 columns where 10 belong", "ads.csv, line 3"),
        (
            {"impressions": FILES["impressions"].replace("{}", "{")},
            "a value has a wrong form",
            "impressions.csv, line 1",
        ),
        (
            {"clicks": FILES["clicks"].replace("0.1000000000", "cheap")},
            "a value has a wrong form",
            "clicks.csv, line 1",
        ),
        ({"campaigns": FILES["campaigns"].replace("{a", "a")}, "a value has a wrong form", "campaigns.csv, line 2"),
        ({"ads": FILES["ads"].replace("2,7,", "2,8,")}, "there is no company 8", "ads.csv, line 1"),
        ({"companies": FILES["companies"] * 2}, "the company 7 stands twice", "companies.csv, line 2"),
    ],
)
def test_bad_data_is_refused_with_the_place(
    tmp_path: Path, changes: dict[str, str | bytes | None], message: str, place: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        data.read(write(tmp_path, **changes), "test")
    assert str(caught.value.where).endswith(place)


def test_names_that_look_the_same_get_different_slugs(tmp_path: Path) -> None:
    companies = "".join(f"{key},{name},,{MADE}\n" for key, name in enumerate(("A b", "a-B", "株式会社", "Å B"), 1))
    found = data.read(write(tmp_path, companies=companies, campaigns="", ads="", clicks="", impressions=""), "test")
    assert [company.slug for company in found.companies] == ["a-b", "a-b-2", "company", "a-b-4"]


@given(st.text())
def test_a_slug_made_of_a_name_is_a_slug_or_empty(name: str) -> None:
    slug = data.slugify(name)
    assert slug == "" or parse_slug(slug) == slug
