"""Host names: folded only where DNS folds, refused everywhere else."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput, Unresolved
from tenantry.resolve import Subdomain, normalise_host, parse_domain
from tenantry.resolve.hosts import is_domain
from tests.resolve.forge import request

labels = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
hosts = st.lists(labels, min_size=1, max_size=5).map(".".join).filter(lambda name: len(name) <= 253)
ports = st.one_of(st.just(""), st.just(":"), st.integers(0, 65535).map(lambda port: f":{port}"))
noise = st.text(alphabet=st.sampled_from("ab.-_:@/\\?#%[]0x \t\0\r\n,*éа\u212aＡ。"), max_size=12)


@given(hosts, ports, st.sampled_from(["", "."]), st.randoms(use_true_random=False))
def test_a_host_is_folded_to_one_form(host: str, port: str, dot: str, random: Random) -> None:
    mixed = "".join(random.choice([letter, letter.upper()]) for letter in host)
    assert normalise_host(f"{mixed}{dot}{port}") == host


@given(st.one_of(hosts, noise, st.text(max_size=40)))
def test_normalising_twice_changes_nothing(host: str) -> None:
    try:
        once = normalise_host(host)
    except Unresolved:
        return
    assert normalise_host(once) == once
    assert once.isascii()


@given(st.one_of(noise, st.text(max_size=30)), st.one_of(noise, st.text(max_size=30)))
def test_only_a_host_under_the_suffix_is_ever_claimed(before: str, after: str) -> None:
    host = f"{before}example.com{after}"
    try:
        claim = Subdomain("example.com").resolve(request(host))
    except Unresolved:
        return
    if claim is not None:
        assert normalise_host(host) == f"{claim.value}.example.com"


@pytest.mark.parametrize(
    "host",
    [
        "evilexample.com",
        "example.com.evil.com",
        "acme.example.com.evil.com",
        "example.org",
        "com",
        "[::1]:8000",
        "127.0.0.1",
    ],
)
def test_a_host_that_only_resembles_the_suffix_has_no_slug(host: str) -> None:
    assert Subdomain("example.com").resolve(request(host)) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "..",
        ".example.com",
        "acme..example.com",
        "example.com..",
        "acme@example.com",
        "user:secret@acme.example.com",
        "acme.example.com/",
        "acme.example.com/evil",
        "acme.example.com\\evil",
        "acme.example.com?x",
        "acme.example.com#x",
        "acme.example.com:80:80",
        "acme.example.com:-1",
        "acme.example.com:65536",
        "acme.example.com:١",
        "acme.example.com,globex.example.com",
        "acme.example.com globex.example.com",
        " acme.example.com",
        "acme.example.com\n",
        "acme_x.example.com",
        "-acme.example.com",
        "acme-.example.com",
        "%61cme.example.com",
        "*.example.com",
        "acme\u3002example.com",
        "acme.exampl\u00e9.com",
        "\u212aey.example.com",
        "[::1",
        "::1",
        "[::1]x",
        "[abcd]",
        "[1::2::3]",
        "[127.0.0.1]",
        "[fe80::1%25eth0]",
        "[acme.example.com]",
        f"{'a' * 64}.example.com",
        f"{'a.' * 130}example.com",
        "a" * 65_536,
    ],
    ids=lambda host: ascii(host)[:30],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(Unresolved) as caught:
        normalise_host(host)
    assert len(caught.value.message) < 150
    assert caught.value.hint


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Acme.Example.COM:8443", "acme.example.com"),
        ("acme.example.com.", "acme.example.com"),
        ("acme.example.com.:443", "acme.example.com"),
        ("acme.example.com:", "acme.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("[2001:DB8::1]:443", "[2001:db8::1]"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("localhost", "localhost"),
    ],
)
def test_port_case_and_trailing_dot_make_no_difference(host: str, name: str) -> None:
    assert normalise_host(host) == name


@pytest.mark.parametrize("host", ["[::1]", "[::ffff:127.0.0.1]", "127.0.0.1", "127.1", "1.2.3.0x7f", "localhost"])
def test_addresses_and_single_labels_are_no_domains(host: str) -> None:
    assert not is_domain(host)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
    ],
)
def test_a_configured_domain_becomes_a_labels(value: str, name: str) -> None:
    assert parse_domain(value) == name


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        ".example.com",
        "*.example.com",
        "example.com:8000",
        "https://example.com",
        "example.com/x",
        "exa mple.com",
        "127.0.0.1",
        "[::1]",
        "ｅxample.com",
        "\u212aey.example",
        "xn--a.example",
        "a\u200db.example",
        "a" * 64,
        "a." * 200,
        "ü" * 65_536,
        None,
        7,
        b"example.com",
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_configured_domain_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_domain(value)
    assert len(caught.value.message) < 150
    assert caught.value.hint
