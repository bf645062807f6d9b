# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run was asked for is kept as a whole, and read again whatever became of the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from _natlb.host import store
from _natlb.model.entities import EMPTY
from _natlb.model.services import parse_config
from _natlb.model.tracking import parse_tracking
from _natlb.plan import boot, request
from _natlb.ruleset.sections import unified
from hypothesis import given, settings
from hypothesis import strategies as st

WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3"}]}
DNS = {**WEB, "name": "dns", "listen": "192.0.2.10:53", "protocol": ["tcp", "udp"]}
EGRESS = [{"source": "10.0.0.0/24"}]


def kept(tmp_path: Path, state: Any) -> store.Paths:
    paths = store.Paths(tmp_path / "etc", tmp_path / "run")
    content = state if isinstance(state, bytes) else json.dumps(state).encode()
    store.write_text(paths.etc / store.STATE, "")
    (paths.etc / store.STATE).write_bytes(content)
    return paths


@pytest.mark.parametrize("engine", ["auto", "nftables", "iptables"])
@pytest.mark.parametrize("forwarding", [True, False])
@pytest.mark.parametrize("firewall", ["warn", "accept"])
@pytest.mark.parametrize(
    "conntrack", [None, {"max": "auto"}, {"max": 5000, "buckets": 2000}, {"timeouts": {"udp": 20, "tcp_time_wait": 9}}]
)
@pytest.mark.parametrize("persist", [True, False])
def test_a_request_comes_back_whole(
    tmp_path: Path, engine: str, forwarding: bool, firewall: str, conntrack: Any, persist: bool
) -> None:
    paths = store.Paths(tmp_path / "etc", tmp_path / "run")
    config, tracking = parse_config([WEB, DNS], EGRESS, "0x0ff00000"), parse_tracking(conntrack)
    asked = request.Request(config, engine, None, forwarding, persist, paths, tracking=tracking, firewall=firewall)
    text = request.state_text(asked, "iptables")
    store.write_text((paths.etc if persist else paths.run) / store.STATE, text)
    found, warnings = request.restored(paths)
    assert warnings == []
    assert found == dataclasses.replace(asked, held_by="iptables")
    assert request.state_text(found, found.held_by) == text


def test_a_file_of_the_first_format(tmp_path: Path) -> None:
    paths = kept(tmp_path, {"engine": "nftables", "mark_mask": 0x3F000000, "services": [WEB], "egress": EGRESS})
    found, warnings = request.restored(paths)
    assert (found.config, warnings) == (parse_config([WEB], EGRESS), [])
    assert (found.engine, found.held_by, found.forwarding, found.firewall) == ("auto", "nftables", True, "warn")


def test_a_file_of_the_second_format_has_two_options_under_their_old_names(tmp_path: Path) -> None:
    state = {"format": 2, "engine": "nftables", "services": [], "egress": EGRESS, "forward": "accept"}
    paths = kept(tmp_path, {**state, "forward_others": "accept"})
    found, warnings = request.restored(paths)
    assert (found.firewall, found.transit, warnings) == ("accept", "accept", [])
    assert request.previous(paths, store.read_state(paths))[1].opened
    again = json.loads(request.state_text(found, "nftables"))
    assert (again["format"], again["firewall"], again["transit"]) == (3, "accept", "accept")
    assert not {"forward", "forward_others"} & again.keys()


def test_the_new_name_of_an_option_wins(tmp_path: Path) -> None:
    state = {"services": [], "egress": [], "firewall": "warn", "forward": "accept", "transit": "drop"}
    paths = kept(tmp_path, {**state, "forward_others": "accept"})
    found, _warnings = request.restored(paths)
    assert (found.firewall, found.transit, request.previous(paths, store.read_state(paths))[1].opened) == (
        "warn",
        "drop",
        False,
    )


@pytest.mark.parametrize(
    ("state", "services"),
    [
        (b'{"services": [{"name": "\xff"}]}', []),
        (b"\xff\xfe{}", []),
        (b"", []),
        (b"[" * 100000, []),
        ({"services": None}, []),
        ({"services": None, "egress": None, "mark_mask": None}, []),
        ({"services": 5, "egress": {}}, []),
        ({"services": [None, 5, [], {"name": "web"}, WEB]}, ["web"]),
        (
            {"services": [WEB, {**DNS, "method": "of the future"}, {**WEB, "name": "more", "listen": "*:81"}]},
            ["web", "more"],
        ),
        ({"services": [WEB], "egress": [{"source": "10.0.0.0/24"}, 5], "engine": 5, "firewall": []}, ["web"]),
        ({"services": [WEB], "egress": [], "conntrack": 5, "engine": "ipvs"}, ["web"]),
        ({"services": [WEB], "egress": [], "conntrack": {"max": "some"}}, ["web"]),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_damaged_file_is_read_as_far_as_it_can_be(tmp_path: Path, state: Any, services: list[str]) -> None:
    paths = kept(tmp_path, state)
    found, (warning,) = request.restored(paths)
    assert "state.json: not all of it can be read; the next run of the module balancer rewrites it" in warning
    assert {service.name for service in found.config.services} >= set(services)
    assert request.previous(paths, store.read_state(paths))[0].services == ()


@pytest.mark.parametrize(
    "keys",
    [
        {"allow_from": "office"},
        {"deny_from": ["blocked", "192.0.2.7"]},
        {"snat_by_client": [{"networks": ["office", "blocked"], "snat": "none"}]},
        {"pins": [{"client": "office", "backend": "10.0.0.3"}, {"client": "blocked", "backend": "10.0.0.3"}]},
    ],
)
def test_of_before_there_are_the_lists_that_services_name(tmp_path: Path, keys: dict[str, Any]) -> None:
    lists = {"office": "198.51.100.0/24", "blocked": "203.0.113.0/24", "unused": "203.0.113.0/25"}
    config = parse_config([WEB, {**DNS, **keys}], networks=lists)
    paths = store.Paths(tmp_path / "etc", tmp_path / "run")
    store.write_text(
        paths.etc / store.STATE,
        request.state_text(request.Request(config, "auto", None, True, True, paths), "nftables"),
    )
    before = request.previous(paths, store.read_state(paths))[0]
    assert before.services == config.services[1:]
    assert "unused" not in before.networks


def test_of_before_there_are_only_services_of_udp(tmp_path: Path) -> None:
    paths = kept(tmp_path, {"services": [WEB, DNS, {**DNS, "name": "alone", "listen": "*:54", "protocol": "udp"}]})
    assert [service.name for service in request.previous(paths, store.read_state(paths))[0].services] == [
        "dns",
        "alone",
    ]


def test_nothing_is_kept(tmp_path: Path) -> None:
    found, warnings = request.restored(store.Paths(tmp_path / "etc", tmp_path / "run"))
    assert (found.config, warnings) == (EMPTY, [])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(WEB)), inner, max_size=4),
    max_leaves=8,
)
KEYS = (
    "format",
    "engine",
    "requested_engine",
    "forwarding",
    "firewall",
    "conntrack",
    "services",
    "egress",
    "mark_mask",
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING))
def test_no_state_raises(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> None:
    paths = kept(tmp_path_factory.mktemp("state"), state)
    request.restored(paths)
    request.previous(paths, store.read_state(paths))


WANTED = '{\n"format": 2,\n"services": [\n{"name": "a"},\n{"name": "b"}\n]\n}\n'


@pytest.mark.parametrize(
    "live",
    [
        WANTED.replace("\n", "\r\n"),
        WANTED.rstrip("\n"),
        WANTED.replace('"a"},', '"a"}'),
        WANTED.replace('"a"', '"c"'),
        '{\n"format": 2,\n"services": [\n{"name": "b"},\n{"name": "a"}\n]\n}\n',
        WANTED + "\n",
        WANTED + "\x0c",
    ],
)
def test_every_change_to_a_file_is_seen(live: str) -> None:
    there, wanted = boot.Boot({store.STATE: (live, 0o600)}), boot.Wanted({store.STATE: (WANTED, 0o600)}, {}, [])
    part, staged = boot.difference(store.Paths(Path("/etc/natlb"), Path("/run/natlb")), there, wanted)
    assert part.differs
    assert unified(part.live, part.wanted)
    assert staged.files == wanted.files
