"""A token is given again for a part of its life, to its backend; a route for as long as nothing is new."""

from __future__ import annotations

import os
from dataclasses import replace

from tenantry import Router
from tenantry.model import Mode
from tenantry.routing.core import sparing
from tests.fixtures.house import House


class Mints:
    """Makes a different token each time."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.now = 0.0

    def __call__(self, pid: int) -> str:
        self.made.append(pid)
        return f"{pid}.{len(self.made)}"


def test_a_token_is_given_again_until_it_is_old_and_to_its_backend_only() -> None:
    mints = Mints()
    mint = sparing(mints, 10, clock=lambda: mints.now)
    assert [mint(1), mint(2), mint(1), mint(2)] == ["1.1", "2.2", "1.1", "2.2"]
    mints.now = 9.99
    assert mint(1) == "1.1"
    mints.now = 10
    assert [mint(1), mint(1)] == ["1.3", "1.3"]


def test_no_more_tokens_are_kept_than_a_process_has_connections_to_a_database() -> None:
    mints = Mints()
    mint = sparing(mints, 10, clock=lambda: mints.now)
    for pid in range(100):
        mint(pid)
    assert mint(99) == "99.100"
    assert mint(0) == "0.101"


def test_a_route_is_kept_as_long_as_nothing_is_new(house: House) -> None:
    with Router(house.settings) as router:
        tenant, fleet = router.find("pooled-a"), router.view.fleet()
        route = router.route(tenant, Mode.READ_WRITE, fleet)
        assert router.route(tenant, Mode.READ_WRITE, fleet) is route
        assert router.route(tenant, Mode.READ_ONLY, fleet).mode is Mode.READ_ONLY
        for other in (
            router.route(replace(tenant), Mode.READ_WRITE, fleet),
            router.route(tenant, Mode.READ_WRITE, replace(fleet)),
        ):
            assert other is not route
            assert other.target == route.target
            assert hash(other.target) == hash(route.target)


def test_a_forked_child_has_routes_of_its_own(house: House) -> None:
    with Router(house.settings) as router:
        tenant, fleet = router.find("pooled-a"), router.view.fleet()
        route = router.route(tenant, Mode.READ_WRITE, fleet)
        pid = os.fork()
        if not pid:
            try:
                router.route(tenant, Mode.READ_WRITE, fleet).guard()
                os._exit(route is router.route(tenant, Mode.READ_WRITE, fleet))
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
