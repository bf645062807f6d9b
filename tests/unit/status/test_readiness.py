# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host can serve: what counts, and which services cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _natlb.host import left, store
from _natlb.host.store import Paths
from _natlb.model.effective import Finding, Findings, Override, Place
from _natlb.model.services import parse_config
from _natlb.plan.forwarding import Before
from _natlb.plan.request import Request
from _natlb.status import readiness
from _natlb.status.readiness import Facts, judged
from _natlb.status.serving import Declared

FORWARD = {"net/ipv4/ip_forward": "1"}
FACTS = Facts("nftables", ["ip"], FORWARD, agent=True, services=2, idle=0, unserved=[])


@pytest.mark.parametrize(
    ("facts", "missing", "settings", "answers", "reasons", "notes"),
    [
        ({}, [], FORWARD, True, [], []),
        ({"agent": False}, [], FORWARD, False, [], []),
        ({}, ["ip"], FORWARD, True, ["the rules for IPv4 are gone"], []),
        ({}, ["ip", "ip6"], FORWARD, True, ["the rules for IPv4 and IPv6 are gone"], []),
        ({}, [], {"net/ipv4/ip_forward": "0"}, True, ["net/ipv4/ip_forward is 0, so the kernel does not forward"], []),
        ({}, [], {"net/ipv4/ip_forward": None}, True, ["net/ipv4/ip_forward is missing, so"], []),
        ({"settings": {}}, [], {}, True, [], []),
        ({}, [], FORWARD, False, ["the agent does not answer"], []),
        ({"idle": 1, "unserved": ["web"]}, [], FORWARD, True, [], ["no backend can serve: web"]),
        ({"unserved": ["web (IPv6)"]}, [], FORWARD, True, [], ["no backend can serve: web (IPv6)"]),
        ({"idle": 2, "unserved": ["a", "b"]}, [], FORWARD, True, ["no backend of any service can serve: a, b"], []),
        ({"services": 0}, [], FORWARD, True, [], []),
        (
            {"services": 9, "idle": 8, "unserved": list("abcdefgh")},
            [],
            FORWARD,
            True,
            [],
            ["no backend can serve: a, b, c, d, e and 3 more"],
        ),
        ({"idle": 2}, ["ip"], FORWARD, False, ["the rules for", "the agent", "no backend of any service"], []),
    ],
)
def test_what_counts(
    facts: dict[str, Any], missing: list[str], settings: Any, answers: bool, reasons: list[str], notes: list[str]
) -> None:
    found = judged(FACTS._replace(**facts), missing, settings, answers)
    assert len(found.reasons) == len(reasons), found
    for told, begins in zip(found.reasons, reasons, strict=True):
        assert told.startswith(begins)
    assert found.notes == notes
    assert found.dump()["ready"] == (not reasons)


A, B, SIX = {"address": "10.0.0.3"}, {"address": "10.0.0.4"}, {"address": "2001:db8::3"}
CHECKED = {"health": {"type": "tcp"}}
DOWN, UP = Finding("down"), Finding("up")


def service(name: str, number: int, *backends: dict[str, Any], **keys: Any) -> dict[str, Any]:
    listen = [f"192.0.2.{number}:80"] + [f"[2001:db8:1::{number}]:80"] * any(":" in b["address"] for b in backends)
    return {"name": name, "listen": listen, "backends": list(backends), **keys}


@pytest.mark.parametrize(
    ("services", "overrides", "findings", "counted", "idle", "unserved"),
    [
        ([service("web", 1, A, B)], {}, {}, 1, 0, []),
        ([service("web", 1, {**A, "state": "drained"})], {}, {}, 1, 1, ["web"]),
        ([service("web", 1, {**A, "weight": 0}, B)], {}, {}, 1, 0, []),
        # A service that declares no backend is meant to have none.
        ([service("web", 1, A), service("gone", 2)], {}, {}, 1, 0, []),
        ([service("web", 1, A, B, **CHECKED)], {}, {("web", A["address"]): DOWN, ("web", B["address"]): UP}, 1, 0, []),
        (
            [service("web", 1, A, B, **CHECKED)],
            {},
            {("web", A["address"]): DOWN, ("web", B["address"]): DOWN},
            1,
            1,
            ["web"],
        ),
        ([service("web", 1, A, {**B, "backup": True}, **CHECKED)], {}, {("web", A["address"]): DOWN}, 1, 0, []),
        (
            [service("web", 1, A, health={"type": "tcp", "fail_open": True})],
            {},
            {("web", A["address"]): DOWN},
            1,
            0,
            [],
        ),
        (
            [service("web", 1, A), service("api", 2, A, B)],
            {(None, A["address"]): Override("drained")},
            {},
            2,
            1,
            ["web"],
        ),
        # What is declared out comes back by an override of its state only as far as that goes.
        ([service("web", 1, A, SIX, **CHECKED)], {}, {("web", SIX["address"]): DOWN}, 1, 0, ["web (IPv6)"]),
        (
            [service("web", 1, A, SIX, **CHECKED)],
            {},
            {("web", A["address"]): DOWN, ("web", SIX["address"]): DOWN},
            1,
            1,
            ["web"],
        ),
    ],
)
def test_which_services_cannot_serve(
    services: list[dict[str, Any]],
    overrides: dict[Any, Override],
    findings: dict[Any, Finding],
    counted: int,
    idle: int,
    unserved: list[str],
) -> None:
    request = Request(parse_config(services, []), "auto", None, True, True, paths=None)  # type: ignore[arg-type]
    engine: Any = SimpleNamespace(shares_tables=False, is_numbered=True)
    laid: Findings = {Place(*place, None): item for place, item in findings.items()}
    said = {Place(*place, None): item for place, item in overrides.items()}
    declared = Declared(request)
    for _again in range(2):
        found = declared.facts(engine, said, laid)
        assert (found.services, found.idle, found.unserved) == (counted, idle, unserved)
    assert declared.facts(engine, {}, {}).unserved == [
        item["name"] for item in services if item["backends"] and all(b.get("state") for b in item["backends"])
    ]


def test_only_what_forwards_has_to_be_set() -> None:
    """Not what an interface listens to, which may be gone for good."""
    config = parse_config([service("web", 1, A, SIX)], [])
    request = Request(config, "auto", None, True, True, paths=None, before=Before(("eth7",)))  # type: ignore[arg-type]
    found = Declared(request).facts(SimpleNamespace(shares_tables=False, is_numbered=True), {}, {})  # type: ignore[arg-type]
    assert found.settings == {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


def test_what_files_say_is_kept_until_one_of_them_changes(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "etc", tmp_path / "run")
    for folder in (paths.etc, paths.run):
        folder.mkdir()
    (paths.etc / store.STATE).write_text("{}")
    assert readiness.kept(paths) is None
    seen = readiness.stamps(paths)
    readiness.keep(paths, seen, FACTS)
    assert readiness.kept(paths) == FACTS
    (paths.run / "rollback.confirmed").mkdir()
    assert readiness.kept(paths) == FACTS
    # What a change will leave that waits for its confirmation is in no file yet.
    (paths.run / "rollback.confirmed" / "pending").touch()
    assert readiness.kept(paths) is None
    (paths.run / "rollback.confirmed" / "pending").unlink()
    for path in (paths.run / store.HEALTH, paths.etc / store.OVERRIDES, paths.etc / store.STATE):
        readiness.keep(paths, readiness.stamps(paths), FACTS)
        path.write_text("{ }")
        assert readiness.kept(paths) is None, path
    for damaged in (
        "",
        "[]",
        "{",
        '{"stamps": 5}',
        f'{{"stamps": {json.dumps(readiness.stamps(paths))}, "facts": []}}',
    ):
        (paths.run / store.READINESS).write_text(damaged)
        assert readiness.kept(paths) is None, damaged


def test_it_imports_little() -> None:
    """It is called each second or two, and most of its time would be the compilation of what it does not need."""
    core = Path(__file__).parents[3] / "plugins" / "module_utils"
    script = "import sys, _natlb.status.readiness; print(*sorted(n for n in sys.modules if n.startswith('_natlb.')))"
    done = subprocess.run([sys.executable, "-c", script], cwd=core, capture_output=True, text=True, check=True)
    wings = {name.split(".")[1] for name in done.stdout.split()}
    assert wings == {"errors", "host", "packets", "status"}


def test_a_host_has_left_where_nobody_can_read_why(tmp_path: Path) -> None:
    """Only a file that is not there says that it is here."""
    paths = Paths(tmp_path / "etc", tmp_path / "run")
    path = paths.etc / store.LEFT
    assert left.read(paths) is None
    path.mkdir(parents=True)
    assert left.read(paths) == ((("", "", ""),),)
    path.rmdir()
    path.symlink_to(path)
    assert left.read(paths) == ((("", "", ""),),)
    assert left.join(paths)[0]
    assert left.read(paths) is None
    paths.etc.rmdir()
    paths.etc.touch()
    assert left.read(paths) is None
