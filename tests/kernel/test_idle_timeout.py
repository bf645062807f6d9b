# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time-outs of a service's own, as the kernel counts them down for its connections.

The times here are hours apart from those of the host and from each other, so a slow machine changes nothing.
"""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from _natlb.errors import NatlbError
from _natlb.nftables.text import full, loadable, parse_listing
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import FRONT, OTHER_VIP, VIP, VIP6, WEB, WEB6

nftables = pytest.mark.engines("nftables")
TARGET = f"{VIP}:80"
#: A day more or less is the same time.
DAY_S = 86400
HOST_S = 5 * DAY_S
SIX = [{"address": address} for address in WEB6.values()]
WITHIN_S = 60


def left(balancer: Balancer, target: str, protocol: str = "tcp") -> int:
    """The seconds until the one connection to this frontend is forgotten. While something has not been acknowledged
    that is five minutes at most, whatever else holds (nf_conntrack_proto_tcp.c)."""
    address, _colon, port = target.rpartition(":")
    words = ["-L", "-p", protocol, "--orig-dst", address.strip("[]"), "--orig-port-dst", port]
    words += ["-f", "ipv6"] if ":" in address else []
    deadline = time.monotonic() + WITHIN_S
    while True:
        (entry,) = balancer.host.run("conntrack", *words).splitlines()
        found = int(re.split(r" +", entry)[2])
        if found > 300 or protocol == "udp" or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def days(seconds: int) -> float:
    return round(seconds / DAY_S, 1)


@nftables
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_connections_have_the_time_of_their_service(balancer: Balancer, protocol: str) -> None:
    """From its first packet on, with an answer and after more of both; others have that of the host."""
    declared = [
        service(protocol=protocol, idle_timeout="2d"),
        service("six", listen=f"[{VIP6}]:80", backends=SIX, protocol=protocol, idle_timeout="3d"),
        service("other", listen=f"{OTHER_VIP}:80", protocol=protocol),
        service("longest", listen=f"{VIP}:8080", protocol=protocol, idle_timeout="7d"),
    ]
    balancer.apply(declared)
    usual = HOST_S if protocol == "tcp" else 0
    expected = {TARGET: 2, f"[{VIP6}]:80": 3, f"{OTHER_VIP}:80": days(usual), f"{VIP}:8080": 7}
    held = {target: balancer.hold(target, protocol=protocol)[0][0] for target in expected}
    assert {target: days(left(balancer, target, protocol)) for target in expected} == expected
    for handle in held.values():
        balancer.talk(handle)
    assert {target: days(left(balancer, target, protocol)) for target in expected} == expected
    # A client on the balancer itself.
    balancer.host.run("conntrack", "-D", "-p", protocol, "--orig-dst", VIP, "--orig-port-dst", "80")
    held_here = balancer.host.call(traffic.hold, TARGET, protocol=protocol)
    assert days(left(balancer, TARGET, protocol)) == 2
    assert len(held_here) == 1


@nftables
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_time_of_a_service_wins_over_that_of_the_host(balancer: Balancer, protocol: str) -> None:
    """Whichever is longer. What has none has the time of the host."""
    declared = [
        service("longer", protocol=protocol, idle_timeout="6d"),
        service("shorter", listen=f"{VIP}:8080", protocol=protocol, idle_timeout="2d"),
        service("other", listen=f"{OTHER_VIP}:80", protocol=protocol),
    ]
    of_host = {"tcp_established": 4 * DAY_S, "udp": 4 * DAY_S, "udp_stream": 4 * DAY_S}
    balancer.apply(declared, conntrack={"timeouts": of_host})
    expected = {TARGET: 6, f"{VIP}:8080": 2, f"{OTHER_VIP}:80": 4}
    for target in expected:
        balancer.hold(target, protocol=protocol)
    assert {target: days(left(balancer, target, protocol)) for target in expected} == expected


SHAPES: dict[str, Mapping] = {
    f"{VIP}:81": {"method": "random"},
    f"{VIP}:82": {"method": "source_hash"},
    f"{VIP}:83": {"method": "flow_hash", "snat": "none"},
    f"{VIP}:84": {"listen": f"{VIP}:84-89"},
    f"{FRONT}:81": {"listen": "*:81"},
    f"{OTHER_VIP}:80": {"listen": "192.0.2.8/29:80"},
    f"{VIP}:91": {"interface": "front"},
    f"{VIP}:92": {"affinity": 60},
    f"{VIP}:93": {"pins": [{"client": "0.0.0.0/0", "backend": "web2"}]},
    f"{VIP}:94": {"backends": webs(port=80, max_connections=9)},
    f"{VIP}:95": {"allow_from": "0.0.0.0/0", "log": True, "max_connections_per_client": 9},
}


@nftables
def test_services_of_each_shape(balancer: Balancer) -> None:
    declared = [
        service(f"s{number}", **{"listen": target, "backends": webs(port=80), "idle_timeout": "2d", **keys})
        for number, (target, keys) in enumerate(SHAPES.items())
    ]
    balancer.apply(declared)
    for target in SHAPES:
        balancer.hold(target)
    assert {target: days(left(balancer, target)) for target in SHAPES} == dict.fromkeys(SHAPES, 2)
    again = balancer.apply(declared)
    assert (again.changed, again.diff) == (False, "")
    assert not balancer.info()["drift"]


@nftables
def test_an_idle_connection_is_forgotten(balancer: Balancer) -> None:
    balancer.apply([service(idle_timeout=2)])
    # On a busy machine its first message may come too late, and then nobody gets it.
    balancer.client.call(traffic.hold_at_once, TARGET, 1)
    deadline = time.monotonic() + WITHIN_S
    while balancer.host.run("conntrack", "-L", "-p", "tcp", "--orig-dst", VIP):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def objects(balancer: Balancer) -> list[str]:
    return re.findall(r"ct timeout (\S+) \{", "".join(balancer.snapshot().values()))


@nftables
def test_it_comes_changes_and_goes(balancer: Balancer) -> None:
    """A connection keeps its time, until nobody has that any more; then it has the one of the host."""
    other = service("other", listen=f"{OTHER_VIP}:80", idle_timeout="2d")
    plain, timed = [service(), other], [service(idle_timeout="2d"), other]
    balancer.apply(plain)
    before = balancer.snapshot()
    assert balancer.apply(timed, check=True).changed
    assert balancer.snapshot() == before
    assert balancer.apply(timed).transaction == "delta"
    ((handle, answer),) = balancer.hold(TARGET)
    for number, seconds in enumerate(("3d", "4d"), 3):
        assert balancer.apply([service(idle_timeout=seconds), other]).transaction == "delta"
        ((_handle, _answer),) = balancer.hold(f"{OTHER_VIP}:80")
        assert balancer.talk(handle).name == answer.name
        assert days(left(balancer, TARGET)) == 2, "the other service has that object, too"
        assert objects(balancer) == ["idle.tcp.172800", f"idle.tcp.{number * DAY_S}"]
        balancer.host.run("conntrack", "-D", "-p", "tcp", "--orig-dst", OTHER_VIP)
    # With nobody who serves it stays.
    drained = [service(idle_timeout="2d", backends=webs(state="drained"))]
    assert balancer.apply(drained).transaction == "delta"
    assert balancer.talk(handle).name == answer.name
    assert (days(left(balancer, TARGET)), objects(balancer)) == (2, ["idle.tcp.172800"])
    assert balancer.apply([service()]).transaction == "delta"
    assert objects(balancer) == []
    assert balancer.talk(handle).name == answer.name
    assert days(left(balancer, TARGET)) == days(HOST_S)
    balancer.apply(timed)
    balancer.remove()
    assert not balancer.ours_left()


@nftables
def test_a_range_comes_changes_and_goes(balancer: Balancer) -> None:
    """Its elements are intervals, which linger, and its chain with them."""
    declared: dict[str, Any] = {"listen": f"{VIP}:80-90", "backends": webs(port=80)}
    other = service("other", listen=f"{OTHER_VIP}:80-90", backends=webs(port=80))
    for seconds in ("2d", "3d"):
        balancer.apply([service(**declared, idle_timeout=seconds), other])
        balancer.hold(TARGET)
        assert f"{days(left(balancer, TARGET)):.0f}d" == seconds
        balancer.client.call(traffic.release)
        balancer.host.run("conntrack", "-F")
    assert balancer.apply([other]).transaction == "delta"
    assert objects(balancer) == []


@nftables
def test_drift_is_seen_and_mended(balancer: Balancer) -> None:
    declared = [service(idle_timeout="2d")]
    balancer.apply(declared)
    name = "ip natlb idle.tcp.172800"
    rule = f"flush chain ip natlb s.web.tcp\ndelete ct timeout {name}\n"
    other = f"add ct timeout {name} {{ protocol tcp; l3proto ip; policy = {{ established : 9 }}; }}\n"
    chain = balancer.host.run("nft", "-s", "-nn", "list", "chain", "ip", "natlb", "s.web.tcp")
    for change in (rule, rule + other, rule + other + chain):
        balancer.host.run("nft", "-f", "-", stdin=change)
        assert balancer.info()["drift"]
        outcome = balancer.apply(declared)
        assert outcome.transaction == "delta"
        assert "idle.tcp.172800" in outcome.diff
        balancer.hold(TARGET)
        assert days(left(balancer, TARGET)) == 2
        balancer.client.call(traffic.release)
        balancer.host.run("conntrack", "-F")


@nftables
def test_what_is_listed_can_be_loaded(balancer: Balancer) -> None:
    """nft lists no time that is its own default, and takes no list without any."""
    times = {"5d": "tcp", "30s": "udp", "2m": "udp", "1d": "udp"}
    balancer.apply(
        [
            service(f"s{number}", listen=f"{VIP}:{number}", protocol=protocol, idle_timeout=seconds)
            for number, (seconds, protocol) in enumerate(times.items(), 80)
        ]
    )
    listing = balancer.host.run("nft", "-s", "-nn", "list", "table", "ip", "natlb")
    balancer.host.run("nft", "-f", "-", stdin=full(loadable(parse_listing(listing))))
    assert balancer.host.run("nft", "-s", "-nn", "list", "table", "ip", "natlb") == listing


@pytest.mark.engines("iptables-nft", "iptables-legacy")
def test_iptables_has_none(balancer: Balancer) -> None:
    """It says so before anything is changed."""
    balancer.apply([service()])
    before = balancer.snapshot()
    with pytest.raises(NatlbError) as caught:
        balancer.apply([service(), service("other", listen=f"{OTHER_VIP}:80", idle_timeout=60)])
    assert str(caught.value).startswith("services[1].idle_timeout: the iptables engine cannot do it: ")
    assert "(use engine: nftables, or natlb_conntrack" in str(caught.value)
    assert balancer.snapshot() == before
    assert balancer.ask(TARGET)[0].name in WEB
