"""A segment of the path that names the tenant."""

from __future__ import annotations

import pytest

from tenantry.errors import InvalidInput, Unresolved
from tenantry.resolve import Claim, ClaimKind, Path
from tests.resolve.forge import request


@pytest.mark.parametrize("path", ["/t/acme", "/t/acme/", "/t/acme/orders/7"])
def test_the_segment_is_claimed_with_the_prefix_to_cut_off(path: str) -> None:
    claim = Path("/t/{tenant}").resolve(request(path=path))
    assert claim == Claim(ClaimKind.SLUG, "acme", "path /t/{tenant}", path_prefix="/t/acme")


@pytest.mark.parametrize("path", ["", "/", "/t", "/t/", "/T/acme", "/team/acme", "t/acme", "*", "http://x/t/acme"])
def test_a_path_that_does_not_begin_like_the_template_is_no_answer(path: str) -> None:
    assert Path("/t/{tenant}").resolve(request(path=path)) is None


@pytest.mark.parametrize("path", ["/t//orders", "/t/Acme", "/t/acme;x=1", "/t/acme\\..\\globex", "/t/acme%2fx"])
def test_a_segment_that_is_no_slug_is_refused(path: str) -> None:
    with pytest.raises(Unresolved, match="is not a slug"):
        Path("/t/{tenant}").resolve(request(path=path))


@pytest.mark.parametrize("path", ["/t/acme/../globex", "/t/../t/acme", "/t/./acme", "/t/acme/.."])
def test_a_path_that_proxies_read_differently_is_refused(path: str) -> None:
    with pytest.raises(Unresolved, match="segments"):
        Path("/t/{tenant}").resolve(request(path=path))


def test_the_first_segment_can_be_the_tenant() -> None:
    claim = Path("/{tenant}").resolve(request(path="/acme/orders"))
    assert claim is not None
    assert (claim.value, claim.path_prefix) == ("acme", "/acme")


def test_a_key_may_have_letters_of_any_script() -> None:
    claim = Path("/companies/{tenant}/", kind="key").resolve(request(path="/companies/Café 7/orders"))
    assert claim == Claim(ClaimKind.KEY, "Café 7", "path /companies/{tenant}", path_prefix="/companies/Café 7")


@pytest.mark.parametrize("template", ["", "{tenant}", "/t", "/t/{slug}", "/t-{tenant}", "/{tenant}/x", "//{tenant}"])
def test_another_template_is_refused(template: str) -> None:
    with pytest.raises(InvalidInput, match="template"):
        Path(template)
