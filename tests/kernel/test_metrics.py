# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of a real balancer: printed, written and served, and checked with Prometheus' own tools."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from _natlb.cli import single_file
from _natlb.host import nf_tables
from kernel_lab import agent, server, traffic
from kernel_lab.balancer import Balancer, service, weighted
from kernel_lab.topology import CLIENT, NAMES, PORTS, VIP, WEB
from prometheus_client.parser import text_string_to_metric_families
from promtool import promtool
from test_agent import FAST, running

LISTEN = "127.0.0.1:9780"


def read(text: str) -> dict[str, dict[str, float]]:
    """Samples by metric, and by name of the backend where they have one."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels.get("backend", "")] = sample.value
    return found


def printed(balancer: Balancer, *words: str) -> str:
    status, told, error = balancer.natlb("metrics", *words)
    assert (status, error) == (0, ""), error
    return told


def apply(balancer: Balancer, **keys: Any) -> None:
    balancer.apply([service(**keys)], program=single_file.text, agent=True)


def test_printed(balancer: Balancer) -> None:
    apply(balancer, backends=weighted(web1=3, web2=1))
    before = read(printed(balancer))
    balancer.tally(count=8)
    held = balancer.hold(count=4)
    now = read(printed(balancer))
    assert now["natlb_backend_connections_total"] == {"web1": 9, "web2": 3}
    assert now["natlb_backend_active_connections"] == {"web1": 3, "web2": 1}, held
    assert now["natlb_backend_expected_share_ratio"] == {"web1": 0.75, "web2": 0.25}
    assert now["natlb_drift"] == {"": 0}
    assert now["natlb_agent_up"] == {"": 0}
    assert now["natlb_last_apply_success"] == {"": 1}
    assert abs(now["natlb_last_apply_timestamp_seconds"][""] - time.time()) < 60
    assert now["natlb_conntrack_entries"][""] > before["natlb_conntrack_entries"][""]


def totals(balancer: Balancer) -> dict[str, float]:
    return read(printed(balancer))["natlb_backend_connections_total"]


def test_totals_are_exact_whatever_becomes_of_slots(balancer: Balancer) -> None:
    """A backend that goes and comes back, weights, a run with other backends: each takes slots away."""
    got: Counter[str] = Counter()

    def ask(count: int) -> None:
        got.update(balancer.tally(count=count))

    apply(balancer)
    printed(balancer)
    ask(8)
    for name, state in (("web4", "drained"), ("web2", "disabled"), ("web4", "active"), ("web2", "active")):
        balancer.backend(name, state)
        ask(12)
    assert totals(balancer) == got
    ask(5)
    apply(balancer, backends=weighted(web1=3, web2=1, web3=1, web4=1))
    ask(12)
    apply(balancer, method="random")
    ask(10)
    apply(balancer)
    ask(4)
    assert totals(balancer) == got
    print(f"{balancer.engine} {balancer.variant}: {sum(got.values())} connections, all counted")


def test_where_nobody_asks_nothing_is_kept(balancer: Balancer) -> None:
    apply(balancer)
    balancer.tally(count=8)
    balancer.backend("web4", "drained")
    run = balancer.etc.parent / "run"
    assert not [name for name in os.listdir(run) if name in ("totals.json", "taken.jsonl")]


@pytest.mark.engines("nftables", "iptables-nft")
def test_totals_are_exact_while_slots_are_dealt_anew(balancer: Balancer, tmp_path: Path) -> None:
    """least_connections, under load: the agent deals slots again and again, and none of the connections is lost."""
    folder = tmp_path / "textfile"
    folder.mkdir()
    web = service(method="least_connections")
    with running(balancer, web, ready="1 services", metrics={"directory": str(folder)}):
        first = folder / "natlb.prom"
        balancer.host.call(agent.wait_for_file, str(first), "natlb_backend_connections_total{")
        began = totals(balancer)
        balancer.hold(count=200)
        balancer.lab.backends["web4"].call(server.crash)
        # An entry that the backend has reset takes a new connection from the same port to it, past all rules.
        balancer.host.run("conntrack", "-D", "--reply-src", WEB["web4"])
        balancer.lab.backends["web4"].call(server.start, "web4", PORTS)
        before = balancer.host.call(nf_tables.generation)
        names = Counter(balancer.client.begin(traffic.hold_more, f"{VIP}:80", 600, 100, 5).result(timeout=60))
        dealt = balancer.host.call(nf_tables.generation) - before
        found = {name: count - began[name] for name, count in totals(balancer).items()}
        print(f"{balancer.engine} {balancer.variant}: {dealt} commits, {sum(found.values())} of 800 counted")
        assert dealt >= 3
        assert sum(found.values()) == 800
        assert {name: found[name] - 50 for name in NAMES} == dict(names)


def test_drift_is_told(balancer: Balancer) -> None:
    apply(balancer)
    balancer.host.run("sh", "-c", "nft flush ruleset; iptables-legacy -t nat -F; iptables-legacy -t nat -X")
    assert read(printed(balancer))["natlb_drift"] == {"": 1}


def test_a_run_that_fails_is_told(balancer: Balancer) -> None:
    apply(balancer)
    with pytest.raises(Exception, match="not a port"):
        balancer.apply([service(listen=[f"{VIP}:99999"])])
    assert read(printed(balancer))["natlb_last_apply_success"] == {"": 0}
    apply(balancer)
    assert read(printed(balancer))["natlb_last_apply_success"] == {"": 1}


@pytest.mark.engines("nftables")
def test_promtool_finds_nothing_wrong(balancer: Balancer) -> None:
    apply(balancer, health=FAST)
    checked = promtool("check", "metrics", given=printed(balancer))
    assert (checked.returncode, checked.stdout) == (0, "")
    assert promtool("check", "metrics", given="natlb_x{ 1\n").returncode, "it does look"


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_the_agent_publishes_them(balancer: Balancer, tmp_path: Path) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    asked = {"directory": str(folder), "listen": LISTEN}
    before_s = time.time()
    with running(balancer, service(health=FAST), metrics=asked) as here:
        assert balancer.host.call(get, f"http://{LISTEN}/other")[0] == 404
        balancer.tally(count=8)
        status, text = balancer.host.call(get, f"http://{LISTEN}/metrics")
        found = read(text)
        assert status == 200
        assert found["natlb_agent_up"] == {"": 1}
        assert found["natlb_agent_restored_rules_total"] == {"": 0}
        began, now_s = found["natlb_agent_start_time_seconds"][""], time.time()
        assert before_s <= began <= now_s
        # No more than all processors have to give since then.
        assert 0 < found["natlb_agent_cpu_seconds_total"][""] <= (now_s - began) * (os.cpu_count() or 1)
        assert found["natlb_backend_up"] == dict.fromkeys(NAMES, 1)
        assert sum(found["natlb_backend_connections_total"].values()) >= 8
        assert set(found["natlb_check_success"].values()) == {1}
        balancer.lab.backends["web2"].call(server.crash)
        try:
            here.wait_for("web2 of web is down")
            found = read(balancer.host.call(get, f"http://{LISTEN}/metrics")[1])
            assert found["natlb_backend_up"]["web2"] == 0
        finally:
            balancer.lab.backends["web2"].call(server.start, "web2", PORTS)
        here.wait_for("web2 of web is up", 2)
        harm = ("nft", "flush", "ruleset") if here.variant != "legacy" else ("iptables-legacy", "-t", "nat", "-F")
        balancer.host.run(*harm)
        here.wait_for("they are back")
        now = read(printed(balancer))
        assert now["natlb_agent_restored_rules_total"][""] == len([s for s in here.said() if "they are back" in s])
        assert now["natlb_agent_cpu_seconds_total"][""] > found["natlb_agent_cpu_seconds_total"][""]
        file = folder / "natlb.prom"
        assert read(file.read_text())["natlb_agent_up"] == {"": 1}
        assert file.stat().st_mode & 0o777 == 0o644
        assert os.listdir(folder) == [file.name], "nothing half-written is left"
        assert CLIENT not in text, "no label has a client"
        # Another run takes it away again.
        balancer.apply([service(health=FAST)], program=single_file.text)
        deadline = time.monotonic() + 20
        while serves(balancer) or file.exists():
            assert time.monotonic() < deadline


@pytest.mark.engines("nftables")
@pytest.mark.parametrize("other", [None, {"listen": LISTEN}], ids=["absent", "declared otherwise"])
def test_a_file_that_nobody_writes_any_more_goes(
    balancer: Balancer, tmp_path: Path, other: dict[str, str] | None
) -> None:
    """The agent is dead, so a run has to do it: node_exporter would tell the last numbers for ever."""
    folder = tmp_path / "textfile"
    folder.mkdir()
    options = {"program": single_file.text, "agent": True}
    balancer.apply([service()], metrics={"directory": str(folder)}, **options)
    file = folder / "natlb.prom"
    file.write_text("natlb_up 1\n")
    balancer.apply([service()], metrics={"directory": str(folder)}, **options)
    assert file.exists(), "a run without a change leaves it"
    if other is None:
        assert f"--- file {file}" in balancer.remove(check=True).diff
        assert file.exists()
        balancer.remove()
    else:
        balancer.apply([service()], metrics=other, **options)
    assert os.listdir(folder) == []


@pytest.mark.engines("nftables")
def test_metrics_that_nobody_gets_are_told(balancer: Balancer, tmp_path: Path) -> None:
    folder = tmp_path / "textfile"
    asked = {"directory": str(folder), "listen": "192.0.2.77:9780"}
    missing = f"metrics.directory: {folder} is not there"
    with running(balancer, service(health=FAST), metrics=asked) as here:
        here.wait_for("metrics.listen: nobody can be served at 192.0.2.77:9780: Cannot assign requested address")
        here.wait_for(f"{folder} is not there")
        (again,) = [
            line
            for line in balancer.apply([service(health=FAST)], metrics=asked, program=single_file.text).warnings
            if "metrics" in line
        ]
        assert again.startswith(f"{missing}, so no metrics are written")
        deadline = time.monotonic() + 20
        while not any(missing == line for line in balancer.info()["warnings"]):
            assert time.monotonic() < deadline
        told = balancer.info()
        assert told["agent"] is True
        assert any("nobody can be served at 192.0.2.77:9780" in line for line in told["warnings"])
        assert "nobody can be served at 192.0.2.77:9780" in balancer.natlb("status")[1]
    told = balancer.info()
    assert told["agent"] is False
    assert [line for line in told["warnings"] if "the agent does not answer" in line]
    balancer.apply([service()])
    assert balancer.info()["agent"] is None


def serves(balancer: Balancer) -> bool:
    try:
        return bool(balancer.host.call(get, f"http://{LISTEN}/metrics"))
    except OSError:
        return False
