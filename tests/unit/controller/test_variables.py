# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of variables that nobody knows, and messages of the core as a role's user reads them."""

from __future__ import annotations

import pytest
from ansible_collections.natlb.netfilter.plugins.plugin_utils import variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("natlb_servics", "natlb_services"),
        ("natlb_Services", "natlb_services"),
        ("natlb_egres", "natlb_egress"),
        ("natlb_rollback_afer", "natlb_rollback_after"),
        ("natlb_return_gatway", "natlb_return_gateway"),
        ("natlb_verify_conections", "natlb_verify_connections"),
        ("natlb_service_web", "natlb_services_web"),
        ("natlb_servcies_team_b", "natlb_services_team_b"),
        ("natlb_egres_office", "natlb_egress_office"),
        ("natlb_services_", "natlb_services"),
        ("natlb_serial_web", "natlb_serial"),
        ("natlb_zzzz", None),
    ],
)
def test_an_unknown_variable_is_told_with_the_nearest_known_one(name: str, meant: str | None) -> None:
    (message,) = variables.unknown([name, "natlb_services", "somebody_elses", "ansible_host"])
    assert message.startswith(f"{name}: no role or playbook knows this variable")
    assert (f"did you mean {meant}?" in message) if meant else "docs/roles.md" in message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("natlb_forward", "natlb_firewall"),
        ("natlb_forward_others", "natlb_transit"),
        ("natlb_backend_gateway", "natlb_return_gateway"),
        ("natlb_backend_direct_ports", "natlb_return_direct_ports"),
        ("natlb_backend_state", "natlb_return_state"),
    ],
)
def test_a_variable_by_its_old_name_is_told_the_new_one(old: str, new: str) -> None:
    (message,) = variables.unknown([old, new])
    assert message.startswith(f"{old}: is now called {new} (")


def test_every_old_name_has_a_new_one_that_is_read() -> None:
    assert set(variables.RENAMED.values()) <= variables.ROLES
    assert not variables.KNOWN & set(variables.RENAMED)
    assert variables.unknown(["natlb_backend_hosts", "natlb_forwarding"]) == []


@pytest.mark.parametrize("name", ["natlb_services_web", "natlb_egress_office", "natlb_weight", "natlb_balancer_host"])
def test_parts_of_a_declaration_and_what_roles_make_are_known(name: str) -> None:
    assert variables.unknown([name]) == []


@pytest.mark.parametrize("name", sorted(variables.INTERNAL)[:3])
def test_nobody_is_sent_to_what_a_role_makes_for_itself(name: str) -> None:
    assert variables.nearest(f"{name}x") not in variables.INTERNAL


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "services[2].backends[0].port: 99999 is not a port (1-65535)",
            "natlb_services[2].backends[0].port: 99999 is not a port (1-65535)",
        ),
        (
            "services[1].name: a is the name of services[0] already (give each service a name of its own)",
            "natlb_services[1].name: a is the name of natlb_services[0] already (give each service a name of its own)",
        ),
        ("egress[0].source: is missing (it is required)", "natlb_egress[0].source: is missing (it is required)"),
        (
            "nft 0.9.8 is too old (1.0.0 is needed); or set engine: iptables",
            "nft 0.9.8 is too old (1.0.0 is needed); or set natlb_engine: iptables",
        ),
        (
            "(rollback_after: 0 makes changes without a rollback)",
            "(natlb_rollback_after: 0 makes changes without a rollback)",
        ),
        ("(with rollback_after: 30 a change", "(with natlb_rollback_after: 30 a change"),
        ("or set allow_management_port: true if", "or set natlb_allow_management_port: true if"),
        ("conntrack.max: 'x' is not a size", "natlb_conntrack.max: 'x' is not a size"),
        ("services: is missing (write state: absent)", "natlb_services: is missing (write natlb_state: absent)"),
        # A program, a key of a backend, a word, and what has the prefix already.
        ("conntrack: v1.4.7 (conntrack-tools): Operation not permitted", None),
        ("use state: drained or disabled", None),
        ("service web: no backend can serve; clients get a reject", None),
        ("web forward (natlb_firewall: accept) lets them pass", None),
    ],
)
def test_messages_name_the_variables_of_the_role(message: str, told: str | None) -> None:
    assert variables.in_variables(message) == (message if told is None else told)
    assert variables.in_variables(told or message) == (told or message)


def test_an_item_is_named_where_it_is_written() -> None:
    places = {"services": ["natlb_services_db[0]", "natlb_services_web[0]"]}
    message = "services[1].name: a is the name of services[0] already; egress[0]: x; services[2]: y"
    told = "natlb_services_web[0].name: a is the name of natlb_services_db[0] already; natlb_egress[0]: x; "
    assert variables.in_variables(message, places) == told + "natlb_services[2]: y"
