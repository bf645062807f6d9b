# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `status_table`: what balancer_info returned, as a table for people."""

from __future__ import annotations

DOCUMENTATION = r"""
name: status_table
short_description: Make a table of what balancers do
version_added: 0.1.0
description:
  - Turns what M(natlb.netfilter.balancer_info) returned on one or more hosts into the lines of a table.
  - The playbook C(natlb.netfilter.status) shows it.
author:
  - natlb contributors (@natlb)
options:
  _input:
    description: Names of hosts, and what the module returned on each.
    type: dict
    required: true
seealso:
  - module: natlb.netfilter.balancer_info
"""

EXAMPLES = r"""
- name: Read the balancer
  natlb.netfilter.balancer_info:
  register: status

- name: Show what it does
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: status} | natlb.netfilter.status_table }}"
"""

RETURN = r"""
_value:
  description:
    - The lines of the table. Behind it a line for every warning, and for each host how full its connection tracking
      table is and what was lost.
  type: list
  elements: str
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

HEADER = (
    *("BALANCER", "SERVICE", "LISTEN", "METHOD"),
    *("BACKEND", "ADDRESS", "WEIGHT", "STATE", "HEALTH", "SHARE", "NEW", "ACTIVE"),
)
_NUMBERS = ("WEIGHT", "SHARE", "NEW", "ACTIVE")
# A cell that would only repeat the one above it is left empty.
_GROUPS = 4

Row = tuple[str, ...]


def status_table(hosts: Any) -> list[str]:
    """Lines for people, of {host: what balancer_info returned}."""
    if not isinstance(hosts, Mapping):
        raise AnsibleFilterError(
            "natlb.netfilter.status_table: the input is not a mapping of hosts to what balancer_info returned"
        )
    rows = [row for host, info in hosts.items() for row in _rows(str(host), info)]
    return [*_aligned([HEADER, *_ungrouped(rows)]), *_remarks(hosts)]


def _rows(host: str, info: Mapping[str, Any]) -> Iterator[Row]:
    for service in info.get("services") or []:
        listen = list(service["listen"])
        where = listen[0] if len(listen) == 1 else f"{listen[0]} (+{len(listen) - 1})" if listen else ""
        group = (host, str(service["name"]), where, str(service["method"]))
        for backend in service["backends"]:
            yield (*group, *_backend(backend))
        if not service["backends"]:
            yield (*group, "none", *[""] * (len(HEADER) - _GROUPS - 1))


def _backend(backend: Mapping[str, Any]) -> Row:
    address, port = str(backend["address"]), backend.get("port")
    if port:
        address = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    state = str(backend["state"]) + (" (backup)" if backend.get("backup") else "")
    health = backend.get("health")
    return (
        str(backend["name"]),
        address,
        str(backend["weight"]),
        state,
        "-" if health in (None, "none", "unchecked") else str(health),
        _percent(backend.get("expected_share")),
        _count(backend.get("new_connections")),
        _count(backend.get("active_connections")),
    )


def _percent(share: Any) -> str:
    return "-" if share is None else f"{float(share) * 100:.1f} %"


def _count(value: Any) -> str:
    return "-" if value is None else str(value)


def _ungrouped(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows without the group cells that repeat those of the row above."""
    above: Row = ()
    for row in rows:
        same = 0
        while same < _GROUPS and row[: same + 1] == above[: same + 1]:
            same += 1
        # Method and address belong to the service: shown with it, even if the service before had the same.
        shown = same if same in (0, 1) else _GROUPS if same == _GROUPS else 1
        yield ("",) * shown + row[shown:]
        above = row


def _aligned(rows: Sequence[Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return [
        "  ".join(
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for name, cell, width in zip(HEADER, row, widths)
        ).rstrip()
        for row in rows
    ]


def _remarks(hosts: Mapping[str, Any]) -> Iterator[str]:
    """What a table cannot hold: one line for each thing to know."""
    for host, info in hosts.items():
        if not info.get("services"):
            yield f"{host}: no services"
        if (info.get("conntrack") or {}).get("max"):
            yield f"{host}: {_tracking(info['conntrack'])}"
        if info.get("forwarding") is False:
            yield f"{host}: the kernel does not forward packets; run natlb.netfilter.deploy"
        if info.get("drift"):
            yield f"{host}: differs from what was declared last; run natlb.netfilter.deploy"
        for warning in info.get("warnings") or []:
            yield f"{host}: {warning}"


def _tracking(usage: Mapping[str, Any]) -> str:
    """How full the connection tracking table is, and what was lost. From 80 % on there is a warning of its own."""
    count, most = int(usage.get("count") or 0), int(usage["max"])
    drop, early, failed = (int(usage.get(name) or 0) for name in ("drop", "early_drop", "insert_failed"))
    return (
        f"connection tracking {100 * count / most:.1f} % full ({count} of {most}); since boot {drop} dropped, "
        f"{early} thrown out early, {failed} clashes"
    )


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"status_table": status_table}
