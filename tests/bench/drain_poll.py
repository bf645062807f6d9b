# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one poll of a drain costs, by the size of the table of connections: how many does this backend still have?

The kernel picks them out. Beside it stands what it takes to read the whole table, as `conntrack -L | grep` does.

    tools/run python tests/bench/drain_poll.py [--connections 250000] [--rounds 5]

The connections are entries that are written into the table of a network namespace of its own, with their translation.
How many there may be is a setting of the machine (`net.netfilter.nf_conntrack_max`), which this leaves alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import control_plane
import report

#: Of one backend.
OF_ONE = 1000
#: Runs in the namespace: processor seconds of each poll, and of each reading of all.
CHILD = """
import ipaddress, json, socket, struct, sys, time
sys.path.insert(0, sys.argv[1])
asked = json.load(sys.stdin)
import subprocess
from _natlb.host import netlink, tracked
from _natlb.host.netlink import attribute, nested
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["nft", "add table ip t; add chain ip t c { type nat hook prerouting priority 0; }"], check=True)

def ends(source, target, source_port, target_port):
    ips = attribute(1, source) + attribute(2, target)
    ports = [attribute(kind, struct.pack("!H", port)) for kind, port in ((2, source_port), (3, target_port))]
    return nested(1, ips) + nested(2, attribute(1, b"\\6"), *ports)

def entry(number):
    # As ctnetlink takes it: the connection, its answers, when it ends, its state, and its translation.
    client, port = ipaddress.ip_address("10.0.0.0") + number // 50000, 10000 + number % 50000
    backend = (ipaddress.ip_address("10.128.0.0") + number // asked["of_one"]).packed
    vip = ipaddress.ip_address("192.0.2.10").packed
    body = nested(1, ends(client.packed, vip, port, 80)) + nested(2, ends(vip, client.packed, 80, port))
    body += attribute(7, struct.pack("!I", 3600)) + attribute(3, struct.pack("!I", 14))
    body += nested(4, nested(1, attribute(1, b"\\3")))
    ports = [attribute(kind, struct.pack("!H", 8080)) for kind in (1, 2)]
    body += nested(13, attribute(1, backend), attribute(2, backend), nested(3, *ports))
    return netlink._message(1 << 8, 2, body, 0x600)

with netlink.netfilter() as kernel:
    for first in range(0, asked["connections"], 500):
        batch = b"".join(map(entry, range(first, min(first + 500, asked["connections"]))))
        kernel._make_room(4 * len(batch))
        kernel._peer.sendto(batch, (0, 0))
        for data in kernel._arrived():
            assert not any(netlink._errors(data)), list(netlink._errors(data))[:3]

found = {"poll": [], "all": []}
backend = str(ipaddress.ip_address("10.128.0.0") + asked["connections"] // asked["of_one"] // 2)
for turn in range(asked["rounds"]):
    began = time.process_time()
    one = tracked.of_backend("ip", "tcp", backend, 8080)
    found["poll"].append(time.process_time() - began)
    assert len(one) == asked["of_one"] and all(item.active for item in one), (len(one), one[:1])
    began = time.process_time()
    with netlink.netfilter() as kernel:
        size = len(kernel.dump(netlink.CONNTRACK, 1, b"", 2))
    found["all"].append(time.process_time() - began)
    assert size >= asked["connections"], size
print(json.dumps(found))
"""


def main() -> None:
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--connections", type=int, default=250_000)
    args = parser.parse_args()
    most = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    if args.connections > most:
        raise SystemExit(f"net.netfilter.nf_conntrack_max is {most:,} here; ask for fewer --connections")
    print(report.machine())
    for connections in (args.connections // 100, args.connections // 10, args.connections):
        asked = {"connections": connections, "rounds": args.rounds, "of_one": min(OF_ONE, connections // 2)}
        with control_plane.Namespace() as namespace:
            answer = namespace.run(sys.executable, "-c", CHILD, str(control_plane.CORE), text=json.dumps(asked))
        poll, whole = (report.Rounds(tuple(1000 * s for s in json.loads(answer)[name])) for name in ("poll", "all"))
        print(
            f"{connections:,} connections, {asked['of_one']:,} of the backend: "
            f"a poll {poll.shown(1)} ms of a processor, to read all {whole.shown(1)} ms"
        )


if __name__ == "__main__":
    main()
