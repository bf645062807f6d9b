# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that has its way out by router advertisement keeps it when IPv6 forwarding is turned on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _natlb.cli import single_file
from kernel_lab import advertising
from kernel_lab.balancer import Balancer, service
from kernel_lab.host import Host
from kernel_lab.topology import CLIENT6, VIP6, WEB6

ACCEPT = "net/ipv6/conf/front/accept_ra"
SERVICE6 = service(listen=f"[{VIP6}]:80", backends=[{"address": WEB6["web1"]}])
pytestmark = pytest.mark.engines("nftables", "iptables-nft")


def advertised(balancer: Balancer) -> Balancer:
    """The client is the router."""
    listen(balancer, balancer.lab.client, "front", "front")
    return balancer


def listen(balancer: Balancer, router: Host, link: str, heard_on: str) -> None:
    for _unused in range(20):
        router.call(advertising.advertise, link)
        if balancer.host.call(advertising.heard, heard_on):
            return
    raise AssertionError(f"no router made itself known on {heard_on}")


def learned(balancer: Balancer) -> list[str]:
    return list(balancer.host.call(advertising.default_routes))


def accept_ra(balancer: Balancer, link: str = "front") -> str:
    path = Path(f"/proc/sys/net/ipv6/conf/{link}/accept_ra")
    return str(balancer.host.call(Path.read_text, path)).strip()


def test_the_way_out_stays(balancer: Balancer) -> None:
    advertised(balancer)
    shown = balancer.apply([SERVICE6], check=True)
    assert (learned(balancer), accept_ra(balancer)) == (["front"], "1"), "check mode touches nothing"
    assert ACCEPT in shown.diff
    outcome = balancer.apply([SERVICE6])
    assert outcome.diff == shown.diff
    assert (learned(balancer), accept_ra(balancer), accept_ra(balancer, "back")) == (["front"], "2", "1")
    assert outcome.sysctls[ACCEPT] == "2", "the role keeps it for the next boot"
    assert balancer.ask(f"[{VIP6}]:80")[0].name == "web1"
    assert not balancer.apply([SERVICE6]).changed
    assert not balancer.info()["drift"]


def test_a_router_that_is_silent_for_a_while(balancer: Balancer) -> None:
    first = advertised(balancer).apply([SERVICE6])
    balancer.host.run("ip", "-6", "route", "flush", "proto", "ra")
    balancer.host.run("ip", "-6", "route", "flush", "root", f"{advertising.PREFIX}/64")
    again = balancer.apply([SERVICE6])
    assert (again.changed, again.sysctls) == (False, first.sysctls)
    advertised(balancer)


def test_a_router_that_comes_back_is_heard(balancer: Balancer) -> None:
    advertised(balancer).apply([SERVICE6])
    balancer.lab.client.call(advertising.advertise, "front", 0)
    balancer.host.run("ip", "-6", "route", "flush", "proto", "ra")
    advertised(balancer)


def test_a_removal_and_a_second_beginning(balancer: Balancer) -> None:
    advertised(balancer).apply([SERVICE6])
    balancer.remove()
    assert balancer.apply([SERVICE6]).sysctls[ACCEPT] == "2"


def test_an_interface_that_is_gone_for_now(balancer: Balancer) -> None:
    balancer.host.ip("link add lost type veth peer name found\nlink set lost up\nlink set found up")
    balancer.host.sysctl({"ipv6/conf/lost/accept_ra": 2})
    listen(balancer, balancer.host, "found", "lost")
    balancer.apply([SERVICE6])
    balancer.host.ip("link delete lost")
    outcome = balancer.apply([SERVICE6])
    assert (outcome.changed, outcome.sysctls["net/ipv6/conf/lost/accept_ra"]) == (False, "2")


@pytest.mark.parametrize("gone", [False, True], ids=["set to 1", "gone"])
def test_a_host_is_ready_whatever_it_listens_to(balancer: Balancer, gone: bool) -> None:
    """A virtual address has no reason to move: both forward as before."""
    balancer.host.ip("link add lost type veth peer name found\nlink set lost up\nlink set found up")
    balancer.host.sysctl({"ipv6/conf/lost/accept_ra": 2})
    listen(balancer, balancer.host, "found", "lost")
    balancer.apply([SERVICE6], program=single_file.text)
    if gone:
        balancer.host.ip("link delete lost")
    else:
        balancer.host.sysctl({"ipv6/conf/lost/accept_ra": 1})
    assert balancer.natlb("ready") == (0, "ready\n", "")
    assert balancer.info()["forwarding"]
    assert "natlb_forwarding 1\n" in balancer.natlb("metrics")[1]
    assert balancer.info()["drift"] == (not gone), "the next run sets it"


def test_where_somebody_else_listens(balancer: Balancer) -> None:
    """As systemd-networkd does: it hears the advertisements itself, and its routes are no business of the kernel's."""
    balancer.host.sysctl({"ipv6/conf/front/accept_ra": 0})
    balancer.host.ip(f"route add default via {CLIENT6} dev front proto ra")
    outcome = balancer.apply([SERVICE6])
    assert ACCEPT not in outcome.sysctls
    assert accept_ra(balancer) == "0"
    assert f"default via {CLIENT6}" in balancer.host.run("ip", "-6", "route", "show", "default")


@pytest.mark.parametrize("forwarding", [True, False])
def test_where_nothing_of_it_is_at_stake(balancer: Balancer, forwarding: bool) -> None:
    """IPv4 alone, or forwarding that is not asked for."""
    advertised(balancer)
    balancer.apply([service()] if forwarding else [SERVICE6], forwarding=forwarding)
    assert (learned(balancer), accept_ra(balancer)) == (["front"], "1")


def test_a_router_already(balancer: Balancer) -> None:
    """Its administrator has decided whom it believes."""
    advertised(balancer)
    balancer.host.sysctl({"ipv6/conf/all/forwarding": 1})
    assert ACCEPT not in balancer.apply([SERVICE6]).sysctls
    assert accept_ra(balancer) == "1"


@pytest.mark.parametrize("kept", [{"listening": 7}, [], {"listening": ["../all", None, "front"]}])
def test_a_damaged_memory(balancer: Balancer, kept: object) -> None:
    advertised(balancer).apply([SERVICE6])
    path = balancer.etc / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "before": kept}))
    assert balancer.apply([SERVICE6]).sysctls[ACCEPT] == "2"
    assert json.loads(path.read_text())["before"]["listening"] == ["front"]
