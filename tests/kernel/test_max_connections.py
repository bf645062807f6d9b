# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many connections a backend has at a time, and where the next one goes."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from _natlb.cli import single_file
from _natlb.errors import NatlbError
from kernel_lab import senders, traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import FRONT, NAMES, OTHER_VIP, VIP, VIP6, WEB, WEB6
from test_agent import FAST, crashed, running
from test_running import dark

pytestmark = pytest.mark.engines("nftables")

GUEST = "198.18.7.7"
REFUSED = "ConnectionRefusedError"
METHODS = ["round_robin", "random", "source_hash", "flow_hash", "destination_hash", "least_connections"]
#: The kernel takes connections that have ended off once a second, or a little later.
FREE_S = 5.0


def limited(*numbers: int, **keys: Any) -> list[Mapping]:
    """The first backends with these limits."""
    return [{**web, "max_connections": most, **keys} for web, most in zip(webs(), numbers, strict=False)]


def held(balancer: Balancer, count: int, **options: Any) -> Counter[str]:
    return Counter(answer.name for _handle, answer in balancer.hold(count=count, **options))


def until_free(balancer: Balancer, name: str, **options: Any) -> float:
    """Open connections that are kept until this backend has one; how long that took."""
    began = time.monotonic()
    while time.monotonic() < began + FREE_S:
        if held(balancer, 1, **options)[name]:
            return time.monotonic() - began
    raise AssertionError(f"{name} had no room within {FREE_S} s")


def is_full(balancer: Balancer, **options: Any) -> bool:
    """Whether one more is refused: when its SYN comes again."""
    (answer,) = balancer.ask(**options)
    return (answer.error, answer.resent) == (REFUSED, 1)


@pytest.mark.parametrize("method", METHODS)
def test_the_next_one_goes_to_who_has_room(balancer: Balancer, method: str) -> None:
    backends = [*limited(4, 1, 2), *webs("web4", backup=True, max_connections=3)]
    declared = [service(method=method, backends=backends)]
    balancer.apply(declared, program=single_file.text)
    assert not balancer.apply(declared, program=single_file.text).changed
    for expected in ({"web1": 4, "web2": 1, "web3": 2}, {"web4": 3}):
        assert held(balancer, sum(expected.values())) == expected
    (now,) = balancer.info()["services"]
    assert [item["new_connections"] for item in now["backends"]] == [4, 1, 2, 3]
    assert is_full(balancer)
    traced = balancer.natlb("trace", GUEST, f"{VIP}:80")[1]
    assert "web1 (10.0.0.3) has 4 of 4 connections (max_connections): it is full" in traced
    assert "every backend of web is full: the connection is refused" in traced
    assert balancer.remove().changed
    assert not balancer.ours_left()


@pytest.mark.parametrize("method", METHODS)
def test_who_has_no_limit_takes_the_rest(balancer: Balancer, method: str) -> None:
    balancer.apply([service(method=method, backends=[*limited(2), *webs("web2"), *webs("web3", backup=True)])])
    seen = held(balancer, 20, source=None)
    assert seen.keys() <= {"web1", "web2"}
    assert seen["web1"] <= 2
    if not method.endswith("hash"):
        assert seen == {"web1": 2, "web2": 18}


def test_backups_share_the_rest(balancer: Balancer) -> None:
    balancer.apply([service(backends=[*limited(2), *webs("web2", "web3", backup=True)])])
    seen = held(balancer, 42)
    assert seen["web1"] == 2
    assert min(seen["web2"], seen["web3"]) > 8


def test_over_ipv6(balancer: Balancer) -> None:
    backends = [*limited(1, 1), *({"address": WEB6[name], "max_connections": 2} for name in ("web3", "web4"))]
    balancer.apply([service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=backends)])
    assert held(balancer, 4, target=f"[{VIP6}]:80") == {"web3": 2, "web4": 2}
    assert is_full(balancer, target=f"[{VIP6}]:80")
    assert held(balancer, 2) == {"web1": 1, "web2": 1}


@pytest.mark.parametrize("listen", ["192.0.2.10:80-81", "*:80"], ids=["range", "node"])
def test_any_frontend(balancer: Balancer, listen: str) -> None:
    balancer.apply([service(listen=listen, backends=limited(1, 2), interface="front")])
    target = f"{FRONT}:80" if listen == "*:80" else f"{VIP}:80"
    assert held(balancer, 3, target=target) == {"web1": 1, "web2": 2}
    assert is_full(balancer, target=target)


def test_protocols_and_frontends_count_together_and_services_do_not(balancer: Balancer) -> None:
    both = service(listen=[f"{VIP}:80", f"{OTHER_VIP}:80"], protocol=["tcp", "udp"], backends=limited(2))
    balancer.apply([both, service("other", listen=f"{VIP}:8080", backends=limited(1))])
    assert held(balancer, 1) == {"web1": 1}
    assert held(balancer, 1, protocol="udp", target=f"{OTHER_VIP}:80") == {"web1": 1}
    assert is_full(balancer)
    assert balancer.tally(protocol="udp") == {REFUSED: 1}
    assert held(balancer, 1, target=f"{VIP}:8080") == {"web1": 1}
    assert is_full(balancer, target=f"{VIP}:8080")


def test_nobody_has_room_and_is_silent(balancer: Balancer) -> None:
    balancer.apply([service(when_empty="drop", backends=limited(1))])
    assert held(balancer, 1) == {"web1": 1}
    assert balancer.tally(timeout_s=1.5) == {"TimeoutError": 1}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_there_is_room_again(balancer: Balancer, reset: bool) -> None:
    balancer.apply([service(backends=[*limited(2), *webs("web2")])])
    first = balancer.hold(count=4)
    assert Counter(answer.name for _handle, answer in first) == {"web1": 2, "web2": 2}
    handle = next(handle for handle, answer in first if answer.name == "web1")
    balancer.client.call(traffic.let_go, handle, reset=reset)
    print(f"room again {until_free(balancer, 'web1'):.2f} s after the end of a connection")
    assert held(balancer, 6) == {"web2": 6}


def test_udp_gives_its_place_back(balancer: Balancer) -> None:
    balancer.host.sysctl({"netfilter/nf_conntrack_udp_timeout": 1, "netfilter/nf_conntrack_udp_timeout_stream": 1})
    balancer.apply([service(protocol="udp", backends=[*limited(2), *webs("web2")])])
    assert held(balancer, 6, protocol="udp") == {"web1": 2, "web2": 4}
    until_free(balancer, "web1", protocol="udp")


@contextlib.contextmanager
def sending(balancer: Balancer, count: int, target: str) -> Iterator[None]:
    """UDP of so many clients that do not pause."""
    balancer.client.call(senders.begin, target, count)
    try:
        yield
    finally:
        balancer.client.call(senders.halt)


def answered(balancer: Balancer, **wanted: int) -> float:
    """Wait until the senders are answered by these; the longest time that one of them was not answered at all."""
    began = time.monotonic()
    while True:
        found = balancer.client.call(senders.now)
        seen = Counter(sender.name for sender in found)
        if seen == wanted:
            return float(max(sender.silence_s for sender in found))
        assert time.monotonic() < began + FREE_S, seen


IN_BOTH_FAMILIES = pytest.mark.parametrize(
    ("target", "address"), [(f"{VIP}:80", WEB), (f"[{VIP6}]:80", WEB6)], ids=["ipv4", "ipv6"]
)


def of_udp(address: Mapping, target: str) -> Mapping:
    first, second = ({"name": name, "address": address[name]} for name in NAMES[:2])
    return service(protocol="udp", listen=target, backends=[{**first, "max_connections": 5}, second])


@IN_BOTH_FAMILIES
def test_who_goes_on_to_send_leaves_no_place_behind(balancer: Balancer, target: str, address: Mapping) -> None:
    """A backend goes out and comes back. Its clients are elsewhere then, under the addresses and ports as before."""
    balancer.apply([of_udp(address, target)])
    with sending(balancer, 10, target):
        answered(balancer, web1=5, web2=5)
        balancer.backend("web1", "disabled")
        silence = answered(balancer, web2=10)
        balancer.backend("web1", "active")
        assert held(balancer, 10, protocol="udp", target=target) == {"web1": 5, "web2": 5}
        assert held(balancer, 5, protocol="udp", target=target) == {"web2": 5}
    print(f"{silence:.2f} s without an answer")


@IN_BOTH_FAMILIES
def test_who_goes_on_to_send_stays(balancer: Balancer, target: str, address: Mapping) -> None:
    """Whose entry of connection tracking is gone has its place as before, and is not kept waiting."""
    balancer.apply([of_udp(address, target)])
    with sending(balancer, 10, target):
        answered(balancer, web1=5, web2=5)
        entries = ("--family", "ipv6" if "[" in target else "ipv4", "--proto", "udp")
        for _again in range(3):
            balancer.host.run("conntrack", "--delete", *entries)
            began = time.monotonic()
            while balancer.host.run("conntrack", "--dump", *entries).count(" dport=80 ") < 10:
                assert time.monotonic() < began + FREE_S
        assert held(balancer, 5, protocol="udp", target=target) == {"web2": 5}
        assert answered(balancer, web1=5, web2=5) < 0.5, "nobody was kept waiting"


def test_a_port_that_is_used_again_at_once(balancer: Balancer) -> None:
    balancer.apply([service(backends=[*limited(1), *webs("web2")])])
    ((handle, answer),) = balancer.hold(source_port=40000)
    assert answer.name == "web1"
    balancer.client.call(traffic.let_go, handle, reset=True)
    ((handle, answer),) = balancer.hold(source_port=40000)
    assert (answer.name, answer.resent) == ("web1", 0)
    balancer.client.call(traffic.let_go, handle, reset=True)
    until_free(balancer, "web1")


def test_what_went_elsewhere_takes_no_place(balancer: Balancer) -> None:
    """A count of the kernel (`ct count`, connlimit) would keep it for as long as it lives."""
    balancer.apply([service(backends=[*limited(2), *webs("web2")])])
    first = balancer.hold(count=12)
    assert Counter(answer.name for _handle, answer in first) == {"web1": 2, "web2": 10}
    for handle in [handle for handle, answer in first if answer.name == "web1"]:
        balancer.client.call(traffic.let_go, handle)
    until_free(balancer, "web1")
    until_free(balancer, "web1")


def test_an_attempt_counts_until_it_is_forgotten(balancer: Balancer) -> None:
    balancer.apply([service(backends=[*limited(1), *webs("web2")], method="round_robin")])
    with dark(balancer, "web1"):
        assert balancer.tally(count=4, timeout_s=0.2) == {"TimeoutError": 1, "web2": 3}


def test_many_at_the_same_moment(balancer: Balancer) -> None:
    balancer.apply([service(method="random", backends=[*limited(30, 20, 10), *webs("web4")])])
    seen = balancer.client.call(traffic.hold_at_once, f"{VIP}:80", 120, 10.0)
    assert seen == {"web1": 30, "web2": 20, "web3": 10, "web4": 60}


@pytest.mark.parametrize("method", ["round_robin", "source_hash"])
def test_others_share_what_one_cannot_take(balancer: Balancer, method: str) -> None:
    sources = [f"198.18.{i}.{j}" for i in range(10) for j in range(1, 41)]
    backends = [*webs("web1", weight=5, max_connections=1), *webs("web2", "web3", "web4", max_connections=100000)]
    balancer.apply([service(method=method, backends=backends)])
    assert held(balancer, 1) == {"web1": 1} or method == "source_hash"
    until_free_of(balancer, sources)
    seen = balancer.tally(count=len(sources), sources=sources)
    print(f"{method}: {dict(seen)}")
    rest = [seen[name] for name in NAMES[1:]]
    assert sum(rest) >= len(sources) - 5
    assert min(rest) > 0.6 * max(rest)
    if method == "source_hash":
        again = [answer.name for answer in balancer.ask(count=40, sources=sources)]
        assert again == [answer.name for answer in balancer.ask(count=40, sources=sources)], "a client finds its second"


def until_free_of(balancer: Balancer, sources: list[str]) -> None:
    """Take the only place of web1, by whichever client goes there."""
    for source in sources:
        if held(balancer, 1, source=source)["web1"] or is_taken(balancer):
            return
    raise AssertionError("no client goes to web1")


def is_taken(balancer: Balancer) -> bool:
    (found,) = balancer.info("web")["services"]
    return next(bool(item["active_connections"]) for item in found["backends"] if item["name"] == "web1")


def test_affinity(balancer: Balancer) -> None:
    balancer.apply([service(affinity=60, backends=limited(2, 2, 2))])
    names = [answer.name for _handle, answer in balancer.hold(count=3, source=GUEST)]
    assert names[0] == names[1] != names[2], "the third goes elsewhere, since its backend is full"
    assert held(balancer, 3, source=GUEST).total() == 3
    assert is_full(balancer, sources=[GUEST])


def test_a_pinned_client_goes_elsewhere_as_well(balancer: Balancer) -> None:
    balancer.apply([service(pins=[{"client": f"{GUEST}/32", "backend": "web3"}], backends=limited(9, 9, 2, 9))])
    assert held(balancer, 2, source=GUEST) == {"web3": 2}
    assert not held(balancer, 2, source=GUEST)["web3"]


THREE = service(backends=limited(2, 2, 2))


def drained(balancer: Balancer) -> None:
    for name in NAMES[:3]:
        assert balancer.backend(name, "drained", min_active=0)["changed"]
    assert balancer.tally() == {REFUSED: 1}
    for name in NAMES[:3]:
        assert balancer.backend(name, "active")["changed"]


def changed(after: Mapping, *others: Mapping) -> Callable[[Balancer], None]:
    def change(balancer: Balancer) -> None:
        assert balancer.apply([after, *others]).transaction == "delta"

    return change


CHANGES: dict[str, Callable[[Balancer], None]] = {
    "weights": changed({**THREE, "backends": [{**web, "weight": 5 + at} for at, web in enumerate(THREE["backends"])]}),
    "all out and back": drained,
    "method": changed({**THREE, "method": "source_hash"}),
    "another service": changed(THREE, service("other", listen=f"{VIP}:8080")),
    "a list": changed({**THREE, "allow_from": ["198.18.0.0/16", "192.0.2.0/24"]}),
    "affinity": changed({**THREE, "affinity": 60}),
    "a frontend": changed({**THREE, "listen": [f"{VIP}:80", f"{OTHER_VIP}:81"]}),
    "a backend comes": changed({**THREE, "backends": [*THREE["backends"], *webs("web4", state="drained")]}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_keeps_the_count(balancer: Balancer, change: str) -> None:
    balancer.apply([THREE])
    assert held(balancer, 6) == {"web1": 2, "web2": 2, "web3": 2}
    CHANGES[change](balancer)
    assert is_full(balancer)


def test_another_limit_counts_anew(balancer: Balancer) -> None:
    balancer.apply([THREE])
    assert held(balancer, 6) == {"web1": 2, "web2": 2, "web3": 2}
    balancer.apply([{**THREE, "backends": limited(3, 2, 2)}])
    assert held(balancer, 3) == {"web1": 3}
    assert is_full(balancer)


@pytest.mark.parametrize("method", ["round_robin", "least_connections"])
def test_health_keeps_the_count(balancer: Balancer, method: str) -> None:
    declared = service(backends=limited(3, 3, 3), health=FAST, method=method)
    with running(balancer, declared) as here:
        assert held(balancer, 9) == {"web1": 3, "web2": 3, "web3": 3}
        with crashed(balancer, "web2"):
            here.wait_for("web2 of web is down")
            assert is_full(balancer), "of the two that are left"
        here.wait_for("web2 of web is up", 2)
        began = time.monotonic()
        while held(balancer, 1, source=GUEST) != {"web2": 1}:
            assert time.monotonic() < began + FREE_S
        assert held(balancer, 2) == {"web2": 2}, "its connections were reset, those of the others are there"
        assert is_full(balancer)


def test_a_refused_attempt_takes_no_place(balancer: Balancer) -> None:
    """Its SYN comes again, to another backend, and may come before the kernel has taken the place back."""
    balancer.apply([service(redispatch=True, backends=[*limited(1), *webs("web2")])])
    with crashed(balancer, "web1"):
        (answer,) = balancer.ask(timeout_s=0.1, first_source_port=40000)
        assert answer.error == "TimeoutError", "the refusal is held back"
        ((_handle, answer),) = balancer.hold(source_port=40000, timeout_s=10)
        assert answer.name == "web2"
        assert answer.resent, "no place is taken for it while it has one at web1"
    until_free(balancer, "web1")


def test_status_and_metrics_tell_the_limit(balancer: Balancer) -> None:
    balancer.apply([service(backends=[*limited(2), *webs("web2")])], program=single_file.text)
    held(balancer, 4)
    (found,) = balancer.info("web")["services"]
    assert [item["max_connections"] for item in found["backends"]] == [2, 0]
    assert "2/2" in balancer.natlb("status")[1]
    lines = balancer.natlb("metrics")[1].splitlines()
    assert [line for line in lines if line.startswith("natlb_backend_max_connections{")] == [
        'natlb_backend_max_connections{service="web",backend="web1",address="10.0.0.3"} 2'
    ]


@pytest.mark.engines("iptables-nft", "iptables-legacy")
def test_iptables_says_which_engine_can(balancer: Balancer) -> None:
    before = balancer.snapshot()
    with pytest.raises(NatlbError, match="engine: nftables"):
        balancer.apply([service(backends=limited(2))])
    assert balancer.snapshot() == before
