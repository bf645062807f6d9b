# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics as the code writes them, as series for Prometheus' test bench."""

from __future__ import annotations

import sys
from pathlib import Path

CORE = Path(__file__).parents[2] / "plugins" / "module_utils"
if str(CORE) not in sys.path:
    sys.path.insert(0, str(CORE))

from _natlb.model.effective import Finding, Place  # noqa: E402
from _natlb.model.services import parse_config  # noqa: E402
from _natlb.model.slots import dealt_slots  # noqa: E402
from _natlb.status import metrics  # noqa: E402


def series() -> list[dict[str, str]]:
    """What the code tells of a balancer on which all is wrong that can be, with counters on the rise."""
    backends = [{"name": f"web{number}", "address": f"10.0.0.{number}", "port": 80} for number in (3, 4)]
    backends.append({"name": "web6", "address": "2001:db8::3", "port": 80})
    web = {"name": "web", "listen": ["192.0.2.1:80", "[2001:db8::1]:80"], "backends": backends}
    gone = {"name": "gone", "listen": "192.0.2.2:80", "backends": backends[:1], "min_healthy": 1}
    config = parse_config([{**service, "health": {"type": "tcp"}} for service in (web, gone)])
    down = {Place(name, "10.0.0.3", 80): Finding("down") for name in ("web", "gone")}
    tracked = dict.fromkeys(("count", "max", "drop", "early_drop", "insert_failed"), 5)
    host = metrics.Host("abc", "nftables", False, True, 7, tracked, 1.0, 0.2, False, metrics.Vitals(1.0, 3.0, 5), 2.0)
    checks = [{"check": "tcp 10.0.0.3:80", "last": {"result": "down", "took_s": 0.002}}]
    text = metrics.text(host, metrics.Balanced(config, {}, down, {}, {}, {}, checks, dealt_slots))
    return [told(line) for line in text.splitlines() if not line.startswith("#")]


def told(line: str) -> dict[str, str]:
    name, value = line.rsplit(" ", 1)
    metric, _brace, labels = name.partition("{")
    own = f'job="node", instance="lb1"{", " if labels else ""}{labels.removesuffix("}")}'
    return {"series": f"{metric}{{{own}}}", "values": "0+60x30" if metric.endswith("_total") else f"{value}x30"}
