# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine in the place of the lab's balancer: a kernel of its own, systemd, ssh, real reboots.

The processor is emulated (TCG), since few machines that run tests let a guest use theirs. So everything takes some ten
times as long as on a real host, and more on a machine that is busy: deadlines are far from what is expected.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from image import FIRST, USER, Image, Seat
from kernel_lab.topology import Lab

#: From the kernel's first instruction to a login: expected are 20 to 60 s.
BOOT_TIMEOUT_S = 900.0
ANSWER_TIMEOUT_S = 300.0
MEMORY_MB = 768
SSH_PORT = 22


class Machine:
    """One run of a virtual machine. Its disk is thrown away with it."""

    def __init__(self, image: Image, lab: Lab, folder: Path, seat: Seat = FIRST) -> None:
        self.image, self.lab, self.folder, self.seat = image, lab, folder, seat
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: Monitor | None = None
        self.console = folder / "console"

    @property
    def address(self) -> str:
        """Where it is administered."""
        return self.seat.front[0]

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """From the memory of a machine that has started already, which is made the first time."""
        with self.image.memory.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.image.memory.exists():
                self._begin()
                self.wait()
                self._keep_memory()
        self._begin("-incoming", f"exec:cat {self.image.memory}")
        self.wait()

    def join(self) -> None:
        """Start beside the one in the first seat, as a host of its own: the memory that is kept is of the first."""
        self._begin()
        self.wait()
        self.run(
            f"echo {self.seat.name} >/etc/hostname; hostname {self.seat.name}\n"
            "rm /etc/machine-id; systemd-machine-id-setup"
        )

    def _begin(self, *more: str) -> None:
        """Run the machine inside the switch, which has its network cards. It ends when this process does."""
        overlay = self.folder / "disk.qcow2"
        overlay.unlink(missing_ok=True)
        made = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.image.disk), str(overlay)]
        subprocess.run(made, check=True)
        if self.seat is FIRST:
            self.lab.vacate()
        argv = ["nsenter", f"--net=/proc/{self.lab.switch.pid}/ns/net", "setpriv", "--pdeathsig", "KILL"]
        argv += ["qemu-system-x86_64", *self._hardware(overlay), *more]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=(self.folder / "qemu").open("wb"))
        self._monitor = Monitor(self.folder / "monitor", self._process)

    def _hardware(self, disk: Path) -> list[str]:
        # Without -nodefaults and -vga none a graphics card takes the kernel a minute.
        argv = ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-m", str(MEMORY_MB), "-smp", "1"]
        argv += ["-nodefaults", "-no-user-config", "-vga", "none", "-display", "none"]
        argv += ["-serial", f"file:{self.console}", "-qmp", f"unix:{self.folder}/monitor,server=on,wait=off"]
        argv += ["-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd)]
        argv += ["-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet mitigations=off"]
        argv += ["-drive", f"file={disk},format=qcow2,if=virtio,cache=unsafe", "-device", "virtio-rng-pci"]
        for bridge, address in self.seat.mac.items():
            argv += ["-netdev", f"tap,id={bridge},ifname={self.lab.tap(bridge)},script=no,downscript=no"]
            argv += ["-device", f"virtio-net-pci,netdev={bridge},mac={address},romfile="]
        return argv

    def _keep_memory(self) -> None:
        """Put what the machine is at this moment beside the image: its memory, and what it has written to its disk."""
        self.run("sync")
        assert self._process
        half = self.image.memory.with_suffix(".half")
        self._ask("migrate", uri=f"exec:cat > {half}")
        self._until(lambda: self._ask("query-migrate")["status"] == "completed", "keep its memory")
        overlay = self.folder / "disk.qcow2"
        # Ended in order, or the overlay may lack what qemu has yet to write.
        self._ask("quit")
        self._process.wait(ANSWER_TIMEOUT_S)
        self.stop()
        subprocess.run(["qemu-img", "commit", "-q", str(overlay)], check=True)
        half.rename(self.image.memory)

    def stop(self) -> None:
        if self._monitor:
            self._monitor.close()
            self._monitor = None
        if self._process:
            self._process.kill()
            self._process.wait(ANSWER_TIMEOUT_S)
            self._process = None

    def save(self, name: str) -> None:
        """Remember the machine as it is now, until it is stopped."""
        self.close_connections()
        self._command(f"savevm {name}")

    def load(self, name: str) -> None:
        """Go back to what was saved, memory and disk."""
        self.close_connections()
        self._command(f"loadvm {name}")
        self.wait()

    def reboot(self) -> None:
        """As an administrator does it. Returns once the machine has come up again."""
        before = self.run("cat /proc/sys/kernel/random/boot_id")
        self.run("systemd-run --quiet --on-active=1 systemctl reboot")
        self.close_connections()
        self._until(lambda: self._answers() and self._booted() not in (None, before), "come up again")
        self.wait()

    def cut_the_power(self) -> None:
        """Off and on again at once, with nobody told. Returns once the machine has come up."""
        self._ask("system_reset")
        self.close_connections()
        self.wait()

    def _booted(self) -> str | None:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            return self.run("cat /proc/sys/kernel/random/boot_id")
        return None

    def wait(self) -> None:
        """Until it has started whole: systemd has nothing more to do."""
        self._until(self._answers, "answer")
        state = self.run("systemctl is-system-running --wait || true")
        if state.strip() != "running":
            raise RuntimeError(f"the machine is {state.strip()}:\n{self.run('systemctl --failed --no-legend')}")

    def _answers(self) -> bool:
        return bool(self.lab.client.call(greeting, self.address, SSH_PORT).startswith("SSH-"))

    def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while not done():
            assert self._process
            if self._process.poll() is not None:
                raise RuntimeError(f"qemu ended: {(self.folder / 'qemu').read_text()}")
            if time.monotonic() > deadline:
                tail = self.console.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the machine did not {what} within {BOOT_TIMEOUT_S:.0f} s; its console:\n{tail}")
            time.sleep(0.2)

    # -- what runs on it --------------------------------------------------------------------------------------------

    def ssh(self) -> dict[str, str]:
        """The options of ssh, the same for Ansible's connections and for the tests' own."""
        return {
            "IdentityFile": str(self.image.key),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "no",
            "LogLevel": "ERROR",
            "ConnectTimeout": "60",
            "ControlMaster": "auto",
            "ControlPersist": "300s",
        }

    def inside(self) -> list[str]:
        """What to put before a command that is to reach the machine, from where the clients are."""
        return ["nsenter", f"--net=/proc/{self.lab.client.pid}/ns/net"]

    def run(self, script: str) -> str:
        """Lines of shell, as root, over ssh. What they printed."""
        options = [word for key, value in self.ssh().items() for word in ("-o", f"{key}={value}")]
        argv = [*self.inside(), "ssh", "-F", "none", *options, "-o", f"ControlPath={self.folder}/own"]
        argv += [f"{USER}@{self.address}", "sudo", "sh", "-s"]
        done = subprocess.run(
            argv, input=f"set -e\n{script}\n", capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{script}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def close_connections(self) -> None:
        """Connections that were open belong to a machine that will not be the same any more."""
        for path in [self.folder / "own", *(self.folder / "cp").glob("*")]:
            if path.exists():
                subprocess.run(
                    ["ssh", "-F", "none", "-o", f"ControlPath={path}", "-O", "exit", self.address],
                    capture_output=True,
                    check=False,
                )

    # -- the monitor ------------------------------------------------------------------------------------------------

    def _ask(self, command: str, **arguments: Any) -> Any:
        assert self._monitor
        return self._monitor.ask(command, **arguments)

    def _command(self, line: str) -> None:
        said = self._ask("human-monitor-command", **{"command-line": line})
        if said.strip():
            raise RuntimeError(f"{line}: {said.strip()}")


class Monitor:
    """QEMU's machine protocol: a command, and its answer among events."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"qemu did not start: {path.with_name('qemu').read_text()}") from None
                time.sleep(0.05)
        self._lines = self._socket.makefile()
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        for line in self._lines:
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise RuntimeError(f"{command}: qemu has ended")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def greeting(address: str, port: int) -> str:
    """What a server says of itself; nothing where none answers. Runs on a host of the lab."""
    try:
        with socket.create_connection((address, port), 5) as sock:
            sock.settimeout(30)
            return sock.recv(64).decode(errors="replace")
    except OSError:
        return ""
