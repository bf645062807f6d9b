# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of the benchmark beside other balancers, and what measures in it.

                 +-- front1 -- balancer 1 (direct)   -- back1 .. back4 --+
    client ------+-- front2 -- balancer 2 (a rule)   -- back1 .. back4 --+------ web1 web2 web3 web4
                 +-- ...                                                 +

Every contestant has a network namespace of its own with a wire to the client and one to each backend, so all stand
ready at the same time and nothing has to be loaded or taken away between two measurements.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import report

for _folder in ("plugins/module_utils", "tests/kernel"):
    if str(report.ROOT / _folder) not in sys.path:
        sys.path.insert(0, str(report.ROOT / _folder))

from kernel_lab.host import Host  # noqa: E402

#: Where tools/setup unpacks the programs that are not installed.
UNPACKED = report.ROOT / ".cache" / "bench" / "root"
PROGRAMS = (
    "haproxy",
    "nginx",
    "nftlb",
    "wrk",
    "iperf3",
    "nft",
    "iptables-nft",
    "conntrack",
    "ss",
    "nsenter",
    "setpriv",
)
NAMES = ("web1", "web2", "web3", "web4")
CORES = os.cpu_count() or 1
HTTP_PORT, BULK_PORT = 8080, 5201
START_S, STOP_S, GRACE_S = 10.0, 5.0, 20.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

#: Ports and TIME_WAIT: tens of thousands of connections in a row from one address.
_MANY_CONNECTIONS = {"ipv4/ip_local_port_range": "1024 65535", "ipv4/tcp_tw_reuse": 1}

#: One line of JSON comes out. Latencies are in microseconds.
WRK_SCRIPT = """
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('JSON {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "errors": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


# --- programs ---------------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Programs of the system come first, then those that were unpacked, with their libraries."""
    libraries = [str(folder) for folder in UNPACKED.glob("usr/lib/*-linux-gnu*")]
    path = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(UNPACKED / "usr/sbin"), str(UNPACKED / "usr/bin")]
    return {**os.environ, "PATH": os.pathsep.join(path), "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def missing() -> list[str]:
    path = environment()["PATH"]
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


def stream_module() -> str:
    """nginx's module for TCP, which most packages have as a file of its own; empty where it is built in."""
    for root in (Path("/"), UNPACKED):
        for path in root.glob("usr/lib*/nginx/modules/ngx_stream_module.so"):
            return str(path)
    return ""


def versions() -> str:
    """Which versions were measured."""
    argvs = {"HAProxy": "haproxy -v", "nginx": "nginx -v", "nft": "nft --version", "iptables": "iptables-nft --version"}
    shown = []
    for name, argv in argvs.items():
        done = subprocess.run(argv.split(), env=environment(), capture_output=True, text=True, timeout=10, check=True)
        found = re.search(r"\d+\.[\w.]+", done.stdout + done.stderr)
        shown.append(f"{name} {found[0] if found else 'of unknown version'}")
    # nftlb does not say, but Debian's change log of it begins with the version.
    for log in (root / "usr/share/doc/nftlb/changelog.Debian.gz" for root in (Path("/"), UNPACKED)):
        if log.exists():
            shown.append(f"nftlb {gzip.decompress(log.read_bytes()).decode().split('(')[1].split('-')[0]}")
            break
    return ", ".join(shown)


class Running:
    """Programs that this benchmark has started. All are ended with it, even if it is killed (pdeathsig)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, host: Host, argv: Sequence[str]) -> int:
        """Start a program in a host's namespace under a name of its own; its process ID."""
        if name in self._processes:
            raise ValueError(f"{name} has been started already")
        namespace = ["nsenter", f"--net=/proc/{host.pid}/ns/net", "setpriv", "--pdeathsig", "TERM"]
        with open(self._folder / f"{name}.log", "wb") as log:
            self._processes[name] = subprocess.Popen(
                [*namespace, *argv], env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self._processes[name].pid

    def check(self) -> None:
        """Raises RuntimeError with what it said where one has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                said = (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} has ended with status {process.returncode}:\n{said}")

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)


def run(host: Host, *argv: str, timeout_s: float, **extra: str) -> str:
    """What a program printed in a host's namespace; raises RuntimeError with its complaint."""
    command = ["nsenter", f"--net=/proc/{host.pid}/ns/net", *argv]
    done = subprocess.run(
        command, env={**environment(), **extra}, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-1000:]}"
        )
    return done.stdout


# --- the network ------------------------------------------------------------------------------------------------------


@dataclass
class Stand:
    """One contestant's balancer, its namespace and addresses. `number` is what tells its networks from the others'."""

    name: str
    number: int
    host: Host

    @property
    def client(self) -> str:
        return f"198.18.{self.number}.100"

    @property
    def gateway(self) -> str:
        return f"198.18.{self.number}.1"

    @property
    def vip(self) -> str:
        return f"198.18.{self.number}.10"

    def inner(self, index: int) -> str:
        """The balancer's address towards backend `index`."""
        return f"10.{self.number}.{index + 1}.1"

    def web(self, index: int) -> str:
        """The address of backend `index` on this stand's wire."""
        return f"10.{self.number}.{index + 1}.2"

    @property
    def webs(self) -> dict[str, str]:
        return {name: self.web(index) for index, name in enumerate(NAMES)}


class Network:
    """The client, the backends and a stand for each contestant."""

    def __init__(self, contestants: Sequence[str]) -> None:
        self._hosts: list[Host] = []
        try:
            self.client = self._host("client")
            self.backends = [self._host(name) for name in NAMES]
            self.stands = [Stand(name, i + 1, self._host(f"lb{i + 1}")) for i, name in enumerate(contestants)]
            for stand in self.stands:
                self._wire(stand)
        except BaseException:
            self.close()
            raise

    def _host(self, name: str) -> Host:
        host = Host(name)
        self._hosts.append(host)
        host.ip("link set lo up")
        host.sysctl(_MANY_CONNECTIONS)
        return host

    def _wire(self, stand: Stand) -> None:
        host, front = stand.host, f"front{stand.number}"
        host.sysctl({"ipv4/ip_forward": 1})
        host.ip(
            f"link add front type veth peer name {front} netns {self.client.pid}\n"
            f"address add {stand.gateway}/24 dev front\nlink set front up"
        )
        # A route to the virtual address: then the balancer need not have it.
        self.client.ip(
            f"address add {stand.client}/24 dev {front}\nlink set {front} up\n"
            f"route add {stand.vip}/32 via {stand.gateway}\nroute add 10.{stand.number}.0.0/16 via {stand.gateway}"
        )
        for index, backend in enumerate(self.backends):
            ours, theirs = f"back{index + 1}", f"lb{stand.number}"
            host.ip(
                f"link add {ours} type veth peer name {theirs} netns {backend.pid}\n"
                f"address add {stand.inner(index)}/24 dev {ours}\nlink set {ours} up"
            )
            backend.ip(
                f"address add {stand.web(index)}/24 dev {theirs}\nlink set {theirs} up\n"
                f"route add 198.18.{stand.number}.0/24 via {stand.inner(index)}"
            )

    def close(self) -> None:
        """The namespaces go with their processes."""
        for host in self._hosts:
            host.close()


def answers(target: str, count: int) -> Counter[str]:
    """Who answered `count` requests, each on a connection of its own. Runs on the client."""
    found: Counter[str] = Counter()
    for _request in range(count):
        with contextlib.closing(HTTPConnection(target, timeout=3)) as connection:
            connection.request("GET", "/")
            found[connection.getresponse().read().decode().strip()] += 1
    return found


def wait_for(network: Network, running: Running, target: str) -> None:
    """Until it answers; raises RuntimeError after `START_S`."""
    deadline = time.monotonic() + START_S
    while True:
        running.check()
        try:
            network.client.call(answers, target, 1)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{target} does not answer") from error
            time.sleep(0.02)


# --- measuring --------------------------------------------------------------------------------------------------------


def busy_s() -> float:
    """Seconds that all processors were busy since the start of the machine (proc(5): /proc/stat).

    All but idle, waiting for disks, and what the hypervisor took. NAT happens in softirqs, which no process is charged
    for, so nothing smaller than the machine will do.
    """
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / CLOCK_TICKS


def process_s(pid: int) -> float:
    """Seconds of processor that a process and its children were charged with (proc(5): utime and stime)."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # It may have ended by now.
            number, _name, rest = parse_stat(path.read_text())
            fields = rest.split()
            if pid in (number, int(fields[1])):
                total += int(fields[11]) + int(fields[12])
    return total / CLOCK_TICKS


def parse_stat(text: str) -> tuple[int, str, str]:
    """Process ID, name (which may have blanks and brackets), and the fields from the third on."""
    before, _bracket, rest = text.rpartition(")")
    number, _bracket, name = before.partition(" (")
    return int(number), name, rest


@dataclass(frozen=True)
class Wish:
    """What kind of load: how many connections at a time, and whether each request has one of its own."""

    connections: int
    close: bool = False


@dataclass(frozen=True)
class Load:
    """What wrk saw, and what it cost: the machine's busy seconds, and the balancer process's where there is one."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int
    machine_s: float
    own_s: float
    #: SYNs that got no answer and were sent again: connections that took a second longer.
    repeated: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def machine_us(self) -> float:
        """The machine's busy time for each request, in microseconds."""
        return self.machine_s / self.requests * 1e6

    @property
    def own_us(self) -> float:
        return self.own_s / self.requests * 1e6


def wrk(network: Network, stand: Stand, script: Path, seconds: int, wish: Wish, pid: int | None) -> Load:
    """The load that the client puts on a stand; `pid` is the balancer's process, where it has one."""
    argv = ["wrk", f"-t{min(CORES, wish.connections)}", f"-c{wish.connections}", f"-d{seconds}s", "-s", str(script)]
    argv += ["-H", "Connection: close"] if wish.close else []
    repeated = network.client.call(repeated_syns)
    before_s, own_before_s = busy_s(), process_s(pid) if pid else 0.0
    said = run(network.client, *argv, f"http://{stand.vip}/", timeout_s=seconds + GRACE_S)
    machine, own = busy_s() - before_s, (process_s(pid) - own_before_s) if pid else 0.0
    found = json.loads(next(line[5:] for line in said.splitlines() if line.startswith("JSON ")))
    return Load(
        requests=found["requests"],
        seconds=found["duration_us"] / 1e6,
        p50_us=found["p50_us"],
        p99_us=found["p99_us"],
        errors=found["errors"],
        machine_s=machine,
        own_s=own,
        repeated=network.client.call(repeated_syns) - repeated,
    )


def iperf(network: Network, address: str, seconds: int) -> float:
    """Gigabits per second that arrived over one connection."""
    said = run(
        network.client,
        "iperf3",
        "-J",
        "-c",
        address,
        "-p",
        str(BULK_PORT),
        "-t",
        str(seconds),
        timeout_s=seconds + GRACE_S,
    )
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9


def forget(network: Network, stand: Stand) -> None:
    """Begin anew: what is left of one run must not be in the way of the next one, of this stand or another.

    Connection tracking is emptied, and so is TIME_WAIT everywhere, since each relies on the other: a masqueraded port
    is not given to a new connection while the tracking remembers it.
    """
    run(stand.host, "conntrack", "-F", timeout_s=GRACE_S)
    hosts = [network.client, stand.host, *network.backends]
    for future in [host.begin(kill_time_wait) for host in hosts]:
        future.result(GRACE_S)


def kill_time_wait() -> None:
    """Close what waits in TIME_WAIT in this namespace; raises RuntimeError where the kernel cannot."""
    closed = ["ss", "--kill", "--no-header", "--tcp", "--all", "--numeric", "state", "time-wait"]
    subprocess.run(closed, stdout=subprocess.DEVNULL, check=True, timeout=GRACE_S)
    left = subprocess.run([closed[0], *closed[2:]], capture_output=True, text=True, check=True, timeout=GRACE_S).stdout
    if left:
        raise RuntimeError("ss --kill leaves TIME_WAIT behind: this kernel lacks CONFIG_INET_DIAG_DESTROY")


def repeated_syns() -> int:
    """How many SYNs were sent again in this namespace (TCPSynRetrans of /proc/net/netstat)."""
    names, values = [
        line.split()[1:]
        for line in Path("/proc/thread-self/net/netstat").read_text().splitlines()
        if line.startswith("TcpExt:")
    ]
    return int(values[names.index("TCPSynRetrans")])
