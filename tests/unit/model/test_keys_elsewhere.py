# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of other balancers are answered with the key to write: all of which docs/coming-from.md and health.md tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.model import backends, egress, health, keys_elsewhere, services
from _natlb.model.services import parse_config

DOCS = Path(__file__).parents[3] / "docs"
RULE: dict[str, Any] = {"source": "10.0.0.0/24"}
BACKEND: dict[str, Any] = {"address": "10.0.0.3"}
SERVICE: dict[str, Any] = {"name": "web", "listen": "192.0.2.10:80", "backends": [BACKEND]}
KEYS = {
    "service": services.SERVICE_KEYS,
    "backend": backends.BACKEND_KEYS,
    "health": health.KEYS,
    "egress": egress.KEYS,
    "uplink": egress.UPLINK_KEYS,
}
OURS = {key for keys in KEYS.values() for key in keys}
#: What rules of egress have alone, and so what nobody asks of a service.
OUTWARD = {"source", "destination", "out_interface", "destination_ports"}
#: Words in these tables that nobody would write as a key: values, commands, and the words before a key.
COMMANDS = {"create", "config", "set", "override", "seesaw_cli", "redirect", "dnat", "natlb", "ipvsadm"}
VALUES = {
    "tun",
    "dnat",
    "dstip",
    "off",
    "config_error",
    "lc",
    "wlc",
    "wrr",
    "sh",
    "mh",
    "tftp",
    "sip",
    "production",
    "egress",
    "unless",
    "binary_remote_addr",
}


def answer(place: str, key: str) -> str:
    """What is said of a key that somebody has written there."""
    wrong = {key: "x"}
    declared = {
        "service": ([{**SERVICE, **wrong}], []),
        "backend": ([{**SERVICE, "backends": [{**BACKEND, **wrong}]}], []),
        "health": ([{**SERVICE, "health": {"type": "tcp", **wrong}}], []),
        "egress": ([], [{**RULE, **wrong}]),
        "uplink": ([], [{**RULE, "uplinks": [{"interface": "eth1", **wrong}]}]),
    }
    with pytest.raises(ConfigErrors) as caught:
        parse_config(*declared[place])
    (error,) = [error for error in caught.value.errors if error.problem == "no such key"]
    return error.remedy


@pytest.mark.parametrize(
    ("place", "key", "remedy"),
    [
        ("service", "balance", "write method"),
        ("backend", "balance", "write method of the service"),
        ("service", "lb_algo", "write method"),
        ("service", "weight", "write weight of a backend"),
        ("service", "backup", "write backup of a backend"),
        ("service", "sessionAffinity", "write affinity"),
        ("service", "sorry-server", "write backup of a backend: a backend with backup: true serves when no other can"),
        ("service", "max_fails", "write health: the agent asks backends; clients do not have to fail for it"),
        ("service", "delay_loop", "write interval of health"),
        ("health", "delay_loop", "write interval"),
        ("service", "est-connlimit", "write max_connections_per_client"),
        ("egress", "snat_ip", "write snat"),
        ("uplink", "via", "write gateway"),
        # What is like a key of ours, and nobody else's, is a mistyped one.
        ("service", "alow_from", "did you mean allow_from?"),
        ("egress", "sourse", "did you mean source?"),
    ],
)
def test_what_is_answered(place: str, key: str, remedy: str) -> None:
    assert answer(place, key) == remedy


def test_a_mark_chooses_no_service() -> None:
    said = answer("service", "fwmark")
    assert said.startswith("write listen: ")
    assert "a mark of packets does not" in said


@pytest.mark.parametrize("table", [keys_elsewhere.SERVICES, keys_elsewhere.EGRESS])
def test_no_key_of_ours_is_called_something_else(table: Any) -> None:
    """In the place that has it; it would never be asked for there."""
    for entry in table:
        assert entry.ours in OURS or entry.ours.startswith("natlb_"), entry
        strange = [
            word for word in entry.theirs.split() if word in OURS and word == entry.ours and entry.of == "the service"
        ]
        assert not strange, entry


def rows(page: str) -> Iterator[list[str]]:
    """The cells of all rows of tables, below their headings."""
    heading: list[str] = []
    for line in (DOCS / page).read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            heading = []
        elif not heading:
            heading = cells
        elif set(line) - set("|-"):
            yield cells if heading[0] == "there" else [*cells[1:], cells[0]] if heading[0] == "here" else []


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def theirs(cell: str) -> Iterator[str]:
    """The keys of others: the first word of each code, without what is written behind it."""
    for text in code(cell):
        words = re.findall(r"[A-Za-z][\w.-]*", text)
        if words and words[0] == "option":
            words = words[1:]
        word = words[0] if words else ""
        if word and word.lower() not in COMMANDS | VALUES and not re.match(r"'|-\w\b|\"\d", text):
            yield word


def ours(cell: str) -> set[str]:
    """The keys of natlb that stand there."""
    found = {"backends"} if "a backend" in cell or "`{" in cell else set()
    for text in code(cell):
        found |= {word for word in re.findall(r"\w+(?=:)|^\w+", text) if word in OURS or word.startswith("natlb_")}
    return found | {"health"} if "type" in found else found


def documented() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for page in ("coming-from.md", "health.md"):
        for cells in filter(None, rows(page)):
            their_cells, our_cell = (cells[:1], cells[1]) if page == "coming-from.md" else (cells[:-1], cells[-1])
            for key in [key for cell in their_cells for key in theirs(cell)]:
                found.setdefault(key, set()).update(ours(our_cell))
    return {key: keys for key, keys in found.items() if keys and key not in OURS}


DOCUMENTED = documented()


def test_the_tables_are_read() -> None:
    assert len(DOCUMENTED) > 80
    assert DOCUMENTED["persistence_timeout"] == {"affinity"}
    assert DOCUMENTED["inter"] == {"interval", "fast_interval"}


@pytest.mark.parametrize("key", sorted(DOCUMENTED))
def test_every_key_of_the_tables_is_answered(key: str) -> None:
    said = [answer(place, key) for place in KEYS if key not in KEYS[place]]
    named = [word for text in said for word in re.findall(r"^(?:write|did you mean) (\w+)", text)]
    assert set(named) & DOCUMENTED[key], (said, DOCUMENTED[key])
    if not DOCUMENTED[key] & OUTWARD:
        assert "known keys" not in answer("service", key)
