# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An attempt to connect that meets a dead backend takes another one: the refusal is held back, and the client's next
SYN is a new connection."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as NotYetError
from typing import Any

import pytest
from _natlb.model.redispatch import LIVES_S
from kernel_lab import server, traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.drive import contents
from kernel_lab.topology import BACK, FRONT, NAMES, OTHER_VIP, PORTS, VIP, VIP6, WEB, WEB6
from test_boot import reboot

REFUSED = "ConnectionRefusedError"
#: Attempts, and how many of them begin in a second.
COUNT, RATE = 200, 200.0
#: Longer than the last SYN of an attempt whose refusals are held back.
TIMEOUT_S = 20.0

SIX: list[Mapping] = [{"name": name, "address": WEB6[name]} for name in NAMES]


def again(name: str = "web", **keys: Any) -> Mapping:
    return service(name, redispatch=True, **keys)


@contextlib.contextmanager
def dead(balancer: Balancer, *names: str) -> Iterator[None]:
    """These backends' processes are gone meanwhile; their hosts refuse connections."""
    hosts = {name: balancer.lab.backends[name] for name in names}
    try:
        for host in hosts.values():
            host.call(server.crash)
        yield
    finally:
        for name, host in hosts.items():
            host.call(server.start, name, PORTS)


def attempts(host: Any, target: str = f"{VIP}:80", count: int = COUNT, **options: Any) -> list[traffic.Attempt]:
    options.setdefault("timeout_s", TIMEOUT_S)
    return [traffic.Attempt(*item) for item in host.call(traffic.attempts, target, count, RATE, **options)]


def who(found: Sequence[traffic.Attempt]) -> Counter[str]:
    return Counter(item.answer.who for item in found)


def said(title: str, found: Sequence[traffic.Attempt]) -> str:
    """One line with what a client sees."""
    failed = sum(1 for item in found if item.answer.error)
    late = [item.waited_s for item in found if item.answer.resent]
    longest = max(item.waited_s for item in found)
    return f"{title}: {failed} of {len(found)} failed, {len(late)} late, the longest waited {longest:.2f} s"


@pytest.mark.parametrize("snat", ["masquerade", "none"])
@pytest.mark.parametrize("target", [f"{VIP}:80", f"[{VIP6}]:80"], ids=["ipv4", "ipv6"])
def test_no_attempt_of_200_is_refused(balancer: Balancer, target: str, snat: str) -> None:
    backends = SIX if "[" in target else webs()
    keys: Mapping = {"listen": target, "snat": snat, "backends": backends}
    balancer.apply([again(**keys)])
    with dead(balancer, "web4"):
        found = attempts(balancer.client, target)
        print(said(f"{balancer.engine}, {target}, {snat}", found))
        assert set(who(found)) == {"web1", "web2", "web3"}
        assert len([item for item in found if item.answer.resent]) >= COUNT // 4
        # A SYN that is alone takes the slot behind the dead one, so none meets that more often than a handful of times.
        assert max(item.waited_s for item in found) < 12
        balancer.apply([service(**keys)])
        assert who(attempts(balancer.client, target, 40))[REFUSED] == 10


TWO = webs("web1", "web4")
#: What is declared, and where the client connects to.
LISTENS = [
    ({"backends": webs("web1", "web4", port=8080)}, f"{VIP}:80"),
    ({"listen": f"{VIP}:9000-9003"}, f"{VIP}:9002"),
    ({"interface": "front"}, f"{VIP}:80"),
    ({"listen": f"{VIP}:9000-9003", "interface": "front"}, f"{VIP}:9002"),
    ({"listen": "*:80"}, f"{FRONT}:80"),
    ({"listen": "*:9000-9003", "interface": "front"}, f"{FRONT}:9002"),
    ({"listen": "*:80", "backends": [SIX[0], SIX[3]]}, "[2001:db8:1::2]:80"),
    ({"allow_from": ["0.0.0.0/1", "128.0.0.0/1"], "log": True}, f"{VIP}:80"),
]
NAMED = [
    "other port",
    "range",
    "interface",
    "range of an interface",
    "node",
    "node of an interface",
    "node6",
    "guarded",
]


#: One that is more specific, one that is less, and a target of both.
OVERLAPS = {
    "an address": (f"{FRONT}:80", "*:80", f"{FRONT}:80"),
    "a port": (f"{VIP}:9002", f"{VIP}:9000-9003", f"{VIP}:9002"),
    "a range": (f"{VIP}:9001-9002", f"{VIP}:9000-9003", f"{VIP}:9002"),
    "a port of *": ("*:9002", "*:9000-9003", f"{FRONT}:9002"),
}


@pytest.mark.parametrize("kind", OVERLAPS)
def test_overlapping_services_that_differ_in_it(balancer: Balancer, kind: str) -> None:
    """The backends are the same; whose refusal it is tells the original destination."""
    narrow, wide, target = OVERLAPS[kind]
    with dead(balancer, "web4"):
        for backends in (webs("web1", "web4"), webs("web4")):
            # With a single backend, one that redispatches has no choice, and refuses at once as well.
            declared = [again("narrow", listen=narrow, backends=backends), again("wide", listen=wide, backends=TWO)]
            plain = [{**declared[0], "redispatch": False}, declared[1]]
            for services in (plain, declared) if len(backends) == 1 else (plain, declared, plain):
                balancer.apply(services)
                found = attempts(balancer.client, target, 8)
                refused = [item for item in found if item.answer.error]
                if services is declared and len(backends) == 2:
                    assert not refused, who(found)
                else:
                    assert len(refused) == 8 // len(backends), who(found)
                    assert max(item.waited_s for item in refused) < 0.9
        balancer.apply([{**declared[0], "backends": TWO}, {**declared[1], "redispatch": False}])
        assert not who(attempts(balancer.client, target, 8))[REFUSED]


def test_an_interface_before_one_that_redispatches(balancer: Balancer) -> None:
    """Of the frontend that is open to any interface the backend tells as well then."""
    declared = [
        service("narrow", interface="front", backends=webs("web4")),
        again("wide", backends=webs("web1", "web2")),
    ]
    with dead(balancer, "web4"):
        balancer.apply(declared)
        found = attempts(balancer.client, count=4)
        assert who(found) == {REFUSED: 4}
        assert max(item.waited_s for item in found) < 0.9
    with dead(balancer, "web1"):
        inside = attempts(balancer.lab.backends["web3"], count=4)
        assert who(inside) == {"web2": 4}


@pytest.mark.parametrize(("keys", "target"), LISTENS, ids=NAMED)
def test_every_kind_of_frontend(balancer: Balancer, keys: Mapping, target: str) -> None:
    balancer.apply([again(**{"backends": TWO, **keys})])
    with dead(balancer, "web4"):
        assert who(attempts(balancer.client, target, 6)) == {"web1": 6}


def test_clients_on_the_balancer(balancer: Balancer) -> None:
    """Theirs come in by INPUT, and refusals of a backend that is the balancer itself leave by OUTPUT."""
    here = {"name": "here", "address": BACK, "port": 7777}
    services = [
        again(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=[*webs(), *SIX_NAMED]),
        again("here", listen=f"{OTHER_VIP}:80", backends=[*webs("web1"), here]),
    ]
    balancer.apply(services)
    with dead(balancer, "web4"):
        found = attempts(balancer.host, count=40)
        print(said(f"{balancer.engine}, clients on the balancer", found))
        assert set(who(found)) == {"web1", "web2", "web3"}
        assert set(who(attempts(balancer.host, f"[{VIP6}]:80", 8))) == {"web1", "web2", "web3"}
        for client in (balancer.host, balancer.client):
            assert who(attempts(client, f"{OTHER_VIP}:80", 4)) == {"web1": 4}


def test_a_connection_that_is_established_ends_with_its_reset(balancer: Balancer) -> None:
    """At once: the client need not speak for it."""
    balancer.apply([again(backends=TWO)])
    held = balancer.hold(count=2)
    with dead(balancer, "web1", "web4"):
        heard = [traffic.Answer(*balancer.client.call(traffic.hear, handle)) for handle, _answer in held]
        assert [answer.error for answer in heard] == ["ConnectionResetError"] * 2


def test_what_is_not_ours_is_refused_at_once(balancer: Balancer) -> None:
    """Another service, another port of a backend, and the DNAT of others."""
    services = [again(backends=TWO), service("plain", listen=f"{VIP}:81", backends=webs("web4", port=8080))]
    balancer.apply(services, transit="accept")
    rule = f"ip daddr {OTHER_VIP} tcp dport 80 dnat to {WEB['web4']}:80"
    rules = f"table ip other {{\nchain c {{\ntype nat hook prerouting priority -90;\n{rule}\n}}\n}}\n"
    balancer.host.run("nft", "-f", "-", stdin=rules)
    with dead(balancer, "web4"):
        for target in (f"{VIP}:81", f"{OTHER_VIP}:80", f"{WEB['web4']}:80"):
            (found,) = attempts(balancer.client, target, 1)
            assert (found.answer.error, found.answer.resent) == (REFUSED, 0), target


@pytest.mark.parametrize(
    "backends",
    [webs("web4"), [*webs("web4"), *webs("web1", state="drained")], [*webs("web4"), *webs("web1", backup=True)]],
    ids=["one", "drained", "backup"],
)
def test_where_there_is_no_other_backend_it_is_refused_at_once(balancer: Balancer, backends: list[Mapping]) -> None:
    balancer.apply([again(backends=backends)])
    with dead(balancer, "web4"):
        (found,) = attempts(balancer.client, count=1)
        assert (found.answer.error, found.answer.resent) == (REFUSED, 0)


def test_where_all_refuse_it_does_not_last_for_ever(balancer: Balancer) -> None:
    balancer.apply([again(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=[*webs(), *SIX_NAMED])])
    with dead(balancer, *NAMES):
        running = [
            host.begin(traffic.attempts, target, 2, RATE, timeout_s=TIMEOUT_S)
            for host in (balancer.client, balancer.host)
            for target in (f"{VIP}:80", f"[{VIP6}]:80")
        ]
        found = [traffic.Attempt(*item) for future in running for item in future.result(2 * TIMEOUT_S)]
        print(said(f"{balancer.engine}, all dead", found))
        assert {item.answer.error for item in found} == {REFUSED}
        assert min(item.waited_s for item in found) > LIVES_S
        # Linux sends the first SYN after that time at 11 s; before 6.5 at 15 s.
        assert max(item.waited_s for item in found) < LIVES_S + 6


# -- hosts that nobody answers for -----------------------------------------------------------------------------------

SIX_NAMED: list[Mapping] = [{"name": f"six{i}", "address": WEB6[name]} for i, name in enumerate(NAMES, 1)]
_DARK = "table {0} dark {{\nchain c {{\ntype filter hook input priority -10;\ndrop\n}}\n}}\n"


@contextlib.contextmanager
def dark(balancer: Balancer, *names: str) -> Iterator[None]:
    """These hosts answer nothing meanwhile, not even who has their addresses."""
    hosts = [balancer.lab.backends[name] for name in names]
    try:
        for host in hosts:
            host.run("nft", "-f", "-", stdin="".join(_DARK.format(family) for family in ("arp", "ip", "ip6")))
        yield
    finally:
        for host in hosts:
            host.run(
                "nft", "-f", "-", stdin="".join(f"delete table {family} dark\n" for family in ("arp", "ip", "ip6"))
            )


def test_that_a_host_cannot_be_reached_is_held_back_too(balancer: Balancer) -> None:
    """So that the attempt is still there when its connection is deleted, and takes another backend then."""
    balancer.apply([again(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=[*webs(), *SIX_NAMED])])
    targets = (f"{VIP}:80", f"[{VIP6}]:80")
    with dark(balancer, "web4"):
        running = [
            balancer.client.begin(traffic.attempts, target, 40, 400.0, timeout_s=TIMEOUT_S) for target in targets
        ]
        # Not before the balancer has given up to ask for the address.
        delete_after(balancer, running, 4.0)
        for future in running:
            found = [traffic.Attempt(*item) for item in future.result(TIMEOUT_S)]
            print(said(f"{balancer.engine}, host dark", found))
            assert not [item for item in found if item.answer.error]


def delete_after(balancer: Balancer, running: Sequence[Any], seconds: float) -> None:
    """What deletes connections that were never answered, as one does who knows that a backend is dead."""
    patience = seconds
    while not all(future.done() for future in running):
        with contextlib.suppress(NotYetError):
            next(future for future in running if not future.done()).result(patience)
        patience = 0.3
        for address in (WEB["web4"], WEB6["web4"]):
            words = f"conntrack -D -p tcp --state SYN_SENT --reply-src {address}"
            balancer.host.run(*words.split(), check=False)


def test_of_hosts_that_all_cannot_be_reached_the_client_hears_in_the_end(balancer: Balancer) -> None:
    listen, backends = [f"{VIP}:80", f"[{VIP6}]:80"], [*webs(), *SIX_NAMED]
    balancer.apply([again(listen=listen, backends=backends)])
    with dark(balancer, *NAMES):
        running = [
            host.begin(traffic.attempts, target, 1, RATE, timeout_s=2 * TIMEOUT_S)
            for host in (balancer.client, balancer.host)
            for target in listen
        ]
        # The kernel sends no more than one such answer a second to an address (icmp_ratelimit), so one may be missing.
        found = [traffic.Attempt(*item) for future in running for item in future.result(3 * TIMEOUT_S)]
        print(said(f"{balancer.engine}, all dark", found))
        assert {item.answer.error for item in found} == {"OSError"}
        assert min(item.waited_s for item in found) > LIVES_S


# -- beside a chain FORWARD that is closed ---------------------------------------------------------------------------


@pytest.mark.engines("iptables-nft", "iptables-legacy")
def test_refusals_are_held_back_before_connections_are_let_pass(balancer: Balancer) -> None:
    """Where FORWARD denies, a chain of ours lets our connections pass, and their refusals with them."""
    services = [again(backends=TWO)]

    def changed() -> bool:
        return bool(balancer.apply(services, firewall="accept").changed)

    def iptables(words: str) -> None:
        balancer.host.run(f"iptables-{balancer.variant}", "-w", "10", *words.split())

    def is_good() -> bool:
        assert not balancer.info()["drift"]
        assert not changed()
        return who(attempts(balancer.client, count=4)) == {"web1": 4}

    iptables("-P FORWARD DROP")
    balancer.apply([service(backends=TWO)])
    with dead(balancer, "web4"):
        assert changed()
        assert is_good()
        iptables("-D FORWARD -j NATLB.forward")
        assert changed()
        assert is_good()
        iptables("-D FORWARD -j NATLB.transit")
        iptables("-A FORWARD -j NATLB.transit")
        assert balancer.info()["drift"]
        assert changed()
        assert is_good()
        reboot(balancer)
        iptables("-P FORWARD DROP")
        balancer.host.run("sh", str(balancer.etc / "boot"))
        assert is_good()


# -- apply, again, undo ----------------------------------------------------------------------------------------------


def test_on_again_off_and_away(balancer: Balancer) -> None:
    off = [service(backends=TWO), service("node", listen="*:81", backends=TWO)]
    on = [again(backends=TWO), again("node", listen="*:81", backends=TWO)]
    balancer.apply(off)
    before = contents(balancer.snapshot())
    announced = balancer.apply(on, check=True)
    outcome = balancer.apply(on)
    assert (outcome.changed, outcome.transaction, outcome.diff) == (True, "delta", announced.diff)
    repeated = balancer.apply(on)
    assert (repeated.changed, repeated.transaction, repeated.diff) == (False, "none", "")
    assert not balancer.info()["drift"]
    assert balancer.apply(off).transaction == "delta"
    assert contents(balancer.snapshot()) == before
    balancer.apply(on)
    balancer.remove()
    assert balancer.ours_left() == []
