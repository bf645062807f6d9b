# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of overrides and health: written, read again whatever became of them, and ended by a declaration."""

from __future__ import annotations

import json
from typing import Any

import pytest
from _natlb.model import local_state
from _natlb.model.effective import Finding, Findings, Override, Overrides, Place, joined
from _natlb.model.outdated import lasting_findings, lasting_overrides
from _natlb.model.services import parse_config
from hypothesis import given
from hypothesis import strategies as st

HOST = "0123456789abcdef"
A, B = "10.0.0.3", "10.0.0.4"
WEB, EVERY = Place("web", A, 80), Place(None, A, None)
DRAINED = Override("drained", None, "2026-11-26T01:00:00Z", "kernel update")
TWICE = joined([DRAINED, Override(None, 3), Override("disabled", None, "2026-11-26T02:00:00Z", "alert Slow")])
OVERRIDES: Overrides = {
    WEB: DRAINED,
    EVERY: Override(None, 3),
    Place("v6", "2001:db8::5", None): Override("active"),
    Place("web", B, 80): TWICE,
}
FINDINGS: Findings = {WEB: Finding("down", "2026-11-26T01:00:00Z", "refused"), Place("web", B, 80): Finding("up")}
ENTRY = {"service": "web", "address": A, "port": 80, "state": "drained"}


def test_what_is_written_is_read_again() -> None:
    text = local_state.dump_overrides(OVERRIDES, HOST)
    assert local_state.parse_overrides(text, HOST) == local_state.Parsed(OVERRIDES)
    assert text.count("\n") == len(OVERRIDES) + 6
    assert local_state.parse_findings(local_state.dump_findings(FINDINGS, HOST), HOST) == local_state.Parsed(FINDINGS)
    assert local_state.parse_overrides(local_state.dump_overrides({}, ""), HOST) == local_state.Parsed()
    assert local_state.parse_overrides(None, HOST) == local_state.Parsed()


def kept(*items: Any, **keys: Any) -> str:
    return json.dumps({"format": 1, "host": HOST, "overrides": list(items), **keys})


@pytest.mark.parametrize(
    ("text", "count", "fault"),
    [
        ("", 0, "damaged: it is not JSON"),
        ("{", 0, "damaged: it is not JSON"),
        ("[" * 100000, 0, "damaged: it is not JSON"),
        ("\\xff\\xfe", 0, "damaged: it is not JSON"),
        ("[]", 0, "damaged: it is not a mapping"),
        ("{}", 0, "damaged; its readable parts apply"),
        (kept(ENTRY), 1, ""),
        (kept({**ENTRY, "of the future": [1]}), 1, ""),
        (kept(ENTRY, 5, None, [], {}), 1, "damaged; its readable parts apply"),
        (kept(ENTRY, {**ENTRY, "port": 81, "state": "asleep"}), 1, "damaged; its readable parts apply"),
        (kept({"service": "web", "address": A}), 0, "damaged; its readable parts apply"),
        (kept({**ENTRY, "address": "10.0.0.300"}), 0, "damaged; its readable parts apply"),
        (kept({**ENTRY, "address": ["10.0.0.3"]}), 0, "damaged; its readable parts apply"),
        (kept({**ENTRY, "port": 0}), 0, "damaged; its readable parts apply"),
        (kept({**ENTRY, "weight": 257}), 0, "damaged; its readable parts apply"),
        (kept({**ENTRY, "service": "no name"}), 0, "damaged; its readable parts apply"),
        (kept(ENTRY, format=None), 1, "damaged; its readable parts apply"),
        (kept(ENTRY, format="1"), 1, "damaged; its readable parts apply"),
        (kept(ENTRY, format=True), 1, "damaged; its readable parts apply"),
        (kept(ENTRY, format=0), 1, "damaged; its readable parts apply"),
        (kept(ENTRY, overrides=None), 0, "damaged; its readable parts apply"),
        (kept(ENTRY, format=7), 1, "a later version of natlb wrote it (format 7, this one reads 1)"),
        (kept(ENTRY, {"service": {"all": True}}, format=7), 1, "a later version of natlb wrote it (format 7"),
        (kept(ENTRY, host="fedcba9876543210"), 0, "was written on another host"),
        (kept(ENTRY, host="fedcba9876543210", format=7), 0, "was written on another host"),
        (kept(ENTRY, host=None), 1, ""),
        (kept(ENTRY, host=5), 1, ""),
    ],
    ids=lambda value: repr(value)[:70],
)
def test_a_file_is_read_as_far_as_it_can_be(text: str, count: int, fault: str) -> None:
    found = local_state.parse_overrides(text, HOST)
    assert len(found.entries) == count
    assert fault in found.fault
    assert bool(fault) == bool(found.fault)


def test_what_was_said_for_several_reasons_holds_as_it_was_said_last() -> None:
    assert (TWICE.state, TWICE.weight, TWICE.since) == ("disabled", 3, "2026-11-26T02:00:00Z")
    assert TWICE.reason == "kernel update; alert Slow"


@pytest.mark.parametrize("parts", [None, "x", [], [5], [{"state": "drained"}, {"state": "asleep"}]])
def test_a_reason_that_cannot_be_read_brings_nothing_back(parts: Any) -> None:
    (found,) = local_state.parse_overrides(kept({**ENTRY, "reason": "a; b", "parts": parts}), HOST).entries.values()
    assert (found.state, found.reason) == ("drained", "a; b")


def test_a_host_without_an_identity_takes_any_file_for_its_own() -> None:
    assert local_state.parse_overrides(kept(ENTRY), "").entries.keys() == {WEB}


def test_words_stay_on_their_line() -> None:
    text = kept({**ENTRY, "since": ["now"], "reason": "a\nb\x1b[31m \ud800" + "c" * 1000})
    (found,) = local_state.parse_overrides(text, HOST).entries.values()
    assert (found.since, found.reason[:10]) == ("", "a b?[31m ?")
    assert len(found.reason) == local_state.LONGEST_WORDS


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(ENTRY)), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["format", "host", "overrides", "health"]), ANYTHING))
def test_no_file_raises(state: dict[str, Any]) -> None:
    local_state.parse_overrides(json.dumps(state), HOST)
    local_state.parse_findings(json.dumps(state), HOST)


# -- what a declaration ends -----------------------------------------------------------------------------------------


def declared(*backends: dict[str, Any], **more: Any) -> Any:
    item = {"name": "web", "listen": "192.0.2.10:80", "health": {"type": "tcp"}, "backends": list(backends), **more}
    api = {"name": "api", "listen": "192.0.2.11:80", "backends": [{"address": A, "port": 80}]}
    return parse_config([item, api])


BOTH = [{"address": A, "port": 80}, {"address": B, "port": 80}]
SAME = {WEB: ("active", 1), Place("web", B, 80): ("active", 1), Place("api", A, 80): ("active", 1)}


@pytest.mark.parametrize(
    ("overrides", "backends", "former", "left", "said"),
    [
        ({WEB: DRAINED}, BOTH, SAME, {WEB: DRAINED}, ""),
        ({WEB: DRAINED}, BOTH, None, {WEB: DRAINED}, ""),
        ({WEB: DRAINED}, BOTH, {}, {WEB: DRAINED}, ""),
        ({WEB: DRAINED}, BOTH, {WEB: (None, 1)}, {WEB: DRAINED}, ""),
        ({WEB: DRAINED}, BOTH, {**SAME, Place("web", B, 80): ("active", 9)}, {WEB: DRAINED}, ""),
        ({WEB: DRAINED}, BOTH[1:], SAME, {}, "10.0.0.3:80 of web is removed: no such backend is declared"),
        ({WEB: DRAINED}, BOTH, {WEB: ("active", 2)}, {}, "10.0.0.3:80 of web is undone"),
        ({WEB: DRAINED}, BOTH, {WEB: ("drained", 1)}, {}, "10.0.0.3:80 of web is undone"),
        ({WEB: Override("active")}, BOTH, SAME, {}, ""),
        ({EVERY: DRAINED, WEB: Override("active")}, BOTH, SAME, {EVERY: DRAINED, WEB: Override("active")}, ""),
        (
            {EVERY: DRAINED, EVERY._replace(port=80): Override("active")},
            BOTH,
            SAME,
            {EVERY: DRAINED, EVERY._replace(port=80): Override("active")},
            "",
        ),
        (
            {EVERY: DRAINED},
            BOTH,
            {**SAME, WEB: ("active", 2)},
            {EVERY: DRAINED, WEB: Override("active")},
            "10.0.0.3 of every service is undone in web",
        ),
        (
            {EVERY: DRAINED},
            BOTH,
            {WEB: ("active", 2), Place("api", A, 80): ("active", 2)},
            {},
            "10.0.0.3 of every service is undone",
        ),
        ({Place(None, "10.0.0.9", None): DRAINED}, BOTH, SAME, {}, "10.0.0.9 of every service is removed"),
        ({Place("gone", A, 80): DRAINED}, BOTH, SAME, {}, "10.0.0.3:80 of gone is removed"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_ends_an_override(overrides: Any, backends: Any, former: Any, left: Any, said: str) -> None:
    found, lines = lasting_overrides(overrides, declared(*backends), former)
    assert found == left
    assert len(lines) == bool(said)
    assert said in "".join(lines)


@pytest.mark.parametrize(
    ("findings", "config", "former", "left"),
    [
        (FINDINGS, declared(*BOTH), SAME, FINDINGS),
        (FINDINGS, declared(*BOTH), None, FINDINGS),
        (FINDINGS, declared(*BOTH[1:]), SAME, {Place("web", B, 80): Finding("up")}),
        (FINDINGS, declared(*BOTH, health="none"), SAME, {}),
        (FINDINGS, declared(*BOTH), {WEB: ("active", 5)}, {WEB: FINDINGS[WEB]}),
        ({Place("api", A, 80): Finding("down")}, declared(*BOTH), SAME, {}),
        ({EVERY: Finding("down")}, declared(*BOTH), SAME, {}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_ends_a_finding(findings: Any, config: Any, former: Any, left: Any) -> None:
    """The backend is gone, nobody is to check it, or it comes back: its former life does not count."""
    assert lasting_findings(findings, config, former) == left
