# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The alert rules in Prometheus' own test bench: each fires where it is to, and is quiet where it is not."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from promtool import promtool

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

from told_metrics import series

RULES = Path(__file__).parents[2] / "roles" / "monitoring" / "files" / "natlb-rules.yml"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
Series = dict[str, str]
HOUR = "x120"

LB1, LB2 = 'job="node", instance="lb1"', 'job="node", instance="lb2"'
WEB1 = 'service="web", backend="web1", address="10.0.0.3:80"'
WEB2 = 'service="web", backend="web2", address="10.0.0.4:80"'
WEB6 = 'service="web", backend="web6", address="[2001:db8::3]:80"'
OF_WEB1 = {"service": "web", "backend": "web1", "address": "10.0.0.3:80"}
ONE = {"job": "node", "instance": "lb1"}
SHARE_OF_WEB1 = ONE | OF_WEB1 | {"family": "ip"}
FRONT = 'service="web", family="ip", protocol="tcp", address="192.0.2.1", port="80", interface=""'


class Case(NamedTuple):
    """An alert, with the labels it has, and series that are told for two hours, a value each minute."""

    alert: str
    labels: dict[str, str]
    fires: Series
    quiet: Series
    at: str = "90m"


def always(value: float) -> str:
    return f"{value}{HOUR}"


def shares(*connections: str, expected: str = "0.5x120", **keys: str) -> Series:
    """Two backends on lb1, with new connections as they are counted; `keys` are of the service."""
    chosen = {"method": "round_robin", "affinity": "0", "pins": "0", **keys}
    about = ", ".join(f'{key}="{value}"' for key, value in chosen.items())
    found = {f'natlb_service_info{{{LB1}, service="web", {about}}}': always(1)}
    for own, counted in zip((WEB1, WEB2), connections, strict=True):
        found[f"natlb_backend_connections_total{{{LB1}, {own}}}"] = counted
        found[f"natlb_backend_expected_share_ratio{{{LB1}, {own}}}"] = expected
    return found


def both(name: str, own: str, first: float, second: float) -> Series:
    return {f"{name}{{{LB1}, {own}}}": always(first), f"{name}{{{LB2}, {own}}}": always(second)}


UNFAIR = ("0+60x120", "0+40x120")
CASES = [
    Case(
        "NatlbBackendDown",
        OF_WEB1,
        both("natlb_backend_up", WEB1, 0, 1),
        {f"natlb_backend_up{{{LB1}, {WEB1}}}": "1x89 0 1x30"},
    ),
    Case(
        "NatlbServiceWithoutBackends",
        {"service": "web", "family": "ip"},
        {
            f'natlb_service_serving_backends{{{LB1}, service="web", family="ip"}}': always(0),
            f'natlb_backend_state{{{LB1}, {WEB1}, state="disabled"}}': always(1),
        },
        # It declares none.
        {f'natlb_service_serving_backends{{{LB1}, service="web", family="ip"}}': always(0)},
    ),
    Case(
        "NatlbServiceWithoutBackends",
        {"service": "web", "family": "ip6"},
        {
            f'natlb_service_serving_backends{{{LB1}, service="web", family="ip6"}}': always(0),
            f'natlb_backend_state{{{LB1}, {WEB1}, state="drained"}}': always(1),
        },
        {
            f'natlb_service_serving_backends{{{LB1}, service="web", family="ip"}}': always(1),
            f'natlb_backend_state{{{LB1}, {WEB1}, state="active"}}': always(1),
        },
    ),
    Case(
        "NatlbServiceBelowMinHealthy",
        {"service": "web", "family": "ip"},
        both("natlb_service_below_min_healthy", 'service="web", family="ip"', 0, 1),
        {f'natlb_service_below_min_healthy{{{LB1}, service="web", family="ip"}}': always(0)},
    ),
    Case("NatlbDrift", ONE, {f"natlb_drift{{{LB1}}}": always(1)}, {f"natlb_drift{{{LB1}}}": "0x86 1x33"}, at="91m"),
    Case(
        "NatlbNotForwarding", ONE, {f"natlb_forwarding{{{LB1}}}": always(0)}, {f"natlb_forwarding{{{LB1}}}": always(1)}
    ),
    Case(
        "NatlbBackendStateDiffers",
        OF_WEB1,
        both("natlb_backend_state", f'{WEB1}, state="active"', 1, 1)
        | {f'natlb_backend_state{{job="node", instance="lb3", {WEB1}, state="drained"}}': always(1)},
        both("natlb_backend_state", f'{WEB1}, state="drained"', 1, 1)
        # Another fleet.
        | {f'natlb_backend_state{{job="node", instance="x", cluster="x", {WEB1}, state="active"}}': always(1)},
    ),
    Case(
        "NatlbBackendWeightDiffers",
        OF_WEB1,
        both("natlb_backend_weight", WEB1, 1, 3),
        both("natlb_backend_weight", WEB1, 3, 3),
    ),
    Case(
        "NatlbServingBackendsDiffer",
        {"service": "web", "protocol": "tcp", "address": "192.0.2.1", "port": "80"},
        both("natlb_frontend_info", FRONT, 1, 1)
        | both("natlb_service_serving_backends", 'service="web", family="ip"', 2, 3),
        # The same name at another address is another service.
        both("natlb_service_serving_backends", 'service="web", family="ip"', 2, 3)
        | {
            f"natlb_frontend_info{{{LB1}, {FRONT}}}": always(1),
            f"natlb_frontend_info{{{LB2}, {FRONT.replace('192.0.2.1', '192.0.2.2')}}}": always(1),
        },
    ),
    Case(
        "NatlbCodeDiffers",
        {},
        {
            f'natlb_build_info{{{LB1}, digest="a", engine="nftables"}}': always(1),
            f'natlb_build_info{{{LB2}, digest="b", engine="nftables"}}': always(1),
        },
        both("natlb_build_info", 'digest="a", engine="nftables"', 1, 1),
    ),
    # Five times within an hour, and four.
    Case(
        "NatlbRulesRestoredAgain",
        ONE,
        {f"natlb_agent_restored_rules_total{{{LB1}}}": "0x35 1x10 2x10 3x10 4x10 5x60"},
        {f"natlb_agent_restored_rules_total{{{LB1}}}": "7x35 8x10 9x10 10x10 11x70"},
        at="80m",
    ),
    # A restart of the agent begins again at 0.
    Case(
        "NatlbRulesRestoredAgain",
        ONE,
        {f"natlb_agent_restored_rules_total{{{LB1}}}": "7x45 8x5 9x5 0x5 2x5 5x60"},
        {f"natlb_agent_restored_rules_total{{{LB1}}}": "9x45 0x5 2x60"},
        at="85m",
    ),
    Case(
        "NatlbConntrackFilling",
        ONE,
        {f"natlb_conntrack_entries{{{LB1}}}": always(800), f"natlb_conntrack_entries_limit{{{LB1}}}": always(1000)},
        {f"natlb_conntrack_entries{{{LB1}}}": always(799), f"natlb_conntrack_entries_limit{{{LB1}}}": always(1000)},
    ),
    Case(
        "NatlbConntrackDrops",
        ONE,
        {
            f"natlb_conntrack_dropped_total{{{LB1}}}": "7x88 9x32",
            f"natlb_conntrack_early_dropped_total{{{LB1}}}": always(0),
        },
        {
            f"natlb_conntrack_dropped_total{{{LB1}}}": "7x40 9x80",
            f"natlb_conntrack_early_dropped_total{{{LB1}}}": always(3),
        },
    ),
    # A file that stands still.
    Case(
        "NatlbMetricsStale",
        ONE,
        {f"natlb_metrics_timestamp_seconds{{{LB1}}}": "0+60x80 4800x40"},
        {f"natlb_metrics_timestamp_seconds{{{LB1}}}": "-120+60x120"},
    ),
    # One that is served no more.
    Case(
        "NatlbMetricsStale",
        ONE,
        {f"natlb_metrics_timestamp_seconds{{{LB1}}}": "0+60x80"},
        {f"natlb_metrics_timestamp_seconds{{{LB1}}}": "0+60x88"},
    ),
    Case(
        "NatlbAgentDown",
        ONE,
        {f"natlb_agent_up{{{LB1}}}": always(0), f"natlb_backend_up{{{LB1}, {WEB1}}}": always(1)},
        # There is nothing that an agent would do.
        {f"natlb_agent_up{{{LB1}}}": always(0), f"natlb_backend_up{{{LB2}, {WEB1}}}": always(1)},
    ),
    Case(
        "NatlbAgentDown",
        ONE,
        {
            f"natlb_agent_up{{{LB1}}}": always(0),
            f'natlb_service_info{{{LB1}, service="web", method="least_connections", affinity="0", pins="0"}}': always(
                1
            ),
        },
        {f"natlb_agent_up{{{LB1}}}": always(1), f"natlb_backend_up{{{LB1}, {WEB1}}}": always(1)},
    ),
    Case(
        "NatlbApplyFailed",
        ONE,
        {f"natlb_last_apply_success{{{LB1}}}": always(0)},
        {f"natlb_last_apply_success{{{LB1}}}": always(1)},
    ),
    # 600 of 1000 are 6.3 standard deviations; 560 are 3.8.
    Case("NatlbShareFarFromExpected", SHARE_OF_WEB1, shares(*UNFAIR), shares("0+56x120", "0+44x120")),
    # 5400 of 10000 are 8 standard deviations, and too small a difference to matter.
    Case(
        "NatlbShareFarFromExpected", SHARE_OF_WEB1, shares("0+600x120", "0+400x120"), shares("0+540x120", "0+460x120")
    ),
    # Too few to tell.
    Case("NatlbShareFarFromExpected", SHARE_OF_WEB1, shares("0+10x120", "0+0x120"), shares("0+5x120", "0+0x120")),
    # Nothing is expected of a single client, or of the next connection.
    Case("NatlbShareFarFromExpected", SHARE_OF_WEB1, shares(*UNFAIR, method="random"), shares(*UNFAIR, affinity="60")),
    Case("NatlbShareFarFromExpected", SHARE_OF_WEB1, shares(*UNFAIR), shares(*UNFAIR, pins="2")),
    Case(
        "NatlbShareFarFromExpected",
        SHARE_OF_WEB1,
        shares(*UNFAIR, method="flow_hash"),
        shares(*UNFAIR, method="source_hash"),
    ),
    Case("NatlbShareFarFromExpected", SHARE_OF_WEB1, shares(*UNFAIR), shares(*UNFAIR, method="least_connections")),
    # It was another one a moment ago.
    Case("NatlbShareFarFromExpected", SHARE_OF_WEB1, shares(*UNFAIR), shares(*UNFAIR, expected="0.4x85 0.5x35")),
    # Each family has its own turns.
    Case(
        "NatlbShareFarFromExpected",
        SHARE_OF_WEB1,
        shares(*UNFAIR),
        shares("0+50x120", "0+50x120")
        | {
            f"natlb_backend_connections_total{{{LB1}, {WEB6}}}": "0+900x120",
            f"natlb_backend_expected_share_ratio{{{LB1}, {WEB6}}}": always(1),
        },
    ),
]


def run(folder: Path, series: Series, test: dict[str, Any]) -> tuple[int, str]:
    given = [{"series": name, "values": values} for name, values in series.items()]
    bench = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "30s",
        "tests": [{"interval": "1m", "input_series": given, **test}],
    }
    (folder / "bench.yml").write_text(yaml.safe_dump(bench))
    done = promtool("test", "rules", "bench.yml", folder=folder)
    return done.returncode, done.stdout


def firing(case: Case, labels: list[Mapping[str, str]]) -> dict[str, Any]:
    """What is to fire, with all of its labels, and with which the others are quiet."""
    always_there = {"alertname": case.alert, "alertstate": "firing", **ALERTS[case.alert]["labels"]}
    samples = [
        "ALERTS{" + ", ".join(f'{name}="{value}"' for name, value in (always_there | dict(own)).items()) + "}"
        for own in labels
    ]
    return {
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}',
                "eval_time": case.at,
                "exp_samples": [{"labels": sample, "value": 1} for sample in samples],
            }
        ]
    }


def identity(case: Case) -> str:
    return case.alert


def test_they_load() -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout
    assert "SUCCESS" in done.stdout


def test_each_is_tested() -> None:
    assert {case.alert for case in CASES} == set(ALERTS)


def labels_of(name: str) -> tuple[str, frozenset[str]]:
    metric, _brace, labels = name.partition("{")
    return metric, frozenset(re.findall(r'(\w+)="', labels)) - {"cluster"}


def test_they_are_tested_with_the_labels_that_the_code_writes() -> None:
    written = {labels_of(item["series"]) for item in series()}
    used = {labels_of(name) for case in CASES for name in (*case.fires, *case.quiet)}
    assert used <= written, used - written


@pytest.mark.parametrize("case", CASES, ids=identity)
def test_it_fires(case: Case, tmp_path: Path) -> None:
    # A share that one backend lacks another one has.
    labels: list[Mapping[str, str]] = [case.labels]
    if case.alert == "NatlbShareFarFromExpected":
        labels.append(case.labels | {"backend": "web2", "address": "10.0.0.4:80"})
    status, told = run(tmp_path, case.fires, firing(case, labels))
    assert status == 0, told


@pytest.mark.parametrize("case", CASES, ids=identity)
def test_it_is_quiet(case: Case, tmp_path: Path) -> None:
    status, told = run(tmp_path, case.quiet, firing(case, []))
    assert status == 0, told


@pytest.mark.parametrize("case", CASES, ids=identity)
def test_what_it_says(case: Case, tmp_path: Path) -> None:
    """The bench shows the text that it did not expect."""
    test = {"alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": []}]}
    status, told = run(tmp_path, case.fires, test)
    assert status == 1, told
    said = re.findall(r'(description|summary)="((?:[^"\\]|\\.)*)"', told.partition("got:")[2])
    assert {name for name, _text in said} == {"description", "summary"}, told
    for _name, text in said:
        assert "{{" not in text
        assert "no value" not in text
        assert "error" not in text.replace("its error says", ""), text
    assert any(value in text for value in case.labels.values() for _name, text in said) or not case.labels
