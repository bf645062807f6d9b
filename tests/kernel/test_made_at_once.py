# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of health that need no program: the kernel holds what nft would have loaded, to the last element."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.errors import HostError
from _natlb.nftables.text import parse_listing
from _natlb.ruleset.sections import Ruleset
from kernel_lab import staying
from kernel_lab.balancer import Balancer, Mapping, service
from kernel_lab.topology import NAMES, VIP, VIP6, WEB, WEB6, Lab

HEALTH = {"type": "tcp"}
#: What differs from a plain service, and whether a backend that leaves and one that comes back need no program. Where
#: they do, a rule is another one that cannot be made from what is there.
SERVICES: dict[str, tuple[Mapping, bool]] = {
    "round_robin": ({}, True),
    "random": ({"method": "random"}, True),
    "source_hash": ({"method": "source_hash"}, True),
    "flow_hash": ({"method": "flow_hash"}, True),
    "least_connections": ({"method": "least_connections"}, True),
    "weights": ({"weights": (5, 3, 2, 1)}, True),
    "udp": ({"protocol": ["tcp", "udp"]}, True),
    "ports": ({"port": 8080, "method": "random"}, True),
    "snat none": ({"snat": "none"}, True),
    "limits": ({"max_connections_per_client": 50, "log": True, "new_connections_per_second": 9}, False),
    "log": ({"log": True}, True),
    "affinity": ({"affinity": 60}, False),
    "range": ({"ports": "8000-8010", "health": {"type": "tcp", "port": 80}}, False),
}
#: One after the other: which backends are down then.
TURNS = (["web2"], ["web2", "web3"], ["web1", "web2", "web3"], list(NAMES), ["web1"], [])


def _declared(options: Mapping, target: str, addresses: dict[str, str]) -> Mapping:
    rest = dict(options)
    weights, port, ports = rest.pop("weights", (1, 1, 1, 1)), rest.pop("port", None), rest.pop("ports", "80")
    backends: list[Mapping] = [
        {"name": name, "address": addresses[name], "weight": weight, **({"port": port} if port else {})}
        for name, weight in zip(NAMES, weights, strict=True)
    ]
    return service(listen=f"{target}:{ports}", backends=backends, **{"health": HEALTH, **rest})


def _findings(addresses: dict[str, str], down: list[str]) -> list[tuple[str, str, str]]:
    return [("web", addresses[name], "down" if name in down else "up") for name in NAMES]


@pytest.mark.engines("nftables")
@pytest.mark.parametrize(("target", "addresses"), [(VIP, WEB), (f"[{VIP6}]", WEB6)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("name", SERVICES)
def test_the_kernel_holds_what_nft_would_load(
    balancer: Balancer, name: str, target: str, addresses: dict[str, str]
) -> None:
    options, at_once = SERVICES[name]
    port = options.get("port")
    declared = _declared(options, target, addresses)
    other = service("other", listen=f"{target}:81", health=HEALTH, backends=declared["backends"])
    balancer.apply([declared, other])
    balancer.host.call(staying.restore, balancer._root, None)

    def after(find: Any, down: list[str]) -> tuple[Ruleset, list[str]]:
        items = [(*item, port) for item in _findings(addresses, down)] if port else _findings(addresses, down)
        read, lines = balancer.host.call(find, balancer._root, *items)
        assert not read
        return _listed(balancer), [line.partition("\n")[0] for line in lines]

    first = _listed(balancer)
    by_program = [after(staying.find_by_program, down) for down in TURNS]
    directly = [after(staying.find, down) for down in TURNS]
    assert [listed for listed, _how in directly] == [listed for listed, _how in by_program]
    assert directly[-1][0] == first
    assert all(how and set(how) == {"nft"} for _listed, how in by_program)
    if at_once:
        # One leaves, another leaves; and the last turn, in which one comes back.
        used = {way for turn in (0, 1, 5) for way in directly[turn][1]}
        assert used == {staying.AT_ONCE}, directly
    assert balancer.apply([declared, other]).transaction == "none"


def _listed(balancer: Balancer) -> Ruleset:
    """All that the kernel has, but for the order in which its hash tables give elements."""
    return parse_listing(balancer.host.run("nft", "--stateless", "-nn", "list", "ruleset"))


def test_a_commit_of_somebody_else_in_between_is_refused(lab: Lab) -> None:
    lab.balancer.run("nft", "add table ip natlb; add table ip foreign")
    with pytest.raises(HostError, match="somebody else has changed rules"):
        lab.balancer.call(staying.made_at_once, "add chain ip natlb x\n", 1)
    assert "chain x" not in lab.balancer.run("nft", "list ruleset")
    assert lab.balancer.call(staying.made_at_once, "add chain ip natlb x\n") == (True, True)
    assert "chain x" in lab.balancer.run("nft", "list ruleset")


@pytest.mark.parametrize(
    "text",
    [
        "add chain ip natlb x\nadd rule ip natlb x goto nowhere\n",
        "add chain ip natlb x\ndelete chain ip natlb nowhere\n",
        "add chain ip natlb x\nadd rule ip natlb x goto x\nadd rule ip natlb in goto x\n",
    ],
)
def test_what_the_kernel_refuses_is_refused_as_a_whole(lab: Lab, text: str) -> None:
    lab.balancer.run("nft", "add table ip natlb; add chain ip natlb in { type filter hook input priority 0; }")
    assert lab.balancer.call(staying.made_at_once, text) == (False, False)
    assert "chain x" not in lab.balancer.run("nft", "list ruleset")
