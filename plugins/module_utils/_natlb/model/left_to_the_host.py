# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses that services which name none, or networks, leave to the host."""

from __future__ import annotations

import ipaddress

#: Local addresses that `*` leaves to the host, by family. What comes to a link-local IPv6 address may not be forwarded:
#: its client's address means nothing on another link (RFC 4291, section 2.5.6). IPv4 knows no such rule in the kernel.
NOT_WILD = {"ip": ("127.0.0.0/8",), "ip6": ("::1", "fe80::/10")}
#: What networks leave to the host beside them: multicast, which is not translated.
NOT_IN_NETWORKS = {"ip": (*NOT_WILD["ip"], "224.0.0.0/4"), "ip6": (*NOT_WILD["ip6"], "ff00::/8")}
_NOT_WILD = tuple(ipaddress.ip_network(network) for networks in NOT_WILD.values() for network in networks)


def is_wild(address: str) -> bool:
    """Whether `*` takes connections to this address, if it is a local one."""
    ip = ipaddress.ip_address(address)
    return not any(ip.version == network.version and ip in network for network in _NOT_WILD)
