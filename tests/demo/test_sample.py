from __future__ import annotations

import csv
import os
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from demo import data, sample

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTATION = [ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
FULL_DATA = Path(os.environ.get("TENANTRY_DEMO_DATA") or ROOT.parent / "shared" / "data" / "ads")


def generated(folder: Path, **environment: str) -> dict[str, bytes]:
    command = [sys.executable, "-m", "demo.sample", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **environment})
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sample")
    sample.write(made)
    return made


def test_every_process_writes_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    first = generated(tmp_path / "a", PYTHONHASHSEED="1", TZ="Asia/Tokyo")
    assert first == generated(tmp_path / "b", PYTHONHASHSEED="2", TZ="America/Lima")
    assert first == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_another_seed_gives_other_data_of_the_same_companies() -> None:
    one, other = sample.Generator(1).rows, sample.Generator(2).rows
    assert one["clicks"] != other["clicks"]
    assert [row[1] for row in one["companies"]] == [row[1] for row in other["companies"]]


def test_every_row_refers_to_a_row_of_its_own_company(folder: Path) -> None:
    for company in data.read(folder, "sample").companies:
        campaigns = {row["id"] for row in company.rows["campaigns"]}
        ads = {row["id"] for row in company.rows["ads"]}
        assert {row["campaign_id"] for row in company.rows["ads"]} == campaigns
        assert {row["ad_id"] for table in ("clicks", "impressions") for row in company.rows[table]} <= ads


def test_it_names_no_address_and_no_site_that_exists(folder: Path) -> None:
    for company in data.read(folder, "sample").companies:
        for row in company.rows["clicks"] + company.rows["impressions"]:
            assert any(ip_address(row["user_ip"]) in network for network in DOCUMENTATION)
            assert row["site_url"].endswith(".example/")


def test_it_holds_what_pages_have_to_escape(folder: Path) -> None:
    companies = data.read(folder, "sample").companies
    texts = [company.name for company in companies]
    texts += [row["name"] for company in companies for row in company.rows["ads"]]
    assert all(any(mark in text for text in texts) for mark in "<>&'")


def test_its_companies_differ_in_size(folder: Path) -> None:
    sizes = [sum(company.counts.values()) for company in data.read(folder, "sample").companies]
    assert len(sizes) == 8
    assert max(sizes) > 4 * min(sizes)


@pytest.mark.skipif(not FULL_DATA.is_dir(), reason="the full data set is not on this machine")
def test_it_has_the_shape_of_the_full_data_set(folder: Path) -> None:
    for file in folder.iterdir():
        with (FULL_DATA / file.name).open(newline="") as full, file.open(newline="") as own:
            assert len(next(csv.reader(full))) == len(next(csv.reader(own)))
    full_data = data.read(FULL_DATA, "full")
    assert sum(company.counts["clicks"] for company in full_data.companies) == 5541
    assert full_data.size == 65 + 525 + 5541 + 23448
