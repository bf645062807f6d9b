#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a host balance TCP, UDP and SCTP connections by NAT."""

from __future__ import annotations

DOCUMENTATION = r"""
module: balancer
short_description: Make a host balance TCP, UDP and SCTP connections by NAT
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - Makes the NAT of this host be exactly what is declared, with nothing but the Linux kernel.
  - All services, and nothing left over from earlier runs. What other tools keep in nftables or iptables is not touched.
  - Every change of the rules is one transaction of the kernel. Established TCP connections are never cut.
requirements:
  - nft 1.0.0 and Linux 5.13 or newer for the nftables engine, or iptables 1.8.
  - C(conntrack), where UDP services are declared.
options:
  services:
    description:
      - The services, each a mapping with a V(name), the addresses it listens on (V(listen)) and its V(backends).
      - Required unless O(state=absent) or O(egress) is given. A list that is empty takes every service away.
      - All keys are described in the collection's page on services (docs/services.md).
    type: list
    elements: raw
  egress:
    description:
      - Source NAT for the networks behind this host, each a mapping with a V(source) and optionally V(out_interface),
        V(protocol), V(destination_ports), V(snat) and V(uplinks).
      - All keys are described in the collection's page on egress (docs/egress.md).
    type: list
    elements: raw
  engine:
    description:
      - V(auto) takes nftables where nft and the kernel can do it, unless this host's rules live in iptables-legacy.
    type: str
    choices: [auto, nftables, iptables]
    default: auto
  forwarding:
    description:
      - Turn on forwarding in the kernel for the address families in use.
      - It is turned off again with the last service of a family, where this module has turned it on and nobody else can
        need it.
    type: bool
    default: true
  firewall:
    description:
      - What to do where the rules of others deny forwarded packets of the connections that are declared.
      - V(warn) only says which rule or policy denies them, and what to do.
      - V(accept) lets these connections, and no others, through a closed FORWARD chain of iptables, such as that of
        Docker or ufw, by a chain C(NATLB.forward) that it jumps to first. In nftables other tables are never changed;
        there a warning names the rule to add.
    type: str
    choices: [warn, accept]
    default: warn
  transit:
    description:
      - What to do with packets of others, where it was this module that turned forwarding on.
      - V(drop) forwards only what is declared between the interfaces that the host had at that time. Packets that come
        or go by an interface that came later, of Docker or a VPN, are left alone.
      - V(accept) makes the host a router for everybody. So is one whose forwarding was on before, where nothing is
        closed; see RV(natlb.netfilter.balancer_info#module:forwards_transit).
    type: str
    choices: [drop, accept]
    default: drop
  persist:
    description:
      - Keep the rules in C(/etc/natlb), with units of systemd that load them at boot, and the kernel settings in
        C(/etc/sysctl.d) and C(/etc/modules-load.d). With V(false) none of these is left.
      - Where systemd does not run, only C(/etc/natlb) is written, and a warning says what to run at boot.
    type: bool
    default: true
  mark_mask:
    description:
      - The bits of the connection mark and of the packet mark that hold the chosen uplink, as a run of adjoining bits.
      - Only used where O(egress) names uplinks and, by the iptables engine, where services overlap up to their
        interface, and share a backend but not their source NAT. V(0x3f000000) unless given.
    type: raw
  conntrack:
    description:
      - The connection tracking table, as a mapping with V(max), V(buckets) and V(timeouts).
      - V(max) is a number of entries, or V(auto) for one per 16 KiB of memory, which never makes the table smaller.
      - V(timeouts) is a mapping with any of V(tcp_established), V(tcp_time_wait), V(udp), V(udp_stream) and
        V(sctp_established), in seconds or such as V(1h).
      - Left as it is where this is not given.
    type: dict
  rollback_after:
    description:
      - Seconds (up to 300) after which the host goes back to its former rules by itself, unless the controller reaches
        it over a new connection after the change and confirms. V(0) changes the rules for good at once.
    type: raw
    default: 0
  allow_management_port:
    description:
      - Let a service take over the address and port by which this run manages the host. Refused otherwise.
      - Only ssh connections are known.
    type: bool
    default: false
  assume_installed:
    description:
      - In check mode, plan as if the programs of the engine were there, for a play that would have installed them.
      - Rules are then shown as they are loaded, which is not always how a kernel lists them.
    type: bool
    default: false
  state:
    description: V(absent) takes away everything that this module has ever made on the host.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: full
seealso:
  - module: natlb.netfilter.balancer_info
  - module: natlb.netfilter.probe
"""

EXAMPLES = r"""
- name: Spread web connections over three hosts
  natlb.netfilter.balancer:
    services:
      - name: web
        listen: [192.0.2.10:80]
        backends:
          - {address: 10.0.0.3, port: 8080, weight: 5}
          - {address: 10.0.0.4, port: 8080, weight: 3}
          - {address: 10.0.0.5, port: 8080, weight: 2}

- name: Keep DNS clients with their server, over UDP and TCP
  natlb.netfilter.balancer:
    services:
      - name: dns
        listen: ["192.0.2.10:53", "[2001:db8::10]:53"]
        protocol: [tcp, udp]
        method: source_hash
        backends:
          - {address: 10.0.0.3}
          - {address: 10.0.0.4}
          - {address: "2001:db8:2::3"}
          - {address: "2001:db8:2::4"}

- name: Take everything away again
  natlb.netfilter.balancer:
    state: absent
"""

RETURN = r"""
engine:
  description: The engine that holds the rules.
  returned: success
  type: str
  sample: nftables
confirmed:
  description: Whether the controller has reached the host over a new connection after the change.
  returned: when O(rollback_after) is not V(0) and something was changed
  type: bool
transaction:
  description: What was loaded into the kernel. V(none), V(delta), V(replace) or V(remove).
  returned: success
  type: str
  sample: delta
services:
  description: How many services the host balances.
  returned: success
  type: int
  sample: 3
sysctls:
  description:
    - The kernel settings that the declaration needs, to be kept for the next boot.
    - With slashes, which sysctl.d(5) and sysctl(8) take as well, since the name of an interface may have dots.
  returned: success
  type: dict
  sample: {"net/ipv4/ip_forward": "1"}
warnings:
  description: What works otherwise than one might think, each with the reason and the name of the host in front.
  returned: success
  type: list
  elements: str
remarks:
  description: The same without the name of the host, and without the warnings that Ansible adds.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import NatlbError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan import packed
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan.balance import balance

ARGUMENTS = {
    "services": {"type": "list", "elements": "raw"},
    "egress": {"type": "list", "elements": "raw"},
    "engine": {"type": "str", "choices": ["auto", "nftables", "iptables"], "default": "auto"},
    "forwarding": {"type": "bool", "default": True},
    "firewall": {"type": "str", "choices": ["warn", "accept"], "default": "warn"},
    "transit": {"type": "str", "choices": ["drop", "accept"], "default": "drop"},
    "persist": {"type": "bool", "default": True},
    "mark_mask": {"type": "raw"},
    "conntrack": {"type": "dict"},
    "rollback_after": {"type": "raw", "default": 0},
    "allow_management_port": {"type": "bool", "default": False},
    "assume_installed": {"type": "bool", "default": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    # Services and egress, as the action plugin sends them. No secret, but nothing for the host's journal to repeat.
    packed.OPTION: {"type": "str", "no_log": True},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        outcome = balance(**packed.unpack(module.params), check=module.check_mode)
    except NatlbError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=outcome.changed,
        diff={"prepared": outcome.diff},
        engine=outcome.engine,
        transaction=outcome.transaction,
        services=outcome.services,
        remarks=outcome.warnings,
        _token=outcome.token,
        sysctls=outcome.sysctls,
    )


if __name__ == "__main__":
    main()
