"""What clients of four balancers notice while `deploy` changes their services: first one, then two, then the last.

The tests follow upon each other: each begins with what the one before has left declared.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "lab"))

import rollout
from fleet_clients import SCENARIO, Established, Seen, all_are_kept, alone, clients, notice_nothing, on, run

FIRST, SECOND, THIRD, LAST = rollout.BALANCERS
ADDRESSES = [host.interfaces[0] for host in rollout.HOSTS[: len(rollout.BALANCERS)]]
#: Through each of them.
TARGETS = [f"{of.ipv4}:80" for of in ADDRESSES]
KEPT = [*(f"{of.ipv4}:90" for of in ADDRESSES), *(f"[{of.ipv6}]:91" for of in ADDRESSES)]
#: To each of `KEPT`, and of each half: those whose client speaks first, and those whose backend does.
HALF, BUSY = 25, 1

#: What is declared at first, what is added, and what comes then: every service has other slots each time.
SERVICES: list[dict[str, Any]] = yaml.safe_load((SCENARIO / "vars.yml").read_text())["natlb_services"]
PREFIXES = {"web": "10.0.0.", "turns": "10.0.0.", "source": "2001:db8:2::"}
MORE = [
    {
        **service,
        "backends": [
            *service["backends"],
            {**service["backends"][0], "address": f"{PREFIXES[service['name']]}5", "name": "web3"},
        ],
    }
    for service in SERVICES
]
LATE = {
    "name": "late",
    "listen": ["{{ ansible_host }}:92"],
    "backends": [{"address": "10.0.0.5", "port": 8080, "name": "web3"}],
}
OTHERS = [*({**service, "backends": service["backends"][1:]} for service in MORE), LATE]
#: A firewall of the host's own, which lets the balancer reach no port 8080 of web3.
STRANGE = (
    "table inet strange { chain output { type filter hook output priority 0; "
    "ip daddr 10.0.0.5 tcp dport 8080 reject with tcp reset; }; }"
)


@pytest.fixture
def held() -> Iterator[Established]:
    """Before anything is changed."""
    made = Established(HALF, BUSY, KEPT)
    yield made
    made.stop()


@contextlib.contextmanager
def nobody_notices(held: Established, what: str) -> Iterator[None]:
    """Neither who connects meanwhile, nor who is connected. No change comes to all of them at once, so what fails at
    all of them is the machine's doing, and lasts no longer than a machine stands still."""
    seen: dict[str, Seen] = {}
    with clients(what, seen, TARGETS):
        yield
    assert alone(seen) == dict.fromkeys(TARGETS, 0)
    notice_nothing(*seen.values())
    stood_still_s = max(one.gap_s for one in seen.values())
    all_are_kept(held, "client", "busy", "backend", outage_s=stood_still_s, what=what)


@contextlib.contextmanager
def strange_firewall(host: str) -> Iterator[None]:
    assert on(host, "sh", "-c", f"nft '{STRANGE}' && echo done") == "done\n"
    try:
        yield
    finally:
        on(host, "nft", "delete", "table", "inet", "strange")


def deploy(services: list[dict[str, Any]]) -> str:
    return run("ansible-playbook", "natlb.netfilter.deploy", natlb_services=services)


def states(*hosts: str) -> dict[str, Counter[str]]:
    """Rules without counters, what is kept for the next boot, and whether a change waits: the words of it, since what
    was taken away and put back may be listed in another order."""
    show = "nft --stateless list table ip natlb; nft --stateless list table ip6 natlb; grep -r . /etc/natlb; "
    show += "ls -d /run/natlb/rollback.*"
    found = {host: on(host, "sh", "-c", show) for host in hosts}
    assert all("slot_tcp" in one and "/etc/natlb/" in one for one in found.values())
    return {host: Counter(re.split(r"[\s,]+", one)) for host, one in found.items()}


def changed(before: dict[str, Counter[str]]) -> dict[str, list[str]]:
    """By host, what it has since then, or has no more."""
    now = states(*before)
    return {host: [*(was - now[host]), *(now[host] - was)] for host, was in before.items() if was != now[host]}


def handles(host: str) -> str:
    """Whatever replaces a rule, a map or a chain gives it another one."""
    listed = on(host, "nft", "--stateless", "--handle", "list", "table", "ip", "natlb")
    assert "# handle" in listed
    return listed


def differences() -> list[str]:
    """By what the playbook `status` says of each balancer."""
    out = run("ansible-playbook", "natlb.netfilter.status", natlb_format="json")
    (line,) = [line for line in out.splitlines() if line.startswith('{"')]
    found: dict[str, dict[str, list[str]]] = {}
    for host, told in json.loads(line).items():
        for service in told["services"]:
            backends = ", ".join(backend["name"] for backend in service["backends"])
            found.setdefault(service["name"], {}).setdefault(backends, []).append(host)
    return [
        f"{name} has {backends} on {', '.join(hosts)}"
        for name, by_backends in found.items()
        for backends, hosts in by_backends.items()
        if len(hosts) < len(rollout.BALANCERS)
    ]


def print_differences(what: str) -> list[str]:
    found = differences()
    print(f"figures: {what}: {'; '.join(found) or 'nothing differs between the balancers'}")
    return found


def test_a_change_comes_to_one_then_two_then_the_last(held: Established) -> None:
    with nobody_notices(held, "a change is rolled out"):
        out = deploy(MORE)
    assert out.startswith("exit 0\n"), out
    for line in (
        f"0 of 4 balancers are done, next: {FIRST}",
        f"1 of 4 balancers are done, next: {SECOND}, {THIRD}",
        f"3 of 4 balancers are done, next: {LAST}",
        "all 4 balancers are alike",
    ):
        assert f"\n{line}\n" in out, out
    assert print_differences("after it") == []


def test_one_that_a_batch_cannot_serve_goes_back_there(held: Established) -> None:
    """The third one cannot reach a backend. The second one, which could, goes back as well, and the last one is not
    touched."""
    before, untouched = states(SECOND, THIRD, LAST), handles(LAST)
    with strange_firewall(THIRD), nobody_notices(held, "a change goes back"):
        out = deploy(OTHERS)
    assert out.startswith("exit 2\n"), out
    assert f"late: backend web3 does not answer {THIRD} (connect: Connection refused at 10.0.0.5:8080)" in out
    for host in (SECOND, THIRD):
        assert f"{host}: went back to its former rules" in out
    assert f"next: {LAST}" not in out
    assert changed(before) == {}
    assert handles(LAST) == untouched
    assert print_differences("after it") == [
        f"web has web2, web3 on {FIRST}",
        f"web has web1, web2, web3 on {SECOND}, {THIRD}, {LAST}",
        f"turns has web2, web3 on {FIRST}",
        f"turns has web1, web2, web3 on {SECOND}, {THIRD}, {LAST}",
        f"source has web2, web3 on {FIRST}",
        f"source has web1, web2, web3 on {SECOND}, {THIRD}, {LAST}",
        f"late has web3 on {FIRST}",
    ]


def test_it_goes_on_once_the_reason_is_gone(held: Established) -> None:
    with nobody_notices(held, "the same change, without that firewall"):
        out = deploy(OTHERS)
    assert out.startswith("exit 0\n"), out
    assert f"\n1 of 4 balancers are done, next: {SECOND}, {THIRD}\n" in out
    assert print_differences("after it") == []
