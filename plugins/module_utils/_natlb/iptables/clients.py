# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number of clients in the lists of iptables on this host: xt_recent and xt_hashlimit show theirs in /proc.

xt_connlimit shows nothing, and has no limit.
"""

from __future__ import annotations

from ..host import proc
from ..model.clients import AFFINITY, RATE, Known, KnownClients, fullest
from ..model.entities import Config
from . import service as iptables_service

_RATES = {"ip": "/proc/net/ipt_hashlimit", "ip6": "/proc/net/ip6t_hashlimit"}
_BEYOND = "packets of more are dropped until another has opened none for a second"


def read(config: Config) -> KnownClients:
    """By service and option. Of affinity, the fullest list of a backend counts: a full one forgets its oldest."""
    found: KnownClients = {}
    room = proc.recent_list_size() if any(service.affinity_s for service in config.services) else 0
    for service in config.services:
        if service.affinity_s:
            names = [iptables_service.affinity_list(service, backend) for backend in service.backends]
            found[service.name, AFFINITY] = fullest(Known(_lines(f"/proc/net/xt_recent/{n}"), room, "") for n in names)
        if service.new_connections_per_second:
            name = iptables_service.rate_list(service)
            counts = [_lines(f"{_RATES[family]}/{name}") for family in service.families()]
            most = iptables_service.CLIENTS
            found[service.name, RATE] = fullest(Known(count, most, _BEYOND) for count in counts)
    return found


def _lines(path: str) -> int:
    """One for each client; none where no rule has the list."""
    try:
        with open(path, encoding="ascii") as file:
            return sum(1 for _unused in file)
    except OSError:
        return 0
