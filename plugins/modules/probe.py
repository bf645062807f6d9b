#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry of the module: its documentation and its parameters. What it does is in module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: probe
short_description: Open connections to a service and count the backends that answer
version_added: 0.1.0
description:
  - Opens connections to a balanced service from the host that the module runs on, and counts the answers of each
    backend.
  - Compares the counts with the expected weights. If they differ, it fails with a message that names every backend.
  - Every connection has its own source port, so that the balancer chooses a backend for each.
  - Run it on a client of the service. Connections of the balancer itself take another path through the rules.
author:
  - natlb contributors (@natlb)
attributes:
  check_mode:
    description: Does the same in check mode, as it changes nothing on the host that it runs on.
    support: full
  diff_mode:
    description: Has no diff, as it changes nothing.
    support: none
  platform:
    description: Target operating systems.
    support: full
    platforms: linux
options:
  target:
    description:
      - Where to connect to, as C(ADDRESS:PORT), C([IPV6]:PORT) or C(HOSTNAME:PORT).
      - A host name is resolved once, and its first address is used.
    type: str
    required: true
  protocol:
    description:
      - V(tcp) connects and reads until the first line in which O(identify) is found, or until the service closes.
      - V(http) sends a GET request and reads the whole answer.
      - V(udp) sends one datagram from a socket of its own and reads one. It is not repeated, so a lost one is an error.
    type: str
    choices: [tcp, http, udp]
    default: tcp
  connections:
    description:
      - How many connections to open, 1 to 1000000.
      - Fewer are opened if nothing at all answers, see RV(connections).
    type: int
    default: 100
  concurrency:
    description: How many connections may be open at the same time, 1 to 500.
    type: int
    default: 10
  timeout:
    description:
      - How long each connection may take from its opening to its answer.
      - A number of seconds, or a number with the unit V(ms), V(s), V(m) or V(h).
    type: str
    default: 5s
  identify:
    description:
      - A Python regular expression that finds the name of the backend in its answer, with C(^) and C($) at every line.
      - The name is group 1 if the expression has a group, else all that it matches.
      - With O(protocol=http) the body is searched first, then the header.
      - Without it, the name is the first word of the answer (of the body with O(protocol=http)).
    type: str
  connect_only:
    description:
      - Counts the connections that succeed, without asking for names. So it works with every server, also with one that
        waits for the client to speak. The counters of the balancer say which backends got the connections, see
        M(natlb.netfilter.balancer_info).
      - With O(protocol=tcp) a connection is opened and closed. With O(protocol=udp) one datagram is sent. A missing
        answer is then no error; an ICMP message that nothing listens is one.
      - It cannot be combined with O(protocol=http), O(identify) or O(expected).
    type: bool
    default: false
  payload:
    description:
      - What to send after connecting, with O(protocol=tcp) and O(protocol=udp).
      - The default is nothing for V(tcp) and one line for V(udp).
    type: str
  path:
    description: The path to request with O(protocol=http).
    type: str
    default: /
  host:
    description:
      - The C(Host) header with O(protocol=http).
      - The default is O(target).
    type: str
  status:
    description:
      - The HTTP statuses that count as an answer with O(protocol=http).
      - The default is 200 to 399.
    type: list
    elements: int
  source:
    description:
      - The address of this host to connect from.
      - By default the routes of the host choose it.
    type: str
  expected:
    description:
      - The names that should answer, with their weights. A weight is any number above 0.
      - A name that answers and is not listed makes the module fail.
      - Without this option, any spread is right.
    type: dict
  tolerance:
    description:
      - How far each count may be off, as a fraction of the expected count. V(0.1) allows a tenth more or less.
      - V(0) requires the exact count. An expected count that is not a whole number may be rounded up or down.
      - Use it for round robin.
    type: float
  significance:
    description:
      - The module fails if a spread at least as uneven as the observed one occurs by chance with a probability below
        this (Pearson's chi-square test).
      - Use it for methods that choose by a random number or a hash.
      - The default is V(0.001) if O(tolerance) is not set.
    type: float
  max_errors:
    description: How many connections may fail before the module fails.
    type: int
    default: 0
notes:
  - Needs only Python on the host that it runs on.
  - Takes at most O(timeout) times O(connections) divided by O(concurrency).
  - With the method C(source_hash) or with affinity, one client always gets one backend. Leave O(expected) out then, or
    name only that backend.
  - With masquerade a connection may get a source port that the backend still has in TIME_WAIT for another client. TCP
    then repeats the attempt, the balancer chooses again, and an exact count is off by one. No connection is lost.
seealso:
  - module: natlb.netfilter.balancer
  - module: natlb.netfilter.balancer_info
"""

EXAMPLES = r"""
- name: Expect round robin over three web servers, to the last connection
  natlb.netfilter.probe:
    target: 192.0.2.10:80
    protocol: http
    connections: 300
    identify: "^Server-Name: (\\S+)"
    expected: {web1: 1, web2: 1, web3: 1}
    tolerance: 0
  delegate_to: client

- name: Expect random choice with weights
  natlb.netfilter.probe:
    target: "[2001:db8::10]:9000"
    connections: 3000
    concurrency: 50
    expected: {app1: 5, app2: 3, app3: 2}
    significance: 0.001

- name: Count the answers to requests over UDP
  natlb.netfilter.probe:
    target: 192.0.2.10:9000
    protocol: udp
    payload: who
    timeout: 500ms
    max_errors: 1
  register: answers

- name: Open 300 connections to a database that waits for its clients to speak
  natlb.netfilter.probe:
    target: 192.0.2.10:5432
    connections: 300
    connect_only: true

- name: Show the counts
  ansible.builtin.debug:
    var: answers.backends
"""

RETURN = r"""
backends:
  description:
    - How many connections each backend answered, by its name. Expected backends are listed even without an answer.
    - Empty with O(connect_only).
  returned: when connections were opened
  type: dict
  sample: {web1: 100, web2: 100, web3: 100}
connections:
  description:
    - How many connections were opened.
    - Fewer than requested if the first ones (O(concurrency), or O(max_errors) and one more) all failed.
  returned: when connections were opened
  type: int
  sample: 300
errors:
  description: How many connections got no answer, or one without a name.
  returned: when connections were opened
  type: int
  sample: 0
error_messages:
  description: The most frequent reasons, and how often each occurred.
  returned: when connections were opened
  type: list
  elements: dict
  contains:
    message:
      description: The failed step (C(connect) or C(answer)) and the reason.
      type: str
      sample: "connect: Connection refused"
    count:
      description: How many connections failed for this reason.
      type: int
      sample: 12
latency_ms:
  description: Milliseconds from the opening of a connection to its answer. Null if there was no answer.
  returned: when connections were opened
  type: dict
  contains:
    p50:
      description: Half of the answers took no longer.
      type: float
      sample: 0.8
    p99:
      description: 99 of 100 answers took no longer.
      type: float
      sample: 3.1
p_value:
  description:
    - The probability that a spread at least as uneven as the observed one occurs by chance, 0 to 1.
    - Null without O(expected), or without a single answer.
  returned: when connections were opened
  type: float
  sample: 0.71
"""

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import archive

archive.compile_once()

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import NatlbError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.probe import connections as core
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.probe import settings

ARGUMENT_SPEC = {
    "target": {"type": "str", "required": True},
    "protocol": {"type": "str", "choices": list(settings.PROTOCOLS), "default": "tcp"},
    "connections": {"type": "int", "default": 100},
    "concurrency": {"type": "int", "default": 10},
    "timeout": {"type": "str", "default": "5s"},
    "identify": {"type": "str"},
    "connect_only": {"type": "bool", "default": False},
    "payload": {"type": "str"},
    "path": {"type": "str", "default": "/"},
    "host": {"type": "str"},
    "status": {"type": "list", "elements": "int"},
    "source": {"type": "str"},
    "expected": {"type": "dict"},
    "tolerance": {"type": "float"},
    "significance": {"type": "float"},
    "max_errors": {"type": "int", "default": 0},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        mutually_exclusive=[("tolerance", "significance")],
        required_by={"tolerance": "expected", "significance": "expected"},
        supports_check_mode=True,
    )
    try:
        outcome = core.run(settings.parse_settings(module.params))
    except NatlbError as error:
        module.fail_json(msg=str(error))
    for warning in outcome.warnings:
        module.warn(warning)
    if outcome.problems:
        module.fail_json(msg="\n".join(outcome.problems), **outcome.result)
    module.exit_json(changed=False, **outcome.result)


if __name__ == "__main__":
    main()
