# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `anycast_addresses`: the addresses that services listen on."""

from __future__ import annotations

DOCUMENTATION = r"""
name: anycast_addresses
short_description: List the addresses that services listen on
version_added: 0.1.0
description:
  - Lists every address that a service listens on, once. V(*) and networks are left out.
  - The role P(natlb.netfilter.anycast#role) announces them.
author:
  - natlb contributors (@natlb)
options:
  _input:
    description: Services, as in C(natlb_services). Items that are addresses stay.
    type: list
    elements: raw
    required: true
"""

EXAMPLES = r"""
- name: Announce the addresses of the services, and one more
  ansible.builtin.include_role:
    name: natlb.netfilter.anycast
  vars:
    natlb_anycast_addresses: "{{ natlb_services | natlb.netfilter.anycast_addresses + ['192.0.2.99'] }}"
"""

RETURN = r"""
_value:
  description: The addresses, those of IPv4 first.
  type: list
  elements: str
  sample: [192.0.2.10, "2001:db8:1::10"]
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.natlb.netfilter.plugins.plugin_utils import anycast
from ansible_collections.natlb.netfilter.plugins.plugin_utils.filter_errors import as_filter


@as_filter
def anycast_addresses(services: Any) -> list[str]:
    """See `anycast.addresses`."""
    return anycast.addresses(services)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"anycast_addresses": anycast_addresses}
