"""Beside other firewalls, the real ones, on the lab's balancer: what each does to us, and for how long.

One container is taken through all of them, in the order of this file; each test leaves the host as it found it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "lab"))

import lab  # noqa: E402
import neighbours  # noqa: E402
from reservation import reserved  # noqa: E402

#: Longest time without an answer that any of this may cost the clients.
LONGEST_GAP_S = 2.0
#: The same behind a command that takes longer itself, as on a busy machine. Its first step may take our rules away, and
#: the unit that brings them back begins with its last one: what is ours is what comes then.
LONGEST_GAP_BEYOND_S = 1.0
SERVICES = [{"name": "web", "listen": ["192.0.2.10:80"], "backends": [{"address": "10.0.0.3", "port": 8080}]}]

#: On the client: connections without pause, the time of each that was answered, until its input ends.
CLIENT = """
import socket, sys, threading, time
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
end = time.monotonic() + 30
while not stop.is_set() and time.monotonic() < end:
    try:
        with socket.create_connection(("192.0.2.10", 80), timeout=0.2) as sock:
            sock.settimeout(0.2)
            sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            if sock.recv(100):
                print(time.monotonic(), flush=True)
    except OSError:
        pass
    time.sleep(0.02)
"""


#: On a backend: whether the client refuses a connection, as it does where nothing listens.
KNOCK = """
import socket
try:
    socket.create_connection(("192.0.2.100", 9), timeout=1)
except OSError as error:
    print("there" if isinstance(error, ConnectionRefusedError) else error)
"""


@pytest.fixture(scope="module", autouse=True)
def _lab() -> Iterator[None]:
    with reserved():
        neighbours.up()
        deploy(natlb_firewall="accept")
        assert '"firewall": "accept"' in host("cat", "/etc/natlb/state.json")
        module()
        yield
        lab.down()


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    """Each test begins with every other firewall off, and with our rules."""
    yield
    host("systemctl", "stop", "nftables", "firewalld", "fail2ban")
    host("ufw", "--force", "disable")
    shell("nft delete table inet mine 2>/dev/null || true; if test -e /etc/natlb/boot; then sh /etc/natlb/boot; fi")


def host(*command: str, check: bool = True) -> str:
    return lab.podman("exec", "natlb-balancer", *command, check=check)


def shell(script: str) -> str:
    return host("sh", "-ec", script)


def ansible(*command: str) -> tuple[str, str]:
    done = subprocess.run(
        ["tools/run", *command],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def deploy(**variables: Any) -> str:
    """The role, by the playbook that users run. Returns what it printed."""
    given = {"natlb_services": SERVICES, **variables}
    playbook = ["ansible-playbook", "--inventory=tests/lab/inventory.yml", "playbooks/deploy.yml"]
    return "".join(ansible(*playbook, "--extra-vars", json.dumps(given)))


def module(**arguments: Any) -> dict[str, Any]:
    """The module alone; what it returned, warnings included."""
    arguments.setdefault("services", SERVICES)
    command = ["ansible", "--inventory=tests/lab/inventory.yml", "balancer", "-m", "natlb.netfilter.balancer"]
    printed, complained = ansible(*command, "-a", json.dumps(arguments))
    returned: dict[str, Any] = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    # Shown apart from the rest, and folded at spaces and hyphens.
    returned["warnings"] = re.sub(r"(?<!-)\n", " ", complained).replace("\n", "").split("[WARNING]: ")[1:]
    return returned


def closing(returned: dict[str, Any]) -> list[str]:
    return [warning for warning in returned["warnings"] if "not forwarded" in warning]


def answered(url: str = "http://192.0.2.10", timeout_s: float = 1.0) -> bool:
    """Whether a connection of the client is answered."""
    script = f"import urllib.request as u; u.urlopen('{url}', timeout={timeout_s}).read()"
    done = subprocess.run(
        ["nsenter", f"--net={lab.NAMESPACE_PATH}", "podman", "exec", "natlb-client", "python3", "-c", script],
        env=lab.podman_environment(),
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def reaches_out() -> bool:
    """Whether a backend gets an answer from the client, of whatever kind."""
    lab.podman("exec", "natlb-web1", "ip", "route", "replace", "default", "via", "10.0.0.1")
    return lab.podman("exec", "natlb-web1", "python3", "-c", KNOCK) == "there\n"


def theirs() -> str:
    """All rules that are not ours, without counters."""
    shown = shell(
        "nft -s list tables; iptables-save; ip6tables-save; cat /proc/net/ip_tables_names 2>/dev/null || true"
    )
    lines = [re.sub(r" \[\d+:\d+\]$", "", line) for line in shown.splitlines() if not line.startswith("#")]
    kept = [line for line in lines if "NATLB" not in line and not re.fullmatch(r"table ip6? natlb", line)]
    for family, table in re.findall(r"^table (inet|netdev) (\S+)$", shown, re.MULTILINE):
        kept += host("nft", "-s", "list", "table", family, table).splitlines()
    return "\n".join(kept)


@contextlib.contextmanager
def gap(title: str, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Connections while something is done; afterwards they are answered again, and never were not for long."""
    command = [
        "nsenter",
        f"--net={lab.NAMESPACE_PATH}",
        "podman",
        "exec",
        "-i",
        "natlb-client",
        "python3",
        "-c",
        CLIENT,
    ]
    client = subprocess.Popen(
        command, env=lab.podman_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    times = [float(client.stdout.readline())]
    began = time.monotonic()
    try:
        yield
        done = time.monotonic()
        while times[-1] < done + 0.5:
            line = client.stdout.readline()
            assert line, "no connection was answered any more"
            times.append(float(line))
    finally:
        client.communicate(timeout=30)
    longest = max(after - before for before, after in itertools.pairwise(times))
    with capsys.disabled():
        print(f"\n  {title} took {done - began:.2f} s: longest time without an answer {longest:.2f} s ", end="")
    if longest > max(LONGEST_GAP_S, done - began + LONGEST_GAP_BEYOND_S):
        raise AssertionError(f"{longest:.2f} s\n{host('journalctl', '--no-pager', '-o', 'short-precise', '-n', '80')}")


STOCK_NFTABLES = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
  chain input {
    type filter hook input priority filter;
  }
  chain forward {
    type filter hook forward priority filter;
  }
  chain output {
    type filter hook output priority filter;
  }
}
"""


def test_nftables_with_its_stock_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """Debian's file begins with a flush of every table."""
    assert host("cat", "/etc/nftables.conf").split() == STOCK_NFTABLES.split()
    for action in ("start", "reload", "restart"):
        with gap(f"systemctl {action} nftables", capsys):
            host("systemctl", action, "nftables")
    with gap("systemctl stop nftables, start nftables", capsys):
        host("systemctl", "stop", "nftables")
        host("systemctl", "start", "nftables")
    before = theirs()
    returned = module()
    assert not returned["changed"]
    assert closing(returned) == []
    assert theirs() == before


def test_nftables_with_a_forward_chain_that_drops() -> None:
    chain = "{ type filter hook forward priority 0; policy drop; }"
    shell(f"nft add table inet mine; nft add chain inet mine forward '{chain}'")
    (warning,) = closing(module(firewall="accept"))
    assert not answered()
    shell(warning.split("`")[1])
    assert answered()


def test_firewalld(capsys: pytest.CaptureFixture[str]) -> None:
    module()
    with gap("systemctl start firewalld", capsys):
        host("systemctl", "start", "firewalld")
        assert host("firewall-cmd", "--state").strip() == "running"
    for command in ("firewall-cmd --reload", "systemctl reload firewalld", "systemctl restart firewalld"):
        with gap(command, capsys):
            host(*command.split())
    before = theirs()
    returned = module()
    assert not returned["changed"]
    assert closing(returned) == []
    assert theirs() == before
    assert "table inet firewalld" in before


def test_firewalld_and_egress() -> None:
    """It denies what goes out until a policy of its own allows that; the run sees both."""
    egress = [{"source": "10.0.0.0/24", "out_interface": "eth0"}]
    host("systemctl", "start", "firewalld")
    (warning,) = closing(module(egress=egress, firewall="accept"))
    assert warning.startswith("balancer: egress of 10.0.0.0/24")
    assert not reaches_out()
    policy = ("--permanent", "--policy=out")
    for words in (
        ("--permanent", "--new-policy=out"),
        (*policy, "--add-ingress-zone=ANY"),
        (*policy, "--add-egress-zone=ANY"),
        (*policy, "--set-target=ACCEPT"),
        ("--reload",),
    ):
        host("firewall-cmd", *words)
    assert reaches_out()
    assert closing(module(egress=egress)) == []
    host("firewall-cmd", "--permanent", "--delete-policy", "out")
    module()


def test_firewalld_beside_iptables(capsys: pytest.CaptureFixture[str]) -> None:
    module(engine="iptables")
    for command in ("systemctl start firewalld", "firewall-cmd --reload", "systemctl restart firewalld"):
        with gap(f"with the iptables engine, {command}", capsys):
            host(*command.split())
    returned = module(engine="iptables")
    assert not returned["changed"]


def test_ufw(capsys: pytest.CaptureFixture[str]) -> None:
    host("ufw", "--force", "enable")
    before = theirs()
    assert "ufw-before-forward" in before
    assert not answered()
    (warning, *_six) = closing(module())
    assert "of ufw (policy DROP)" in warning
    assert theirs() == before
    assert closing(module(firewall="accept")) == []
    assert answered()
    assert theirs() == before
    assert not module(firewall="accept")["changed"]
    with gap("ufw reload", capsys):
        host("ufw", "reload")
    before = theirs()
    assert not module(firewall="accept")["changed"]
    module()
    assert not answered()
    assert theirs() == before
    shell("ufw route allow in on eth0 out on eth1 proto tcp to 10.0.0.3 port 8080")
    assert answered()
    assert closing(module()) == []
    host("ufw", "--force", "reset")


CHANGED = [{**SERVICES[0], "method": "random"}, {**SERVICES[0], "name": "more", "listen": ["192.0.2.10:81"]}]


def leave_alone(before: str, **arguments: Any) -> None:
    """A change, a removal and a new beginning, of which others do not notice anything."""
    assert module(services=CHANGED, **arguments)["changed"]
    assert theirs() == before
    # What is compiled is kept for the next run, as long as there is something declared.
    assert shell("stat --format=%a:%U /run/natlb /run/natlb/code").split() == ["700:root", "600:root"]
    module(state="absent", services=[])
    assert shell("ls -d /run/natlb /etc/natlb 2>/dev/null || true") == ""
    assert theirs() == before
    assert "natlb" not in shell("nft list tables; iptables-save; ip6tables-save").lower()
    module(**arguments)
    assert answered()
    assert theirs() == before


@pytest.mark.usefixtures("_no_docker")
def test_docker(capsys: pytest.CaptureFixture[str]) -> None:
    """Its daemon, with no container. It closes the forward path where forwarding was off when it started."""
    module()
    with gap("systemctl start docker", capsys):
        host("systemctl", "start", "docker")
    assert ":FORWARD ACCEPT" in theirs()
    stop_docker()
    host("sysctl", "-qw", "net.ipv4.ip_forward=0")
    host("systemctl", "start", "docker")
    before = theirs()
    assert ":FORWARD DROP" in before
    assert "-A FORWARD -j DOCKER-USER" in before
    (warning,) = closing(module())
    assert not answered()
    begin = "balancer: service web: connections are not forwarded, because of the chain FORWARD of iptables"
    assert warning.startswith(begin)
    assert "of Docker (policy DROP)" in warning
    assert "firewall: accept" in warning
    assert theirs() == before
    for engine in ("nftables", "iptables"):
        assert closing(module(engine=engine, firewall="accept")) == []
        assert answered()
        assert not reaches_out(), "connections that are not ours pass as well"
        assert theirs() == before
        with gap(f"with the {engine} engine, systemctl restart docker", capsys):
            host("systemctl", "restart", "docker")
            # It makes its rules anew, and not all in the same order.
            before = theirs()
        assert not module(engine=engine, firewall="accept")["changed"]
        assert theirs() == before
    leave_alone(before, engine="iptables", firewall="accept")


def stop_docker() -> None:
    """It leaves its rules and its bridge behind."""
    host("systemctl", "stop", "docker.socket", "docker", "containerd")
    shell("nft flush ruleset; ip link delete docker0 2>/dev/null || true")


@pytest.fixture
def _no_docker() -> Iterator[None]:
    yield
    stop_docker()


#: What podman hands it: a container with an address of its own, whose port 80 is published as the host's 8089.
NETAVARK = {
    "container_id": "0" * 64,
    "container_name": "neighbour",
    "networks": {"podman": {"static_ips": ["10.88.0.2"], "interface_name": "eth0"}},
    "network_info": {
        "podman": {
            "name": "podman",
            "id": "1" * 64,
            "driver": "bridge",
            "network_interface": "podman0",
            "subnets": [{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}],
            "ipv6_enabled": False,
            "internal": False,
            "dns_enabled": False,
            "ipam_options": {"driver": "host-local"},
        }
    },
    "port_mappings": [{"container_port": 80, "host_ip": "", "host_port": 8089, "protocol": "tcp", "range": 1}],
}
PUBLISHED = "http://192.0.2.2:8089"


def netavark(action: str) -> None:
    program = f"/usr/lib/podman/netavark --config /run/netavark {action} /run/netns/neighbour"
    shell(f"{program} > /dev/null <<'END'\n{json.dumps(NETAVARK)}\nEND\n")


@pytest.fixture
def _neighbour() -> Iterator[None]:
    """A container as far as networks are concerned, with a server in it."""
    shell(
        "mkdir -p /run/netavark; ip netns add neighbour; systemd-run --quiet --unit=neighbour "
        "--property=NetworkNamespacePath=/run/netns/neighbour python3 -m http.server --directory /usr/share/python3 80"
    )
    yield
    host("systemctl", "stop", "neighbour")
    shell("ip netns delete neighbour; ip link delete podman0 2>/dev/null || true; nft flush ruleset")


@pytest.mark.usefixtures("_neighbour")
def test_netavark(capsys: pytest.CaptureFixture[str]) -> None:
    """What makes the rules of podman's bridges, run as podman runs it."""
    for engine in ("nftables", "iptables"):
        module(engine=engine)
        with gap(f"with the {engine} engine, netavark setup", capsys):
            netavark("setup")
        before = theirs()
        assert "--dport 8089 -j DNAT --to-destination 10.88.0.2:80" in before
        returned = module(engine=engine)
        assert not returned["changed"]
        assert closing(returned) == []
        assert answered(PUBLISHED)
        if engine == "iptables":
            # Where the tables are shared.
            leave_alone(before, engine=engine)
            assert answered(PUBLISHED)
        with gap(f"with the {engine} engine, netavark teardown", capsys):
            netavark("teardown")


FAIL2BAN = """
[DEFAULT]
backend = polling
[sshd]
enabled = false
[natlb-test]
enabled = true
filter = sshd
logpath = /var/log/natlb-test.log
port = 80
banaction = {action}
chain = FORWARD
"""


@pytest.mark.parametrize("action", ["iptables-multiport", "nftables-multiport"])
def test_fail2ban(action: str) -> None:
    jail = FAIL2BAN.format(action=action)
    shell(f"touch /var/log/natlb-test.log\ncat > /etc/fail2ban/jail.local <<'END'\n{jail}\nEND\n")
    host("systemctl", "restart", "fail2ban")
    for _unused in range(50):
        if "pong" in host("fail2ban-client", "ping", check=False):
            break
        time.sleep(0.1)
    host("fail2ban-client", "set", "natlb-test", "banip", "203.0.113.66")
    time.sleep(0.5)
    before = theirs()
    assert "203.0.113.66" in before
    for firewall in ("accept", "warn"):
        returned = module(firewall=firewall)
        assert closing(returned) == []
        assert answered()
        assert theirs() == before
    host("fail2ban-client", "set", "natlb-test", "unbanip", "203.0.113.66")


#: The second backend is dead, and has to stay out whatever others do.
CHECKED = [
    {
        **SERVICES[0],
        "health": {"type": "tcp", "interval": "2s"},
        "backends": [*SERVICES[0]["backends"], {"name": "dead", "address": "10.0.0.4", "port": 9}],
    }
]
FOLLOWERS = "natlb-restore.service natlb-firewalld.service"


@pytest.mark.usefixtures("_no_docker")
@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_the_agent_beside_all_of_them(capsys: pytest.CaptureFixture[str], engine: str) -> None:
    """Units that follow other firewalls are not there, and nobody needs them."""
    deploy(natlb_services=CHECKED, natlb_engine=engine, natlb_firewall="accept")
    # By the agent of this deployment: the one of before may have said so too.
    this = '_SYSTEMD_INVOCATION_ID="$(systemctl show --property=InvocationID --value natlb-agent)"'
    told = f"journalctl -o cat {this} | grep -q 'dead of web is down'"
    host("timeout", "30", "sh", "-c", f"until {told}; do sleep 0.1; done")
    assert host("systemctl", "list-unit-files", "--no-legend", *FOLLOWERS.split(), check=False) == ""
    # It closes the forward path where forwarding was off when it started.
    shell("sysctl -qw net.ipv4.ip_forward=0; systemctl start docker")
    for command in (
        "systemctl restart docker",
        "systemctl start firewalld",
        "firewall-cmd --reload",
        "systemctl restart firewalld",
        "systemctl restart docker",
        "systemctl stop firewalld",
        "systemctl start nftables",
        "systemctl reload nftables",
        "systemctl restart nftables",
        "systemctl stop nftables",
    ):
        with gap(f"with the agent and {engine}, {command}", capsys):
            host(*command.split())
        # An attempt that meets the dead backend takes a second.
        assert all(answered(timeout_s=0.7) for _attempt in range(4)), command
    deploy(natlb_engine=engine, natlb_firewall="accept")
    assert host("systemctl", "is-enabled", *FOLLOWERS.split()).split() == ["enabled", "enabled"]
    assert host("systemctl", "is-active", "natlb-agent", check=False).strip() == "inactive"


UNITS = ("natlb.service", "natlb-restore.service", "natlb-firewalld.service", "natlb-uplinks.service")
UPLINK = {"source": "10.0.0.0/24", "uplinks": [{"interface": "eth0", "gateway": "192.0.2.254"}]}


@pytest.mark.parametrize("variant", ["nftables", "iptables-legacy"])
def test_units_in_their_sandbox_bring_everything_back(variant: str) -> None:
    """Whatever is locked away from the units: after a boot nothing is missing, nor after a flush and a start."""
    engine, legacy = variant.partition("-")[0], variant == "iptables-legacy"
    if legacy:
        # Where rules live in it already, ours go there.
        shell("iptables-legacy -A FORWARD -s 203.0.113.7 -j DROP")
    deploy(natlb_engine=engine, natlb_egress=[UPLINK])
    for unit in UNITS:
        host("systemd-analyze", "security", "--no-pager", "--threshold=29", unit)
    lab.reboot("balancer")
    assert answered()
    assert (":NATLB" in host("iptables-legacy-save")) == legacy
    # What the role asks for, or the request that is kept would differ.
    assert not module(engine=engine, egress=[UPLINK], conntrack={"max": "auto"})["changed"]
    for unit in ("natlb.service", "natlb-restore.service"):
        shell("iptables-legacy -t nat -F" if legacy else "nft flush ruleset")
        assert not answered(timeout_s=0.3)
        host("systemctl", "restart", unit)
        assert answered()
    module(state="absent", services=[])


def test_leftovers_of_iptables_legacy() -> None:
    """Rules there make `auto` take the same system, and say so."""
    shell("iptables-legacy -A FORWARD -s 203.0.113.7 -j DROP; iptables-legacy -P FORWARD DROP")
    kept = "iptables-legacy-save -t filter | grep -v -e '^#' -e NATLB | sed 's/ [[].*//'"
    before = shell(kept)
    returned = module(firewall="accept")
    assert returned["engine"] == "iptables"
    assert any("the rules of this host are in iptables-legacy" in warning for warning in returned["warnings"])
    assert answered()
    assert shell(kept) == before
    module(state="absent", services=[])
    assert not answered()
    assert shell(kept) == before
    assert "NATLB" not in shell("iptables-legacy-save; iptables-save; ip6tables-save")
