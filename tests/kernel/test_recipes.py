# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every recipe of docs/recipes does what it says, on every engine, with real connections.

A recipe's text is loaded as it stands but for `LAB` and `ADDRESSES`: the lab's balancer calls its interfaces otherwise,
and 10.0.0.1, which some recipes give to a backend, is its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kernel_lab import server, statistics, traffic
from kernel_lab.balancer import Balancer
from kernel_lab.topology import BACK, CLIENT, FRONT, INTERNET, UPLINKS, VIP, WEB, Lab

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "recipes"
ROWS = range(1, 17)
PUBLIC = "203.0.113.1"
REFUSED = "ConnectionRefusedError"

LAB = {"eth0": "front", **{f"eth{i}": link for i, (link, _net) in enumerate(UPLINKS.values(), 1)}}
UPLINK_GATEWAYS = {"203.0.113.1": "100.64.1.1", "198.51.100.1": "100.64.2.1"}
ADDRESSES = {
    "04-gateway-backends.yml": {"10.0.0.1": "10.0.0.3", "10.0.0.2": "10.0.0.4", "10.0.0.3": "10.0.0.5"},
    "05-without-marks.yml": {f"192.168.1.{part}": f"10.0.0.{part}" for part in (3, 4, 5)},
    "06-other-port.yml": {"10.0.0.2": "10.0.0.4", "192.168.1.3": "10.0.0.3"},
    "08-uplinks-by-port.yml": UPLINK_GATEWAYS,
    "08-uplinks-by-weight.yml": UPLINK_GATEWAYS,
    "10-kubernetes.yml": {"10.0.0.1": "10.96.0.1", **{f"10.244.0.{part}": f"10.0.0.{part}" for part in (3, 4, 5)}},
    # The client has 198.18.0.0/16.
    "12-allow-list.yml": {"198.51.100.0/24": "198.18.7.0/24", "203.0.113.7": "198.18.8.7"},
}

_tested: set[str] = set()


def recipe(*names: str) -> Callable[[Any], Any]:
    """The recipes that a test is about."""
    _tested.update(names)
    return pytest.mark.parametrize("name", names)


def read(name: str) -> dict[str, Any]:
    """The variables of a recipe, with the lab's names and addresses."""
    words = {**LAB, **ADDRESSES.get(name, {})}
    pattern = r"(?<![\w.])(" + "|".join(map(re.escape, words)) + r")(?![\w]|\.\d)"
    text = re.sub(pattern, lambda match: words[match[1]], (FOLDER / name).read_text())
    return dict(yaml.safe_load(text))


def use(balancer: Balancer, name: str, **changes: Any) -> Any:
    """Do what the role does with the recipe's variables."""
    variables = {**read(name), **changes}
    services, egress = variables.pop("natlb_services", []), variables.pop("natlb_egress", [])
    return balancer.apply(services, egress, **{key.removeprefix("natlb_"): value for key, value in variables.items()})


def shares(*names: str, each: int) -> dict[str, int]:
    return dict.fromkeys(names, each)


def out(balancer: Balancer, target: str, count: int = 1, **options: Any) -> list[traffic.Answer]:
    """Answers to connections that a backend opens."""
    return list(balancer.lab.backends["web1"].call(traffic.ask, target, count, **options))


@pytest.fixture(scope="module")
def _more_ports(_lab: Lab) -> None:
    """ssh and mail on web1, on top of what the lab's servers listen on, until the lab ends."""
    _lab.backends["web1"].call(server.start, "web1", (22, 25))


# -- the rows ------------------------------------------------------------------------------------------------------


@recipe("01-port-forward.yml")
def test_01_one_port_to_one_host(balancer: Balancer, name: str) -> None:
    assert balancer.host.call(Path.read_text, Path("/proc/sys/net/ipv4/ip_forward")) == "0\n"
    use(balancer, name)
    answers = balancer.ask(f"{FRONT}:80", 4)
    assert {(answer.name, answer.local_port) for answer in answers} == {("web1", 80)}
    assert out(balancer, f"{CLIENT}:80", timeout_s=0.3)[0].error, "only what was translated is forwarded"
    assert balancer.ask(f"{WEB['web2']}:80", timeout_s=0.3)[0].error, "it is no router for everybody"
    again = use(balancer, name)
    assert (again.changed, again.transaction) == (False, "none")


@recipe("02-round-robin.yml")
def test_02_equal_shares(balancer: Balancer, name: str) -> None:
    use(balancer, name)
    answers = balancer.ask(f"{FRONT}:80", 400)
    assert traffic.tally(answers) == shares(*WEB, each=100)
    for i in range(397):
        assert len({answer.name for answer in answers[i : i + 4]}) == 4


@recipe("03-random-weights.yml")
def test_03_unequal_shares_by_chance(balancer: Balancer, name: str) -> None:
    use(balancer, name)
    weights = {"web1": 3, "web2": 3, "web3": 3, "web4": 1}
    seen = balancer.tally(f"{FRONT}:80", 2000)
    assert statistics.p_value(seen, weights) > 0.001, seen
    assert sum(seen[web] for web in WEB) == 2000, "none is lost"
    use(balancer, name, natlb_services=[{**read(name)["natlb_services"][0], "method": "round_robin"}])
    assert balancer.tally(f"{FRONT}:80", 100) == {web: 10 * weight for web, weight in weights.items()}


@recipe("04-gateway-backends.yml")
def test_04_a_third_each_and_the_public_address(balancer: Balancer, name: str) -> None:
    use(balancer, name)
    answers = balancer.ask(f"{VIP}:80", 99)
    assert traffic.tally(answers) == shares("web1", "web2", "web3", each=33)
    assert {answer.peer for answer in answers} == {CLIENT}, "backends see the client"
    assert out(balancer, f"{CLIENT}:80")[0].peer == VIP, "their own connections have the public address"


@recipe("05-without-marks.yml")
def test_05_a_choice_without_marks(balancer: Balancer, name: str) -> None:
    balancer.host.ip(f"address add {PUBLIC}/32 dev front")
    use(balancer, name)
    held = balancer.hold(f"{PUBLIC}:80", 30)
    assert traffic.tally(answer for _handle, answer in held) == shares("web1", "web2", "web3", each=10)
    assert {answer.peer for _handle, answer in held} == {BACK}
    for handle, answer in held:
        assert {balancer.talk(handle).name for _unused in range(3)} == {answer.name}, (
            "all packets of a connection go one way"
        )
    assert "mark" not in "".join(balancer.snapshot().values())


@recipe("06-other-port.yml")
@pytest.mark.usefixtures("_more_ports")
def test_06_other_ports(balancer: Balancer, name: str) -> None:
    balancer.host.call(server.start, "balancer", (22,))
    use(balancer, name)
    seen = {port: balancer.ask(f"{FRONT}:{port}")[0] for port in (8080, 2222, 22)}
    assert {port: (a.name, a.local_port) for port, a in seen.items()} == {
        8080: ("web2", 80),
        2222: ("web1", 22),
        22: ("balancer", 22),
    }


@recipe("07-one-address.yml")
def test_07_a_network_behind_one_address(balancer: Balancer, name: str) -> None:
    use(balancer, name)
    for protocol in ("tcp", "udp"):
        assert {a.peer for a in out(balancer, f"{CLIENT}:80", 3, protocol=protocol)} == {PUBLIC}


@recipe("07-changing-address.yml")
def test_07_a_network_behind_an_address_that_changes(balancer: Balancer, name: str) -> None:
    use(balancer, name)
    assert out(balancer, f"{CLIENT}:80")[0].peer == FRONT
    balancer.host.ip(f"address delete {FRONT}/24 dev front\naddress add 192.0.2.77/24 dev front")
    try:
        assert out(balancer, f"{CLIENT}:80")[0].peer == "192.0.2.77"
    finally:
        balancer.client.ip("neighbour flush dev front")


def ways(answers: list[traffic.Answer]) -> Counter[str]:
    """Which uplink each connection took; each must have that uplink's source address."""
    assert all(answer.peer == f"{UPLINKS[answer.name][1]}.2" for answer in answers), answers
    return traffic.tally(answers)


@recipe("08-uplinks-by-port.yml")
def test_08_uplinks_by_port(balancer: Balancer, name: str) -> None:
    balancer.lab.uplinks()
    use(balancer, name)
    assert ways(out(balancer, f"{INTERNET}:80", 4)) == {"isp1": 4}
    assert ways(out(balancer, f"{INTERNET}:8080", 4)) == {"isp2": 4}
    assert ways(out(balancer, f"{INTERNET}:80", 4, protocol="udp")) == {"isp2": 4}
    assert balancer.snapshot()["rules-4"].count("fwmark") == 3
    assert balancer.host.run("ip", "route", "show", "table", "24601").startswith("default via 100.64.1.1 dev up1")


@recipe("08-uplinks-by-weight.yml")
def test_08_uplinks_by_weight(balancer: Balancer, name: str) -> None:
    balancer.lab.uplinks()
    use(balancer, name)
    assert ways(out(balancer, f"{INTERNET}:80", 30)) == {"isp1": 20, "isp2": 10}
    web1 = balancer.lab.backends["web1"]
    held = web1.call(traffic.hold, f"{INTERNET}:80", 6)
    assert [web1.call(traffic.talk, handle).name for handle, _answer in held] == [
        answer.name for _unused, answer in held
    ]


@recipe("09-redirect.yml")
def test_09_to_the_balancer_itself(balancer: Balancer, name: str) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.host.ip(f"address add {VIP}/32 dev front")
    balancer.host.call(server.start, "balancer", (8080,))
    use(balancer, name)
    (answer,) = balancer.ask(f"{VIP}:80")
    assert (answer.name, answer.local_port, answer.peer) == ("balancer", 8080, CLIENT)
    (own,) = balancer.host.call(traffic.ask, f"{VIP}:80")
    assert (own.name, own.local_port) == ("balancer", 8080)
    assert balancer.ask(f"{WEB['web1']}:80")[0].name == "web1", "what is routed through is not taken"


@recipe("10-kubernetes.yml")
def test_10_node_port_cluster_ip_load_balancer(balancer: Balancer, name: str) -> None:
    use(balancer, name)
    pods = shares("web1", "web2", "web3", each=4)
    for target in (f"{FRONT}:30080", "10.96.0.1:80", f"{PUBLIC}:80"):
        answers = balancer.ask(target, 12)
        assert (traffic.tally(answers), {answer.local_port for answer in answers}) == (pods, {8080}), target
    services = read(name)["natlb_services"]
    many = [
        {**services[0], "name": f"shop{i}", "listen": f"10.96.{1 + i // 250}.{1 + i % 250}:{80 + i % 3}"}
        for i in range(1000)
    ]
    use(balancer, name, natlb_services=[*services, *many])
    assert balancer.tally("10.96.4.250:80", 12) == pods
    shown = balancer.snapshot()
    programs = [shown["nft"]] if balancer.nftables else [balancer.host.run(f"iptables-{balancer.variant}-save")]
    assert longest_chain("".join(programs)) <= 16


def longest_chain(text: str) -> int:
    """How many rules the longest of our chains has, in a listing of nft or of iptables-save."""
    rules: Counter[str] = Counter(re.findall(r"^-A (\S+)", text, re.MULTILINE))
    for chain, body in re.findall(r"^\tchain (\S+) \{\n(.*?)^\t\}", text, re.MULTILINE | re.DOTALL):
        rules[chain] += len(body.splitlines())
    return max(rules.values())


@recipe("11-limits.yml")
@pytest.mark.usefixtures("_more_ports")
def test_11_limits_per_client(balancer: Balancer, name: str) -> None:
    use(balancer, name)
    greedy, modest = "198.18.7.7", "198.18.9.9"
    assert all(answer.name for _handle, answer in balancer.hold(f"{VIP}:25", 5, source=greedy))
    refused = balancer.ask(f"{VIP}:25", sources=[greedy])
    assert traffic.tally(refused) == {REFUSED: 1}
    assert refused[0].resent == (1 if balancer.nftables else 0), "nftables answers the second packet"
    assert balancer.tally(f"{VIP}:25", sources=[modest]) == {"web1": 1}
    served = balancer.tally(f"{VIP}:80", 60, sources=[greedy])["web2"]
    assert 7 <= served <= 14, "a second's worth at once, and what comes to it meanwhile"
    assert balancer.tally(f"{VIP}:80", 7, sources=[modest]) == {"web2": 7}


@recipe("12-allow-list.yml")
def test_12_allow_list(balancer: Balancer, name: str) -> None:
    use(balancer, name)
    for source in ("198.18.7.1", "198.18.7.200", "198.18.8.7"):
        assert balancer.tally(sources=[source], count=2) == shares("web1", "web2", each=1)
    assert balancer.tally(sources=["198.18.8.8"]) == {REFUSED: 1}
    (web,) = read(name)["natlb_services"]
    many = [f"198.18.{i}.{j}/31" for i in range(100, 132) for j in range(0, 256, 4)]
    use(balancer, name, natlb_services=[{**web, "allow_from": [*web["allow_from"], *many]}])
    assert len(many) == 2048
    for source, served in {"198.18.7.1": True, "198.18.131.253": True, "198.18.131.254": False}.items():
        assert (balancer.tally(sources=[source]) != {REFUSED: 1}) == served, source


@recipe("13-log.yml")
def test_13_logging_is_limited(balancer: Balancer, name: str) -> None:
    use(balancer, name)
    assert balancer.tally(count=100) == shares("web1", "web2", each=50), "also those that are not logged"
    if balancer.nftables:
        (rule,) = [line for line in balancer.snapshot()["nft"].splitlines() if "log prefix" in line]
        assert rule.strip() == 'limit rate 10/second burst 20 packets log prefix "natlb web "'
        return
    saved = balancer.host.run(f"iptables-{balancer.variant}-save", "-c", "-t", "nat")
    (rule,) = [line for line in saved.splitlines() if "-j LOG" in line]
    assert '--log-prefix "natlb web "' in rule
    logged = int(re.findall(r"^\[(\d+):", rule)[0])
    assert 20 <= logged <= 40, "the rule counts what it logs"


@recipe("14-reboot.yml")
def test_14_a_reboot(balancer: Balancer, tmp_path: Path, name: str) -> None:
    outcome = use(balancer, name)
    assert outcome.sysctls == {"net/ipv4/ip_forward": "1"}, "what the role writes to /etc/sysctl.d"
    before = balancer.host.run(*listing(balancer))
    balancer.lab.reset()
    assert balancer.ask(timeout_s=0.3)[0].error, "an empty kernel, as after a reboot"
    newer = "table ip other { chain post { type nat hook postrouting priority 90; ip saddr 10.9.0.0/16 masquerade; }; }"
    balancer.host.run("nft", "-f", "-", stdin=newer)
    foreign = balancer.foreign()
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    for _unused in range(2):
        balancer.host.run("sh", str(tmp_path / "etc" / "boot"))
        assert balancer.tally(count=10) == shares("web1", "web2", each=5)
        assert balancer.foreign() == foreign, "what others have loaded meanwhile stays"
    assert rules(balancer.host.run(*listing(balancer))) == rules(before)
    assert not use(balancer, name).changed


def listing(balancer: Balancer) -> list[str]:
    if balancer.nftables:
        return ["nft", "-s", "list", "table", "ip", "natlb"]
    return [f"iptables-{balancer.variant}-save", "-t", "nat"]


def rules(text: str) -> list[str]:
    """Without dates and counters."""
    return [re.sub(r"\[\d+:\d+\]", "", line) for line in text.splitlines() if not line.startswith("#")]


@recipe("15-reset.yml")
def test_15_start_over(balancer: Balancer, tmp_path: Path, name: str) -> None:
    firewall = "table inet firewall { chain in { type filter hook input priority 0; }; }"
    balancer.host.run("nft", "-f", "-", stdin=firewall)
    iptables = f"iptables-{balancer.variant or 'nft'}"
    balancer.host.run(iptables, "-N", "DOCKER-USER")
    balancer.host.run(iptables, "-A", "FORWARD", "-j", "DOCKER-USER")
    balancer.host.run(iptables, "-t", "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "-j", "MASQUERADE")
    foreign = balancer.foreign()
    for other in ("02-round-robin.yml", "11-limits.yml", "04-gateway-backends.yml"):
        use(balancer, other)
    assert balancer.foreign() == foreign
    assert use(balancer, name).changed
    assert balancer.ours_left() == []
    assert balancer.foreign() == foreign
    assert not any((tmp_path / folder).exists() for folder in ("etc", "run"))
    assert not use(balancer, name).changed


@recipe("16-forward-chain.yml")
def test_16_a_closed_forward_chain(balancer: Balancer, name: str) -> None:
    iptables = f"iptables-{balancer.variant or 'nft'}"
    balancer.host.run(iptables, "-P", "FORWARD", "DROP")
    outcome = use(balancer, name, natlb_firewall="warn")
    assert any("connections are not forwarded" in warning for warning in outcome.warnings)
    assert balancer.tally(timeout_s=0.4) == {"TimeoutError": 1}
    assert use(balancer, name).changed
    assert balancer.tally(count=10) == shares("web1", "web2", each=5)
    assert balancer.ask(f"{WEB['web1']}:80", timeout_s=0.4)[0].error, "the chain is still closed to all else"


@recipe("16-forward-chain.yml")
@pytest.mark.engines("nftables")
def test_16_the_same_in_nftables(balancer: Balancer, name: str) -> None:
    assert "`ct status dnat accept`" in (FOLDER / name).read_text()
    chain = "chain forward { type filter hook forward priority 0; policy drop; }"
    balancer.host.run("nft", "-f", "-", stdin=f"table inet firewall {{ {chain}; }}")
    use(balancer, name)
    assert balancer.tally(timeout_s=0.4) == {"TimeoutError": 1}
    balancer.host.run("nft", "add", "rule", "inet", "firewall", "forward", "ct", "status", "dnat", "accept")
    assert balancer.tally(count=10) == shares("web1", "web2", each=5)


# -- all of them ---------------------------------------------------------------------------------------------------


def test_every_row_has_a_recipe_and_every_recipe_a_test() -> None:
    files = {path.name for path in FOLDER.glob("*.yml")}
    assert {int(name[:2]) for name in files} == set(ROWS)
    assert _tested == files
    listed = re.findall(r"\]\((\d\d-[\w-]+\.yml)\)", (FOLDER / "README.md").read_text())
    assert sorted(listed) == sorted(files)
    rows = re.findall(r"^\| (\d+) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == list(ROWS)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.name)
def test_a_recipe_says_what_it_replaces(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("Typed today" in line for line in comments)
    assert any(line.startswith("# What you see:") for line in comments)
    assert all(key.startswith("natlb_") for key in yaml.safe_load(path.read_text()))
