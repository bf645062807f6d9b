# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may connect: the network with the longest prefix decides, whatever the lists are."""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.model.admission import admission, decisive
from _natlb.model.ranges import collapsed
from _natlb.model.services import parse_config
from hypothesis import given
from hypothesis import strategies as st

SERVICE: dict[str, Any] = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3"}]}
#: Sixty-four addresses, so that networks lie in each other.
_networks = st.lists(
    st.builds(
        lambda number, length: str(ipaddress.ip_network(f"198.51.100.{number}/{length}", strict=False)),
        st.integers(0, 63),
        st.integers(26, 32),
    ),
    unique=True,
    max_size=12,
)
CLIENTS = [f"198.51.100.{number}" for number in range(65)]


def expected(allow: list[str], deny: list[str], client: str) -> bool:
    network = decisive(allow, deny, client)
    return not allow if network is None else network in allow


@given(allow=_networks, deny=_networks, of_six=st.tuples(*2 * [st.sampled_from(([], ["2001:db8::/32"]))]))
def test_the_longest_prefix_decides(allow: list[str], deny: list[str], of_six: tuple[list[str], list[str]]) -> None:
    deny = [network for network in deny if network not in allow]
    lists = (*allow, *of_six[0]), (*deny, *of_six[1])
    found = admission(*lists if all(lists) else map(collapsed, lists), "ip")
    # Networks of the other family only matter in that there is a list of them.
    allow = [*allow, *of_six[0]]
    for client in CLIENTS:
        assert (found is None or found.admits(client)) == expected(allow, deny, client), client
    if found is not None:
        ranges = sorted(ipaddress.ip_network(network) for network in found.networks)
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(ranges)), "both engines need that"


@pytest.mark.parametrize(
    ("allow", "deny", "client", "admitted"),
    [
        ((), (), "198.51.100.7", True),
        (("198.51.100.0/24",), (), "198.51.100.7", True),
        (("198.51.100.0/24",), (), "203.0.113.7", False),
        (("198.51.100.0/24",), (), "2001:db8::7", False),
        ((), ("198.51.100.0/24",), "198.51.100.7", False),
        ((), ("198.51.100.0/24",), "203.0.113.7", True),
        ((), ("198.51.100.0/24",), "2001:db8::7", True),
        (("198.51.100.0/24",), ("198.51.100.7/32",), "198.51.100.7", False),
        (("198.51.100.0/24",), ("198.51.100.7/32",), "198.51.100.8", True),
        (("198.51.100.7/32",), ("198.51.100.0/24",), "198.51.100.7", True),
        (("198.51.100.7/32",), ("198.51.100.0/24",), "203.0.113.7", False),
        (("0.0.0.0/0",), ("198.51.100.0/24",), "203.0.113.7", True),
        (("0.0.0.0/0",), ("198.51.100.0/24",), "255.255.255.255", True),
        (("0.0.0.0/0",), ("198.51.100.0/24",), "198.51.100.255", False),
        (("::/0",), ("2001:db8::/32",), "2001:db8::7", False),
        (("::/0",), ("2001:db8::/32",), "ffff::", True),
        # A list that is shortened before the prefixes are compared would decide otherwise.
        (("198.51.100.0/25", "198.51.100.128/25"), ("198.51.100.0/24",), "198.51.100.7", True),
    ],
)
def test_cases(allow: tuple[str, ...], deny: tuple[str, ...], client: str, admitted: bool) -> None:
    lists = {key: list(value) for key, value in (("allow_from", allow), ("deny_from", deny)) if value}
    both = ["192.0.2.10:80", "[2001:db8::10]:80"]
    backends = [{"address": "10.0.0.3"}, {"address": "2001:db8:2::3"}]
    (service,) = parse_config([{**SERVICE, "listen": both, "backends": backends, **lists}]).services
    assert service.admits(client) == admitted


def test_lists_that_decide_nothing() -> None:
    assert admission((), (), "ip") is None
    assert admission((), ("2001:db8::/32",), "ip") is None
    assert admission(("0.0.0.0/0",), ("2001:db8::/32",), "ip") is None


@pytest.mark.parametrize(
    ("allow", "deny", "problem"),
    [
        (["198.51.100.0/24"], ["198.51.100.0/24"], "198.51.100.0/24 stands in allow_from as well"),
        (None, ["0.0.0.0/0"], "leaves no IPv4 client that may connect"),
        (None, ["0.0.0.0/1", "128.0.0.0/1"], "leaves no IPv4 client that may connect"),
        (["198.51.100.0/24"], ["198.51.100.0/25", "198.51.100.128/25"], "leaves no IPv4 client that may connect"),
        (None, ["2001:db8::/32"], "of a family that the service does not listen in (nobody is denied by it;"),
        (["2001:db8::/32"], None, "of a family that the service does not listen in (nobody could connect;"),
        (None, [], "is empty"),
        (None, "198.51.100.0/33", "is not a network"),
    ],
)
def test_mistakes(allow: Any, deny: Any, problem: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_config([{**SERVICE, "deny_from": deny, **({"allow_from": allow} if allow else {})}])
    assert caught.value.errors[0].path.startswith("services[0].deny_from")
    assert problem in str(caught.value)


def test_a_hundred_thousand_networks() -> None:
    """Ways of working that grow with the square of the number would take minutes."""
    deny = tuple(f"10.{number >> 15}.{(number >> 7) & 255}.{(number & 127) * 2}/32" for number in range(100_000))
    found = admission(("10.0.0.0/8",), deny, "ip")
    assert found is not None
    assert found.only
    assert not found.admits("10.0.0.2")
    assert found.admits("10.0.0.3")
