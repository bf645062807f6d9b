# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a declaration iptables cannot do, whatever the host is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import ConfigError
from ..model.entities import Service

_SAID = "the iptables engine cannot do it: its {}"
_LIMIT = _SAID.format(
    "match connlimit goes on to count a connection that a full backend has left to another one, so that backend would "
    "stay full of them"
)
_HELPER = _SAID.format("target CT stands in the table raw alone, which every packet of this host passes")
_IDLE_TIMEOUT = _SAID.format(
    "target CT takes time-outs that the program nfct has made, and only in the table raw, which every packet passes"
)
_OTHER_ENGINE = "use engine: nftables"


def unable(services: Sequence[Service]) -> Iterator[ConfigError]:
    """An error for each key; `services` are all that there are."""
    for index, service in enumerate(services):
        path = f"services[{index}]"
        for number, backend in enumerate(service.backends):
            if backend.max_connections:
                yield ConfigError(
                    f"{path}.backends[{number}].max_connections",
                    _LIMIT,
                    f"{_OTHER_ENGINE}, or max_connections_per_client",
                )
        if service.helper:
            yield ConfigError(f"{path}.helper", _HELPER, _OTHER_ENGINE)
        if service.idle_timeout_s:
            remedy = f"{_OTHER_ENGINE}, or natlb_conntrack, which is for the whole host"
            yield ConfigError(f"{path}.idle_timeout", _IDLE_TIMEOUT, remedy)
