"""What becomes of connections, while one of three balancers that a router knows by BGP is taken out, joins, and dies.

The tests follow upon each other: each begins where the one before has left the balancers.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from collections.abc import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "lab"))

import anycast
import lab
from fleet_clients import Established, Seen, all_are_kept, clients, converge, notice_nothing, on, role, wait_for
from pair_faults import end_without_a_word

FIRST, SECOND, THIRD = anycast.BALANCERS
TARGETS = (f"{anycast.ADDRESSES[0]}:80", f"[{anycast.ADDRESSES[1]}]:80")
KEPT = (f"{anycast.ADDRESSES[0]}:90", f"[{anycast.ADDRESSES[1]}]:91")
#: Of each family, and of each half: those whose client speaks first, and those whose backend does.
HALF = 75
#: A host that has booted is announced once it was ready three times in a row, and BIRD has met the router anew.
ANNOUNCED_S = 40.0


def ways() -> list[set[str]]:
    """The balancers to which the router sends flows, by address."""
    found = []
    for family, address, prefix in (
        ("-4", anycast.ADDRESSES[0], "192.0.2."),
        ("-6", anycast.ADDRESSES[1], "2001:db8:1::"),
    ):
        routes = json.loads(on("router", "ip", family, "-json", "route", "show", address) or "[]")
        hops = [hop["gateway"] for route in routes for hop in route.get("nexthops", [route])]
        found.append({anycast.BALANCERS[int(hop.removeprefix(prefix)) - 2] for hop in hops})
    return found


def wait_for_ways(*names: str) -> float:
    return wait_for(lambda: ways() == [set(names)] * 2, f"the router has other ways than {names}", ANNOUNCED_S)


@pytest.fixture(scope="module")
def held() -> Iterator[Established]:
    wait_for_ways(*anycast.BALANCERS)
    found = Established(HALF, 0, KEPT)
    assert set(found.answered) == {"web1", "web2"}
    yield found
    found.stop()


def are_kept(held: Established, what: str) -> None:
    """Whoever speaks first."""
    all_are_kept(held, "client", "backend", what=what)


def bird(host: str) -> str:
    """What is another one after a restart. Since when its sessions are would tell of a machine, too, that has stood
    still for longer than BFD waits; that no connection is lost tells of sessions that end."""
    return on(host, "systemctl", "show", "bird", "natlb-anycast", "--property=MainPID,ExecMainStartTimestampMonotonic")


def test_all_of_them_are_announced(held: Established) -> None:
    are_kept(held, "three balancers")
    for host in anycast.BALANCERS:
        assert on(host, "sysctl", "-n", "net.netfilter.nf_conntrack_tcp_be_liberal") == "1\n"


def test_services_may_change_without_new_sessions(held: Established) -> None:
    before = {host: bird(host) for host in anycast.BALANCERS}
    more = {"name": "more", "listen": "203.0.113.11:80", "backends": [{"address": "10.0.0.3", "port": 9000}]}
    converge(natlb_services_more=[more])
    wait_for(lambda: "203.0.113.11" in on("router", "ip", "route"), "the router does not know the new address")
    assert {host: bird(host) for host in anycast.BALANCERS} == before
    are_kept(held, "a service was added")
    converge()
    wait_for(lambda: "203.0.113.11" not in on("router", "ip", "route"), "the router still knows the address")
    assert {host: bird(host) for host in anycast.BALANCERS} == before


def test_one_leaves_and_joins(held: Established) -> None:
    seen: dict[str, Seen] = {}
    with clients("one leaves", seen, TARGETS):
        on(THIRD, "natlb", "leave", "--reason", "kernel update")
        print(f"figures: natlb leave: withdrawn after {wait_for_ways(FIRST, SECOND):.2f} s")
        are_kept(held, "one leaves")
    assert [one.failed for one in seen.values()] == [0, 0]
    with clients("it joins", seen, TARGETS):
        on(THIRD, "natlb", "join")
        print(f"figures: natlb join: announced after {wait_for_ways(*anycast.BALANCERS):.2f} s")
        are_kept(held, "it joins")
    assert [one.failed for one in seen.values()] == [0, 0]


def test_its_watch_is_killed(held: Established) -> None:
    pid = on(FIRST, "systemctl", "show", "natlb-anycast", "--property=MainPID", "--value").strip()
    on(FIRST, "kill", "-KILL", pid)
    unit = ("systemctl", "show", "natlb-anycast", "--property=NRestarts", "--value")
    wait_for(lambda: on(FIRST, *unit).strip() == "1", "nobody has started it anew")
    assert ways() == [set(anycast.BALANCERS)] * 2
    are_kept(held, "the watch is killed")


def test_one_dies(held: Established) -> None:
    seen: dict[str, Seen] = {}
    with clients("one dies", seen, TARGETS):
        began = time.monotonic()
        end_without_a_word(SECOND, "eth0", "eth1")
        wait_for_ways(FIRST, THIRD)
        print(f"figures: one dies: withdrawn after {time.monotonic() - began:.2f} s at most")
    # Otherwise nothing went through it, or it lives.
    assert sum(one.failed for one in seen.values()) > 0
    are_kept(held, "one dies")


def test_it_comes_back(held: Established) -> None:
    seen: dict[str, Seen] = {}
    with clients("it comes back", seen, TARGETS):
        lab.podman("start", f"natlb-{SECOND}")
        lab.wait_until_booted(next(host for host in anycast.HOSTS if host.name == SECOND))
        wait_for_ways(*anycast.BALANCERS)
    notice_nothing(*seen.values())
    are_kept(held, "it comes back")


def test_rules_of_a_backend_that_others_flush_come_back(held: Established) -> None:
    assert "ip natlb_return" in on("web1", "nft", "list", "tables")
    on(
        "web1",
        "sh",
        "-c",
        "printf '#!/usr/sbin/nft -f\\nflush ruleset\\n' > /etc/nftables.conf; systemctl start nftables",
    )
    on("web1", "systemctl", "reload", "nftables")
    wait_for(lambda: "ip natlb_return" in on("web1", "nft", "list", "tables"), "nobody puts them back")
    are_kept(held, "a backend's rules were flushed")


def test_somebody_elses_configuration_stays() -> None:
    file = "/etc/bird/bird.conf"
    ours = on(FIRST, "cat", file)
    lab.podman("exec", f"natlb-{FIRST}", "sed", "-i", "1d", file)
    theirs = on(FIRST, "cat", file)
    out = role("anycast")
    assert "somebody else has configured BIRD" in out
    assert out.startswith("exit 2\n")
    assert on(FIRST, "cat", file) == theirs
    lab.podman(
        "exec",
        f"natlb-{FIRST}",
        "sh",
        "-c",
        f"printf '%s\\n' {json.dumps(ours.splitlines()[0])} | cat - {file} > /tmp/b; cat /tmp/b > {file}",
    )
    assert on(FIRST, "cat", file) == ours


def test_a_removal_withdraws_all() -> None:
    out = role("anycast", natlb_anycast_state="absent")
    assert out.startswith("exit 0\n"), out
    assert ways() == [set(), set()]
    for host in anycast.BALANCERS:
        assert "203.0.113" not in on(host, "ip", "address", "show", "dev", "lo")
        assert on(host, "sh", "-c", "ls /etc/natlb-anycast* /usr/local/sbin/natlb-anycast /etc/bird/bird.conf") == ""
    assert "CHANGED" not in role("anycast", natlb_anycast_state="absent")
    out = role("return_path", "web", natlb_return_state="absent")
    assert out.startswith("exit 0\n"), out
    for web in ("web1", "web2"):
        assert "natlb_return" not in on(web, "nft", "list", "tables")
        assert "fwmark" not in on(web, "ip", "rule") + on(web, "ip", "-6", "rule")
