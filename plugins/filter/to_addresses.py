# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `to_addresses`: ranges and networks, expanded to addresses."""

from __future__ import annotations

DOCUMENTATION = r"""
name: to_addresses
short_description: Expand ranges, networks and host names to addresses
version_added: 0.1.0
description:
  - Turns C(10.0.0.3-10.0.0.6), C(10.0.0.3-6), C(10.0.0.0/29), a single address, or a list of these into addresses.
  - A network gives the addresses that hosts can have, without its first and its broadcast address.
  - The name of a host gives the addresses that the controller finds for it, each of them, in ascending order. They are
    written into the rules, and names are not looked up again before the next run.
  - An address that occurs twice is returned once, at its first place.
author:
  - natlb contributors (@natlb)
positional: _input
options:
  _input:
    description: The ranges, networks, addresses (IPv4 or IPv6) and host names. They may hold at most 65536 addresses.
    type: list
    elements: str
    required: true
  family:
    description: Of host names take only addresses of this family. By default they give all of their addresses.
    type: str
    choices: [ipv4, ipv6]
requirements:
  - netaddr (on the controller)
seealso:
  - plugin: natlb.netfilter.to_backends
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Balance over four hosts that are not in the inventory
  natlb.netfilter.balancer:
    services:
      - name: web
        listen: [192.0.2.10:80]
        backends: "{{ '10.0.0.3-10.0.0.6' | natlb.netfilter.to_addresses | natlb.netfilter.to_backends(port=8080) }}"

- name: Balance over all addresses of a name
  natlb.netfilter.balancer:
    services:
      - name: web
        listen: [192.0.2.10:80]
        backends: "{{ 'web.example.com' | natlb.netfilter.to_addresses(family='ipv4') }}"

- name: Show the addresses of a network and of another host
  ansible.builtin.debug:
    msg: "{{ ['10.0.0.0/29', '10.0.1.1'] | natlb.netfilter.to_addresses }}"
"""

RETURN = r"""
_value:
  description: The addresses, in the order of the input.
  type: list
  elements: str
  sample: [10.0.0.3, 10.0.0.4, 10.0.0.5, 10.0.0.6]
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.values import is_host_name

try:
    import netaddr
except ImportError as error:
    netaddr = None
    NETADDR_ERROR: ImportError | None = error
else:
    NETADDR_ERROR = None

MAX_ADDRESSES = 65536
_REMEDY = "write an address, a range such as 10.0.0.3-10.0.0.6, a network such as 10.0.0.0/24, or the name of a host"
_FAMILIES = {None: socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


def to_addresses(value: Any, family: str | None = None) -> list[str]:
    """The addresses that `value` stands for. Raises AnsibleFilterError, naming the part that is wrong."""
    if family not in _FAMILIES:
        raise AnsibleFilterError(f"natlb.netfilter.to_addresses: {family!r} is not a family (write ipv4 or ipv6)")
    if netaddr is None:
        raise AnsibleFilterError(
            "natlb.netfilter.to_addresses needs the Python library netaddr on the controller: pip install netaddr"
        ) from NETADDR_ERROR
    items = value if isinstance(value, (list, tuple)) else [value]
    found: dict[str, None] = {}
    for item in items:
        if isinstance(item, str) and is_host_name(item.strip()):
            found.update(dict.fromkeys(_looked_up(item.strip(), family)))
            continue
        first, last = _ends(item)
        if int(last) - int(first) + 1 + len(found) > MAX_ADDRESSES:
            raise AnsibleFilterError(
                f"natlb.netfilter.to_addresses: {item} makes more than {MAX_ADDRESSES} addresses (name smaller parts)"
            )
        found.update((str(address), None) for address in netaddr.iter_iprange(first, last))
    return list(found)


def _looked_up(name: str, family: str | None) -> list[str]:
    """All addresses of a host, in an order of their own: name servers rotate them."""
    try:
        answers = socket.getaddrinfo(name, None, _FAMILIES[family], socket.SOCK_STREAM)
    except OSError as error:
        raise AnsibleFilterError(
            f"natlb.netfilter.to_addresses: the controller finds no {family or 'address'} of {name}: {error} "
            "(write its address, or correct the name)"
        ) from None
    found = {ipaddress.ip_address(str(answer[4][0])) for answer in answers}
    return [str(address) for address in sorted(found, key=lambda address: (address.version, int(address)))]


def _ends(item: Any) -> tuple[Any, Any]:
    """The first and the last address of one part."""
    if not isinstance(item, str):
        raise AnsibleFilterError(f"natlb.netfilter.to_addresses: {item!r} is not a text ({_REMEDY})")
    text = item.strip()
    if "/" in text:
        return _network(text)
    first, dash, last = (part.strip() for part in text.partition("-"))
    low = _address(first, text)
    if not dash:
        return low, low
    if low.version == 4 and last.isdigit():
        last = f"{first.rpartition('.')[0]}.{last}"
    high = _address(last, text)
    if low.version != high.version:
        raise AnsibleFilterError(f"natlb.netfilter.to_addresses: {text} mixes IPv4 and IPv6 ({_REMEDY})")
    if low > high:
        raise AnsibleFilterError(f"natlb.netfilter.to_addresses: {text} ends before it begins (write {high}-{low})")
    return low, high


def _network(text: str) -> tuple[Any, Any]:
    base, _slash, prefix = text.partition("/")
    address = _address(base, text)
    try:
        network = netaddr.IPNetwork(f"{address}/{prefix}")
    except (netaddr.AddrFormatError, ValueError):
        raise AnsibleFilterError(f"natlb.netfilter.to_addresses: {text} is not a network ({_REMEDY})") from None
    if network.ip != network.network:
        raise AnsibleFilterError(
            f"natlb.netfilter.to_addresses: {text} has bits set behind its prefix (write {network.cidr})"
        )
    first, last = network.first, network.last
    # RFC 3021: both addresses of a /31 are hosts. RFC 6164: so they are of a /127; other IPv6 networks have an anycast
    # address of their routers (RFC 4291, 2.6.1) first, and no broadcast.
    if network.size > 2:
        first, last = first + 1, last - (network.version == 4)
    return netaddr.IPAddress(first, network.version), netaddr.IPAddress(last, network.version)


def _address(text: str, whole: str) -> Any:
    try:
        # Without this flag older releases of netaddr take "10" for 0.0.0.10.
        return netaddr.IPAddress(text, flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError):
        raise AnsibleFilterError(
            f"natlb.netfilter.to_addresses: {text!r} in {whole!r} is not an address ({_REMEDY})"
        ) from None


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"to_addresses": to_addresses}
