# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No line for people is wider than 100 columns, whatever is declared: long names, IPv6, many addresses and backends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from _natlb.status import checks_table, details, table
from _natlb.status.columns import WIDTH, folded, wrapped
from _natlb.trace import steps
from _natlb.trace.steps import Step, Trace
from hypothesis import given
from hypothesis import strategies as st

#: As long as a label of DNS may be. A word that is longer than a line stays whole.
names = st.integers(1, 63).map(lambda size: ("web-front-end-" * 5)[:size])
addresses = st.sampled_from(["10.0.0.3", "2001:db8:1234:5678:9abc:def0:1234:5678"])
endpoints = st.sampled_from(["192.0.2.10:80", "[2001:db8:1234:5678:9abc:def0:1234:5678]:30000-32767"])
counts = st.none() | st.sampled_from([0, 7, 10**12])
sentences = st.sampled_from(["", "kernel update", "connect to 10.0.0.4:8080: " + "Connection refused, " * 12])

backends = st.fixed_dictionaries(
    {
        "name": names,
        "address": addresses,
        "port": st.sampled_from([None, 80, 65535]),
        "weight": st.sampled_from([1, 65535]),
        "state": st.sampled_from(["active", "drained", "disabled"]),
        "backup": st.booleans(),
        "health": st.sampled_from(["none", "up", "down", "unknown"]),
        "expected_share": st.sampled_from([None, 0.5, 1.0]),
        "new_connections": counts,
        "active_connections": counts,
        "max_connections": st.sampled_from([None, 10**9]),
        "why": sentences,
        "mark": st.sampled_from([None, "0xffffffff/0xffffffff"]),
    }
)
services = st.fixed_dictionaries(
    {
        "name": names,
        "listen": st.lists(endpoints, min_size=1, max_size=40),
        "method": st.sampled_from(["round_robin", "least_connections"]),
        "redispatch": st.booleans(),
        "backends": st.lists(backends, max_size=6),
        "takeover_reason": sentences,
        "mark": st.sampled_from([None, "0xffffffff/0xffffffff"]),
    }
)
egress = st.fixed_dictionaries({"source": st.lists(addresses, max_size=30), "snat": st.just("masquerade")})
infos = st.fixed_dictionaries(
    {
        "services": st.lists(services, max_size=3),
        "forwarding": st.booleans(),
        "drift": st.booleans(),
        "egress": st.lists(egress, max_size=2),
        "conntrack": st.just({"count": 10**9, "max": 10**9, "drop": 10**12, "early_drop": 10**12}),
        "remarks": st.lists(sentences, max_size=2),
    }
)


def too_wide(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if len(line) > WIDTH]


@given(st.dictionaries(names, infos | st.just({"msg": "Failed to connect to the host via ssh: " * 5}), max_size=6))
def test_the_state_of_balancers(hosts: dict[str, Any]) -> None:
    """That of `natlb status` and of the playbook `status`."""
    assert too_wide(table.lines(hosts)) == []


@given(infos)
def test_details(info: dict[str, Any]) -> None:
    assert too_wide(list(details.lines(info))) == []


@given(st.lists(backends, min_size=1, max_size=4), st.integers(1, 60), st.booleans())
def test_a_number_is_never_folded(found: list[dict[str, Any]], size: int, two: bool) -> None:
    one = {"name": "web", "listen": ["192.0.2.10:80"], "method": "random", "backends": found}
    other = {**one, "backends": [{**backend, "weight": 7} for backend in found]}
    hosts = {"lb" * size: {"services": [one]}, **({"second": {"services": [other]}} if two else {})}
    said = "\n".join(table.lines(hosts)).split()
    for backend in found:
        limit = f"/{backend['max_connections']}" if backend["max_connections"] else ""
        if backend["active_connections"] is not None:
            assert any(
                word.endswith(limit) and word.startswith(str(backend["active_connections"])[:1]) for word in said
            )
        if backend["new_connections"] and not two:
            assert str(backend["new_connections"]) in said


def check(name: str, service: str, question: str, reason: str, state: str) -> dict[str, Any]:
    return {
        "backends": [{"name": name, "service": service}, {"name": name, "service": f"{service}2"}],
        "check": question,
        "interval_s": 3599.0,
        "fast_interval_s": 0.5,
        "timeout_s": 3599.0,
        "state": state,
        "since": "2026-11-26T11:55:48+00:00",
        "against": 9,
        "needed": 10,
        "flapping": 1,
        "next_in_s": 3599.0,
        "reason": reason,
        "last": {"took_s": 3599.0, "result": "down", "reason": reason},
    }


@given(
    st.lists(
        st.builds(
            check,
            names,
            names,
            st.sampled_from(["tcp", f"https [2001:db8:1234:5678:9abc:def0:1234:5678]:8443/{'ready/' * 20} (host)"]),
            sentences,
            st.sampled_from(["up", "down", "unknown"]),
        ),
        max_size=4,
    )
)
def test_checks(found: list[dict[str, Any]]) -> None:
    lines = checks_table.lines(found, datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC))
    assert too_wide(lines) == []
    said = " ".join(" ".join(lines).split())
    for item in found:
        # A short one is in a column, which may be folded.
        words = [item["reason"]] if len(item["reason"]) > WIDTH else item["reason"].split()
        assert all(" ".join(word.split()) in said for word in words)


def test_the_last_result_of_a_wide_check_stands_below_it() -> None:
    refused = "connect to 10.0.0.3:8080: Connection refused, 3 of 3"
    found = [check("web1", "web", "tcp 10.0.0.3:8080", refused, "down")]
    lines = checks_table.lines(found, datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC))
    assert lines[-1] == f"    {refused}"
    assert "LAST" not in lines[0]


@given(st.sampled_from(["backend", "postrouting"]), sentences, sentences)
def test_what_a_trace_says(where: str, said: str, remedy: str) -> None:
    trace = Trace(
        "2001:db8::7 -> [2001:db8:1234:5678:9abc:def0:1234:5678]:65535/tcp", [Step(where, "may", said, remedy)]
    )
    lines = [line for item in steps.lines(trace) for line in wrapped(item.text, hanging=item.hanging)]
    assert too_wide(lines) == []
    begin = 4 + len(where)
    rest = [line for line in lines[1:-1] if not line.lstrip("? ").startswith(where)]
    assert all(line.startswith(" " * begin) for line in rest)


def test_a_command_stays_whole() -> None:
    command = "`nft insert rule inet firewalld filter_FORWARD ct status dnat accept`"
    lines = wrapped(f"{'word ' * 12}{command} and more", hanging=4)
    assert [line.strip() for line in lines] == [("word " * 12).strip(), f"{command} and more"]


def test_columns_fold_the_widest_first() -> None:
    rows = [("NAME", "NEW", "ADDRESS"), ("a" * 30, "1234567890", "b" * 20)]
    assert folded(rows, ["NEW"], 36) == [
        ["NAME                NEW  ADDRESS"],
        ["aaaaaaaaaaa  1234567890  bbbbbbbbbbb", "aaaaaaaaaaa              bbbbbbbbb", "aaaaaaaa"],
    ]
