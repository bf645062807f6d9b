# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `to_backends`: the hosts of an inventory group, as the backends of a service."""

from __future__ import annotations

DOCUMENTATION = r"""
name: to_backends
short_description: Make the hosts of an inventory group the backends of a service
version_added: 0.1.0
description:
  - Makes one backend of every host, in the order of the group. Its name is the host's name in the inventory.
  - "Its address is the first of these that exists and is an IP address of the requested family:
    the host variables C(natlb_address) and C(ansible_host), the address of the default route in the facts
    (C(ansible_facts.default_ipv4.address) before C(ansible_facts.default_ipv6.address)), and the host's own name."
  - C(natlb_address) may be one address or a list of them. Any other value is an error.
  - The host variables C(natlb_weight), C(natlb_state), C(natlb_backup) and C(natlb_max_connections) become its
    weight, state, backup and max_connections.
  - A host without a usable address is an error that names the host. Facts are known only if they were gathered.
  - An IP address that is not in the inventory makes a backend of that address.
author:
  - natlb contributors (@natlb)
positional: _input, hostvars
options:
  _input:
    description:
      - Names of hosts, such as C(groups['web']).
      - IP addresses, such as those from P(natlb.netfilter.to_addresses#filter), are accepted as well.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variable C(hostvars). It may be left out if only IP addresses are given.
    type: dict
  port:
    description: The port of all backends. By default they get the port that the service listens on.
    type: int
  family:
    description: Use only addresses of this family. By default any address is used, IPv4 before IPv6.
    type: str
    choices: [ipv4, ipv6]
  address_var:
    description: The host variable that holds the address (or a list of them). No other source is then used.
    type: str
requirements:
  - netaddr (on the controller)
seealso:
  - plugin: natlb.netfilter.to_addresses
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Balance over the group web
  natlb.netfilter.balancer:
    services:
      - name: web
        listen: [192.0.2.10:80]
        backends: "{{ groups['web'] | natlb.netfilter.to_backends(hostvars, port=8080) }}"
      - name: web6
        listen: ["[2001:db8::10]:80"]
        backends: "{{ groups['web'] | natlb.netfilter.to_backends(hostvars, port=8080, family='ipv6') }}"
      - name: app
        listen: [192.0.2.10:81]
        backends: "{{ '10.0.0.3-10.0.0.6' | natlb.netfilter.to_addresses | natlb.netfilter.to_backends }}"
"""

RETURN = r"""
_value:
  description: The backends, with name and address, and with port, weight, state, backup and
    max_connections if they are set.
  type: list
  elements: dict
  sample:
    - name: web1
      address: 10.0.0.3
      port: 8080
    - name: web2
      address: 10.0.0.4
      port: 8080
      weight: 3
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    import netaddr
except ImportError as error:
    netaddr = None
    NETADDR_ERROR: ImportError | None = error
else:
    NETADDR_ERROR = None

_VERSIONS = {None: (4, 6), "ipv4": (4,), "ipv6": (6,)}
_FROM_HOSTVARS = ("weight", "state", "backup", "max_connections")


def to_backends(
    names: Any, hostvars: Any = None, port: Any = None, family: Any = None, address_var: Any = None
) -> list[dict[str, Any]]:
    """The backends of the hosts called `names`. Raises AnsibleFilterError, naming the host that is not usable."""
    if netaddr is None:
        raise AnsibleFilterError(
            "natlb.netfilter.to_backends needs the Python library netaddr on the controller: pip install netaddr"
        ) from NETADDR_ERROR
    if family not in _VERSIONS:
        raise AnsibleFilterError(f"natlb.netfilter.to_backends: family {family!r} is not a choice here (ipv4 or ipv6)")
    if isinstance(names, (str, bytes, Mapping)) or not hasattr(names, "__iter__"):
        raise AnsibleFilterError(f"natlb.netfilter.to_backends: {names!r} is not a list of hosts (write groups['web'])")
    if hostvars is not None and not isinstance(hostvars, Mapping):
        raise AnsibleFilterError(
            "natlb.netfilter.to_backends: the first argument is not hostvars (write to_backends(hostvars))"
        )
    return [_backend(name, hostvars or {}, port, family, address_var) for name in names]


def _backend(name: Any, hostvars: Mapping[str, Any], port: Any, family: Any, address_var: Any) -> dict[str, Any]:
    known = name in hostvars
    if not known and not _loose(name):
        raise AnsibleFilterError(
            f"natlb.netfilter.to_backends: {name} is not a host of the inventory (check its spelling)"
        )
    variables = hostvars[name] if known else {}
    backend: dict[str, Any] = {"name": str(name), "address": _address(name, variables, family, address_var)}
    if port is not None:
        backend["port"] = port
    for key in _FROM_HOSTVARS:
        if variables.get(f"natlb_{key}") is not None:
            backend[key] = variables[f"natlb_{key}"]
    return backend


def _address(name: str, variables: Mapping[str, Any], family: Any, address_var: Any) -> str:
    versions = _VERSIONS[family]
    for candidates in _candidates(name, variables, address_var if variables else None):
        for version in versions:
            for address in candidates:
                if address.version == version:
                    return str(address)
    wanted = {"ipv4": "IPv4 ", "ipv6": "IPv6 "}.get(family, "")
    remedy = f"set {address_var}" if address_var else "set natlb_address for it, or gather its facts first"
    raise AnsibleFilterError(f"natlb.netfilter.to_backends: {name} has no usable {wanted}address ({remedy})")


def _candidates(name: str, variables: Mapping[str, Any], address_var: Any) -> Iterator[list[Any]]:
    """The addresses of a host, those of the best source first."""
    declared = address_var or "natlb_address"
    yield [_declared(item, name, declared) for item in _listed(variables.get(declared))]
    if address_var:
        return
    yield _loose(variables.get("ansible_host"))
    facts = variables.get("ansible_facts") or {}
    yield [
        address for key in ("default_ipv4", "default_ipv6") for address in _loose((facts.get(key) or {}).get("address"))
    ]
    yield _loose(name)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _declared(value: Any, name: str, variable: str) -> Any:
    found = _loose(value)
    if not found:
        raise AnsibleFilterError(
            f"natlb.netfilter.to_backends: {variable} of {name} is {value!r}, which is not an IP address "
            "(write one such as 10.0.0.3 or 2001:db8::3)"
        )
    return found[0]


def _loose(value: Any) -> list[Any]:
    """The address that `value` is, or nothing where it is a host name, unset or anything else."""
    if not isinstance(value, str):
        return []
    try:
        # Without this flag older releases of netaddr take "10" for 0.0.0.10.
        return [netaddr.IPAddress(value, flags=netaddr.INET_PTON)]
    except (netaddr.AddrFormatError, ValueError):
        return []


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"to_backends": to_backends}
