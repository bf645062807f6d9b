# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `info` tells, as a table for people. Pure.

It is at most 100 columns wide. If all columns do not fit, a service is a heading above its backends, and the reasons
stand below their backends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..model.values import endpoint
from . import fleet
from .columns import WIDTH, Row, aligned, folded, listed, wrapped

HEADER = (
    *("BALANCER", "CONDITION", "SERVICE", "LISTEN", "METHOD", "REDISPATCH"),
    *("BACKEND", "ADDRESS", "WEIGHT", "STATE", "HEALTH", "SHARE", "NEW", "ACTIVE", "WHY"),
)
_NUMBERS = ("WEIGHT", "SHARE", "NEW", "ACTIVE")
# A cell that would only repeat the one above it is left empty: those of hosts, and then those of a service.
_HOST, _GROUPS, _WHY = 2, 6, len(HEADER) - 1
# Reasons have a column where it is as wide as this.
_LEAST_WHY = 30
_MOST_HOSTS = 4
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

#: `bad`: something does not work. `odd`: something is not as declared, or somebody has to know of it.
Level = Literal["", "odd", "bad"]


class Line(NamedTuple):
    """A line, and how much it matters."""

    text: str
    level: Level = ""


class _Entry(NamedTuple):
    """A row, where it belongs, and what a heading says of its service."""

    group: int
    service: int
    cells: Row
    level: Level
    listen: str = ""


def lines(hosts: Mapping[str, Any]) -> list[str]:
    """Lines for people, of {host: what `info` tells, or the module `balancer_info` returned}."""
    return [line.text for line in marked(hosts)]


def marked(hosts: Mapping[str, Any]) -> list[Line]:
    """The same, with how much each matters."""
    entries = [entry for number, group in enumerate(fleet.groups(hosts)) for entry in _entries(number, group)]
    if not entries:
        return [Line("no balancers")]
    shown = [column for column, name in enumerate(HEADER) if _tells(column, name, entries)]
    return [*(_flat(entries, shown) or _sections(entries, shown)), *_remarks(hosts)]


def coloured(line: Line) -> str:
    """For a terminal."""
    colour = {"bad": "31", "odd": "33"}.get(line.level)
    return f"\033[{colour}m{line.text}\033[0m" if colour else line.text


# -- rows --------------------------------------------------------------------------------------------------------------


def _tells(column: int, name: str, entries: Sequence[_Entry]) -> bool:
    """Whether a column says anything: in all its rows it may be empty, or what is ordinary."""
    rows = [entry.cells for entry in entries]
    if name == "BACKEND":
        # A backend that was given no name is called by its address, which stands beside it.
        address = HEADER.index("ADDRESS")
        return any(row[column] not in (row[address], row[address].rpartition(":")[0].strip("[]")) for row in rows)
    return any(row[column] not in ("", _ORDINARY.get(name, "")) for row in rows)


def condition_of(info: Any) -> str:
    """How the host itself is, in two words."""
    if not fleet.readable(info):
        return "not read"
    found = ["drifted"] if info.get("drift") else []
    if info.get("forwarding") is False:
        found.append("not forwarding")
    return ", ".join(found) or "ok"


def _conditions(group: fleet.Group) -> str:
    """The same of a group; where its hosts differ, with the names of those that are not well."""
    found = fleet.remarks_of({host: [condition_of(info)] for host, info in zip(group.hosts, group.infos)})
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{words} ({_names(hosts)})" for words, hosts in found.items() if words != "ok")


def _names(hosts: Sequence[str]) -> str:
    return listed(hosts, _MOST_HOSTS)


def _entries(number: int, group: fleet.Group) -> Iterator[_Entry]:
    condition, info = _conditions(group), group.infos[0]
    worst: Level = "" if condition == "ok" else "bad"
    services = info["services"] if group.read else ()
    if not services:
        nothing = "" if not group.read else "egress only" if info.get("egress") else "none"
        cells = (_names(group.hosts), condition, nothing, *[""] * (len(HEADER) - _HOST - 1))
        yield _Entry(number, 0, cells, worst)
    for at, service in enumerate(services):
        listen = [str(item) for item in service["listen"]]
        where = listen[0] if len(listen) == 1 else f"{listen[0]} (+{len(listen) - 1})" if listen else ""
        redispatch = "yes" if service.get("redispatch") else "-"
        own = (str(service["name"]), where, str(service["method"]), redispatch)
        for ways in fleet.standings(group, at):
            for standing in ways:
                cells = (_names(standing.hosts), condition, *own, *_backend(standing.backend))
                yield _Entry(number, at, cells, _level(standing.backend), ", ".join(listen))
        if not service["backends"]:
            cells = (_names(group.hosts), condition, *own, "none", *[""] * (len(HEADER) - _GROUPS - 1))
            yield _Entry(number, at, cells, "bad", ", ".join(listen))


def _level(backend: Mapping[str, Any]) -> Level:
    if backend.get("health") == "down":
        return "bad"
    return "odd" if backend.get("why") or backend["state"] != "active" else ""


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
        percent(backend.get("expected_share")),
        _count(backend.get("new_connections")),
        _count(backend.get("active_connections")) + _limit(backend),
        str(backend.get("why") or ""),
    )


def percent(share: Any) -> str:
    """A share for people; `-` where it is not known."""
    return "-" if share is None else f"{float(share) * 100:.1f} %"


def _count(value: Any) -> str:
    return "-" if value is None else str(value)


def _limit(backend: Mapping[str, Any]) -> str:
    most = backend.get("max_connections")
    return f"/{most}" if most else ""


# -- layouts -----------------------------------------------------------------------------------------------------------


def _flat(entries: Sequence[_Entry], shown: Sequence[int]) -> list[Line]:
    """All in one table, or nothing if that is too wide."""
    columns = [column for column in shown if column != _WHY]
    table = aligned(
        [tuple(row[column] for column in columns) for row in (HEADER, *_ungrouped(entries))],
        _NUMBERS,
    )
    widest = max(map(len, table))
    if widest > WIDTH:
        return []
    if _WHY not in shown:
        return [Line(text, level) for text, level in zip(table, ["", *(entry.level for entry in entries)])]
    left = widest + 2
    beside = WIDTH - left >= _LEAST_WHY
    found = [Line(f"{table[0].ljust(left)}WHY" if beside else table[0])]
    for text, entry in zip(table[1:], entries):
        why = wrapped(entry.cells[_WHY], width=WIDTH - left) if beside else []
        found.append(Line(text.ljust(left) + why[0] if why else text, entry.level))
        rest = [" " * left + line for line in why[1:]] if beside else wrapped(entry.cells[_WHY], 4)
        found += [Line(line, entry.level) for line in rest]
    return found


def _ungrouped(entries: Sequence[_Entry]) -> Iterator[Row]:
    """The rows without the group cells that repeat those of the row above."""
    above: _Entry | None = None
    for entry in entries:
        row = entry.cells
        if above is not None and above.group == entry.group:
            host = "" if row[0] == above.cells[0] else row[0]
            service = ("",) * (_GROUPS - _HOST) if above.service == entry.service else row[_HOST:_GROUPS]
            row = (host, "", *service, *row[_GROUPS:])
        yield row
        above = entry


def _sections(entries: Sequence[_Entry], shown: Sequence[int]) -> list[Line]:
    """A heading for each group of hosts and for each service."""
    whole = {entry.group: entry.cells[0] for entry in reversed(entries)}
    for entry in entries:
        whole[entry.group] = max(whole[entry.group], entry.cells[0], key=len)
    columns = [column for column in shown if column >= _GROUPS and column != _WHY]
    some = any(entry.cells[0] != whole[entry.group] for entry in entries)
    rows = [
        (
            *([entry.cells[0] if entry.cells[0] != whole[entry.group] else ""] if some else []),
            *(entry.cells[column] for column in columns),
        )
        for entry in entries
    ]
    header = (*(["BALANCER"] if some else []), *(HEADER[column] for column in columns))
    table = folded([header, *rows], _NUMBERS, WIDTH - 4) if columns else [[""] for _row in [header, *rows]]
    found = [Line(f"    {line}".rstrip()) for line in table[0] if line]
    above: _Entry | None = None
    for entry, texts in zip(entries, table[1:]):
        if above is None or above.group != entry.group:
            condition = entry.cells[1]
            words = whole[entry.group] + ("" if condition == "ok" else f": {condition}")
            found += [Line(line, "" if condition == "ok" else "bad") for line in wrapped(words, 0, 2)]
        if above is None or (above.group, above.service) != (entry.group, entry.service):
            found += [Line(line) for line in wrapped(_heading(entry), 2, 4)]
        found += [Line(f"    {text}", entry.level) for text in texts if text]
        found += [Line(line, entry.level) for line in wrapped(entry.cells[_WHY], 8)]
        above = entry
    return found


def _heading(entry: _Entry) -> str:
    name, _where, method, redispatch = entry.cells[_HOST:_GROUPS]
    words = [name, entry.listen, method, "redispatch" if redispatch == "yes" else ""]
    return "  ".join(word for word in words if word)


# -- what a table cannot hold ------------------------------------------------------------------------------------------


def _remarks(hosts: Mapping[str, Any]) -> Iterator[Line]:
    """One for each thing to know, with the hosts that it is of."""
    levels: dict[str, Level] = {}
    of: dict[str, list[str]] = {}
    for host, info in hosts.items():
        found = list(_remarks_of(info))
        levels.update((line.text, line.level) for line in found)
        of[str(host)] = [line.text for line in found]
    for text, names in fleet.remarks_of(of).items():
        yield from (Line(line, levels[text]) for line in wrapped(f"{_names(names)}: {text}", 0, 2))


def _remarks_of(info: Any) -> Iterator[Line]:
    if not fleet.readable(info):
        yield Line(f"could not be read: {reason(info)}", "bad")
        return
    for rule in info.get("egress") or []:
        yield Line(egress(rule))
    if (info.get("conntrack") or {}).get("max"):
        yield Line(tracking(info["conntrack"]))
    if info.get("forwarding") is False:
        yield Line("the kernel does not forward packets; run natlb.netfilter.deploy", "bad")
    if info.get("forwards_transit"):
        yield Line("forwards all traffic, not only what is declared (docs/coexistence.md)", "odd")
    if info.get("drift"):
        yield Line("differs from the last declaration; run natlb.netfilter.deploy", "odd")
    for remark in info.get("remarks") or []:
        yield Line(str(remark), "odd")


def reason(info: Any) -> str:
    """Why a host could not be read."""
    message = info.get("msg") if isinstance(info, Mapping) else None
    return str(message or "it was not reached").strip().partition("\n")[0]


def egress(rule: Mapping[str, Any]) -> str:
    """A rule for what the networks behind the host open, as a sentence."""
    ways = [str(uplink["interface"]) for uplink in rule.get("uplinks") or []]
    by = f" by {' or '.join(ways) or rule.get('out_interface')}" if ways or rule.get("out_interface") else ""
    ports = ", ".join(map(str, rule.get("destination_ports") or []))
    to = f" to {', '.join(map(str, rule['destination']))}" if rule.get("destination") else ""
    to += f" to {rule.get('protocol') or ''} {ports}".rstrip() if ports else ""
    source = ", ".join(map(str, rule.get("source") or []))
    if rule.get("snat") == "none":
        return f"no source NAT for {source}{to}{by}"
    own = f" from ports {rule['snat_ports']}" if rule.get("snat_ports") else ""
    return f"source NAT for {source}{to}{by} ({rule.get('snat')}{own})"


def tracking(usage: Mapping[str, Any]) -> str:
    """How full the connection tracking table is, and what was lost. From 80 % on there is a warning of its own."""
    count, most = int(usage.get("count") or 0), int(usage["max"])
    drop, early, failed = (int(usage.get(name) or 0) for name in ("drop", "early_drop", "insert_failed"))
    return (
        f"connection tracking {100 * count / most:.1f} % full ({count} of {most}); since boot {drop} dropped, "
        f"{early} removed early, {failed} clashes"
    )
