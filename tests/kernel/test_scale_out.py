# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three balancers are active at the same time behind a router that hashes flows over them (ECMP). One is added, one is
drained, one is killed: established connections go on, whoever speaks first."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.host import Host
from kernel_lab.return_path import ReturnPath
from kernel_lab.scale_out import ScaleOut
from kernel_lab.topology import BACK, BACK6, VIP6, WEB6, Lab
from test_takeover import Held, backend_first, client_first, hold

SHORT = os.environ.get("NATLB_KERNEL") == "short"
HALF = 50 if SHORT else 150
#: By flow over IPv4, and by source over IPv6. Each has a port of its own at the backends, which tells its frontend.
SERVICES: list[Mapping] = [
    service("flow", method="flow_hash", snat="none", backends=webs(port=8080)),
    service(
        "source",
        method="source_hash",
        snat="none",
        listen=[f"[{VIP6}]:80"],
        backends=[{"name": name, "address": WEB6[name], "port": 9000} for name in WEB6],
    ),
]
#: The engine of the balancers, that of the backends, and how the router hashes.
WAYS = {
    "nftables": ("nftables", "nftables", "mpath"),
    "iptables": ("iptables-nft", "iptables", "resilient"),
}


@contextlib.contextmanager
def scaled_out(lab: Lab, folder: Path, engine: str, kind: str) -> Iterator[ScaleOut]:
    group = ScaleOut(lab, engine, folder, kind)
    try:
        for member in group.members:
            member.go_live(SERVICES)
        yield group
    finally:
        group.close()


@contextlib.contextmanager
def return_paths(group: ScaleOut, folder: Path, engine: str, **given: object) -> Iterator[list[ReturnPath]]:
    """The role on all backends."""
    given = {"natlb_return_balancers": group.declared(), "natlb_return_engine": engine, **given}
    paths = [ReturnPath(host, folder, **given) for host in group.lab.backends.values()]
    try:
        for path in paths:
            path.run("up")
        yield paths
    finally:
        for path in paths:
            path.run("down")


def opened(balancer: Balancer, count: int) -> list[Held]:
    """Half of them by flow, half by source; also those that speak first are mixed."""
    first = hold(balancer, count)
    return [
        each
        for pair in zip(first, hold(balancer, count, f"[{VIP6}]:80", "2001:db8:18::{}"), strict=True)
        for each in pair
    ]


def speaking(balancer: Balancer, held: list[Held]) -> Counter[str]:
    """On one half the client speaks first, on the other one the backend; then backends speak to all."""
    half = len(held) // 2
    spoke, heard = client_first(balancer, held[:half]), backend_first(balancer, held)
    return spoke + heard - Counter(kept=half)


@pytest.mark.parametrize("way", ["nftables"] if SHORT else WAYS)
def test_three_hundred_connections(lab: Lab, tmp_path: Path, way: str) -> None:
    engine, of_backends, kind = WAYS[way]
    lab.silence()
    with scaled_out(lab, tmp_path, engine, kind) as group, return_paths(group, tmp_path, of_backends):
        client = group.members[0]
        group.share(1, 2)
        held = opened(client, HALF)
        all_kept = {"kept": 2 * HALF}
        fates = {"two": speaking(client, held)}
        group.share(1, 2, 3)
        fates["one is added"] = speaking(client, held)
        group.share(2, 3)
        fates["one is drained"] = speaking(client, held)
        group.share(1, 2, 3)
        fates["it comes back"] = speaking(client, held)
        group.kill(2)
        group.share(1, 3)
        group.move_gateways(2, 3)
        fates["one is killed"] = speaking(client, held)
        print(
            f"figures: {way}, {kind}: {2 * HALF} connections: { ({name: dict(fate) for name, fate in fates.items()}) }"
        )
        assert fates == dict.fromkeys(fates, all_kept)


def kept_by_a_host(host: Host) -> dict[str, str]:
    """What the script may change."""
    looks = {
        "rules": "ip -4 rule",
        "rules6": "ip -6 rule",
        "routes": "ip -4 route show table all; ip -6 route show table all",
        "nft": "nft list ruleset 2>/dev/null | grep -c natlb_return || true",
        "iptables": "iptables -t mangle -S; ip6tables -t mangle -S",
    }
    return {name: host.run("sh", "-c", text) for name, text in looks.items()}


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_a_backend_has_nothing_of_it_in_the_end(lab: Lab, tmp_path: Path, engine: str) -> None:
    backend = lab.backends["web1"]
    # The gateway of the lab is one of the balancers here.
    balancers = [{"mac": f"02:00:5e:00:53:0{number}", "gateway": [BACK, BACK6]} for number in (1, 2)]
    before = kept_by_a_host(backend)
    both = {"natlb_return_balancers": balancers, "natlb_return_ports": ["8080", "53/udp"]}
    path = ReturnPath(backend, tmp_path, **both, natlb_return_engine=engine)
    try:
        path.run("up")
        put_in_place = kept_by_a_host(backend)
        for number in (1, 2):
            counts = [put_in_place[rules].count(f"fwmark 0x{number}000000/0xff000000") for rules in ("rules", "rules6")]
            assert counts == [2, 2], number
        assert path.drift() == (0, [])
        path.run("up")
        assert kept_by_a_host(backend) == put_in_place
        backend.run("sh", "-c", HARM[engine])
        status, lines = path.drift()
        # What follows of a rule is written in many ways by versions of nft.
        assert (status, [" ".join(line.partition(" 0x")[0].split()) for line in lines]) == (1, HARMED[engine])
        backend.ip("rule add pref 5 lookup main protocol 84\nroute del default table 24700")
        status, lines = path.drift()
        assert status == 1
        assert "new: ip -4 rule 5:\tfrom all lookup main proto 84" in lines
        assert any(line.startswith(f"gone: ip -4 route default via {BACK} ") for line in lines)
        path.run("up")
        assert path.drift() == (0, [])
        # With one balancer alone nothing is marked, also where the other engine's rules are left.
        alone = ReturnPath(backend, tmp_path, natlb_return_gateway=[BACK, BACK6], natlb_return_ports=["8080"])
        alone.run("up")
        left = kept_by_a_host(backend)
        assert (left["nft"], left["iptables"]) == (before["nft"], before["iptables"])
        assert "fwmark" not in left["rules"] + left["rules6"]
        assert alone.drift() == (0, [])
    finally:
        path.run("down")
    assert kept_by_a_host(backend) == before


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_marks_of_which_nothing_tells_are_removed(lab: Lab, tmp_path: Path, engine: str) -> None:
    """Whoever saves the rules of the host has them back after a boot, when nothing else of the role is there."""
    backend = lab.backends["web1"]
    balancers = [{"mac": "02:00:5e:00:53:01", "gateway": [BACK, BACK6]}]
    before = kept_by_a_host(backend)
    path = ReturnPath(backend, tmp_path, natlb_return_balancers=balancers, natlb_return_engine=engine)
    try:
        path.run("up")
        put_in_place = kept_by_a_host(backend)
        path.forget()
        if engine == "iptables":
            backend.run("sh", "-c", TWICE)
        path.run("up")
        assert kept_by_a_host(backend) == put_in_place
        path.forget()
    finally:
        path.run("down")
    assert kept_by_a_host(backend) == before


#: What makes marks; of iptables, those of IPv4 are there when IPv6 fails.
MAKES_MARKS = {"nftables": "nft", "iptables": "ip6tables-restore"}


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_marks_that_cannot_be_made_leave_routes_where_they_are(lab: Lab, tmp_path: Path, engine: str) -> None:
    """It is told, and the next attempt makes them."""
    backend = lab.backends["web1"]
    balancers = [{"mac": "02:00:5e:00:53:01", "gateway": [BACK, BACK6]}]
    before = kept_by_a_host(backend)
    path = ReturnPath(backend, tmp_path, natlb_return_balancers=balancers, natlb_return_engine=engine)
    try:
        path.run("up")
        put_in_place = kept_by_a_host(backend)
        path.run("down")
        path.failing(MAKES_MARKS[engine], 1000)
        with pytest.raises(RuntimeError, match="marks of natlb_return_balancers cannot be made"):
            path.run("up")
        left = kept_by_a_host(backend)
        assert {name: left[name] for name in ("rules", "rules6", "routes")} == {
            name: put_in_place[name] for name in ("rules", "rules6", "routes")
        }
        assert path.drift() == (1, ["gone: marks of natlb_return_balancers"])
        (tmp_path / "failing" / MAKES_MARKS[engine]).unlink()
        path.run("restore")
        assert kept_by_a_host(backend) == put_in_place
        assert path.drift() == (0, [])
    finally:
        path.run("down")
    assert kept_by_a_host(backend) == before


def test_marks_are_made_again_however_long_addresses_were_waited_for(lab: Lab, tmp_path: Path) -> None:
    backend = lab.backends["web1"]
    balancers = [{"mac": "02:00:5e:00:53:01", "gateway": [BACK, BACK6]}]
    path = ReturnPath(backend, tmp_path, natlb_return_balancers=balancers, natlb_return_engine="nftables")
    path.has_waited()
    path.failing("nft", 2)
    try:
        path.run("up")
        assert path.drift() == (0, [])
    finally:
        path.run("down")


TWICE = """
for program in iptables ip6tables; do
    $program -t mangle -A PREROUTING -j NATLB-ARRIVING
    $program -t mangle -A OUTPUT -j NATLB-MARKED
done
"""
HARM = {
    "nftables": "nft flush chain ip natlb_return marked",
    "iptables": "iptables -t mangle -D OUTPUT -j NATLB-MARKED",
}
#: How it is told of, and nothing of the other family, which has the same rules.
HARMED = {
    "nftables": ["gone: nft ip: ct mark"] * 2,
    "iptables": ["gone: iptables: -A OUTPUT -j NATLB-MARKED"],
}
