# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel refuses is refused in check mode too; and after any failure the host is byte for byte what it was."""

from __future__ import annotations

import re
from typing import Any

import pytest
from _natlb.errors import HostError
from kernel_lab import broken
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import NAMES, VIP, VIP6
from shapes import BOTH, EGRESS
from test_egress import by_weight
from test_rollback import root

GOOD = [service(), service("guarded", listen=f"{VIP}:82", allow_from=["198.18.0.0/16", "10.9.0.0/16"])]
OTHER = [service(backends=webs("web2")), service("late", listen=[f"{VIP}:94", f"[{VIP6}]:94"], backends=BOTH)]


def options(balancer: Balancer, **more: Any) -> dict[str, Any]:
    variant = {"iptables_variant": balancer.variant} if balancer.variant else {}
    return {"engine": balancer.engine, **variant, **more}


def exact(balancer: Balancer) -> dict[str, str]:
    seen: dict[str, str] = balancer.host.call(broken.exact)
    files = {str(path): path.read_text() for path in balancer.etc.rglob("*") if path.is_file()}
    return {**seen, **files}


@pytest.mark.parametrize("first", [True, False], ids=["on a bare host", "beside a service"])
@pytest.mark.parametrize("check", [True, False], ids=["check mode", "for real"])
def test_a_rule_that_no_kernel_takes(balancer: Balancer, check: bool, first: bool) -> None:
    _refused(balancer, deep=False, check=check, first=first)


@pytest.mark.engines("nftables", "iptables-nft")
@pytest.mark.parametrize("first", [True, False], ids=["on a bare host", "beside a service"])
@pytest.mark.parametrize("check", [True, False], ids=["check mode", "for real"])
def test_what_only_the_whole_has_wrong(balancer: Balancer, check: bool, first: bool) -> None:
    """iptables-legacy takes any depth."""
    _refused(balancer, deep=True, check=check, first=first)


def _refused(balancer: Balancer, deep: bool, check: bool, first: bool) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 0})
    if not first:
        balancer.apply(GOOD)
    before = exact(balancer)
    with pytest.raises(HostError) as caught:
        balancer.host.call(broken.balance, str(root(balancer)), deep, OTHER, **options(balancer, check=check))
    assert "unshare" not in str(caught.value)
    assert str(caught.value).startswith(("nft", "iptables"))
    assert exact(balancer) == before
    if not first:
        assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


#: Which program fails, at which text; for iptables in each table, in the other family, and at the jumps.
STEPS = {
    "nftables": [("nft", "94", ""), ("nft", "^add rule\\|vmap", "")],
    "iptables": [
        *(("{}-restore", f"^[*]{table}", "") for table in ("nat", "filter")),
        ("{}-restore", "NATLB.late", ""),
        ("ip6tables{}-restore", "^[*]", ""),
    ],
}


@pytest.mark.parametrize("rollback_after", [0, 60])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_step_fails(balancer: Balancer, step: int, rollback_after: int) -> None:
    """Each program in turn, for good or not to be confirmed; before it other tables are changed already."""
    steps = STEPS[balancer.engine]
    program, text, before = steps[step % len(steps)]
    name = program.format(f"-{balancer.variant}" if "6" in program else f"iptables-{balancer.variant}")
    settled(balancer)
    was = exact(balancer)
    with pytest.raises(HostError, match="made to fail") as caught:
        balancer.host.call(
            broken.balance_beside,
            str(root(balancer)),
            name,
            text,
            before,
            OTHER,
            EGRESS[:1],
            **options(balancer, rollback_after=rollback_after),
        )
    assert re.search(r"the former state of the host was restored|nothing was changed", str(caught.value))
    assert "not completely" not in str(caught.value)
    assert exact(balancer) == was
    assert not list(root(balancer).glob("run/rollback.*"))
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


def settled(balancer: Balancer) -> None:
    """A host with rules of others in front of and behind ours, so that a jump that moves shows."""
    balancer.host.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
    balancer.apply(GOOD)
    for variant in ("nft", "legacy") if balancer.nftables else (balancer.variant,):
        for table, chain in (("nat", "PREROUTING"), ("nat", "OUTPUT"), ("filter", "INPUT")):
            for program in (f"iptables-{variant}", f"ip6tables-{variant}"):
                words = "-w -t {} {} {} -p tcp --dport {} -j RETURN"
                balancer.host.run(program, *words.format(table, "-I", chain, 7001).split())
                balancer.host.run(program, *words.format(table, "-A", chain, 7002).split())
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


@pytest.mark.engines("iptables-nft", "iptables-legacy")
def test_what_stays_is_said(balancer: Balancer) -> None:
    """iptables makes a table for whoever asks, and never takes one away."""
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    with pytest.raises(HostError, match=r"new tables stay, without rules: .*tables.* filter"):
        balancer.host.call(
            broken.balance_beside,
            str(root(balancer)),
            f"iptables-{balancer.variant}-restore",
            "^[*]nat",
            "sed '/^[*]nat/,$d' $input | {real} \"$@\"".replace(
                "{real}", f"/usr/sbin/iptables-{balancer.variant}-restore"
            ),
            GOOD,
            **options(balancer),
        )
    assert balancer.ours_left() == []


def test_routes_that_fail(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.apply(GOOD)
    was = exact(balancer)
    with pytest.raises(HostError, match=r"made to fail.*the former state of the host was restored"):
        balancer.host.call(
            broken.balance_beside,
            str(root(balancer)),
            "ip",
            "24602",
            "head -n 1 $input | /usr/sbin/ip -batch -",
            GOOD,
            [by_weight(2, 1)],
            **options(balancer),
        )
    now = exact(balancer)
    # That such a table has been used once is seen in its being listed.
    assert now == was


def test_a_removal_that_fails(balancer: Balancer) -> None:
    """Also of what another engine has left: the successor stands already then."""
    settled(balancer)
    was = exact(balancer)
    other = "iptables" if balancer.nftables else "nftables"
    program, text = ("nft", "delete table") if balancer.nftables else (f"iptables-{balancer.variant}-restore", "^-X")
    for call in ({"engine": other}, {**options(balancer), "state": "absent"}):
        services = [] if call.get("state") else GOOD
        with pytest.raises(HostError, match="made to fail"):
            balancer.host.call(broken.balance_beside, str(root(balancer)), program, text, "", services, **call)
        now = exact(balancer)
        assert {key: now[key] for key in was} == was
        assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
