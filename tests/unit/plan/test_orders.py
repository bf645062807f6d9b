# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What orders make of an override, as a table of sequences."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.errors import ConfigError, UnknownBackendError
from _natlb.model.effective import Override
from _natlb.model.entities import State
from _natlb.model.services import parse_config
from _natlb.plan.orders import combined, targets, words

DRAIN, DRAIN_X = {"state": "drained"}, {"state": "drained", "reason": "x"}
DISABLE_Y, WEIGHT_X = {"state": "disabled", "reason": "y"}, {"weight": 3, "reason": "x"}
RESTORE, ONLY_X, ONLY_NONE = (
    {"state": "active"},
    {"state": "active", "only_reason": "x"},
    {"state": "active", "only_reason": ""},
)


@pytest.mark.parametrize(
    ("orders", "left"),
    [
        ([DRAIN], "drained"),
        ([DRAIN, DRAIN], "drained"),
        ([DRAIN, {"state": "disabled"}], "disabled"),
        ([DRAIN, {"weight": 2}], "drained, weight 2"),
        ([DRAIN_X, DISABLE_Y], "disabled (x; y)"),
        ([DRAIN_X, DISABLE_Y, DRAIN_X], "drained (y; x)"),
        ([DRAIN_X, DRAIN, DRAIN_X], "drained (x)"),
        ([DRAIN_X, RESTORE], None),
        ([DRAIN_X, DISABLE_Y, RESTORE], None),
        ([DRAIN_X, {"state": "active", "weight": 5}], "weight 5"),
        ([ONLY_X], None),
        ([DRAIN, ONLY_X], "drained"),
        ([DRAIN_X, ONLY_X], None),
        ([DRAIN_X, DRAIN, ONLY_X], "drained"),
        ([DRAIN_X, DRAIN, ONLY_NONE], "drained (x)"),
        ([DRAIN, WEIGHT_X], "drained, weight 3 (x)"),
        ([DRAIN, WEIGHT_X, ONLY_X], "drained"),
        ([WEIGHT_X, DRAIN, ONLY_NONE], "weight 3 (x)"),
        ([DISABLE_Y, DRAIN_X, ONLY_X], "disabled (y)"),
        ([{**DRAIN, "reason": " x\n  x "}, {"state": "active", "only_reason": "x x"}], None),
    ],
)
def test_a_sequence_of_orders(orders: list[dict[str, Any]], left: str | None) -> None:
    said: Override | None = None
    for order in orders:
        said = combined(**{"state": None, "weight": None, **order})(said or Override())
    assert (said and words(said)) == left


@pytest.mark.parametrize("order", [{**DRAIN, "only_reason": "x"}, {"state": "active", "weight": 3, "only_reason": "x"}])
def test_only_what_is_taken_back_has_been_said_before(order: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="goes with the state active alone"):
        combined(**{"weight": None, **order})


def said_for(*reasons: str, state: State = "drained", weight: int | None = None) -> Override:
    said = Override()
    for reason in reasons:
        said = combined(state, weight, reason)(said) or Override()
    return said


def test_many_reasons_stay_few() -> None:
    """As of a timer that drains again and again, and names the time."""
    said = said_for(*(f"at {number}" for number in range(2000)))
    assert words(said) == "drained (earlier reasons; " + "; ".join(f"at {number}" for number in range(1993, 2000)) + ")"
    assert len(said.by_reason) == 8


def test_of_many_reasons_all_have_to_be_taken_back() -> None:
    """The oldest not one by one any more."""
    said: Override | None = said_for(*(f"at {number}" for number in range(20)))
    for reason in [*(f"at {number}" for number in range(20)), "earlier reasons"]:
        assert said is not None
        assert said.state == "drained"
        said = combined("active", None, only_reason=reason)(said)
    assert said is None
    assert combined("active", None)(said_for(*"abcdefghijkl")) is None


def test_of_the_oldest_reasons_the_effect_stays() -> None:
    said = combined(None, 3, "weight")(said_for("first", state="disabled"))
    for number in range(20):
        said = combined(None, 5, f"at {number}")(said or Override())
    assert said is not None
    assert words(said).startswith("disabled, weight 5 (earlier reasons; at 13; ")
    for number in range(13, 20):
        said = combined("active", None, only_reason=f"at {number}")(said)
        assert said is not None
    assert words(said) == "disabled, weight 5 (earlier reasons)"


def test_eight_reasons_are_kept_apart() -> None:
    assert words(said_for(*"abcdefgh", *"hgfedcba")) == "drained (a; b; c; d; e; f; g; h)"


@pytest.mark.parametrize(
    ("listen", "backend", "typed", "found"),
    [
        ("192.0.2.10:80", {"address": "10.0.0.3", "name": "web1", "port": 8080}, "web1", True),
        ("192.0.2.10:80", {"address": "10.0.0.3", "port": 8080}, "10.0.0.3:8080", True),
        ("192.0.2.10:80", {"address": "10.0.0.3", "port": 8080}, "10.0.0.3:80", False),
        # One without a port has that of the service, and more than one port is more than what is typed.
        ("192.0.2.10:53", {"address": "10.0.0.3"}, "10.0.0.3:53", True),
        ("[2001:db8::10]:53", {"address": "2001:db8::3"}, "[2001:db8::3]:53", True),
        ("192.0.2.10:8000-8001", {"address": "10.0.0.3"}, "10.0.0.3:8000", False),
        (["192.0.2.10:53", "192.0.2.10:54"], {"address": "10.0.0.3"}, "10.0.0.3:53", False),
    ],
)
def test_who_is_meant(listen: Any, backend: dict[str, Any], typed: str, found: bool) -> None:
    config = parse_config([{"name": "web", "listen": listen, "backends": [backend]}])
    if found:
        assert [target.backend.address for target in targets(config, typed)] == [backend["address"]]
    else:
        with pytest.raises(UnknownBackendError):
            targets(config, typed)
