# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What health checks find is in the kernel at once, by what changes alone; in every doubt the host is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from kernel_lab import staying, traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import NAMES, VIP, VIP6, WEB, WEB6

HEALTH = {"type": "tcp"}
CHECKED = service(health=HEALTH)
OTHER = service("other", listen=f"{VIP}:8080", health=HEALTH, method="source_hash")
WITHOUT = {name: 2 for name in NAMES if name != "web2"}
ALL = dict.fromkeys(NAMES, 2)
NUMBERED = ("nftables", "iptables-nft")


class Staying:
    """The process, on a balancer with these services."""

    def __init__(self, balancer: Balancer, *services: Mapping, **options: Any) -> None:
        self.balancer = balancer
        self.services = services
        balancer.apply(services, **options)
        self.restore()

    def restore(self) -> Any:
        return self.balancer.host.call(staying.restore, self.balancer._root, self.balancer.variant or None)

    def restored(self) -> tuple[Any, list[str]]:
        """The same, and what was run for it."""
        return self.balancer.host.call(staying.restored, self.balancer._root)

    def find(self, *found: tuple[str, str, str]) -> tuple[bool, list[str]]:
        """Whether the host was read, and what was run."""
        return self.balancer.host.call(staying.find, self.balancer._root, *found)

    def find_in_the_sandbox(self, *found: tuple[str, str, str]) -> None:
        self.balancer.host.call(staying.find_in_the_sandbox, self.balancer._root, *found)

    def is_current(self) -> bool:
        return bool(self.balancer.host.call(staying.is_current, self.balancer._root))

    def is_needed(self, name: str) -> bool:
        return bool(self.balancer.host.call(staying.is_needed, self.balancer._root, WEB[name]))


#: A host that hears nothing. Its link stays up: with it routes would go, which other tests need.
DARK = """
table inet dark { chain hears { type filter hook prerouting priority raw; policy drop; }; }
table arp dark { chain hears { type filter hook input priority filter; policy drop; }; }
"""


@contextlib.contextmanager
def dark(balancer: Balancer, name: str) -> Iterator[None]:
    """This backend's host is unplugged meanwhile."""
    host = balancer.lab.backends[name]
    host.run("nft", "-f", "-", stdin=DARK)
    try:
        yield
    finally:
        host.run("nft", "delete table inet dark; delete table arp dark")


def web2(state: str, name: str = "web") -> tuple[str, str, str]:
    return name, WEB["web2"], state


@pytest.mark.engines(*NUMBERED)
def test_one_goes_and_comes_back_by_what_changes_alone(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED, OTHER)
    for state, wanted in (("down", WITHOUT), ("up", ALL), ("drain", WITHOUT), ("up", ALL)):
        read, lines = here.find(web2(state))
        assert not read
        assert lines
        assert not [line for line in lines if VIP + " . 8080" in line or "NATLB.other" in line], lines
        assert balancer.tally(count=len(wanted) * 2) == wanted
        assert here.is_current()


def test_a_backend_is_needed_where_nobody_else_serves(balancer: Balancer) -> None:
    pair = service("a", backends=webs("web1", "web2"), health=HEALTH)
    spared = [*webs("web3"), *webs("web4", backup=True)]
    here = Staying(balancer, pair, service("b", listen=f"{VIP}:81", backends=spared, health=HEALTH))
    assert not any(map(here.is_needed, NAMES))
    here.find(("a", WEB["web1"], "down"))
    assert [name for name in NAMES if here.is_needed(name)] == ["web2"]
    here.find(("b", WEB["web4"], "down"))
    assert [name for name in NAMES if here.is_needed(name)] == ["web2", "web3"]


@pytest.mark.engines(*NUMBERED)
def test_what_is_loaded_so_is_what_a_run_would_load(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED, OTHER)
    here.find(web2("down"), web2("down", "other"))
    outcome = balancer.apply(here.services)
    assert outcome.transaction == "none", outcome.diff
    assert outcome.changed, "what boots does not know of it yet"
    again = balancer.apply(here.services)
    assert not again.changed, again.diff


@pytest.mark.engines(*NUMBERED)
def test_what_boots_follows_and_the_rules_stay(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED)
    here.find(web2("down"))
    assert here.restore().transaction == "none"
    assert here.restore().changed is False
    assert not balancer.info()["drift"]
    assert balancer.tally(count=6) == WITHOUT


@pytest.mark.engines(*NUMBERED)
def test_in_its_sandbox_nothing_is_loaded_twice(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED, OTHER)
    here.find_in_the_sandbox(web2("down"))
    outcome, lines = balancer.host.call(staying.restored_in_the_sandbox, balancer._root)
    assert (outcome.transaction, lines) == ("none", [])
    assert outcome.changed, "what boots"
    assert not balancer.info()["drift"]
    # What somebody has changed meanwhile is not taken for ours.
    here.find_in_the_sandbox(web2("up"))
    chain = ("ip", "natlb", "postrouting") if balancer.nftables else ("ip", "nat", "NATLB.pre")
    balancer.host.run("nft", "flush", "chain", *chain)
    assert balancer.host.call(staying.restored_in_the_sandbox, balancer._root)[0].transaction != "none"
    assert balancer.tally(count=8) == ALL


@pytest.mark.engines(*NUMBERED)
def test_flushed_rules_are_back_before_the_host_is_read(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED, OTHER)
    here.find(web2("down"))
    balancer.host.run("nft", "flush", "ruleset")
    outcome, lines = here.restored()
    assert len(lines) == 1, "one load, and the host was right when it was read"
    assert outcome.transaction == "replace"
    assert balancer.tally(count=6) == WITHOUT
    assert here.is_current()


@pytest.mark.engines("iptables-legacy")
def test_where_nothing_numbers_commits_the_host_is_read(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED)
    read, _lines = here.find(web2("down"))
    assert read
    assert here.is_current()
    balancer.host.run("iptables-legacy", "-t", "nat", "-F", "NATLB.pre")
    assert not here.is_current()
    here.restore()
    assert balancer.tally(count=6) == WITHOUT


@pytest.mark.engines(*NUMBERED)
def test_rules_of_somebody_else_are_a_doubt(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED)
    balancer.host.run("nft", "add", "table", "inet", "foreign")
    assert not here.is_current()
    assert here.find(web2("down"))[0]
    assert balancer.tally(count=6) == WITHOUT
    assert not here.find(web2("up"))[0]
    assert balancer.tally(count=8) == ALL


@pytest.mark.engines(*NUMBERED)
def test_flushed_rules_come_back_with_what_was_found(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED)
    here.find(web2("down"))
    balancer.host.run("nft", "flush", "ruleset")
    assert not here.is_current()
    here.restore()
    assert balancer.tally(count=6) == WITHOUT


@pytest.mark.engines(*NUMBERED)
def test_another_declaration_is_a_doubt(balancer: Balancer) -> None:
    """Also one that changes no rule."""
    here = Staying(balancer, CHECKED)
    balancer.apply([{**CHECKED, "health": {"type": "tcp", "interval": 5}}])
    assert not here.is_current()
    assert here.find(web2("down"))[0]
    assert balancer.tally(count=6) == WITHOUT


@pytest.mark.engines(*NUMBERED)
def test_all_down_is_answered_as_declared(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED)
    here.find(*(("web", address, "down") for address in WEB.values()))
    assert balancer.tally(count=2) == {"ConnectionRefusedError": 2}
    here.find(("web", WEB["web3"], "up"))
    assert balancer.tally(count=2) == {"web3": 2}


@pytest.mark.parametrize("target", [f"{VIP}:80", f"[{VIP6}]:80"], ids=["ipv4", "ipv6"])
def test_attempts_that_a_dark_host_has_swallowed_take_another(balancer: Balancer, target: str) -> None:
    """It is found dead while clients still send their first packets again."""
    family, addresses = ("ip6", WEB6) if "[" in target else ("ip", WEB)
    backends = [{"name": name, "address": addresses[name]} for name in NAMES]
    here = Staying(balancer, service(health=HEALTH, listen=target, backends=backends))
    with dark(balancer, "web2"):
        pending = balancer.client.begin(traffic.attempts, target, 40, 40.0, timeout_s=20.0)
        balancer.host.call(staying.wait_for_attempts, family, addresses["web2"], 80, 5)
        here.find(("web", addresses["web2"], "down"))
        found = [traffic.Attempt(*item) for item in pending.result(timeout=60)]
    assert not [item.answer.error for item in found if item.answer.error]
    assert "web2" not in {item.answer.who for item in found}
    print(f"{balancer.engine}: 0 of {len(found)} failed, the longest waited {max(i.waited_s for i in found):.2f} s")
