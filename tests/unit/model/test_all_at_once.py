# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that is wrong with a declaration is told at once, and nothing that may be right once the rest is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.host.store import Paths
from _natlb.model.services import parse_config
from _natlb.plan.module_options import Options
from hypothesis import given, settings
from hypothesis import strategies as st

WEB: dict[str, Any] = {"name": "web", "listen": "192.0.2.10:80", "backends": ["10.0.0.3"]}
API: dict[str, Any] = {"name": "api", "listen": "192.0.2.11:80", "backends": ["10.0.0.3"]}
UPLINKS = {"source": "10.0.0.0/8", "uplinks": [{"interface": "eth1", "gateway": "203.0.113.1"}]}


def errors(services: Any, egress: Any = (), mask: Any = None) -> list[str]:
    try:
        parse_config(services, list(egress), mask)
    except ConfigErrors as found:
        return [str(error) for error in found.errors]
    return []


def paths(services: Any, egress: Any = (), mask: Any = None) -> list[str]:
    return [text.partition(": ")[0] for text in errors(services, egress, mask)]


@pytest.mark.parametrize(
    ("services", "found"),
    [
        # Within one service, and of one beside a wrong one.
        ([{**WEB, "method": "best", "log_prefix": "x"}], [".method", ".log_prefix"]),
        (
            [{**WEB, "allow_from": "x", "pins": [{"client": "0.0.0.0/0", "backend": "b"}]}],
            [".allow_from", ".pins[0].backend"],
        ),
        ([{**WEB, "method": "best"}, {**API, "log_prefix": "x"}], [".method", "services[1].log_prefix"]),
        # What claims packets is right, whatever else is wrong, of either.
        ([{**WEB, "method": "best"}, {**WEB, "name": "api"}], [".method", "services[1].listen"]),
        ([WEB, {**WEB, "name": "api", "weight": 5, "snat": 7}], ["services[1].weight", "services[1].snat"]),
        ([WEB, {**WEB, "affinity": "soon"}], ["services[1].affinity", "services[1].name", "services[1].listen"]),
        ([WEB, {**WEB, "name": "api", "log_prefix": "x"}], ["services[1].log_prefix", "services[1].listen"]),
        # A key that there is not may be meant for one that makes a difference.
        ([WEB, {**WEB, "name": "api", "interfce": "eth0"}], ["services[1].interfce"]),
        ([WEB, {**WEB, "name": "api", "interface": "-"}], ["services[1].interface"]),
        ([WEB, {**WEB, "name": "api", "protocol": "icmp"}], ["services[1].protocol"]),
        ([WEB, {**WEB, "name": "A!"}], ["services[1].name"]),
        ([{**WEB, "method": "best", "takeover": True}], [".method"]),
        ([{**WEB, "log": "maybe", "log_prefix": "x"}], [".log"]),
        ([{**WEB, "backends": ["x"], "pins": [{"client": "0.0.0.0/0", "backend": "b"}]}], [".backends[0].address"]),
        # Of ports and of takeover as well.
        (
            [{**WEB, "snat_ports": "80-90", "log_prefix": "x"}, {**API, "when_empty": "no"}],
            ["services[1].when_empty", ".log_prefix", ".snat_ports"],
        ),
    ],
)
def test_what_is_told_beside_what(services: Any, found: list[str]) -> None:
    assert sorted(paths(services)) == sorted(f"services[0]{path}" if path[0] == "." else path for path in found)


def test_conflicts_are_told_under_the_places_in_the_declaration() -> None:
    listed = [{**API, "name": "A!"}, WEB, {**WEB, "name": "other"}]
    assert paths(listed) == ["services[0].name", "services[2].listen"]
    assert "other and web (services[1]) both claim" in errors(listed)[1]


@pytest.mark.parametrize(
    ("egress", "mask", "found"),
    [
        ([UPLINKS], "0x1", ["services[0].method", "services[0].mark", "egress"]),
        ([UPLINKS], "0x101", ["services[0].method", "mark_mask"]),
        ([UPLINKS, {"source": "x"}], "0x1", ["services[0].method", "egress[1].source"]),
    ],
)
def test_marks_and_uplinks(egress: Any, mask: str, found: list[str]) -> None:
    """Two uplinks do not fit into one bit, and the mark of the service has it."""
    two = [
        {**item, "uplinks": [*item["uplinks"], {"interface": "eth2", "gateway": "203.0.113.9"}]}
        if "uplinks" in item
        else item
        for item in egress
    ]
    services = [{**WEB, "mark": "0x1/0x1"}, {**API, "method": "best"}]
    assert paths(services[::-1], two, mask)[:1] == ["services[0].method"]
    assert sorted(paths(services[::-1], two, mask)) == sorted(path.replace("[0].mark", "[1].mark") for path in found)


def test_options_of_a_run_are_told_beside_services(tmp_path: Path) -> None:
    asked = Options([{**WEB, "method": "best"}], conntrack={"max": "x"}, rollback_after="soon", transit="no")
    with pytest.raises(ConfigErrors) as caught:
        asked.request(Paths(tmp_path, tmp_path), None, False)
    told = [error.path for error in caught.value.errors]
    assert told == ["services[0].method", "conntrack.max", "rollback_after", "transit"]


#: Values of keys that are right, of which some fit together, and one that is wrong.
CHOICES: dict[str, tuple[list[Any], Any]] = {
    "name": (["web", "api"], "A!"),
    "listen": (["192.0.2.10:80", "192.0.2.10:80-90", "*:80", "0.0.0.0/0:80", "[2001:db8::10]:80"], "x"),
    "protocol": (["tcp", "udp", ["tcp", "udp"]], "icmp"),
    "interface": (["eth0", "eth1"], "-"),
    "method": (["random", "source_hash"], "best"),
    "affinity": ([0, 60], "soon"),
    "client_prefix": ([{"ipv4": 24}], {"ipv4": 99}),
    "snat": (["none", "masquerade", "10.0.0.99", "2001:db8::99"], 7),
    "snat_ports": (["20000-20010", "80-90"], "x"),
    "snat_by_client": ([[{"networks": ["198.51.100.0/24"], "snat": "none"}]], [{}]),
    "allow_from": (["198.51.100.0/24", "0.0.0.0/0", "::/0"], "x"),
    "deny_from": (["198.51.100.0/24", "0.0.0.0/0"], "x"),
    "log": ([True, False], "maybe"),
    "log_prefix": (["a "], 5),
    "health": ([{"type": "tcp"}], {"type": "x"}),
    "redispatch": ([True, False], "maybe"),
    "takeover": ([True, False], "maybe"),
    "idle_timeout": ([60], "soon"),
    "helper": (["ftp", "tftp"], "x"),
    "min_healthy": ([1, 2], "x"),
    "min_healthy_again": ([1, 2], "x"),
    "pins": ([[{"client": "198.51.100.0/24", "backend": "b1"}], [{"client": "::/0", "backend": "b2"}]], [{}]),
    "backends": (
        [
            [{"address": "10.0.0.3", "name": "b1"}],
            [{"address": "10.0.0.3", "port": 80}, {"address": "2001:db8::3", "name": "b2"}],
            [{"address": "192.0.2.10"}],
        ],
        [{}],
    ),
}
REQUIRED = ("name", "listen", "backends")
SERVICE = st.fixed_dictionaries(
    {key: st.sampled_from(CHOICES[key][0]) for key in REQUIRED},
    optional={key: st.sampled_from(good) for key, (good, _wrong) in CHOICES.items() if key not in REQUIRED},
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SERVICE, min_size=1, max_size=3), st.data())
def test_nothing_is_told_that_is_right_once_the_rest_is(services: list[dict[str, Any]], data: st.DataObject) -> None:
    """Whatever a wrong value is replaced by, something is told of all other places again. By then a conflict may be
    with another service."""
    number = data.draw(st.integers(0, len(services) - 1))
    key = data.draw(st.sampled_from(sorted(services[number])))
    good, wrong = CHOICES[key]
    at = f"services[{number}].{key}"

    def told(value: Any) -> set[str]:
        return set(paths([*services[:number], {**services[number], key: value}, *services[number + 1 :]]))

    beside = {text for text in told(wrong) if not text.startswith(at)}
    assert len(beside) < len(told(wrong)), "the wrong value itself is told"
    for value in good:
        assert beside <= told(value)


TWO_FAMILIES = {
    "listen": ["192.0.2.10:80", "[2001:db8::10]:80"],
    "backends": ["10.0.0.3", "10.0.0.4", "2001:db8:2::3"],
    "health": {"type": "tcp", "port": 80},
}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"min_healthy": 5}, "min_healthy: 5 are more than the service has: 1 IPv6 backend, without"),
        ({"min_healthy": 5, "min_healthy_again": 3}, "min_healthy: 5 are more than the service has: 1 IPv6 backend"),
        ({"min_healthy": 5, "min_healthy_again": 7}, "min_healthy: 5 are more than the service has: 1 IPv6 backend"),
        ({"min_healthy": 1, "min_healthy_again": 7}, "min_healthy_again: 7 are more than the service has: 1 IPv6"),
        (
            {"min_healthy": "100%", "min_healthy_again": 1},
            "min_healthy_again: 1 are fewer than min_healthy, 2 of 2 IPv4",
        ),
        ({"min_healthy": None, "min_healthy_again": 1}, "min_healthy: has no value"),
        ({"min_helthy": 1, "min_healthy_again": 1}, "min_helthy: no such key (did you mean min_healthy?)"),
        ({"quorum": 1, "min_healthy_again": 1}, "quorum: no such key (write min_healthy: "),
    ],
)
def test_one_wrong_number_is_told_once(keys: dict[str, Any], said: str) -> None:
    """What follows from it may be right once it is."""
    (error,) = errors([{"name": "web", **TWO_FAMILIES, **keys}])
    assert error.startswith(f"services[0].{said}"), error
