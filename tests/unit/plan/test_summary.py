# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands at the head of a diff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _natlb.host.store import Paths
from _natlb.model.services import parse_config
from _natlb.plan import summary
from _natlb.plan.request import Request, state_text
from hypothesis import given
from hypothesis import strategies as st

WEB1 = {"name": "web1", "address": "10.0.0.3", "port": 8080}
WEB2 = {"name": "web2", "address": "10.0.0.4", "port": 8080}
BARE = {"address": "10.0.0.5"}
SIX = {"address": "2001:db8::5", "port": 80}
HEAVY = {**WEB1, "weight": 3}


def web(*backends: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "web", "listen": "192.0.2.10:80", "backends": list(backends), **more}


def kept(services: list[dict[str, Any]], egress: Any = (), engine: str = "nftables", networks: Any = None) -> str:
    config = parse_config(services, list(egress), networks=networks)
    return state_text(Request(config, engine, None, True, True, Paths(Path("/etc/natlb"), Path("/run/natlb"))), engine)


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ([web(WEB1, WEB2)], [web(WEB1, WEB2)], []),
        (
            [web(WEB1, WEB2)],
            [web(HEAVY, WEB2)],
            ["web: web1 weight 1 -> 3, share 50 % -> 75 %", "web: web2 share 50 % -> 25 %"],
        ),
        (
            [web(WEB1)],
            [web(WEB1, WEB2)],
            ["web: backend web2 (10.0.0.4:8080) added, share 50 %", "web: web1 share 100 % -> 50 %"],
        ),
        (
            [web(WEB1)],
            [web(WEB1, {**BARE, "weight": 2})],
            ["web: backend 10.0.0.5 added, weight 2, share 66.7 %", "web: web1 share 100 % -> 33.3 %"],
        ),
        (
            [web(WEB1, WEB2)],
            [web(WEB2)],
            [
                "web: backend web1 (10.0.0.3:8080) removed, which had a share of 50 %",
                "web: web2 share 50 % -> 100 %",
            ],
        ),
        (
            [web(WEB1, WEB2)],
            [web({**WEB1, "state": "drained"}, WEB2)],
            ["web: web1 state active -> drained, share 50 % -> 0 %", "web: web2 share 50 % -> 100 %"],
        ),
        # A backup serves once no other can.
        (
            [web(WEB1, {**WEB2, "backup": True})],
            [web({**WEB1, "weight": 0}, {**WEB2, "backup": True})],
            ["web: web1 weight 1 -> 0, share 100 % -> 0 %", "web: web2 share 0 % -> 100 %"],
        ),
        ([web(WEB1)], [web({**WEB1, "name": "alpha"})], ["web: web1 name web1 -> alpha"]),
        ([web(WEB1, WEB2)], [web(WEB2, WEB1)], ["web: backends in another order"]),
        ([], [web(WEB1, BARE)], ["web: service added (192.0.2.10:80 to web1, 10.0.0.5)"]),
        ([web(WEB1)], [web()], ["web: backend web1 (10.0.0.3:8080) removed, which had a share of 100 %"]),
        ([], [web()], ["web: service added (192.0.2.10:80 without backends)"]),
        ([web(WEB1)], [], ["web: service removed (192.0.2.10:80)"]),
        (
            [web(WEB1)],
            [web(WEB1, listen=["192.0.2.11:80", "192.0.2.11:81"])],
            ["web: listen 192.0.2.10:80 removed", "web: listen 192.0.2.11:80, 192.0.2.11:81 added"],
        ),
        (
            [web(WEB1)],
            [web(WEB1, method="source_hash", affinity="1h", log=True, health={"type": "tcp"})],
            [
                "web: method round_robin -> source_hash",
                "web: affinity 0 -> 3600",
                "web: log false -> true",
                "web: health none -> tcp",
            ],
        ),
        (
            [web(WEB1, health={"type": "tcp"})],
            [web(WEB1, health={"type": "tcp", "fall": 5, "interval": "5s"})],
            ["web: health: interval 2.0 -> 5.0", "web: health: fall 3 -> 5"],
        ),
        (
            [web(WEB1)],
            [web(WEB1, allow_from=[f"10.{number}.0.0/16" for number in range(1, 13, 2)])],
            [
                (
                    "web: allow_from 10.1.0.0/16, 10.3.0.0/16, 10.5.0.0/16, 10.7.0.0/16 and 2 more added, "
                    "where there was none"
                )
            ],
        ),
        (
            [web(WEB1, allow_from=["10.0.0.0/8"])],
            [web(WEB1)],
            ["web: allow_from 10.0.0.0/8 removed, which leaves none"],
        ),
        (
            [web(WEB1, snat_by_client=[{"networks": ["10.1.0.0/16", "10.2.0.0/16"], "snat": "none"}])],
            [
                web(
                    WEB1,
                    snat_ports="20000-29999",
                    snat_by_client=[
                        {"networks": ["10.1.0.0/16"], "snat": "none"},
                        {"networks": ["10.2.0.0/16"], "snat": "10.0.0.9"},
                    ],
                )
            ],
            [
                "web: snat_ports none -> 20000-29999",
                "web: snat_by_client 10.2.0.0/16 as none removed",
                "web: snat_by_client 10.2.0.0/16 as 10.0.0.9 added",
            ],
        ),
        (
            [web(WEB1)],
            [web({**WEB1, "snat": "none"})],
            ["web: web1 snat of the service -> none"],
        ),
        (
            [web(WEB1), {**web(SIX), "name": "old", "listen": "[2001:db8::10]:80"}],
            [web(WEB1), {**web(SIX), "name": "new", "listen": "[2001:db8::10]:80"}],
            ["old: service removed ([2001:db8::10]:80)", "new: service added ([2001:db8::10]:80 to 2001:db8::5)"],
        ),
        (
            [web(WEB1), {**web(SIX), "name": "old", "listen": "[2001:db8::10]:80"}],
            [{**web(SIX), "name": "old", "listen": "[2001:db8::10]:80"}, web(WEB1)],
            ["services in another order"],
        ),
    ],
)
def test_services(before: list[Any], after: list[Any], lines: list[str]) -> None:
    found = summary.lines(kept(before), kept(after))
    assert found == lines


def holds(*items: dict[str, Any]) -> str:
    """What overrides and health have made of backends, as a run keeps it."""
    places = [{"service": "web", "address": "10.0.0.3", "port": 8080, **item} for item in items]
    return json.dumps({"format": 1, "effective": places, "health": []})


DRAINED = {"state": "drained", "weight": 1, "because": "override", "why": "override: kernel update"}
DOWN = {"state": "disabled", "weight": 1, "because": "health", "why": "down: refused"}
HELD = {"state": "active", "weight": 1, "because": "min_healthy", "why": "below min_healthy: 1 of 2"}
HEAVIER = {"state": "active", "weight": 3, "because": "override", "why": "override"}


NAMING: list[dict[str, Any]] = [
    {"allow_from": "office"},
    {"deny_from": ["office", "192.0.2.7"]},
    {"snat_by_client": [{"networks": ["192.0.2.7", "office"], "snat": "none"}]},
    {"pins": [{"client": "office", "backend": "web1"}]},
]


@pytest.mark.parametrize("keys", NAMING)
def test_a_list_is_kept_once_and_what_changes_in_it_is_told_once(keys: dict[str, Any]) -> None:
    """Not of each service that names it."""
    services = [{**web(WEB1), "name": f"s{n}", "listen": f"192.0.2.{n}:80", **keys} for n in (1, 2)]
    before, after = (
        kept(services, networks={"office": ["198.51.100.0/24", network]}) for network in ("10.1.0.0/16", "10.2.0.0/16")
    )
    assert before.count("10.1.0.0/16") == 1
    assert summary.lines(before, after) == ["list office: 10.1.0.0/16 removed", "list office: 10.2.0.0/16 added"]


@pytest.mark.parametrize(
    ("held", "now", "lines"),
    [
        (None, DRAINED, ["web1 state active -> drained, share 50 % -> 0 % (override: kernel update)"]),
        (None, DOWN, ["web1 state active -> disabled, share 50 % -> 0 % (down: refused)"]),
        (None, HEAVIER, ["web1 weight 1 -> 3, share 50 % -> 75 % (override)"]),
        (DRAINED, DOWN, ["web1 state drained -> disabled (down: refused)"]),
        (DRAINED, None, ["web1 state drained -> active, share 0 % -> 50 % (no override any more)"]),
        (DOWN, None, ["web1 state disabled -> active, share 0 % -> 50 % (up again)"]),
        (None, HELD, ["web1 share 50 % -> 0 % (below min_healthy: 1 of 2)"]),
        (HELD, None, ["web1 share 0 % -> 50 % (enough are healthy)"]),
        (DOWN, HELD, ["web1 state disabled -> active (below min_healthy: 1 of 2)"]),
        (DOWN, {**DOWN, "why": "down: unreachable"}, []),
        ({**DOWN, "port": [1]}, {**DOWN, "address": None}, []),
    ],
    ids=str,
)
def test_what_overrides_and_health_change(held: Any, now: Any, lines: list[str]) -> None:
    text = kept([web(WEB1, WEB2)])
    found = summary.lines(text, text, held and holds(held), now and holds(now))
    assert [line for line in found if "web1" in line] == [f"web: {line}" for line in lines]


def test_what_they_change_of_a_backend_with_shifted_ports() -> None:
    text = kept([web({**WEB1, "port": "+100"}, {**WEB2, "port": "+100"}, listen="192.0.2.10:80-89")])
    found = summary.lines(text, text, None, holds({**DRAINED, "port": None}))
    assert found[0] == "web: web1 state active -> drained, share 50 % -> 0 % (override: kernel update)"


def test_a_damaged_record_of_them_says_nothing() -> None:
    text = kept([web(WEB1, WEB2)])
    for record in ("", "{", "[]", '{"effective": 5}', '{"effective": [null, {}, {"service": "web"}]}'):
        assert summary.lines(text, text, record, None) == []


def test_a_service_that_comes_with_an_override() -> None:
    """One for all services is there before it."""
    before, after = kept([]), kept([web(WEB1, WEB2)])
    assert summary.lines(before, after, None, holds(DRAINED)) == [
        "web: service added (192.0.2.10:80 to web1, web2)",
    ]


EGRESS = {"source": "10.0.0.0/24", "out_interface": "eth0"}
PORTS = {"source": "10.1.0.0/24", "protocol": "tcp", "destination_ports": [80], "snat": "192.0.2.10"}


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ([], [EGRESS], ["egress: 10.0.0.0/24 by eth0 added"]),
        (
            [EGRESS],
            [PORTS],
            ["egress: 10.0.0.0/24 by eth0 removed", "egress: 10.1.0.0/24 to tcp 80 as 192.0.2.10 added"],
        ),
        (
            [],
            [{**EGRESS, "snat": "192.0.2.10", "snat_ports": "20000-29999"}],
            ["egress: 10.0.0.0/24 by eth0 as 192.0.2.10 from ports 20000-29999 added"],
        ),
        ([EGRESS, PORTS], [PORTS, EGRESS], ["egress: rules in another order"]),
    ],
)
def test_egress(before: list[Any], after: list[Any], lines: list[str]) -> None:
    assert summary.lines(kept([web(WEB1)], before), kept([web(WEB1)], after)) == lines


def test_options_of_the_run() -> None:
    lines = summary.lines(kept([web(WEB1)]), kept([web(WEB1)], engine="iptables"))
    assert lines == ["engine: nftables -> iptables", "requested_engine: nftables -> iptables"]


@pytest.mark.parametrize("before", [None, "", "{", "[]", "5", '{"services": null}', '{"services": [5, null]}'])
def test_without_a_former_declaration_all_is_new(before: str | None) -> None:
    assert summary.lines(before, kept([web(WEB1)]))[0] == "web: service added (192.0.2.10:80 to web1)"


def test_all_goes() -> None:
    assert summary.lines(kept([web(WEB1)], [EGRESS]), None) == [
        "web: service removed (192.0.2.10:80)",
        "egress: 10.0.0.0/24 by eth0 removed",
    ]


def test_a_key_that_an_older_version_did_not_write_says_nothing() -> None:
    older = json.loads(kept([web(WEB1)], [EGRESS]))
    del older["services"][0]["snat"], older["services"][0]["when_denied"], older["conntrack"]
    del older["egress"][0]["snat_ports"]
    assert summary.lines(json.dumps(older), kept([web(WEB1)], [EGRESS])) == []


def test_many_backends_take_few_lines() -> None:
    many = [{"address": f"10.1.{number // 250}.{number % 250 + 1}"} for number in range(1000)]
    lines = summary.lines(kept([web(*many)]), kept([web(*many[:-1])]))
    assert lines == ["web: backend 10.1.3.250 removed, which had a share of 0.1 %"]
    lines = summary.lines(kept([web(*many[:100])]), kept([web(*many[:50])]))
    assert len(lines) == summary.LINES + 1
    assert lines[0] == "web: backend 10.1.0.51 removed, which had a share of 1 %"
    assert lines[-1] == "web: and 80 more changes"


def test_it_stands_above_the_rules() -> None:
    rules = "--- ip natlb map\n+++ ip natlb map\n"
    before, after = kept([web(WEB1, WEB2)]), kept([web(HEAVY, WEB2)])
    assert summary.with_summary(rules, before, after).splitlines()[0] == "web: web1 weight 1 -> 3, share 50 % -> 75 %"
    assert summary.with_summary(rules, before, after).endswith(rules)
    assert (
        summary.with_summary(rules, before, before)
        == f"the declaration is unchanged; the host differs from it\n{rules}"
    )
    assert summary.with_summary("", before, after) == ""
    older = before.replace('"format": 3', '"format": 1')
    assert summary.with_summary(rules, older, before) == f"the declaration is unchanged; it is written again\n{rules}"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["services", "egress", "backends", "name", "weight", "uplinks"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(ANYTHING, ANYTHING)
def test_nothing_that_is_kept_raises(before: Any, after: Any) -> None:
    for text in summary.lines(json.dumps(before), json.dumps(after)):
        assert isinstance(text, str)


SERVICES = [{"name": name, "log": False, "backends": []} for name in "abcd"]


def kept_text(services: list[Any], **keys: Any) -> str:
    """As a run keeps it, with a line for each service."""
    items = ",\n".join(map(json.dumps, services))
    head = "".join(f'"{key}": {json.dumps(value)},\n' for key, value in {"format": 3, **keys}.items())
    return "{\n" + head + ('"services": [\n' + items + "\n]" if services else '"services": []') + ',\n"egress": []\n}\n'


def test_beside_a_damaged_request_every_service_is_new() -> None:
    """Also those whose lines can still be read in it."""
    text = kept_text(SERVICES[:3])
    damaged = text[: text.index(json.dumps(SERVICES[2])) - 2]
    assert [line.partition(":")[0] for line in summary.lines(damaged, text)] == ["a", "b", "c"]


@given(st.data())
def test_services_with_the_same_line_make_no_difference(data: st.DataObject) -> None:
    """What is told is what a reader of both texts as a whole would tell."""

    def drawn(damaged: bool) -> str:
        services = data.draw(st.permutations(SERVICES[: data.draw(st.integers(0, 4))]))
        services = [{**item, "log": data.draw(st.booleans())} for item in services]
        text = kept_text(services, transit=data.draw(st.sampled_from(("drop", "accept"))))
        cut = data.draw(st.integers(0, len(text)))
        return (
            text
            if not damaged
            else data.draw(st.sampled_from((text, text, text, text[:cut], text.replace("},\n{", "}\n{", 1))))
        )

    before, after = drawn(damaged=True), drawn(damaged=False)
    whole = [json.dumps(summary._read(text)) if summary._read(text) else "" for text in (before, after)]
    if before != after:
        assert summary.lines(before, after) == summary.lines(*whole)
