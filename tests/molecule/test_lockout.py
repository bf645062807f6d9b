"""An operator who locks himself out over ssh, on purpose: he is stopped before, or is back within seconds.

The controller is this machine, inside the lab's namespace; it reaches the balancer by ssh from an address behind a
default route, as most controllers do.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
for folder in ("tests", "tests/lab"):
    sys.path.insert(0, str(ROOT / folder))
import lab  # noqa: E402
from processes import kill_all  # noqa: E402
from reservation import reserved  # noqa: E402

CONTROLLER, ROUTER, BALANCER = "198.51.100.7", "192.0.2.254", "192.0.2.2"
INSIDE = ["nsenter", f"--net={lab.NAMESPACE_PATH}"]
ROLLBACK_AFTER_S = 5
#: A deadline for a module that starts, a timer of systemd and a retransmission of TCP; together they take 1 or 2 s.
MARGIN_S = 30.0

BACKENDS = [{"address": "10.0.0.3", "port": 8080}, {"address": "10.0.0.4", "port": 8080}]
WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": BACKENDS}
SSH = {"name": "ssh", "listen": f"{BALANCER}:22", "backends": BACKENDS}
#: The default route of the uplink's table leads nowhere …
UPLINK = {"source": "10.0.0.0/24", "uplinks": [{"interface": "eth1", "gateway": "10.0.0.99"}]}
#: … and somebody else's mark for the host's own packets is the one that natlb gives to what goes that way.
MARKS = """table ip vpn {
  chain out { type route hook output priority -150; policy accept; tcp sport 22 meta mark set 0x01000000; }
}
"""
#: Opens a new connection every tenth of a second, and says whether sshd answers on it.
WATCH = """import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[1], 22), 0.5, (sys.argv[2], 0)) as sock:
            sock.settimeout(0.5)
            good = sock.recv(64).startswith(b"SSH-")
    except OSError:
        good = False
    print(int(good), time.monotonic(), flush=True)
    time.sleep(0.1)
"""


class Watch:
    """New ssh connections all the time, in the background."""

    def __init__(self) -> None:
        argv = [*INSIDE, sys.executable, "-c", WATCH, BALANCER, CONTROLLER]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._seen: list[tuple[bool, float]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            good, when = line.split()
            self._seen.append((good == "1", float(when)))

    def stop(self) -> float:
        """The seconds from the first to the last connection that failed; 0 if none did."""
        time.sleep(1)
        self._process.terminate()
        self._process.wait(5)
        failed = [when for good, when in self._seen if not good]
        assert self._seen[-1][0], "the host cannot be reached by ssh any more"
        return failed[-1] - failed[0] if failed else 0.0


class Controller:
    """Runs the module on the balancer over ssh."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        options = {
            "UserKnownHostsFile": folder / "known_hosts",
            "StrictHostKeyChecking": "accept-new",
            "BindAddress": CONTROLLER,
            "ControlMaster": "auto",
            "ControlPersist": "60s",
        }
        variables = {
            "ansible_connection": "ssh",
            "ansible_host": BALANCER,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(folder / "key"),
            "ansible_ssh_args": " ".join(f"-o {key}={value}" for key, value in options.items()),
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        hosts = {"all": {"hosts": {"balancer": variables}}}
        (folder / "inventory.yml").write_text(json.dumps(hosts))

    def argv(self, program: str, *words: str) -> list[str]:
        settings = ["env", "ANSIBLE_TIMEOUT=3", f"ANSIBLE_SSH_CONTROL_PATH_DIR={self.folder}/cp"]
        return [*INSIDE, *settings, "tools/run", program, f"--inventory={self.folder}/inventory.yml", *words]

    def balance(self, **options: Any) -> dict[str, Any]:
        """What the task returned."""
        argv = self.argv("ansible", "all", "--module-name=natlb.netfilter.balancer")
        argv += [f"--args={json.dumps(options)}", f"--tree={self.folder}"]
        answer = self.folder / "balancer"
        answer.unlink(missing_ok=True)
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert answer.exists(), done.stdout + done.stderr
        # What --tree writes has no `failed`; the exit status has.
        return {**json.loads(answer.read_text()), "failed": done.returncode != 0}

    def begin(self, **options: Any) -> subprocess.Popen[bytes]:
        """The same by ansible-playbook, which is on its way when this returns."""
        play = {"hosts": "all", "gather_facts": False, "tasks": [{"natlb.netfilter.balancer": options}]}
        (self.folder / "playbook.yml").write_text(json.dumps([play]))
        argv = self.argv("ansible-playbook", f"{self.folder}/playbook.yml")
        return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)


def on_balancer(script: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["podman", "exec", "--interactive", "natlb-balancer", "sh", "-ec", script],
        input=stdin,
        capture_output=True,
        text=True,
        env=lab.podman_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def state() -> str:
    """Rules without counters, routes, and the files that boot."""
    return on_balancer(
        "nft list tables | sort | while read -r _ family name; do nft --stateless list table $family $name; done; "
        "ip rule; ip route show table all | grep -v ' proto kernel'; "
        "sysctl net.ipv4.ip_forward; "
        "find /etc/natlb -type f -exec sha256sum {} + -o -type l -printf '%p %l\\n' 2>/dev/null | sort"
    )


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    folder = tmp_path_factory.mktemp("ssh")
    with reserved():
        subprocess.run(["tools/run", "python", "tests/lab/lab.py", "up", "--fresh"], cwd=ROOT, check=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
        on_balancer(
            "mkdir -m 700 -p /root/.ssh; cat > /root/.ssh/authorized_keys; ssh-keygen -A >/dev/null; "
            f"systemctl start ssh; ip route add default via {ROUTER}",
            (folder / "key.pub").read_text(),
        )
        lab.run(*INSIDE, "ip", "address", "replace", f"{CONTROLLER}/32", "dev", "lo")
        try:
            yield Controller(folder)
        finally:
            lab.run(*INSIDE, "ip", "address", "delete", f"{CONTROLLER}/32", "dev", "lo", check=False)
            subprocess.run(["tools/run", "python3", "tests/lab/lab.py", "down"], cwd=ROOT, check=True)


@pytest.fixture
def before(controller: Controller) -> str:
    """A host that balances something already."""
    on_balancer("nft delete table ip vpn 2>/dev/null || true")
    result = controller.balance(services=[WEB], rollback_after=30)
    assert result.get("confirmed", True), result
    again = controller.balance(services=[WEB], rollback_after=30)
    assert (again["changed"], "confirmed" in again) == (False, False)
    return state()


def test_a_change_that_does_no_harm_is_confirmed(controller: Controller, before: str) -> None:
    watch = Watch()
    result = controller.balance(services=[{**WEB, "listen": "192.0.2.10:81"}], rollback_after=ROLLBACK_AFTER_S)
    assert (result["changed"], result["confirmed"]) == (True, True), result
    time.sleep(ROLLBACK_AFTER_S)
    assert watch.stop() == 0
    assert state() != before


def test_the_ssh_port_is_guarded(controller: Controller, before: str) -> None:
    watch = Watch()
    result = controller.balance(services=[WEB, SSH], rollback_after=ROLLBACK_AFTER_S)
    assert result["failed"]
    assert result["msg"].startswith(
        f"services[1].listen: ssh would take over {BALANCER} port 22, by which this run manages the host"
    )
    assert watch.stop() == 0
    assert state() == before


def test_the_ssh_port_is_taken(controller: Controller, before: str) -> None:
    watch = Watch()
    started = time.monotonic()
    result = controller.balance(services=[WEB, SSH], allow_management_port=True, rollback_after=ROLLBACK_AFTER_S)
    locked_out(result, watch.stop(), time.monotonic() - started)
    assert state() == before


def test_replies_go_the_wrong_way(controller: Controller, before: str) -> None:
    on_balancer("nft -f -", MARKS)
    marked = state()
    assert marked != before
    watch = Watch()
    started = time.monotonic()
    result = controller.balance(services=[WEB], egress=[UPLINK], rollback_after=ROLLBACK_AFTER_S)
    locked_out(result, watch.stop(), time.monotonic() - started)
    assert state() == marked


def test_ansible_is_killed_before_it_could_confirm(controller: Controller, before: str) -> None:
    """Nothing is wrong with the change; nobody is left who could say so."""
    watch = Watch()
    ansible = controller.begin(services=[{**WEB, "listen": "192.0.2.10:82"}], rollback_after=ROLLBACK_AFTER_S)
    wait_for_rules(" 82 ")
    started = time.monotonic()
    kill_all(ansible)
    assert on_balancer("ls /run/natlb/rollback.*/pending")
    assert state() != before
    on_balancer("for _ in $(seq 350); do if test -e /run/natlb/undone; then exit; fi; sleep 0.1; done; exit 1")
    took_s = time.monotonic() - started
    print(f"back {took_s:.1f} s after Ansible was killed")
    assert ROLLBACK_AFTER_S - 2 < took_s < ROLLBACK_AFTER_S + MARGIN_S
    assert state() == before
    assert watch.stop() == 0


def wait_for_rules(element: str) -> None:
    """Until the balancer has an element. Seen from outside the container: podman takes as long to come back from it as
    Ansible may take to confirm."""
    pid = lab.podman("inspect", "--format={{.State.Pid}}", "natlb-balancer").strip()
    asked = ["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "list", "map", "ip", "natlb", "service"]
    deadline = time.monotonic() + 60
    while element not in subprocess.run(asked, capture_output=True, text=True, check=False).stdout:
        assert time.monotonic() < deadline, f"no{element}in the rules"


def locked_out(result: dict[str, Any], failing_s: float, took_s: float) -> None:
    print(f"no new connection for {failing_s:.1f} s, the task failed after {took_s:.1f} s: {result.get('msg')}")
    assert ROLLBACK_AFTER_S - 2 < failing_s < ROLLBACK_AFTER_S + MARGIN_S
    assert (result["failed"], result["confirmed"]) == (True, False)
    assert "was not confirmed over a new connection" in result["msg"]
    assert "nobody confirmed the change in time, so the host went back to its former rules" in result["msg"]
