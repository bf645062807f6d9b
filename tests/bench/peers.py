# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections, requests, throughput, latency and processor time, beside other balancers for the same four backends.

Each round measures every contestant, in another order, so that a slow moment of the machine meets all of them. Client,
balancers and backends are network namespaces of one machine (peers_lab.py), so they share its processors: what a
balancer does not use, the client and the backends do.

    tools/run python tests/bench/peers.py [--rounds 5] [--seconds 3] [--keep FILE] [--write]

With --keep, rounds are added to those of an earlier run, in a file: for machines that cannot be had for long.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers_lab
import report
from kernel_lab import drive
from kernel_lab.host import Host
from peers_lab import BULK_PORT, CORES, HTTP_PORT, NAMES, Load, Network, Running, Stand, Wish

#: Connections at a time: enough to keep all processors busy; and few enough for short queues.
MANY, FEW = 64, 4
#: Requests before the first round, one after the other, each on a connection of its own.
FIRST = 100

NGINX = """\
user root;
worker_processes {cores};
worker_rlimit_nofile 16384;
daemon off;
pid {folder}/{name}.pid;
error_log stderr;
"""

NGINX_BACKEND = """\
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 80 reuseport backlog=4096;
        listen {port} reuseport backlog=4096;
        default_type text/plain;
        return 200 "{name}\\n";
    }}
}}
"""

NGINX_STREAM = """\
events {{ worker_connections 8000; }}
stream {{
    upstream web {{ {webs} }}
    upstream bulk {{ {bulk} }}
    server {{ listen {vip}:80 backlog=4096; proxy_pass web; }}
    server {{ listen {vip}:{bulk_port}; proxy_pass bulk; }}
}}
"""

HAPROXY = """\
global
    nbthread {cores}
    maxconn 4000
defaults
    mode tcp
    balance roundrobin
    option splice-auto
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen web
    bind {vip}:80 backlog 4096
    {webs}
listen bulk
    bind {vip}:{bulk_port}
    {bulk}
"""

BY_HAND = """\
table ip by_hand {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {vip} tcp dport 80 dnat ip to numgen inc mod 4 map {{ {webs} }}
        ip daddr {vip} tcp dport {bulk_port} dnat to {bulk}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ct status dnat masquerade{ports}
    }}
}}
"""


# --- contestants ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a contestant is set up: its stand, the backends, the running programs, and a folder for its files."""

    stand: Stand
    backends: Sequence[Host]
    running: Running
    folder: Path

    def write(self, suffix: str, text: str) -> str:
        path = self.folder / f"{self.stand.number}.{suffix}"
        path.write_text(text)
        return str(path)


#: Sets a contestant up; the ID of its process where it has one that connections pass through.
SetUp = Callable[[Place], "int | None"]


def direct(place: Place) -> None:
    """Routing and nothing else: all backends have the virtual address, and a hash of the connection picks the way."""
    stand = place.stand
    for backend in place.backends:
        backend.ip(f"address add {stand.vip}/32 dev lo")
    ways = " ".join(f"nexthop via {address}" for address in stand.webs.values())
    stand.host.sysctl({"ipv4/fib_multipath_hash_policy": 1})
    stand.host.ip(f"route add {stand.vip}/32 {ways}")


def by_hand(ports: str = "") -> SetUp:
    """What one would type for these four backends, and no more: the floor of what NAT costs. `ports` says which ones
    the backends see."""

    def set_up(place: Place) -> None:
        stand = place.stand
        webs = ", ".join(f"{i} : {address} . {HTTP_PORT}" for i, address in enumerate(stand.webs.values()))
        text = BY_HAND.format(vip=stand.vip, webs=webs, bulk_port=BULK_PORT, bulk=stand.web(0), ports=ports)
        stand.host.run("nft", "-f", place.write("nft", text))

    return set_up


def natlb(engine: str, variant: str | None = None, snat: str = "masquerade") -> SetUp:
    def set_up(place: Place) -> None:
        stand = place.stand
        webs = [{"name": name, "address": address, "port": HTTP_PORT} for name, address in stand.webs.items()]
        services = [
            {"name": "web", "listen": f"{stand.vip}:80", "snat": snat, "backends": webs},
            {
                "name": "bulk",
                "listen": f"{stand.vip}:{BULK_PORT}",
                "snat": snat,
                "backends": [{"address": stand.web(0)}],
            },
        ]
        options = {"engine": engine, **({"iptables_variant": variant} if variant else {})}
        outcome = stand.host.call(drive.balance, str(place.folder / str(stand.number)), services, **options)
        if not outcome.changed:
            raise RuntimeError(f"{stand.name}: nothing was loaded")

    return set_up


def nftlb(place: Place) -> None:
    """Mode snat is its DNAT with masquerade. It loads its rules and ends (-e)."""
    stand = place.stand
    webs = [_nftlb_backend(name, address, str(HTTP_PORT)) for name, address in stand.webs.items()]
    farms = [
        _nftlb_farm("web", stand.vip, "80", webs),
        _nftlb_farm("bulk", stand.vip, str(BULK_PORT), [_nftlb_backend(NAMES[0], stand.web(0), "")]),
    ]
    path = place.write("nftlb.json", json.dumps({"farms": farms}))
    peers_lab.run(stand.host, "nftlb", "-e", "-c", path, timeout_s=peers_lab.START_S)


def _nftlb_farm(name: str, address: str, port: str, backends: list[dict[str, str]]) -> dict[str, Any]:
    where = {"family": "ipv4", "virtual-addr": address, "virtual-ports": port, "protocol": "tcp"}
    return {"name": name, **where, "mode": "snat", "scheduler": "rr", "state": "up", "backends": backends}


def _nftlb_backend(name: str, address: str, port: str) -> dict[str, str]:
    return {"name": name, "ip-addr": address, "port": port, "weight": "1", "priority": "1", "state": "up"}


def haproxy(place: Place) -> int:
    stand = place.stand
    webs = [f"server {name} {address}:{HTTP_PORT}" for name, address in stand.webs.items()]
    text = HAPROXY.format(
        cores=CORES,
        vip=stand.vip,
        bulk_port=BULK_PORT,
        webs="\n    ".join(webs),
        bulk=f"server web1 {stand.web(0)}:{BULK_PORT}",
    )
    stand.host.ip(f"address add {stand.vip}/32 dev lo")
    return place.running.start(
        f"haproxy {stand.number}", stand.host, ["haproxy", "-db", "-f", place.write("haproxy", text)]
    )


def nginx(place: Place) -> int:
    stand = place.stand
    module = peers_lab.stream_module()
    text = f"load_module {module};\n" if module else ""
    text += NGINX.format(cores=CORES, folder=place.folder, name=stand.number) + NGINX_STREAM.format(
        vip=stand.vip,
        bulk_port=BULK_PORT,
        webs=" ".join(f"server {address}:{HTTP_PORT};" for address in stand.webs.values()),
        bulk=f"server {stand.web(0)}:{BULK_PORT};",
    )
    stand.host.ip(f"address add {stand.vip}/32 dev lo")
    return start_nginx(place.running, f"nginx {stand.number}", stand.host, place.write("nginx", text))


def start_nginx(running: Running, name: str, host: Host, path: str) -> int:
    return running.start(name, host, ["nginx", "-e", "stderr", "-p", str(Path(path).parent), "-c", path])


DIRECT, RULE, NATLB = "direct", "one nft rule by hand", "natlb, nftables"
BY_CHANCE = "the same, ports by chance"
LEGACY, NFTLB, HA, NGX = "natlb, iptables (legacy)", "nftlb", "HAProxy", "nginx stream"
CONTESTANTS: dict[str, SetUp] = {
    DIRECT: direct,
    RULE: by_hand(),
    BY_CHANCE: by_hand(" fully-random"),
    NATLB: natlb("nftables"),
    "natlb, nftables, snat none": natlb("nftables", snat="none"),
    "natlb, iptables (nft)": natlb("iptables", "nft"),
    LEGACY: natlb("iptables", "legacy"),
    NFTLB: nftlb,
    HA: haproxy,
    NGX: nginx,
}


def able() -> list[str]:
    """The contestants that this kernel can do: some are built without the old iptables."""
    with contextlib.closing(Host("probe")) as probe:
        try:
            probe.run("iptables-legacy", "-t", "nat", "-S")
        except (RuntimeError, FileNotFoundError) as error:
            print(f"without {LEGACY}: {str(error).strip().splitlines()[-1]}")
            return [name for name in CONTESTANTS if name != LEGACY]
    return list(CONTESTANTS)


def bulk_target(stand: Stand) -> str:
    """iperf3 has two connections, which must meet at one backend."""
    return stand.web(0) if stand.name == DIRECT else stand.vip


# --- one machine, all contestants -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What one round found about one contestant."""

    connections: Load
    requests: Load
    light: Load
    gigabits: float


class Bench:
    """All contestants, ready to be measured."""

    def __init__(self, contestants: Sequence[str], folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._pids: dict[str, int | None] = {}
        self._script = folder / "done.lua"
        self._script.write_text(peers_lab.WRK_SCRIPT)

        self.network = Network(contestants)
        self._stack.callback(self.network.close)
        self._running = Running(folder)
        self._stack.callback(self._running.close)

    def __enter__(self) -> Bench:
        try:
            self._start_backends()
            for stand in self.network.stands:
                place = Place(stand, self.network.backends, self._running, self._folder)
                self._pids[stand.name] = CONTESTANTS[stand.name](place)
            for stand in self.network.stands:
                self._try_out(stand)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def _start_backends(self) -> None:
        for name, host in zip(NAMES, self.network.backends, strict=True):
            path = self._folder / f"{name}.nginx"
            text = NGINX.format(cores=CORES, folder=self._folder, name=name)
            path.write_text(text + NGINX_BACKEND.format(folder=self._folder, port=HTTP_PORT, name=name))
            start_nginx(self._running, name, host, str(path))
        self._running.start("iperf3", self.network.backends[0], ["iperf3", "-s", "-p", str(BULK_PORT)])

    def _try_out(self, stand: Stand) -> None:
        """All backends answer, about equally often, before anything is measured."""
        peers_lab.wait_for(self.network, self._running, stand.vip)
        found = self.network.client.call(peers_lab.answers, stand.vip, FIRST)
        # The direct way is a matter of chance, and nginx counts its turns in each worker.
        if set(found) != set(NAMES) or min(found.values()) < FIRST / len(NAMES) / 4:
            raise RuntimeError(f"{stand.name}: {FIRST} requests were answered by {dict(found)}")

    def measure(self, stand: Stand, seconds: int) -> Figures:
        self._running.check()
        requests = self._wrk(stand, max(1, seconds - 1), Wish(MANY))
        light = self._wrk(stand, 1, Wish(FEW))
        gigabits = peers_lab.iperf(self.network, bulk_target(stand), 1)
        # Last, since they leave most behind.
        connections = self._wrk(stand, seconds, Wish(MANY, close=True))
        peers_lab.forget(self.network, stand)
        return Figures(connections, requests, light, gigabits)

    def warm_up(self, stand: Stand) -> None:
        self._wrk(stand, 1, Wish(MANY, close=True))
        peers_lab.forget(self.network, stand)

    def _wrk(self, stand: Stand, seconds: int, wish: Wish) -> Load:
        load = peers_lab.wrk(self.network, stand, self._script, seconds, wish, self._pids[stand.name])
        if load.errors > load.requests / 1000:
            raise RuntimeError(f"{stand.name}: {load.errors} errors in {load.requests} requests")
        return load

    def set_ups(self) -> dict[str, str]:
        """What the others were told, and the rules that nftlb made of it."""
        stands = {stand.name: stand for stand in self.network.stands}
        shown = {}
        for name, suffix in {HA: "haproxy", NGX: "nginx", RULE: "nft"}.items():
            text = (self._folder / f"{stands[name].number}.{suffix}").read_text()
            # Paths of this machine say nothing to others.
            shown[name] = re.sub(r"^(load_module|pid) .*\n", "", text, flags=re.MULTILINE)
        return {**shown, NFTLB: stands[NFTLB].host.run("nft", "list", "ruleset")}


Results = dict[str, list[Figures]]


def measure(bench: Bench, rounds: int, seconds: int, seed: int) -> Results:
    """Caches and the tables of neighbours are filled before the first round."""
    stands = bench.network.stands
    for stand in stands:
        bench.warm_up(stand)
    found: Results = {stand.name: [] for stand in stands}
    chance = random.Random(seed)
    for number in range(1, rounds + 1):
        for stand in chance.sample(stands, len(stands)):
            figures = bench.measure(stand, seconds)
            found[stand.name].append(figures)
            print(_progress(number, stand.name, figures), flush=True)
    return found


def _progress(number: int, name: str, figures: Figures) -> str:
    return (
        f"{number} {name}: {figures.connections.rate:,.0f} connections/s,"
        f" {figures.requests.rate:,.0f} requests/s, p99 {figures.light.p99_us:.0f} us,"
        f" {figures.gigabits:.1f} Gbit/s, {figures.connections.repeated} SYNs sent again,"
        f" {figures.connections.errors + figures.requests.errors} errors"
    )


# --- keeping ----------------------------------------------------------------------------------------------------------


def kept(path: Path | None) -> Results:
    """The rounds of earlier runs."""
    if path is None or not path.exists():
        return {}
    return {name: [_figures(one) for one in rounds] for name, rounds in json.loads(path.read_text()).items()}


def _figures(one: Mapping[str, Any]) -> Figures:
    loads = {key: Load(**one[key]) for key in ("connections", "requests", "light")}
    return Figures(**loads, gigabits=one["gigabits"])


def together(earlier: Results, new: Results) -> Results:
    return {name: [*earlier.get(name, []), *rounds] for name, rounds in new.items()}


# --- report -----------------------------------------------------------------------------------------------------------


def rounds_of(results: Results, figure: Callable[[Figures], float]) -> dict[str, report.Rounds]:
    return {name: report.Rounds(tuple(map(figure, rounds))) for name, rounds in results.items()}


def connections_per_s(figures: Figures) -> float:
    return figures.connections.rate


def repeated_share(figures: Figures) -> float:
    """SYNs that were sent again, for 10,000 connections."""
    return 1e4 * figures.connections.repeated / figures.connections.requests


def requests_per_s(figures: Figures) -> float:
    return figures.requests.rate


def extra_cost(results: Results) -> dict[str, report.Rounds]:
    """Microseconds of the machine for each connection that the direct way did not take in the same round."""
    machine = rounds_of(results, lambda figures: figures.connections.machine_us)
    return {
        name: report.Rounds(tuple(a - b for a, b in zip(cost.values, machine[DIRECT].values, strict=True)))
        for name, cost in machine.items()
        if name != DIRECT
    }


def main_table(results: Results) -> list[str]:
    columns: dict[str, tuple[Callable[[Figures], float], int]] = {
        "connections/s": (connections_per_s, 0),
        "of 10,000 waited 1 s": (repeated_share, 0),
        "requests/s": (requests_per_s, 0),
        "Gbit/s": (lambda figures: figures.gigabits, 1),
        "p50, µs": (lambda figures: figures.light.p50_us, 0),
        "p99, µs": (lambda figures: figures.light.p99_us, 0),
    }
    found = {head: (rounds_of(results, figure), digits) for head, (figure, digits) in columns.items()}
    rows = [[name, *(values[name].shown(digits) for values, digits in found.values())] for name in results]
    return report.table(["", *found], rows)


def ratio_table(results: Results) -> list[str]:
    """Ours over the others', round by round."""
    rates = {"connections/s": rounds_of(results, connections_per_s), "requests/s": rounds_of(results, requests_per_s)}
    others = [name for name in (DIRECT, RULE, NFTLB, HA, NGX) if name in results]
    rows = []
    for name in results:
        if name.startswith("natlb"):
            for what, rate in rates.items():
                rows.append([f"{name}: {what}", *((rate[name] / rate[other]).shown() for other in others)])
    return report.table(["over", *others], rows)


def cost_table(results: Results) -> list[str]:
    machine = rounds_of(results, lambda figures: figures.connections.machine_us)
    own = rounds_of(results, lambda figures: figures.connections.own_us)
    extra = extra_cost(results)
    rows = []
    for name in results:
        charged = own[name].shown(0) if max(own[name].values) else ""
        rows.append([name, machine[name].shown(0), extra[name].shown(0) if name in extra else "", charged])
    return report.table(
        ["µs per connection", "machine busy", "of it not on the direct way", "of it the process's own"], rows
    )


def example(results: Results) -> str:
    """The subtraction, spelt out for one round."""
    machine = rounds_of(results, lambda figures: figures.connections.machine_us)
    first, base = machine[NATLB].values[0], machine[DIRECT].values[0]
    load = results[NATLB][0].connections
    return (
        f"Round 1 of {NATLB}: {load.machine_s:.2f} s busy for {load.requests:,} connections are {first:.1f} µs; "
        f"the direct way took {base:.1f} µs; so {first - base:.1f} µs are the balancer's."
    )


def lines(results: Results, set_ups: Mapping[str, str]) -> Iterator[str]:
    count = len(results[DIRECT])
    yield f"Measured on {report.machine()}; {peers_lab.versions()}."
    yield f"{count} rounds, median and (smallest to largest)."
    yield ""
    yield from main_table(results)
    yield ""
    yield from NOTE.format(many=MANY, few=FEW).splitlines()
    yield ""
    if max(rounds_of(results, repeated_share)[BY_CHANCE].values):
        yield from [*NOTE_ON_WAITING.splitlines(), ""]
    yield "Ours over the others', round by round:"
    yield ""
    yield from ratio_table(results)
    yield ""
    yield from NOTE_ON_COST.splitlines()
    yield example(results)
    yield ""
    yield from cost_table(results)
    yield ""
    yield from configurations(set_ups)


NOTE = """\
Connections: wrk, {many} at a time, one request on each (`Connection: close`). Requests: the same with keep-alive.
Latency: {few} connections with keep-alive, so that the queues are short. Gbit/s: iperf3, one connection to one backend.
The direct way is routing without NAT (one route with four next hops). All others but `snat none` and the proxies, which
have connections of their own, masquerade. Client, balancer and backends share the processors: what passes directly is
the limit for all, and no ratio can be larger than the balancers' part in the whole work allows."""

NOTE_ON_WAITING = """\
**Of 10,000 waited 1 s**: SYNs that the client had to send again. So it goes where a port is drawn for each connection
(`fully-random`, in iptables `--random-fully`). When a client uses a port of its own again, connection tracking forgets
the old connection, and the masqueraded port of that is free, while the backend, which closed first, keeps it in
TIME_WAIT for 60 s. A connection that draws this port looks like the old one, and where its sequence number and its
clock both happen to be behind (net/ipv4/tcp_minisocks.c), it is accepted at its second SYN only. Where the client's
port is kept, as natlb does, a connection meets its own past, which it is ahead of. It takes a client that comes round
its ports within a minute, as here with thousands of connections per second from one address, and a server that closes
first. For a few seconds the other connections fill the processors, and the connections per second hide it; the longer
such a load lasts, the more wait, until they are fewer too."""

NOTE_ON_COST = """\
What a connection costs: NAT is done in softirqs, which no process is charged for. So this is the busy time of the whole
machine (/proc/stat: user, nice, system, irq, softirq) over the connections made, less the same on the direct way in the
same round. (The direct way routes packets, which a proxy does not; so a proxy's own time may be more than the rest.)"""


def configurations(set_ups: Mapping[str, str]) -> Iterator[str]:
    yield "<details><summary>How the others were set up</summary>"
    yield ""
    yield from NOTE_ON_SET_UPS.splitlines()
    for name, text in set_ups.items():
        yield from ["", f"{name}:", "", "```", *text.expandtabs(4).rstrip().splitlines(), "```"]
    yield from ["", "</details>"]


NOTE_ON_SET_UPS = """\
The proxies have as many threads or workers as there are cores. What else was tried for them lost, or won less than the
rounds differ (HAProxy: a socket for each thread, no splicing, smart accept, pinned threads, one thread; nginx: a socket
for each worker, multi_accept). nftlb has mode snat and scheduler rr; its filter chain looks at every packet, not only
at the first one of a connection."""


def plots(results: Results) -> Iterator[str]:
    bars = {
        "connections": ("Connections per second", "connections/s", rounds_of(results, connections_per_s)),
        "requests": ("Requests per second, keep-alive", "requests/s", rounds_of(results, requests_per_s)),
        "p99": (f"Latency, p99, {FEW} connections", "µs", rounds_of(results, lambda figures: figures.light.p99_us)),
        "cost": ("Processor time per connection, beyond the direct way's", "µs", extra_cost(results)),
    }
    for name, (title, unit, values) in bars.items():
        yield report.plot_bars(f"peers-{name}", title, unit, values)
        yield ""


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="how long connections are made for; requests 1 s less")
    parser.add_argument("--keep", type=Path, help="a file that the rounds are added to")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if lacking := peers_lab.missing():
        raise SystemExit(f"missing: {', '.join(lacking)}. `make bench` fetches them on Debian and Ubuntu.")
    earlier = kept(options.keep)
    seed = len(next(iter(earlier.values()), []))
    with tempfile.TemporaryDirectory() as folder, Bench(able(), Path(folder)) as bench:
        results = together(earlier, measure(bench, options.rounds, options.seconds, seed))
        set_ups = bench.set_ups()
    if options.keep:
        options.keep.write_text(
            json.dumps({n: [dataclasses.asdict(r) for r in rounds] for n, rounds in results.items()})
        )
    text = list(lines(results, set_ups))
    print("\n".join(text))
    if options.write:
        report.write("peers", [*text, "", *plots(results)])


if __name__ == "__main__":
    main()
