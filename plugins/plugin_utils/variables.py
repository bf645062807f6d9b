# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every variable of this collection, and the names that messages of the core use for them.

Ansible ignores a variable that nobody reads, so a typing error in a name would silently remove a declaration.
tests/lint/test_role_variables.py compares the lists with roles and playbooks.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PREFIX = "natlb_"

#: What the argument specifications of the roles hold.
ROLES = frozenset(
    {
        "natlb_agent",
        "natlb_allow_management_port",
        "natlb_return_addresses",
        "natlb_return_balancers",
        "natlb_return_direct_networks",
        "natlb_return_direct_ports",
        "natlb_return_engine",
        "natlb_return_gateway",
        "natlb_return_mark_bit",
        "natlb_return_mode",
        "natlb_return_ports",
        "natlb_return_state",
        "natlb_return_table",
        "natlb_anycast_addresses",
        "natlb_anycast_as",
        "natlb_anycast_bfd",
        "natlb_anycast_check_interval",
        "natlb_anycast_hold_time",
        "natlb_anycast_manage_packages",
        "natlb_anycast_neighbors",
        "natlb_anycast_package",
        "natlb_anycast_router_id",
        "natlb_anycast_state",
        "natlb_conntrack",
        "natlb_egress",
        "natlb_engine",
        "natlb_failover_addresses",
        "natlb_failover_advert_interval",
        "natlb_failover_check_interval",
        "natlb_failover_group",
        "natlb_failover_manage_packages",
        "natlb_failover_package",
        "natlb_failover_peer_address",
        "natlb_failover_preempt",
        "natlb_failover_state",
        "natlb_failover_sync",
        "natlb_failover_sync_address",
        "natlb_failover_sync_package",
        "natlb_failover_unicast",
        "natlb_firewall",
        "natlb_transit",
        "natlb_forwarding",
        "natlb_manage_packages",
        "natlb_metrics_directory",
        "natlb_metrics_idle",
        "natlb_metrics_listen",
        "natlb_mark_mask",
        "natlb_networks",
        "natlb_monitoring_dashboards_directory",
        "natlb_monitoring_reload",
        "natlb_monitoring_runbooks",
        "natlb_monitoring_rules_directory",
        "natlb_monitoring_state",
        "natlb_packages",
        "natlb_persist",
        "natlb_rollback_after",
        "natlb_services",
        "natlb_state",
    }
)
#: Of these, what the role `return_path` reads.
RETURN_PATH = f"{PREFIX}return_"
OF_RETURN_PATH = frozenset(name for name in ROLES if name.startswith(RETURN_PATH))
#: What the role `monitoring` reads.
MONITORING = f"{PREFIX}monitoring_"
OF_MONITORING = frozenset(name for name in ROLES if name.startswith(MONITORING))
FOLDERS = (f"{MONITORING}rules_directory", f"{MONITORING}dashboards_directory")
#: What the role `failover` reads.
FAILOVER = f"{PREFIX}failover_"
OF_FAILOVER = frozenset(name for name in ROLES if name.startswith(FAILOVER))
#: What the role `anycast` reads.
ANYCAST = f"{PREFIX}anycast_"
OF_ANYCAST = frozenset(name for name in ROLES if name.startswith(ANYCAST))
OF_BALANCER = ROLES - OF_RETURN_PATH - OF_MONITORING - OF_FAILOVER - OF_ANYCAST
#: What playbooks take beside these.
PLAYBOOKS = frozenset(
    {
        "natlb_backend",
        "natlb_backend_hosts",
        "natlb_close_connections",
        "natlb_compare_tables",
        "natlb_fail_on_problems",
        "natlb_format",
        "natlb_gather_facts",
        "natlb_hosts",
        "natlb_max_fail_percentage",
        "natlb_min_active",
        "natlb_only_reason",
        "natlb_reason",
        "natlb_report_file",
        "natlb_serial",
        "natlb_service",
        "natlb_verify_address",
        "natlb_verify_each",
        "natlb_verify_connections",
        "natlb_verify_from",
        "natlb_verify_probes",
        "natlb_wait",
        "natlb_wait_timeout",
    }
)
#: What the filter `to_backends` reads of a backend's host (natlb_state too).
HOSTS = frozenset({"natlb_address", "natlb_backup", "natlb_max_connections", "natlb_weight"})
#: What roles and playbooks make for themselves. Nobody is told of these.
INTERNAL = frozenset(
    {
        "natlb_return_answer",
        "natlb_return_bad_port",
        "natlb_return_default",
        "natlb_return_differs",
        "natlb_return_distribution",
        "natlb_return_drift",
        "natlb_return_files",
        "natlb_return_gateways",
        "natlb_return_host",
        "natlb_return_host_now",
        "natlb_return_incomplete",
        "natlb_return_install",
        "natlb_return_journal",
        "natlb_return_links",
        "natlb_return_missing",
        "natlb_return_no_ports",
        "natlb_return_number",
        "natlb_return_outdated",
        "natlb_return_package",
        "natlb_return_packages",
        "natlb_return_question",
        "natlb_return_readable",
        "natlb_return_restore_file",
        "natlb_return_restore_text",
        "natlb_return_restore_unit",
        "natlb_return_routes",
        "natlb_return_said",
        "natlb_return_script",
        "natlb_return_script_text",
        "natlb_return_started",
        "natlb_return_stopped",
        "natlb_return_tool",
        "natlb_return_unit",
        "natlb_return_unit_file",
        "natlb_return_unit_text",
        "natlb_return_wanted",
        "natlb_return_ways",
        "natlb_return_written",
        "natlb_anycast_answer",
        "natlb_anycast_bird_file",
        "natlb_anycast_bird_written",
        "natlb_anycast_configured",
        "natlb_anycast_file",
        "natlb_anycast_files",
        "natlb_anycast_folder",
        "natlb_anycast_host",
        "natlb_anycast_install",
        "natlb_anycast_is_loaded",
        "natlb_anycast_left",
        "natlb_anycast_list",
        "natlb_anycast_mark",
        "natlb_anycast_obstacles",
        "natlb_anycast_program",
        "natlb_anycast_question",
        "natlb_anycast_reloads",
        "natlb_anycast_replaced",
        "natlb_anycast_router",
        "natlb_anycast_script",
        "natlb_anycast_sorted",
        "natlb_anycast_started",
        "natlb_anycast_taken",
        "natlb_anycast_testable",
        "natlb_anycast_unit_file",
        "natlb_anycast_written",
        "natlb_failover_answer",
        "natlb_failover_file",
        "natlb_failover_files",
        "natlb_failover_host",
        "natlb_failover_install",
        "natlb_failover_instances",
        "natlb_failover_links",
        "natlb_failover_mark",
        "natlb_failover_missing_links",
        "natlb_failover_obstacles",
        "natlb_failover_program",
        "natlb_failover_question",
        "natlb_failover_script",
        "natlb_failover_started",
        "natlb_failover_synced",
        "natlb_failover_sync_file",
        "natlb_failover_sync_files",
        "natlb_failover_sync_install",
        "natlb_failover_sync_testable",
        "natlb_failover_sync_unit",
        "natlb_failover_sync_written",
        "natlb_failover_tracked",
        "natlb_failover_testable",
        "natlb_failover_wanted_links",
        "natlb_failover_warnings",
        "natlb_balancer_answer",
        "natlb_balancer_checked",
        "natlb_balancer_distribution",
        "natlb_balancer_done",
        "natlb_balancer_expected",
        "natlb_balancer_family",
        "natlb_balancer_flavour",
        "natlb_balancer_held",
        "natlb_balancer_host",
        "natlb_balancer_install",
        "natlb_balancer_kernel",
        "natlb_balancer_known_packages",
        "natlb_balancer_least_kernel",
        "natlb_balancer_least_nft",
        "natlb_balancer_metrics",
        "natlb_balancer_missing",
        "natlb_balancer_nft",
        "natlb_balancer_packages",
        "natlb_balancer_programs",
        "natlb_balancer_question",
        "natlb_balancer_release",
        "natlb_each",
        "natlb_each_bad",
        "natlb_each_stops",
        "natlb_each_undone",
        "natlb_order_answer",
        "natlb_order_answers",
        "natlb_order_changed",
        "natlb_order_first",
        "natlb_order_second",
        "natlb_order_state",
        "natlb_order_waited",
        "natlb_read",
        "natlb_read_all",
        "natlb_read_by_playbook",
        "natlb_read_first",
        "natlb_read_pending",
        "natlb_read_second",
        "natlb_report_written",
        "natlb_run",
        "natlb_run_plan",
        "natlb_run_reached",
        "natlb_run_checked",
        "natlb_run_differences",
        "natlb_run_role",
        "natlb_verify_answers",
        "natlb_verify_before",
        "natlb_verify_checks",
        "natlb_verify_declared",
    }
)
#: What may be written in several variables, such as natlb_services_web and natlb_services_db (composition.py).
LISTS = ("services", "egress")
PARTS = tuple(f"{PREFIX}{option}_" for option in LISTS)

#: Options of the module `balancer` and variables by the names that they had, with those that they have.
RENAMED_OPTIONS = {"forward": "firewall", "forward_others": "transit"}
RENAMED = {PREFIX + old: PREFIX + new for old, new in RENAMED_OPTIONS.items()} | {
    f"{PREFIX}backend_{name.removeprefix(RETURN_PATH)}": name for name in OF_RETURN_PATH
}

PUBLIC = ROLES | PLAYBOOKS | HOSTS
KNOWN = PUBLIC | INTERNAL

#: Options of the module `balancer` as messages of the core name them: at the beginning of a place (`services[2].name`)
#: or of what to write (`engine: iptables`). `state` is also a key of backends, and conntrack a program.
_OPTION = re.compile(
    r"(?<![\w.\[`])(?:(?:services|egress)(?=[\[:])"
    r"|(?:agent|engine|forwarding|transit|firewall|persist|mark_mask|rollback_after|allow_management_port)(?=: )"
    r"|(?:conntrack|networks)(?=\.\w)|networks(?=: )|(?<=in )networks(?=\)$)|state(?=: (?:absent|present)\b))"
)
#: One item of a list, where a message names it.
_ITEM = re.compile(rf"(?<![\w.\[`])({'|'.join(LISTS)})\[(\d+)\]")
#: `servcies` for `services`; `serial` is another word.
_AS_GOOD_AS_WRITTEN = 0.8
#: Of these the role has a variable each.
_METRICS = re.compile(r"(?<![\w.])metrics\.(?=directory|listen|idle)")


def metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    """The option `metrics` of the module, from the variables of the role; an empty one is none."""
    names = [name for name in ROLES if name.startswith(f"{PREFIX}metrics_")]
    given = {name.removeprefix(f"{PREFIX}metrics_"): values[name] for name in names if name in values}
    return {key: value for key, value in given.items() if value not in ("", None)}


def unknown(names: Iterable[str]) -> list[str]:
    """One message for each of the variables that begins as ours do and is not one of them."""
    return [_complaint(name) for name in sorted(names) if name.startswith(PREFIX) and not _is_known(name)]


def _is_known(name: str) -> bool:
    return name in KNOWN or (name.startswith(PARTS) and name not in PARTS)


def nearest(name: str) -> str | None:
    """The variable that was most likely meant. All begin alike, so that says nothing."""
    first, _line, team = name.removeprefix(PREFIX).partition("_")
    meant = difflib.get_close_matches(first, LISTS, n=1, cutoff=_AS_GOOD_AS_WRITTEN)
    if meant and team:
        return f"{PREFIX}{meant[0]}_{team}"
    found = difflib.get_close_matches(
        name.removeprefix(PREFIX), sorted(item.removeprefix(PREFIX) for item in PUBLIC), n=1
    )
    return PREFIX + found[0] if found else None


def renamed_options(options: Iterable[str]) -> list[str]:
    """One message for each of the module's options that is given by the name that it had."""
    return [_renamed(name, RENAMED_OPTIONS[name]) for name in sorted(options) if name in RENAMED_OPTIONS]


def _renamed(old: str, new: str) -> str:
    return f"{old}: is now called {new} (rename it; docs/upgrading.md lists all new names)"


def _complaint(name: str) -> str:
    if name in RENAMED:
        return _renamed(name, RENAMED[name])
    meant = nearest(name)
    remedy = f"did you mean {meant}?" if meant else "docs/roles.md lists them all"
    return f"{name}: no role or playbook knows this variable ({remedy} Variables of your own need another prefix)"


def in_variables(message: str, places: Mapping[str, Sequence[str]] | None = None) -> str:
    """A message of the core with the role's variables in the place of the module's options. `places` are those of the
    items of each list, by the name of the option; without them they are all in one variable."""

    def written(found: re.Match[str]) -> str:
        known = (places or {}).get(found[1], ())
        return known[int(found[2])] if int(found[2]) < len(known) else PREFIX + found[0]

    message = _ITEM.sub(written, message)
    return _METRICS.sub(f"{PREFIX}metrics_", _OPTION.sub(lambda found: PREFIX + found[0], message))


def speaks_of_items(result: Mapping[str, Any]) -> bool:
    """Whether a module's result says anything of an item of a list, so that it needs the places of these."""
    return any(_ITEM.search(str(text)) for text in (result.get("msg") or "", *(result.get("remarks") or ())))


def translate(result: dict[str, Any], places: Mapping[str, Sequence[str]] | None = None) -> None:
    """Put the role's variables into all that a module's result says to people."""
    if isinstance(result.get("msg"), str):
        result["msg"] = in_variables(result["msg"], places)
    if result.get("remarks"):
        result["remarks"] = [in_variables(remark, places) for remark in result["remarks"]]
