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
  - A service that is no longer declared is removed. The rules of other tools in nftables or iptables are not touched.
  - Every change of the rules is one transaction of the kernel. Established TCP connections are never cut.
  - An invalid declaration changes nothing. The errors come all at once, each with its place and a remedy.
requirements:
  - nft 1.0.0 and Linux 5.13 or newer for the nftables engine, or iptables 1.8.
  - C(conntrack), where UDP services are declared.
options:
  services:
    description:
      - The services of this host.
      - Required unless O(state=absent) or O(egress) is given. An empty list removes every service.
      - A list of one item may be written as the item alone, and numbers may be written as text.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The name of the service, unique on this host.
          - 1 to 63 of the characters a-z, 0-9, C(_) and C(-). The first one is a letter or a digit.
        type: str
        required: true
      listen:
        description:
          - Where clients connect to, as C(ADDRESS:PORT), such as V(192.0.2.10:80) or V([2001:db8::10]:80).
          - A range of ports is V(192.0.2.10:8000-8010). V(*:30080) is that port on every local address.
          - A network is V(198.51.100.0/24:443) or V([2001:db8:1::/64]:443); V(0.0.0.0/0:443) is that port whatever
            address a client asks for. Connections of this host itself to other hosts are not balanced by networks.
          - Where several services listen on the same packets, the most specific one takes them. An address comes before
            V(*), and that before a network, of which the longest prefix is first; then an O(services[].interface)
            before none, then a port or a range before the range around it. Only equal ones, and ranges that cross, are
            an error.
        type: list
        elements: str
        required: true
      protocol:
        description: The protocols of the service. Limits and affinity are shared by all of them.
        type: list
        elements: str
        choices: [tcp, udp, sctp]
        default: [tcp]
      interface:
        description:
          - Balance only connections that come in by this interface.
          - By default connections of every interface are balanced.
        type: str
      method:
        description:
          - How the backend of a new connection is chosen.
          - V(round_robin) takes the backends in turn, with exact shares.
          - V(random) chooses at random, by weight.
          - V(source_hash) hashes the address of the client, so that a client keeps its backend.
          - V(flow_hash) hashes the address and the port of the client.
          - V(destination_hash) hashes the address that the client asked for.
          - V(least_connections) prefers the backends with the fewest active connections for their weight. The agent
            counts them every second, and no backend gets more than twice its fair share of new connections.
        type: str
        choices: [round_robin, random, source_hash, flow_hash, destination_hash, least_connections]
        default: round_robin
      affinity:
        description:
          - How long a client keeps its backend after its last new connection, at most 7 days.
          - A number of seconds, or one with a unit, such as V(90s), V(5m), V(3h) or V(1d). V(0) turns affinity off.
        type: str
        default: "0"
      client_prefix:
        description:
          - How many leading bits of an address make one client, for O(services[].affinity) and the method
            V(source_hash). Clients whose provider moves them among addresses keep their backend so.
          - Limits for each client are for each address all the same.
        type: dict
        suboptions:
          ipv4:
            description: From V(1) to V(32), such as V(24).
            type: int
            default: 32
          ipv6:
            description: From V(1) to V(128), such as V(64).
            type: int
            default: 128
      snat:
        description:
          - The source address that the backends see.
          - V(masquerade) is an address of this host. V(none) is the address of the client; the replies of the backends
            then have to pass this host.
          - An address, or a list of addresses, over which the connections are spread.
        type: raw
        default: masquerade
      snat_ports:
        description:
          - The source ports of what is translated, such as V(20000-29999). By default any port.
          - No service may listen on one of them where translated connections may come from its address.
        type: str
      mark:
        description:
          - The mark of packets that go from clients to the backends, with its mask, such as V(0x10/0xff). A number
            alone is for all bits. Packets keep the bits that are not of the mask.
          - For C(ip rule fwmark), shaping and filters of this host.
        type: str
      idle_timeout:
        description:
          - After how long without packets a connection is forgotten, at most 7 days. Of TCP, established connections.
          - A number of seconds, or one with a unit, such as V(90s), V(5m), V(3h) or V(1d). V(0) leaves it to the times
            of the host, O(conntrack). Only with nftables, and not for V(sctp).
        type: str
        default: "0"
      helper:
        description:
          - A helper of connection tracking, for protocols that agree on further connections, which then go to the same
            backend. V(ftp) is for TCP, V(tftp) for UDP, V(sip) for both. Only with nftables.
          - It opens ports as clients and backends tell it to.
        type: str
        choices: [ftp, tftp, sip]
      snat_by_client:
        description:
          - Other source addresses for clients in some networks. O(services[].snat) is for all others.
          - The longest prefix decides.
        type: list
        elements: dict
        suboptions:
          networks:
            description: Networks or addresses of clients, such as V(198.51.100.0/24), or names of lists in O(networks).
            type: list
            elements: str
            required: true
          snat:
            description: V(masquerade), V(none), an address, or a list of addresses, as O(services[].snat).
            type: raw
            required: true
      allow_from:
        description:
          - The networks that may use the service, or names of lists in O(networks). All other clients are refused.
          - By default every client may use it. An empty list is an error.
        type: list
        elements: str
      deny_from:
        description:
          - Networks whose clients may not connect, or names of lists in O(networks). All others may, unless there is
            also an O(services[].allow_from).
          - Where both lists have a client, the network with the longer prefix decides.
        type: list
        elements: str
      when_denied:
        description:
          - What a client gets that may not connect, a refusal as if nothing listened, or no answer.
          - On iptables, a client over a limit of the service gets the same.
        type: str
        choices: [reject, drop]
        default: reject
      max_connections_per_client:
        description: How many connections a client address may have at a time. V(0) is no limit.
        type: int
        default: 0
      new_connections_per_second:
        description: How many new connections a second a client address may open. V(0) is no limit.
        type: int
        default: 0
      when_empty:
        description: What a client gets while no backend can serve. V(reject) refuses the connection.
        type: str
        choices: [reject, drop]
        default: reject
      log:
        description: Log new connections in the log of the kernel, at most 10 a second after the first 20.
        type: bool
        default: false
      log_prefix:
        description:
          - What the lines of O(services[].log) begin with, up to 29 characters, with the space that they end with.
          - By default it is C(natlb) and the name of the service.
        type: str
      health:
        description:
          - How to check the backends. V(none) in place of a mapping is no check.
          - A key that is of no use to the type of check is an error.
        type: dict
        suboptions:
          type:
            description:
              - The kind of check.
              - With V(tcp) a connection is opened. With V(http) and V(https) a page is requested.
              - With V(command) a program runs on this host, and its exit status tells.
              - With V(agent) the backend answers for itself, in the protocol of HAProxy's C(agent-check).
              - With V(udp) and V(dns) a datagram is sent, and answered.
            type: str
            choices: [none, tcp, http, https, command, agent, udp, dns]
            required: true
          port:
            description:
              - The port to check. By default it is that of the backend, or else the one that the service listens on.
              - It is required with the type V(agent).
            type: int
          address:
            description: The address to check. By default it is the address of the backend.
            type: str
          source:
            description: The local address that checks come from, for the backends of its family.
            type: str
          path:
            description: The path to request, with the types V(http) and V(https). The default is V(/).
            type: str
          host:
            description:
              - The C(Host) header to send, with the types V(http) and V(https), and the name of the certificate.
              - By default it is the address and port that is checked.
            type: str
          method:
            description: The method of the request, with the types V(http) and V(https). The default is V(GET).
            type: str
            choices: [GET, HEAD, OPTIONS]
          status:
            description:
              - The statuses of a healthy backend, with the types V(http) and V(https), such as V(200) or V(200-399).
              - The default is V(200).
            type: list
            elements: str
          body:
            description: A text that has to stand in the first 64 KiB of the page, with the types V(http) and V(https).
            type: str
          verify:
            description:
              - Whether the certificate of the backend has to be valid, with the type V(https).
              - The default is V(false).
            type: bool
          argv:
            description:
              - The program to run on this host and its arguments, with the type V(command).
              - C({address}) and C({port}) in an argument stand for what is checked.
            type: list
            elements: str
          user:
            description: The user that runs the program, with the type V(command). The default is V(nobody).
            type: str
          send:
            description: What to send, with the type V(udp). C(hex:00ff) stands for bytes.
            type: str
          expect:
            description:
              - What has to stand in the answer, with the type V(udp). C(hex:00ff) stands for bytes.
              - By default any answer will do.
            type: str
          query:
            description: The name whose address to ask for, with the type V(dns).
            type: str
          interval:
            description: The time from one check to the next.
            type: str
            default: 2s
          fast_interval:
            description:
              - The time from one check to the next while the state of the backend is changing.
              - By default it is O(services[].health.interval).
            type: str
          timeout:
            description: How long to wait for the whole answer, at most as long as the interval.
            type: str
            default: 1s
          fall:
            description: How many checks in a row have to fail before a backend is down.
            type: int
            default: 3
          rise:
            description: How many checks in a row have to succeed before a backend is up again.
            type: int
            default: 2
          jitter:
            description: By up to how much an interval is shorter, each time by another part of it.
            type: str
            default: "0"
          slow_start:
            description: How long a backend that came back takes to reach its weight.
            type: str
            default: "0"
          fail_open:
            description: Whether the backends of an address family stay in rotation while all of their checks fail.
            type: bool
            default: false
          on_down:
            description: What becomes of connections that are established to a backend that is down.
            type: str
            choices: [keep, reset]
            default: keep
      redispatch:
        description:
          - Give an attempt to connect that a backend refuses to another backend.
          - The default is V(true) for a TCP service with O(services[].health) and at least two backends, else V(false).
        type: bool
      takeover:
        description:
          - Let established TCP connections go on that another balancer had, such as one that has failed.
          - The default is V(true) where that is safe. That needs O(services[].snat=none), a method that hashes, and
            backends whose ports belong to one frontend each.
        type: bool
      min_healthy:
        description:
          - How many backends have to be healthy, as a number or as a percentage of those that are declared. With fewer,
            none of them gets new connections. The backups serve, or O(services[].when_empty) applies.
          - A backend counts that is up and active. Backups and backends of weight 0 do not count. Each address family
            counts by itself. It needs O(services[].health).
          - By default, one healthy backend is enough.
        type: str
      min_healthy_again:
        description:
          - How many have to be healthy before the backends of a service that has fallen below O(services[].min_healthy)
            serve again. The default is the same number.
        type: str
      pins:
        description:
          - Networks of clients that belong to one backend, whatever the method. The longest prefix decides.
          - While that backend gets no new connections, they are treated as any other client.
        type: list
        elements: dict
        suboptions:
          client:
            description:
              - A network or an address, such as V(198.51.100.0/24), or the name of a list in O(networks).
              - Of a list the networks of the backend's family are pinned. Another pin may take those of the other one.
            type: str
            required: true
          backend:
            description: The name of a backend of the service. Without a name of its own this is its address.
            type: str
            required: true
      backups:
        description:
          - Which backups serve, and when. With V(together) all of them, once no other backend can serve.
          - With V(one_for_one) one of them joins the others for each that cannot serve, in the order of the list.
          - With V(first) the first one alone, once no other backend can serve.
        type: str
        choices: [together, one_for_one, first]
        default: together
      backends:
        description: The backends of the service. The list may be empty.
        type: list
        elements: dict
        required: true
        suboptions:
          address:
            description: The IPv4 or IPv6 address of the backend.
            type: str
            required: true
          port:
            description:
              - The port of the backend. By default it is the port that the client asked for.
              - Where the service listens on a range, it may be a range of as many ports, such as V(9000-9010).
              - It may also be how far the ports are apart, such as V(+1000), within quotation marks.
            type: str
          name:
            description: The name of the backend, unique in its service. By default it is the address.
            type: str
          weight:
            description: The share of the backend, from 0 to 256. With V(0) it gets no new connections.
            type: int
            default: 1
          state:
            description:
              - V(drained) and V(disabled) get no new connections. Established TCP connections go on.
              - UDP clients stay with a V(drained) backend as long as they send, and leave a V(disabled) one at once.
            type: str
            choices: [active, drained, disabled]
            default: active
          backup:
            description: Whether the backend serves only while no other one can.
            type: bool
            default: false
          max_connections:
            description:
              - Connections that the backend has at a time within this service. More go to the next backend that has
                room, then to those with V(backup=true), then O(services[].when_empty) applies.
              - V(0) is no limit. Only with nftables.
            type: int
            default: 0
          snat:
            description:
              - What this backend sees instead of the client's address, where it is not O(services[].snat).
              - V(masquerade), V(none), or one address. O(services[].snat_by_client) comes first.
            type: str
          mark:
            description:
              - The mark of packets to this backend, with its mask. It is set beside O(services[].mark), and counts
                where both have the same bits.
            type: str
          priority:
            description:
              - From 1 to 255, for backups, where O(services[].backups) is V(one_for_one) or V(first).
              - Those of one priority join together, the lowest number first. By default each joins by itself.
            type: int
  egress:
    description:
      - Source NAT for the networks behind this host.
      - The first rule that matches a connection applies.
    type: list
    elements: dict
    suboptions:
      source:
        description: The networks whose connections are translated. Connections among them are left alone.
        type: list
        elements: str
        required: true
      destination:
        description: The networks to which connections are translated. By default it is every destination.
        type: list
        elements: str
      out_interface:
        description: Translate only what leaves by this interface. It cannot be combined with O(egress[].uplinks).
        type: str
      protocol:
        description: Translate only this protocol.
        type: str
        choices: [tcp, udp, sctp]
      destination_ports:
        description: Translate only connections to these ports or ranges. Needs O(egress[].protocol).
        type: list
        elements: str
      snat:
        description:
          - The new source address. V(masquerade) is the address of the interface that a packet leaves by.
          - V(none) is an exception; what matches keeps its address, and the rules behind this one do not apply to it.
        type: str
        default: masquerade
      snat_ports:
        description:
          - The source ports of what is translated, such as V(20000-29999). One of them is kept where it is free.
          - No service may listen on one of them, if connections may be translated to its address.
        type: str
      uplinks:
        description: The ways out among which each new connection is spread by weight.
        type: list
        elements: dict
        suboptions:
          interface:
            description: The interface of the uplink.
            type: str
            required: true
          gateway:
            description: The next hop there. Leave it out where the interface itself leads to the other end.
            type: str
          weight:
            description: The share of new connections, from 1 to 256.
            type: int
            default: 1
  engine:
    description:
      - The part of the kernel that holds the rules.
      - V(auto) takes nftables if nft and the kernel support it, unless the rules of this host are in iptables-legacy.
    type: str
    choices: [auto, nftables, iptables]
    default: auto
  forwarding:
    description:
      - Turn on forwarding in the kernel for the address families in use.
      - Forwarding is turned off again with the last service of a family, if this module has turned it on and nobody
        else can need it.
    type: bool
    default: true
  firewall:
    description:
      - What to do where another firewall of this host denies balanced connections.
      - V(warn) names the rule or the policy that denies them, and the remedy.
      - V(accept) lets these connections, and no others, through a closed FORWARD chain of iptables, such as that of
        Docker or ufw. FORWARD then jumps to the chain C(NATLB.forward) first. Tables of other tools in nftables are
        never changed; a warning names the rule to add there.
    type: str
    choices: [warn, accept]
    default: warn
  transit:
    description:
      - What to do with routed traffic that is not balanced, if this module has turned forwarding on.
      - V(drop) forwards only declared traffic between the interfaces that the host had at that time. Packets that come
        in or leave by an interface that was added later, such as one of Docker or a VPN, are left alone.
      - V(accept) makes the host a router for all traffic. On a host that forwarded before, nothing is dropped; see
        RV(natlb.netfilter.balancer_info#module:forwards_transit).
    type: str
    choices: [drop, accept]
    default: drop
  agent:
    description:
      - Run the agent on this host also where no service has O(services[].health). It puts rules back that somebody has
        taken away, within a fraction of a second.
      - Where a service has O(services[].health), the agent runs in any case. It is C(natlb-agent.service), of the
        program C(/etc/natlb/current/natlb).
    type: bool
    default: false
  metrics:
    description:
      - How the agent publishes metrics in the text format of Prometheus. By default it publishes none; C(natlb metrics)
        prints them on the host.
      - Where they are published, the agent runs.
    type: dict
    suboptions:
      directory:
        description: The folder of node_exporter's textfile collector. C(natlb.prom) is written there every 15 seconds.
        type: path
      listen:
        description: Address and port that serve C(/metrics) over HTTP, such as V(127.0.0.1:9780).
        type: str
      idle:
        description: Whether backends that serve, and have and had no connection, are told of as well.
        type: bool
        default: true
  persist:
    description:
      - Keep the rules in C(/etc/natlb), with systemd units that load them at boot, and the kernel settings in
        C(/etc/sysctl.d) and C(/etc/modules-load.d). With V(false) none of these files is left.
      - Root finds the program C(natlb) in C(/usr/local/sbin), unless that folder is missing or cannot be written to.
      - On a host without systemd only C(/etc/natlb) and that program are written. A warning says what to run at boot.
    type: bool
    default: true
  networks:
    description:
      - Lists of client networks by name. O(services[].allow_from), O(services[].deny_from),
        O(services[].snat_by_client[].networks) and O(services[].pins[].client) may name them.
      - A list has networks and addresses of both families. It may also be the text of a file with one of them a line,
        or several such texts. Blank lines are left out, and so is what stands behind C(#) or C(;).
      - A name is 1 to 63 of the characters a-z, 0-9, C(_) and C(-), and begins with a letter.
      - An empty list is an error, and so is the name of a list that is not there.
    type: dict
  mark_mask:
    description:
      - The bits of the connection mark and of the packet mark that hold the chosen uplink, as a run of adjoining bits.
      - Only O(egress) rules with uplinks use them. The iptables engine also uses them where services overlap, the more
        specific one has an interface, and they share a backend but not their source NAT. The default is V(0x3f000000).
    type: raw
  conntrack:
    description:
      - The connection tracking table.
      - By default the table is left as it is.
    type: dict
    suboptions:
      max:
        description:
          - The size of the table as a number of entries.
          - V(auto) is one entry per 16 KiB of memory. It never makes the table smaller.
        type: str
      buckets:
        description: The number of hash buckets. It cannot be combined with V(auto).
        type: int
      timeouts:
        description:
          - How long the kernel keeps an idle entry, in seconds or with a unit, such as V(1h).
          - A timeout that is not given stays as it is.
        type: dict
        suboptions:
          tcp_established:
            description: For established TCP connections.
            type: str
          tcp_time_wait:
            description: For TCP connections that both ends have closed.
            type: str
          udp:
            description: For UDP flows that were not answered, or only once.
            type: str
          udp_stream:
            description: For UDP flows with packets in both directions.
            type: str
          sctp_established:
            description: For established SCTP associations.
            type: str
  rollback_after:
    description:
      - After so many seconds the host restores its former rules by itself, unless the controller confirms the change
        over a new connection. The highest value is 300.
      - V(0) makes changes final at once.
    type: raw
    default: 0
  allow_management_port:
    description:
      - Allow a service to take over the address and the port by which Ansible manages this host.
      - Only ssh connections are recognised.
    type: bool
    default: false
  assume_installed:
    description:
      - In check mode, plan as if the programs of the engine were installed. A play that installs them needs this.
      - The diff then shows the rules as they would be loaded. A kernel may list them differently.
    type: bool
    default: false
  state:
    description: V(absent) removes everything that this module has made on this host.
    type: str
    choices: [present, absent]
    default: present
  _packed:
    description:
      - Internal. The action plugin sends O(services), O(egress), O(networks), O(conntrack) and O(metrics) in this one
        text.
      - Leave it out.
    type: str
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

- name: Let the clients of one list use several services, but for those of another
  natlb.netfilter.balancer:
    networks:
      office: [198.51.100.0/24, "2001:db8:7::/48"]
      blocked: "{{ lookup('ansible.builtin.file', 'blocked.txt') }}"
    services:
      - name: admin
        listen: 192.0.2.10:8443
        allow_from: office
        backends: [10.0.0.3:8443]
      - name: shop
        listen: 192.0.2.10:443
        deny_from: [blocked, 203.0.113.9]
        backends: [10.0.0.3:8443, 10.0.0.4:8443]

- name: Remove everything
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
  description: Whether the controller has confirmed the change over a new connection.
  returned: when O(rollback_after) is not V(0) and something was changed
  type: bool
transaction:
  description: The change in the kernel. V(none), V(delta), V(replace) or V(remove).
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
    - The kernel settings that the declaration needs, and that are kept for the next boot.
    - The names have slashes, since the name of an interface may have dots. sysctl.d(5) and sysctl(8) accept them.
  returned: success
  type: dict
  sample: {"net/ipv4/ip_forward": "1"}
warnings:
  description: Problems that do not stop a run, each with the name of the host, the reason and a remedy.
  returned: success
  type: list
  elements: str
remarks:
  description: The same without the name of the host, and without the warnings that Ansible adds.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import archive

archive.compile_once()

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.cli import single_file
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import NatlbError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan import packed
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan.balance import balance

# Services, egress, networks, conntrack and metrics never arrive in these options: the action plugin sends them as one
# text. So Ansible spends no time on thousands of services, and the parser of natlb reports all that is wrong with them.
BACKEND = {
    "address": {"type": "str", "required": True},
    "port": {"type": "str"},
    "name": {"type": "str"},
    "weight": {"type": "int", "default": 1},
    "state": {"type": "str", "choices": ["active", "drained", "disabled"], "default": "active"},
    "backup": {"type": "bool", "default": False},
    "max_connections": {"type": "int", "default": 0},
    "snat": {"type": "str"},
    "mark": {"type": "str"},
    "priority": {"type": "int"},
}
HEALTH_TYPES = ["none", "tcp", "http", "https", "command", "agent", "udp", "dns"]
HEALTH = {
    "type": {"type": "str", "choices": HEALTH_TYPES, "required": True},
    "port": {"type": "int"},
    "address": {"type": "str"},
    "source": {"type": "str"},
    "path": {"type": "str"},
    "host": {"type": "str"},
    "method": {"type": "str", "choices": ["GET", "HEAD", "OPTIONS"]},
    "status": {"type": "list", "elements": "str"},
    "body": {"type": "str"},
    "verify": {"type": "bool"},
    "argv": {"type": "list", "elements": "str"},
    "user": {"type": "str"},
    "send": {"type": "str"},
    "expect": {"type": "str"},
    "query": {"type": "str"},
    "interval": {"type": "str", "default": "2s"},
    "fast_interval": {"type": "str"},
    "timeout": {"type": "str", "default": "1s"},
    "fall": {"type": "int", "default": 3},
    "rise": {"type": "int", "default": 2},
    "jitter": {"type": "str", "default": "0"},
    "slow_start": {"type": "str", "default": "0"},
    "fail_open": {"type": "bool", "default": False},
    "on_down": {"type": "str", "choices": ["keep", "reset"], "default": "keep"},
}
METHODS = ["round_robin", "random", "source_hash", "flow_hash", "destination_hash", "least_connections"]
PROTOCOLS = ["tcp", "udp", "sctp"]
SERVICE = {
    "name": {"type": "str", "required": True},
    "listen": {"type": "list", "elements": "str", "required": True},
    "protocol": {"type": "list", "elements": "str", "choices": PROTOCOLS, "default": ["tcp"]},
    "interface": {"type": "str"},
    "method": {"type": "str", "choices": METHODS, "default": "round_robin"},
    "affinity": {"type": "str", "default": "0"},
    "client_prefix": {
        "type": "dict",
        "options": {"ipv4": {"type": "int", "default": 32}, "ipv6": {"type": "int", "default": 128}},
    },
    "snat": {"type": "raw", "default": "masquerade"},
    "snat_ports": {"type": "str"},
    "mark": {"type": "str"},
    "idle_timeout": {"type": "str", "default": "0"},
    "helper": {"type": "str", "choices": ["ftp", "tftp", "sip"]},
    "snat_by_client": {
        "type": "list",
        "elements": "dict",
        "options": {
            "networks": {"type": "list", "elements": "str", "required": True},
            "snat": {"type": "raw", "required": True},
        },
    },
    "allow_from": {"type": "list", "elements": "str"},
    "deny_from": {"type": "list", "elements": "str"},
    "when_denied": {"type": "str", "choices": ["reject", "drop"], "default": "reject"},
    "max_connections_per_client": {"type": "int", "default": 0},
    "new_connections_per_second": {"type": "int", "default": 0},
    "when_empty": {"type": "str", "choices": ["reject", "drop"], "default": "reject"},
    "log": {"type": "bool", "default": False},
    "log_prefix": {"type": "str"},
    "health": {"type": "dict", "options": HEALTH},
    "redispatch": {"type": "bool"},
    "takeover": {"type": "bool"},
    "min_healthy": {"type": "str"},
    "min_healthy_again": {"type": "str"},
    "pins": {
        "type": "list",
        "elements": "dict",
        "options": {"client": {"type": "str", "required": True}, "backend": {"type": "str", "required": True}},
    },
    "backups": {"type": "str", "choices": ["together", "one_for_one", "first"], "default": "together"},
    "backends": {"type": "list", "elements": "dict", "options": BACKEND, "required": True},
}
UPLINK = {
    "interface": {"type": "str", "required": True},
    "gateway": {"type": "str"},
    "weight": {"type": "int", "default": 1},
}
EGRESS = {
    "source": {"type": "list", "elements": "str", "required": True},
    "destination": {"type": "list", "elements": "str"},
    "out_interface": {"type": "str"},
    "protocol": {"type": "str", "choices": PROTOCOLS},
    "destination_ports": {"type": "list", "elements": "str"},
    "snat": {"type": "str", "default": "masquerade"},
    "snat_ports": {"type": "str"},
    "uplinks": {"type": "list", "elements": "dict", "options": UPLINK},
}
TIMEOUTS = ("tcp_established", "tcp_time_wait", "udp", "udp_stream", "sctp_established")
CONNTRACK = {
    "max": {"type": "str"},
    "buckets": {"type": "int"},
    "timeouts": {"type": "dict", "options": {name: {"type": "str"} for name in TIMEOUTS}},
}
METRICS = {
    "directory": {"type": "path"},
    "listen": {"type": "str"},
    "idle": {"type": "bool", "default": True},
}
ARGUMENTS = {
    "services": {"type": "list", "elements": "dict", "options": SERVICE},
    "egress": {"type": "list", "elements": "dict", "options": EGRESS},
    "engine": {"type": "str", "choices": ["auto", "nftables", "iptables"], "default": "auto"},
    "forwarding": {"type": "bool", "default": True},
    "firewall": {"type": "str", "choices": ["warn", "accept"], "default": "warn"},
    "transit": {"type": "str", "choices": ["drop", "accept"], "default": "drop"},
    "persist": {"type": "bool", "default": True},
    "networks": {"type": "dict"},
    "mark_mask": {"type": "raw"},
    "conntrack": {"type": "dict", "options": CONNTRACK},
    "metrics": {"type": "dict", "options": METRICS},
    "rollback_after": {"type": "raw", "default": 0},
    "allow_management_port": {"type": "bool", "default": False},
    "agent": {"type": "bool", "default": False},
    "assume_installed": {"type": "bool", "default": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    # What the action plugin sends. No secret, but nothing for the host's journal to repeat.
    packed.OPTION: {"type": "str", "no_log": True},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        outcome = balance(**packed.unpack(module.params), check=module.check_mode, program=single_file.text)
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
