# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Balancers with the same services, taken together: told apart only where they differ. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z?")
#: What two balancers with the same rules never agree on.
_OWN = ("new_connections", "active_connections")
#: What each balancer has seen by itself.
_SEEN = "health_history"


class Group(NamedTuple):
    """Balancers that have the same services, with what `info` says of each."""

    hosts: tuple[str, ...]
    infos: tuple[Mapping[str, Any], ...]

    @property
    def read(self) -> bool:
        """Whether they could be read."""
        return readable(self.infos[0])


class Standing(NamedTuple):
    """A backend of a service, as it is on some balancers of a group. Counts are sums, times the earliest, and the
    history is of the one that knows most."""

    hosts: tuple[str, ...]
    backend: Mapping[str, Any]


def readable(info: Any) -> bool:
    """Whether this is what `info` tells, and not what Ansible says of a host that it did not reach."""
    return isinstance(info, Mapping) and "services" in info


def groups(hosts: Mapping[str, Any]) -> list[Group]:
    """All balancers; those that cannot be read are alone."""
    found: dict[Any, list[tuple[str, Mapping[str, Any]]]] = {}
    for host, info in hosts.items():
        key = _layout(info) if readable(info) else (host,)
        found.setdefault(key, []).append((str(host), info if isinstance(info, Mapping) else {}))
    return [Group(*zip(*members)) for members in found.values()]


def _layout(info: Mapping[str, Any]) -> Any:
    """What balancers of one group have in common."""
    return bool(info.get("egress")), tuple(
        (
            service["name"],
            tuple(service["listen"]),
            service["method"],
            bool(service.get("redispatch")),
            tuple((backend["address"], backend.get("port")) for backend in service["backends"]),
        )
        for service in info["services"]
    )


def standings(group: Group, number: int) -> Iterator[list[Standing]]:
    """Each backend of the service with this number: once, or once for each way in which it stands."""
    every = zip(*(info["services"][number]["backends"] for info in group.infos))
    for backends in every:
        ways: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for host, backend in zip(group.hosts, backends):
            ways.setdefault(_way(backend), []).append((host, backend))
        yield [_together(members) for members in ways.values()]


def _way(backend: Mapping[str, Any]) -> str:
    """How it stands, without times: two balancers never find out at the same moment."""
    return _TIME.sub("", repr([(key, backend[key]) for key in sorted(backend) if key not in (*_OWN, _SEEN)]))


def _together(members: Sequence[tuple[str, Mapping[str, Any]]]) -> Standing:
    hosts, backends = zip(*members)
    if len(backends) == 1:
        return Standing(hosts, backends[0])
    first = min(backends, key=lambda backend: str(backend.get("why") or ""))
    sums = {key: _sum([backend.get(key) for backend in backends]) for key in _OWN}
    # They ask the same backend: who knows most knows what the others know as well.
    seen = max((backend.get(_SEEN) or [] for backend in backends), key=len)
    return Standing(hosts, {**first, **sums, _SEEN: seen})


def _sum(counts: Sequence[Any]) -> int | None:
    return None if any(count is None for count in counts) else sum(map(int, counts))


def remarks_of(hosts: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The hosts of each remark, in the order of the first."""
    found: dict[str, tuple[str, ...]] = {}
    for host, remarks in hosts.items():
        for remark in dict.fromkeys(remarks):
            found[remark] = (*found.get(remark, ()), host)
    return found
