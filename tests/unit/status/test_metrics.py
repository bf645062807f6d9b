# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics: what is asked for, and the text. A real host is in tests/kernel."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.model.effective import Finding, Override, Place
from _natlb.model.entities import EMPTY, Config
from _natlb.model.metrics import Metrics, dump_metrics, parse_metrics
from _natlb.model.services import parse_config
from _natlb.model.slots import dealt_slots
from _natlb.status import metrics
from _natlb.status.metrics import Balanced, Host, Vitals
from prometheus_client.parser import text_string_to_metric_families

VITALS = Vitals(1.4e9, 12.5, 3)
HOST = Host("abc", "nftables", True, False, 7, {"count": 5, "max": 100, "drop": 1}, 1.5e9, 0.25, True, VITALS, 1.6e9)
#: Of the page, what is no metric.
VARIABLES = {"natlb_metrics_idle"}
WEB1, WEB2 = ("web", "10.0.0.3 8080"), ("web", "10.0.0.4 8080")


def config(**keys: Any) -> Config:
    backends = [{"name": "web1", "address": "10.0.0.3", "port": 8080}, {"address": "10.0.0.4", "port": 8080}]
    health = {"type": "tcp"}
    return parse_config([{"name": "web", "listen": "192.0.2.1:80", "health": health, "backends": backends, **keys}])


def balanced(**keys: Any) -> Balanced:
    check = {"check": "tcp 10.0.0.3:8080", "last": {"result": "up", "took_s": 0.002}}
    never = {"check": "tcp 10.0.0.4:8080", "last": {"result": None, "took_s": None}}
    found = Balanced(config(), {}, {}, {}, {WEB1: 10}, {WEB1: 3}, [check, never], dealt_slots)
    return found._replace(**keys)


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus' own client reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(text: str, name: str, **labels: str) -> list[float]:
    return [
        value for (found, own), value in samples(text).items() if found == name and labels.items() <= dict(own).items()
    ]


def test_what_is_told_of_a_backend() -> None:
    text = metrics.text(HOST, balanced())
    own = {"service": "web", "backend": "web1", "address": "10.0.0.3:8080"}
    assert of(text, "natlb_backend_connections_total", **own) == [10]
    assert of(text, "natlb_backend_active_connections", **own) == [3]
    assert of(text, "natlb_backend_expected_share_ratio", **own) == [0.5]
    assert of(text, "natlb_backend_state", **own, state="active") == [1]
    assert of(text, "natlb_service_serving_backends", service="web", family="ip") == [2]
    assert of(text, "natlb_frontend_info", address="192.0.2.1", port="80", protocol="tcp") == [1]
    assert of(text, "natlb_service_info", service="web", method="round_robin", affinity="0") == [1]
    assert of(metrics.text(HOST, balanced(config=config(affinity="5m"))), "natlb_service_info", affinity="300") == [1]
    assert of(text, "natlb_check_success", check="tcp 10.0.0.3:8080") == [1]
    assert of(text, "natlb_check_duration_seconds") == [0.002], "of the other one nothing is known"
    assert of(text, "natlb_conntrack_entries_limit") == [100]
    assert of(text, "natlb_last_apply_timestamp_seconds") == [1.5e9]
    assert of(text, "natlb_backend_up") == [], "nothing was found yet"


def test_a_limit_is_told_where_there_is_one() -> None:
    declared = [{"address": "10.0.0.3", "max_connections": 9}, {"address": "10.0.0.4"}]
    text = metrics.text(HOST, balanced(config=config(backends=declared)))
    assert samples(text).keys() >= {
        ("natlb_backend_max_connections", (("address", "10.0.0.3"), ("backend", "10.0.0.3"), ("service", "web")))
    }
    assert of(text, "natlb_backend_max_connections") == [9]


def test_whether_too_few_are_healthy() -> None:
    """Told of services that want to know alone."""
    place, name = Place("web", "10.0.0.3", 8080), "natlb_service_below_min_healthy"
    for findings, below in (({}, 0), ({place: Finding("down")}, 1)):
        text = metrics.text(HOST, balanced(config=config(min_healthy=2), findings=findings))
        assert of(text, name, service="web", family="ip") == [below]
        assert of(text, "natlb_service_serving_backends", service="web") == [0 if below else 2]
        assert of(text, "natlb_backend_state", backend="10.0.0.4", state="active") == [1]
        assert of(text, "natlb_backend_expected_share_ratio", backend="10.0.0.4") == [0 if below else 0.5]
    assert of(metrics.text(HOST, balanced(findings={place: Finding("down")})), name) == []


def test_what_is_told_of_one_that_is_out() -> None:
    place = Place("web", "10.0.0.3", 8080)
    text = metrics.text(HOST, balanced(findings={place: Finding("down", "", "refused")}))
    assert of(text, "natlb_backend_up", backend="web1") == [0]
    assert of(text, "natlb_backend_state", backend="web1", state="disabled") == [1]
    assert of(text, "natlb_backend_expected_share_ratio", backend="web1") == [0]
    assert of(text, "natlb_service_serving_backends", service="web") == [1]
    text = metrics.text(HOST, balanced(overrides={place: Override("drained")}))
    assert of(text, "natlb_backend_state", backend="web1", state="drained") == [1]


def test_what_is_idle_can_be_left_out() -> None:
    place = Place("web", "10.0.0.4", 8080)
    assert len(of(metrics.text(HOST, balanced()), "natlb_backend_weight")) == 2
    assert len(of(metrics.text(HOST, balanced(), idle=False), "natlb_backend_weight")) == 1
    down = balanced(findings={place: Finding("down")})
    assert len(of(metrics.text(HOST, down, idle=False), "natlb_backend_weight")) == 2, "what is wrong is always told"


def test_what_is_not_known_is_not_told() -> None:
    unknown = HOST._replace(drift=None, applied_at=None, apply_took_s=None, apply_succeeded=None, generation=None)
    text = metrics.text(unknown, Balanced(EMPTY, {}, {}, {}, {}, {}, [], dealt_slots))
    for word in ("natlb_drift", "last_apply", "generation", "backend"):
        assert word not in text
    assert of(text, "natlb_services") == [0]


def test_names_of_users_cannot_break_out() -> None:
    nasty = 'x"} 1\\'
    backends = [{"name": nasty, "address": "10.0.0.3"}]
    found = balanced(config=config(backends=backends), totals={}, active={}, checks=[])
    assert of(metrics.text(HOST, found), "natlb_backend_weight", backend=nasty) == [1]


def test_each_metric_says_what_it_is_once() -> None:
    text = metrics.text(HOST, balanced())
    heads = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(heads) == len(set(heads))
    assert len(heads) == 2 * len({line.split()[2] for line in heads})


# -- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Metrics()),
        ({}, Metrics()),
        ({"directory": "/var/lib/prometheus/node-exporter/"}, Metrics("/var/lib/prometheus/node-exporter")),
        ({"listen": "127.0.0.1:9780", "idle": False}, Metrics(None, ("127.0.0.1", 9780), False)),
        ({"listen": "[::1]:9780"}, Metrics(None, ("::1", 9780))),
    ],
)
def test_what_is_asked_for(given: Any, expected: Metrics) -> None:
    found = parse_metrics(given, config())
    assert found == expected
    kept = {key: value for key, value in dump_metrics(found).items() if value is not None}
    assert parse_metrics(kept, config()) == found
    assert found.published == (found.directory is not None or found.listen is not None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"directory": "here"}, "metrics.directory: 'here' is not an absolute path"),
        ({"directory": "/a/../b"}, "metrics.directory"),
        ({"directory": "/a b\nExecStart=/bin/sh"}, "metrics.directory"),
        ({"listen": "127.0.0.1"}, "metrics.listen: '127.0.0.1' has no port"),
        ({"listen": "nowhere:80"}, "metrics.listen"),
        ({"listen": "192.0.2.1:80"}, "metrics.listen: is a frontend of service web"),
        ({"idle": "perhaps"}, "metrics.idle"),
        ({"port": 1}, "metrics.port"),
        ("yes", "metrics"),
    ],
)
def test_what_cannot_be(given: Any, said: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_metrics(given, config())
    assert said in str(caught.value)


def test_a_wild_frontend_takes_every_address() -> None:
    with pytest.raises(ConfigErrors, match="is a frontend of service web"):
        parse_metrics({"listen": "127.0.0.1:9780"}, config(listen="*:9780"))
    assert replace(Metrics(), listen=("127.0.0.1", 9781)) == parse_metrics(
        {"listen": "127.0.0.1:9781"}, config(listen="*:9780")
    )


def test_the_page_lists_every_metric() -> None:
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    listed = set(re.findall(r"`(natlb_[a-z_]+)`", page)) - VARIABLES
    limited = [{"address": "10.0.0.3", "port": 8080, "max_connections": 9}]
    found = balanced(
        config=config(backends=limited, min_healthy=1), findings={Place("web", "10.0.0.3", 8080): Finding("down")}
    )
    tracking = {"count": 5, "max": 100, "drop": 1, "early_drop": 0, "insert_failed": 0}
    text = metrics.text(HOST._replace(tracking=tracking), found)
    assert {name for name, _labels in samples(text)} == listed
