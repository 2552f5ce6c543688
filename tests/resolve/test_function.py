"""The application's own function as a resolver."""

from __future__ import annotations

import pytest

from tenantry.errors import InvalidInput, TenantryError, Unresolved
from tenantry.resolve import Claim, ClaimKind, Function, RequestFacts
from tests.resolve.forge import request


def named(facts: RequestFacts) -> str:
    return "acme"


def test_a_text_is_a_claim_of_the_chosen_kind() -> None:
    assert Function(named).resolve(request()) == Claim(ClaimKind.SLUG, "acme", "function named")
    assert Function(named, kind="key", name="session").resolve(request()) == Claim(
        ClaimKind.KEY, "acme", "function session"
    )


def test_a_domain_has_to_be_normalised() -> None:
    with pytest.raises(Unresolved, match="not a normalised domain"):
        Function(lambda _: "Shop.Acme.org", kind="domain").resolve(request())


def test_a_claim_is_passed_on_and_none_is_no_answer() -> None:
    claim = Claim(ClaimKind.KEY, "7", "the session")
    assert Function(lambda _: claim).resolve(request()) is claim
    assert Function(lambda _: None).resolve(request()) is None


def test_what_the_function_raises_goes_up_as_it_is() -> None:
    def broken(facts: RequestFacts) -> str:
        raise LookupError("no session store")

    with pytest.raises(LookupError, match="no session store"):
        Function(broken).resolve(request())


@pytest.mark.parametrize("answer", [7, b"acme", True, ["acme"]])
def test_another_answer_is_the_applications_fault(answer: object) -> None:
    with pytest.raises(TenantryError) as caught:
        Function(lambda _: answer).resolve(request())  # type: ignore[arg-type, return-value]
    assert caught.value.status == 500


class Waiting:
    async def __call__(self, facts: RequestFacts) -> str:
        return "acme"


async def waiting(facts: RequestFacts) -> str:
    return "acme"


@pytest.mark.parametrize("function", [waiting, Waiting(), "acme", None])
def test_what_can_not_answer_at_once_is_refused(function: object) -> None:
    with pytest.raises(InvalidInput, match="plain function"):
        Function(function)  # type: ignore[arg-type]
