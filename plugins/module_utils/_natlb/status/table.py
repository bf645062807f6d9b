# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `info` tells, as a table for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .columns import Row, aligned, endpoint

HEADER = (
    *("BALANCER", "CONDITION", "SERVICE", "LISTEN", "METHOD", "REDISPATCH"),
    *("BACKEND", "ADDRESS", "WEIGHT", "STATE", "HEALTH", "SHARE", "NEW", "ACTIVE", "WHY"),
)
_NUMBERS = ("WEIGHT", "SHARE", "NEW", "ACTIVE")
# A cell that would only repeat the one above it is left empty: those of a host, and then those of a service.
_HOST = 2
_GROUPS = 6
# What says nothing where every row has it.
_ORDINARY = {
    "CONDITION": "ok",
    "METHOD": "round_robin",
    "REDISPATCH": "-",
    "WEIGHT": "1",
    "STATE": "active",
    "HEALTH": "-",
    "ACTIVE": "-",
}


def lines(hosts: Mapping[str, Any]) -> list[str]:
    """Lines for people, of {host: what `info` tells, or the module `balancer_info` returned}."""
    rows = [row for host, info in hosts.items() for row in _rows(str(host), info)]
    if not rows:
        return ["no balancers"]
    shown = [column for column, name in enumerate(HEADER) if _tells(column, name, rows)]
    table = [tuple(row[column] for column in shown) for row in (HEADER, *_ungrouped(rows))]
    return [*aligned(table, _NUMBERS), *_remarks(hosts)]


def _tells(column: int, name: str, rows: Sequence[Row]) -> bool:
    """Whether a column says anything: in all its rows it may be empty, or what is ordinary."""
    if name == "BACKEND":
        # A backend that was given no name is called by its address, which stands beside it.
        address = HEADER.index("ADDRESS")
        return any(row[column] not in (row[address], row[address].rpartition(":")[0].strip("[]")) for row in rows)
    return any(row[column] not in ("", _ORDINARY.get(name, "")) for row in rows)


def _condition(info: Any) -> str:
    """How the host itself is, in two words."""
    if not isinstance(info, Mapping) or "services" not in info:
        return "not read"
    found = ["drifted"] if info.get("drift") else []
    if info.get("forwarding") is False:
        found.append("not forwarding")
    return ", ".join(found) or "ok"


def _rows(host: str, info: Any) -> Iterator[Row]:
    condition = _condition(info)
    services = info.get("services") if isinstance(info, Mapping) else None
    if not services:
        nothing = "" if condition == "not read" else "egress only" if info.get("egress") else "none"
        yield (host, condition, nothing, *[""] * (len(HEADER) - 3))
    for service in services or []:
        listen = list(service["listen"])
        where = listen[0] if len(listen) == 1 else f"{listen[0]} (+{len(listen) - 1})" if listen else ""
        redispatch = "yes" if service.get("redispatch") else "-"
        group = (host, condition, str(service["name"]), where, str(service["method"]), redispatch)
        for backend in service["backends"]:
            yield (*group, *_backend(backend))
        if not service["backends"]:
            yield (*group, "none", *[""] * (len(HEADER) - _GROUPS - 1))


def _backend(backend: Mapping[str, Any]) -> Row:
    address = endpoint(str(backend["address"]), backend.get("port"))
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
        str(backend.get("why") or ""),
    )


def _percent(share: Any) -> str:
    return "-" if share is None else f"{float(share) * 100:.1f} %"


def _count(value: Any) -> str:
    return "-" if value is None else str(value)


def _ungrouped(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows without the group cells that repeat those of the row above."""
    above: Row = ()
    for row in rows:
        # Method and address belong to the service: shown with it, even if the service before had the same.
        same = _GROUPS if row[:_GROUPS] == above[:_GROUPS] else _HOST if row[:_HOST] == above[:_HOST] else 0
        yield ("",) * same + row[same:]
        above = row


def _remarks(hosts: Mapping[str, Any]) -> Iterator[str]:
    """What a table cannot hold: one line for each thing to know."""
    for host, info in hosts.items():
        if not isinstance(info, Mapping) or "services" not in info:
            yield f"{host}: could not be read: {_reason(info)}"
            continue
        for rule in info.get("egress") or []:
            yield f"{host}: {_egress(rule)}"
        if (info.get("conntrack") or {}).get("max"):
            yield f"{host}: {_tracking(info['conntrack'])}"
        if info.get("forwarding") is False:
            yield f"{host}: the kernel does not forward packets; run natlb.netfilter.deploy"
        if info.get("forwards_transit"):
            yield f"{host}: forwards all traffic, not only what is declared (docs/coexistence.md)"
        if info.get("drift"):
            yield f"{host}: differs from the last declaration; run natlb.netfilter.deploy"
        for remark in info.get("remarks") or []:
            yield f"{host}: {remark}"


def _reason(info: Any) -> str:
    message = info.get("msg") if isinstance(info, Mapping) else None
    return str(message or "it was not reached").strip().partition("\n")[0]


def _egress(rule: Mapping[str, Any]) -> str:
    """A rule for what the networks behind the host open, as a sentence."""
    ways = [str(uplink["interface"]) for uplink in rule.get("uplinks") or []]
    by = f" by {' or '.join(ways) or rule.get('out_interface')}" if ways or rule.get("out_interface") else ""
    ports = ", ".join(map(str, rule.get("destination_ports") or []))
    to = f" to {rule.get('protocol') or ''} {ports}".rstrip() if ports else ""
    return f"source NAT for {', '.join(map(str, rule.get('source') or []))}{to}{by} ({rule.get('snat')})"


def _tracking(usage: Mapping[str, Any]) -> str:
    """How full the connection tracking table is, and what was lost. From 80 % on there is a warning of its own."""
    count, most = int(usage.get("count") or 0), int(usage["max"])
    drop, early, failed = (int(usage.get(name) or 0) for name in ("drop", "early_drop", "insert_failed"))
    return (
        f"connection tracking {100 * count / most:.1f} % full ({count} of {most}); since boot {drop} dropped, "
        f"{early} removed early, {failed} clashes"
    )
