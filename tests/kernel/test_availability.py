# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who serves when not all can: states, weight 0, backups, and what a client gets when nobody is left."""

from __future__ import annotations

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import VIP, VIP6, WEB6

PATIENCE_S = 0.4
OUT = [{"state": "drained"}, {"state": "disabled"}, {"weight": 0}]


@pytest.mark.parametrize("key", OUT, ids=str)
@pytest.mark.parametrize("method", ["round_robin", "random", "source_hash"])
def test_a_backend_that_is_out_gets_nothing_new(balancer: Balancer, key: Mapping, method: str) -> None:
    balancer.apply([service(method=method, backends=[*webs("web1", "web2"), *webs("web3", **key)])])
    seen = balancer.tally(count=60, sources=[f"198.18.0.{i}" for i in range(1, 61)])
    assert set(seen) == {"web1", "web2"}
    if method == "round_robin":
        assert seen == {"web1": 30, "web2": 30}


@pytest.mark.parametrize("key", OUT, ids=str)
def test_backups_serve_only_when_all_others_are_out(balancer: Balancer, key: Mapping) -> None:
    backups = webs("web3", "web4", backup=True)
    balancer.apply([service(backends=[*webs("web1", "web2"), *backups])])
    assert balancer.tally(count=8) == {"web1": 4, "web2": 4}
    balancer.apply([service(backends=[*webs("web1"), *webs("web2", **key), *backups])])
    assert balancer.tally(count=8) == {"web1": 8}
    balancer.apply([service(backends=[*webs("web1", "web2", **key), *backups])])
    assert balancer.tally(count=8) == {"web3": 4, "web4": 4}
    balancer.apply([service(backends=[*webs("web1", "web2"), *backups])])
    assert balancer.tally(count=8) == {"web1": 4, "web2": 4}


@pytest.mark.parametrize("method", ["round_robin", "source_hash"])
def test_a_backup_joins_for_each_that_is_out(balancer: Balancer, method: str) -> None:
    """Connections to it go on once the other is back."""

    def served(*out: str, count: int = 60) -> set[str]:
        states = {name: "drained" if name in out else "active" for name in ("web1", "web2")}
        backends = [web for name, state in states.items() for web in webs(name, state=state)]
        backends += webs("web3", "web4", backup=True)
        balancer.apply([service(method=method, backups="one_for_one", backends=backends)])
        return set(balancer.tally(count=count, sources=[f"198.18.0.{i}" for i in range(1, count + 1)]))

    assert served() == {"web1", "web2"}
    assert served("web1") == {"web2", "web3"}
    held = balancer.hold(count=4)
    assert method == "source_hash" or {answer.name for _handle, answer in held} == {"web2", "web3"}
    assert served("web1", "web2") == {"web3", "web4"}
    assert served() == {"web1", "web2"}
    assert [balancer.talk(handle).name for handle, _answer in held] == [answer.name for _handle, answer in held]


@pytest.mark.parametrize("key", OUT, ids=str)
def test_established_tcp_goes_on(balancer: Balancer, key: Mapping) -> None:
    balancer.apply([service(backends=webs("web1", "web2"))])
    held = balancer.hold(count=4)
    assert {answer.name for _handle, answer in held} == {"web1", "web2"}
    balancer.apply([service(backends=[*webs("web1"), *webs("web2", **key)])])
    assert [balancer.talk(handle).name for handle, _answer in held] == [answer.name for _handle, answer in held]
    assert balancer.tally(count=4) == {"web1": 4}


EMPTY: list[list[Mapping]] = [[], webs(state="drained"), webs(state="disabled", backup=True)]


@pytest.mark.parametrize("local", [False, True], ids=["routed", "local"])
@pytest.mark.parametrize("backends", EMPTY, ids=["none", "drained", "backups"])
def test_reject_refuses_at_once(balancer: Balancer, backends: list[Mapping], local: bool) -> None:
    if local:
        balancer.host.ip(f"address add {VIP}/32 dev front")
    else:
        # The client's own network: the kernel would tell it to go straight there, and redirects and refusals share one
        # limit of packets per second (icmp_ratelimit).
        balancer.host.sysctl({"ipv4/conf/all/send_redirects": 0, "ipv4/conf/front/send_redirects": 0})
    balancer.apply([service(protocol=["tcp", "udp"], backends=backends)])
    for protocol in ("tcp", "udp"):
        answers = balancer.ask(count=3, protocol=protocol)
        assert traffic.tally(answers) == {"ConnectionRefusedError": 3}, protocol
        assert [answer.resent for answer in answers] == [0, 0, 0], "the first packet is answered"


@pytest.mark.parametrize("local", [False, True], ids=["routed", "local"])
def test_drop_says_nothing(balancer: Balancer, local: bool) -> None:
    if local:
        balancer.host.ip(f"address add {VIP}/32 dev front")
    balancer.apply([service(protocol=["tcp", "udp"], when_empty="drop", backends=webs(state="drained"))])
    for protocol in ("tcp", "udp"):
        assert balancer.tally(protocol=protocol, timeout_s=PATIENCE_S) == {"TimeoutError": 1}, protocol


@pytest.mark.parametrize(("when_empty", "error"), [("reject", "ConnectionRefusedError"), ("drop", "TimeoutError")])
def test_ipv6_and_the_balancer_itself(balancer: Balancer, when_empty: str, error: str) -> None:
    both: Mapping = {"listen": [f"{VIP}:80", f"[{VIP6}]:80"], "backends": []}
    balancer.apply([service(protocol=["tcp", "udp"], when_empty=when_empty, **both)])
    patience_s = PATIENCE_S if when_empty == "drop" else traffic.TIMEOUT_S
    for protocol in ("tcp", "udp"):
        assert balancer.tally(f"[{VIP6}]:80", protocol=protocol, timeout_s=patience_s) == {error: 1}
    own = balancer.host.call(traffic.ask, f"{VIP}:80", timeout_s=patience_s)
    # What the host sends itself is refused by its own firewall as EPERM where it is dropped.
    assert own[0].error in (error, "PermissionError")


def test_other_traffic_is_left_alone_by_an_empty_service(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.apply([service(listen=f"{VIP}:80", backends=[]), service("other", listen=f"{VIP}:8080")])
    assert balancer.tally(f"{VIP}:80") == {"ConnectionRefusedError": 1}
    assert sum(balancer.tally(f"{VIP}:8080", 4).values()) == 4
    assert balancer.tally("10.0.0.3:80") == {"web1": 1}


def test_one_family_can_be_empty(balancer: Balancer) -> None:
    backends = [*webs("web1"), {"address": WEB6["web2"], "state": "disabled"}]
    balancer.apply([service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=backends)])
    assert balancer.tally(count=2) == {"web1": 2}
    assert balancer.tally(f"[{VIP6}]:80") == {"ConnectionRefusedError": 1}
