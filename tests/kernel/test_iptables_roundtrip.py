# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the iptables engine writes, given to both variants of iptables, read back, changed and taken away."""

from __future__ import annotations

import cProfile
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from _natlb.iptables import render
from _natlb.iptables.restore import delta, full, parse_save, remove
from _natlb.model import services as model
from _natlb.model.surroundings import Surroundings
from _natlb.ruleset.sections import Ruleset
from kernel_lab.host import Host

VARIANTS = ("nft", "legacy")
PROGRAMS = {"ip": "iptables", "ip6": "ip6tables"}
NETWORKS = ["192.0.2.0/24", "10.0.0.0/24", "2001:db8:2::/64"]

#: Of the shapes that Docker, ufw and an administrator make.
FOREIGN = """*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s {net} ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8443 -j DNAT --to-destination {host}:443
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:ufw-before-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -m comment --comment "not -j NATLB.pre, although it says so" -j ACCEPT
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
-A ufw-before-input -i lo -j ACCEPT
COMMIT
"""


def backends(count: int, family: str = "ip", **keys: Any) -> list[Mapping[str, Any]]:
    base = "10.0.0." if family == "ip" else "2001:db8:2::"
    return [{"address": f"{base}{3 + i}", "port": 8080, **keys} for i in range(count)]


def both(count: int, **keys: Any) -> list[Mapping[str, Any]]:
    return [*backends(count, **keys), *backends(count, "ip6", **keys)]


LONG = "a-name-as-long-as-a-name-may-well-be-in-some-large-company"
UPLINKS = [
    {"interface": "up1", "gateway": "100.64.1.1", "weight": 20},
    {"interface": "up2.100", "gateway": "100.64.2.1", "weight": 1},
]
WEB = {"name": "web", "listen": ["192.0.2.10:80", "[2001:db8::10]:80"], "backends": both(3)}

#: Name to (services, egress). Every feature stands in one of them, most in several, so that a change adds and removes.
DECLARED: dict[str, tuple[list[Any], list[Any]]] = {
    "web": ([WEB], []),
    "weights": (
        [{**WEB, "protocol": ["tcp", "udp", "sctp"], "backends": [*both(2, weight=5), *both(3)[2:3], *both(3)[5:]]}],
        [],
    ),
    "methods": (
        [
            {"name": "random", "listen": "192.0.2.10:80-90", "method": "random", "backends": backends(20)},
            {"name": "turns", "listen": "192.0.2.10:91", "backends": backends(36)},
            {
                "name": "hash",
                "listen": ["192.0.2.11:80", "[2001:db8::11]:80"],
                "method": "source_hash",
                "backends": both(3),
            },
        ],
        [],
    ),
    "guarded": (
        [
            {
                **WEB,
                "allow_from": ["198.51.100.0/24", "203.0.113.0/24", "2001:db8:9::/48"],
                "max_connections_per_client": 3,
                "new_connections_per_second": 10,
                "log": True,
                "affinity": "3h",
            },
            {"name": LONG, "listen": "192.0.2.12:80", "interface": "eth0", "affinity": 60, "backends": backends(2)},
            {
                "name": "list",
                "listen": "192.0.2.13:80",
                "allow_from": [f"198.51.{i}.0/24" for i in range(0, 40, 2)],
                "backends": backends(1),
            },
        ],
        [],
    ),
    "empty": (
        [
            {**WEB, "protocol": ["tcp", "udp"], "when_empty": "drop", "backends": []},
            {
                "name": "gone",
                "listen": "192.0.2.12:80",
                "protocol": ["tcp", "sctp"],
                "backends": backends(2, state="drained"),
            },
            {"name": "gone6", "listen": "[2001:db8::12]:80", "protocol": "udp", "backends": []},
        ],
        [],
    ),
    "sources": (
        [
            {"name": "plain", "listen": "192.0.2.10:80", "snat": "none", "backends": both(3)[:3]},
            {"name": "fixed", "listen": "192.0.2.10:81", "snat": "192.0.2.1", "backends": backends(2)},
            {
                "name": "three",
                "listen": "192.0.2.10:82",
                "snat": [f"192.0.2.{i}" for i in (1, 2, 3)],
                "backends": backends(2),
            },
            {
                "name": "node",
                "listen": ["*:30080", "*:31000-31010"],
                "snat": "none",
                "backends": [{"address": "172.16.0.1"}],
            },
        ],
        [{"source": ["10.0.0.0/24", "10.0.1.0/24", "2001:db8:2::/64"], "out_interface": "eth0"}],
    ),
    "egress": (
        [],
        [
            {
                "source": "10.0.0.0/24",
                "protocol": "tcp",
                "destination_ports": [*range(1, 60, 2), "100-200"],
                "uplinks": UPLINKS,
            },
            {"source": ["10.0.1.0/24", "10.0.3.0/24"], "uplinks": UPLINKS[:1]},
            {"source": "10.0.0.0/24", "out_interface": "eth0", "protocol": "udp", "snat": "192.0.2.1"},
        ],
    ),
    "many": (
        [
            {
                "name": f"svc{i}",
                "listen": [f"192.0.2.{i % 7}:{1000 + 37 * i % 5000}", f"[2001:db8::{i:x}]:80"],
                **({"allow_from": ["198.51.100.0/24"]} if i % 3 == 0 else {}),
                "backends": both(2)[:: 1 + i % 2] if i % 2 == 0 else both(2),
            }
            for i in range(1, 90)
            if i % 7
        ],
        [],
    ),
    "nothing": ([], []),
}


def rendered(name: str) -> Ruleset:
    services, egress = DECLARED[name]
    return render.render(model.parse_config(services, egress), Surroundings(NETWORKS))


class Firewall:
    """One variant of iptables in a network namespace of its own."""

    def __init__(self, host: Host, variant: str, lock: Path) -> None:
        self.host, self.variant, self.lock = host, variant, lock

    def restore(self, family: str, text: str) -> None:
        program = f"{PROGRAMS[family]}-{self.variant}-restore"
        wait = ["--wait", "20"]
        self.host.run("env", f"XTABLES_LOCKFILE={self.lock}", program, "--noflush", *wait, stdin=text)

    def save(self, family: str) -> str:
        lines = self.host.run(f"{PROGRAMS[family]}-{self.variant}-save").splitlines()
        return "".join(f"{line}\n" for line in lines if not line.startswith("#"))

    def load(self, texts: Mapping[str, str]) -> None:
        for family, text in texts.items():
            self.restore(family, text)

    def live(self) -> Ruleset:
        return {key: section for family in PROGRAMS for key, section in parse_save(family, self.save(family)).items()}

    def foreign(self) -> dict[str, list[str]]:
        """What iptables-save shows without our chains and jumps, and without tables that have nothing else in them."""
        return {family: [line for line in self.save(family).splitlines() if _foreign(line)] for family in PROGRAMS}

    def normal(self, ruleset: Ruleset) -> Ruleset:
        """What a ruleset looks like once it is loaded where nothing else is."""
        self.host.renew()
        self.load({family: text for family in PROGRAMS if (text := full(ruleset, family))})
        return self.live()


def _foreign(line: str) -> bool:
    """Built-in chains and empty tables stay once somebody asked for them; they are nobody's."""
    words = line.split()
    ours = line.startswith((":NATLB.", "-A NATLB.")) or words[-1].startswith("NATLB.")
    return line.startswith((":", "-A")) and not ours and words[1] != "ACCEPT"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    found = Host("iptables")
    yield found
    found.close()


@pytest.fixture(params=VARIANTS)
def firewall(request: pytest.FixtureRequest, host: Host, tmp_path: Path) -> Firewall:
    host.renew()
    return Firewall(host, request.param, tmp_path / "lock")


def load_foreign(firewall: Firewall) -> None:
    firewall.restore("ip", FOREIGN.format(loopback="127.0.0.0/8", net="172.17.0.0/16", host="172.17.0.2"))
    firewall.restore("ip6", FOREIGN.format(loopback="::1/128", net="fd00::/64", host="[fd00::2]"))


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_loaded_is_read_back(firewall: Firewall, name: str) -> None:
    ruleset = rendered(name)
    normal = firewall.normal(ruleset)
    assert normal.keys() == ruleset.keys()
    for key, section in ruleset.items():
        assert len(normal[key].body) == len(section.body), key
        assert normal[key].header == ()
    assert delta(normal, normal, ruleset) == {}


@pytest.mark.parametrize("name", DECLARED)
def test_iptables_reads_back_what_it_saved_itself(firewall: Firewall, name: str) -> None:
    """People keep all rules with iptables-save; ours must not break their file."""
    normal = firewall.normal(rendered(name))
    saved = {family: firewall.save(family) for family in PROGRAMS}
    firewall.host.renew()
    firewall.load(saved)
    assert firewall.live() == normal


def test_every_change_ends_where_a_fresh_load_does(firewall: Firewall) -> None:
    """Every declaration after every other, beside foreign rules that stay as they are."""
    normal = {name: firewall.normal(rendered(name)) for name in DECLARED}
    firewall.host.renew()
    load_foreign(firewall)
    foreign = firewall.foreign()
    live: Ruleset = {}
    for before, name in pairwise(name for pair in combinations(DECLARED, 2) for name in (*pair, pair[0])):
        firewall.load(delta(live, normal[name], rendered(name)))
        live = firewall.live()
        assert live == normal[name], f"{name} after {before}"
    assert firewall.foreign() == foreign


@pytest.mark.parametrize("name", DECLARED)
def test_remove_leaves_nothing(firewall: Firewall, name: str) -> None:
    load_foreign(firewall)
    foreign = firewall.foreign()
    ruleset = rendered(name)
    firewall.load(delta({}, ruleset, ruleset))
    assert firewall.live().keys() == ruleset.keys()
    firewall.load(remove(firewall.live()))
    assert firewall.live() == {}
    assert firewall.foreign() == foreign
    for family in PROGRAMS:
        assert "-j NATLB" not in firewall.save(family).replace("not -j NATLB", "")
    assert remove({}) == {}


DRIFT = {
    "a jump lost": "*nat\n-D PREROUTING -j NATLB.pre\nCOMMIT\n",
    "a jump twice": "*nat\n-A PREROUTING -j NATLB.pre\nCOMMIT\n",
    "a jump narrowed": "*nat\n-D PREROUTING -j NATLB.pre\n-A PREROUTING -i eth9 -p tcp -j NATLB.pre\nCOMMIT\n",
    "a jump from elsewhere": "*nat\n:ADMIN - [0:0]\n-A ADMIN -p udp -g NATLB.web.tcp\nCOMMIT\n",
    "a rule lost": "*nat\n-D NATLB.web.tcp 1\nCOMMIT\n",
    "a rule more": "*nat\n-I NATLB.web.tcp 2 -s 198.51.100.7/32 -j RETURN\nCOMMIT\n",
    "a chain more": "*filter\n:NATLB.left - [0:0]\n-A NATLB.left -j NATLB.refuse\n-A INPUT -j NATLB.left\nCOMMIT\n",
    "all rules lost": "*nat\n-F\nCOMMIT\n",
    "everything lost": "*nat\n-F\n-X\nCOMMIT\n*filter\n-F\n-X\nCOMMIT\n",
}


@pytest.mark.parametrize("drift", DRIFT)
def test_drift_is_put_right(firewall: Firewall, drift: str) -> None:
    ruleset = rendered("guarded")
    normal = firewall.normal(ruleset)
    firewall.restore("ip", DRIFT[drift])
    live = firewall.live()
    assert live != normal
    texts = delta(live, normal, ruleset)
    assert texts.keys() == {"ip"}
    firewall.load(texts)
    assert firewall.live() == normal


def test_a_drain_touches_one_chain(firewall: Firewall) -> None:
    """So what the limits and the other services' counters have counted stays."""
    service = {**WEB, "allow_from": ["198.51.100.0/24", "2001:db8:9::/48"], "max_connections_per_client": 3}
    drained = [{**backend, "state": "drained"} if i == 0 else backend for i, backend in enumerate(both(3))]
    after = render.render(model.parse_config([{**service, "backends": drained}]), Surroundings(NETWORKS))
    normal = firewall.normal(after)
    live = firewall.normal(render.render(model.parse_config([service]), Surroundings(NETWORKS)))
    texts = delta(live, normal, after)
    assert texts.keys() == {"ip"}
    assert [line for line in texts["ip"].splitlines() if not line.startswith("-A NATLB.web.tcp ")] == [
        "*nat",
        ":NATLB.web.tcp - [0:0]",
        "COMMIT",
    ]


def test_thousands_of_services(firewall: Firewall) -> None:
    count = 2000
    services = [
        {
            "name": f"svc{i}",
            "listen": f"10.{i // 2500}.{i // 250 % 10}.{i % 250 + 1}:80" if i % 2 else f"192.0.2.10:{1000 + i * 5}",
            "backends": [{"address": f"172.16.{i % 250}.{k + 1}", "port": 8080} for k in range(4)],
        }
        for i in range(count)
    ]
    whole, half = (written(services[:size]) for size in (count, count // 2))
    print(f"{firewall.variant}: {whole.calls} calls for {count} services, {half.calls} for half of them")
    assert whole.calls < 2.5 * half.calls, "work that grows with the square"
    assert whole.text.count("\n") < 2.5 * half.text.count("\n")
    firewall.restore("ip", whole.text)
    assert len(firewall.live()) == whole.sections


class Written(NamedTuple):
    """Input of iptables-restore, what it makes, and how many function calls it took to write."""

    text: str
    sections: int
    calls: int


def written(services: list[dict[str, Any]]) -> Written:
    config = model.parse_config(services)
    profile = cProfile.Profile()
    ruleset = profile.runcall(render.render, config, Surroundings(NETWORKS))
    text = profile.runcall(full, ruleset, "ip")
    return Written(text, len(ruleset), sum(entry.callcount for entry in profile.getstats()))
