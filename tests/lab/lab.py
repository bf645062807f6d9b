"""The lab: a client, a balancer and four backends, as podman containers in a network namespace of their own.

    client --- natlb-front --- balancer --- natlb-back --- web1 web2 web3 web4

The namespace keeps the lab's bridges, subnets and firewall rules off this machine's own network, whatever that uses.
Standard library only: the set-up runs this before anything is installed into a virtual environment.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

LAB_DIR = pathlib.Path(__file__).resolve().parent
CHECKOUT = LAB_DIR.parent.parent
CACHE_DIR = CHECKOUT / ".cache" / "lab"
CONTAINERS_CONF = LAB_DIR / "containers.conf"
PODMAN_CHOICE = CACHE_DIR / "containers-conf"

IMAGE = "localhost/natlb-lab:bookworm"
SUITE = "bookworm"
RECIPE_LABEL = "natlb.recipe"
SPEC_LABEL = "natlb.spec"
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "python3", "python3-apt", "nftables", "iptables", "conntrack", "iproute2",
    "procps", "iputils-ping", "openssh-server",
)  # fmt: skip
# sshd is started by the one test that needs it, with keys made then.
NO_SSHD = "rm -f {root}/etc/ssh/ssh_host_* {root}/etc/systemd/system/multi-user.target.wants/ssh.service"

NAMESPACE = "natlb-lab"
NAMESPACE_PATH = pathlib.Path("/run/netns") / NAMESPACE
BOOT_TIMEOUT_S = 30
LOCK_PATH = pathlib.Path("/run/natlb-lab.lock")

# As real hosts have them: Debian and Ubuntu mount /run so, and hardened ones /tmp as well.
NOTHING_EXECUTED = ("/run:rw,noexec,nosuid,nodev,mode=755", "/tmp:rw,noexec,nosuid,nodev,mode=1777")

# The last address of each network is the bridge's; nothing routes over it.
NETWORKS = {
    "natlb-front": (("192.0.2.0/24", "192.0.2.254"), ("2001:db8:1::/64", "2001:db8:1::fe")),
    "natlb-back": (("10.0.0.0/24", "10.0.0.254"), ("2001:db8:2::/64", "2001:db8:2::fe")),
}


class LabError(Exception):
    """Something outside this program failed; the message says what and what to do."""


@dataclasses.dataclass(frozen=True)
class Interface:
    """One interface of a container. Name and MAC are fixed, or podman would deal them anew at each restart."""

    network: str
    name: str
    ipv4: str
    ipv6: str

    def option(self) -> str:
        """The value of podman's --network."""
        mac = "02:00:" + ":".join(f"{int(octet):02x}" for octet in self.ipv4.split("."))
        return f"{self.network}:ip={self.ipv4},ip6={self.ipv6},mac={mac},interface_name={self.name}"


@dataclasses.dataclass(frozen=True)
class Host:
    """A container that boots systemd, and which of tests/lab/systemd's unit folders it gets."""

    name: str
    interfaces: tuple[Interface, ...]
    units: str = ""
    sysctls: tuple[str, ...] = ()
    image: str = IMAGE
    capabilities: tuple[str, ...] = ()

    @property
    def container(self) -> str:
        return f"natlb-{self.name}"

    def options(self) -> list[str]:
        """The options of `podman run` that make this container what it is."""
        options = [f"--name={self.container}", f"--hostname={self.name}", "--systemd=always"]
        options += ["--cap-add=NET_ADMIN", "--cap-add=SYS_ADMIN", "--security-opt=unmask=/proc/sys"]
        options += [f"--cap-add={capability}" for capability in self.capabilities]
        options += [f"--network={interface.option()}" for interface in self.interfaces]
        options += [f"--sysctl={sysctl}" for sysctl in self.sysctls]
        options += [f"--tmpfs={mount}" for mount in NOTHING_EXECUTED]
        options += [f"--volume={LAB_DIR}:/lab:ro"]
        if self.units:
            options += [f"--volume={LAB_DIR}/systemd/{self.units}:/usr/local/lib/systemd/system:ro"]
        return options

    def spec(self) -> str:
        """Changes when the container has to be made anew."""
        return digest([*self.options(), self.image, recipe()])


def front(number: int) -> Interface:
    return Interface("natlb-front", "eth0", f"192.0.2.{number}", f"2001:db8:1::{number}")


def back(number: int, name: str = "eth0") -> Interface:
    return Interface("natlb-back", name, f"10.0.0.{number}", f"2001:db8:2::{number}")


# A new namespace inherits this machine's forwarding, and a test that the role turns it on would prove nothing.
NO_FORWARDING = ("net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
HOSTS = (
    Host("client", (front(100),)),
    Host("balancer", (front(2), back(1, "eth1")), units="balancer", sysctls=NO_FORWARDING),
    *(Host(f"web{number}", (back(number + 2),), units="backend") for number in range(1, 5)),
)


def digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def recipe() -> str:
    """Changes when the image has to be built anew."""
    base, containerfile = os.environ.get("NATLB_IMAGE", ""), (LAB_DIR / "Containerfile").read_text()
    return digest([SUITE, *PACKAGES, NO_SSHD, base, containerfile])


# --- running programs ------------------------------------------------------------------------------------------------


def podman_environment() -> dict[str, str]:
    """This process's environment, with CONTAINERS_CONF where podman was found to need it."""
    environment = dict(os.environ)
    if environment.get("CONTAINERS_CONF") == str(CONTAINERS_CONF):
        # Set by tools/run, for the choice that was made last; it may be about to be made anew.
        del environment["CONTAINERS_CONF"]
    if PODMAN_CHOICE.exists() and PODMAN_CHOICE.read_text().strip():
        environment["CONTAINERS_CONF"] = str(CONTAINERS_CONF)
    return environment


def run(*command: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run a program and return its output; a failure is a LabError that quotes it."""
    done = subprocess.run(  # type: ignore[call-overload]
        command, text=True, capture_output=True, check=False, env=podman_environment(), **kwargs
    )
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr.strip()}")
    return done


def podman(*arguments: str, check: bool = True) -> str:
    """Run podman inside the lab's namespace, in which it makes its bridges and interfaces."""
    return run("nsenter", f"--net={NAMESPACE_PATH}", "podman", *arguments, check=check).stdout


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """One change of the lab at a time."""
    with LOCK_PATH.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- image -----------------------------------------------------------------------------------------------------------


def image_is_current() -> bool:
    template = f'{{{{index .Labels "{RECIPE_LABEL}"}}}}'
    found = run("podman", "image", "inspect", "--format", template, IMAGE, check=False)
    return found.returncode == 0 and found.stdout.strip() == recipe()


def build_image() -> None:
    """Build the image unless it is already what the recipe says, and find out which settings podman needs."""
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    if not image_is_current():
        base = os.environ.get("NATLB_IMAGE", "")
        say(f"building the image {IMAGE}" + (f" from {base}" if base else " from Debian's packages (about 40 s)"))
        superseded = run("podman", "image", "inspect", "--format={{.Id}}", IMAGE, check=False).stdout.strip()
        if base:
            build_from_base(base)
        else:
            build_from_packages()
        if superseded:
            # Not forced: containers that still run from it keep it.
            run("podman", "image", "rm", superseded, check=False)
    choose_podman_settings()


def build_from_packages() -> None:
    """Bootstrap Debian without a registry: the file system is a tarball that podman takes as a layer."""
    with tempfile.TemporaryDirectory(dir=CACHE_DIR) as folder:
        tarball = f"{folder}/image.tar"
        exclude = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
        # Not unpacked twice, not synced to disk: an interrupted build is thrown away anyhow.
        quick = ["--variant=minbase", "--dpkgopt=force-unsafe-io", "--skip=check/empty"]
        hook = "--customize-hook=" + NO_SSHD.format(root='"$1"')
        run("mmdebstrap", *quick, *exclude, hook, f"--include={','.join(PACKAGES)}", SUITE, tarball)
        changes = [f"--change=LABEL {RECIPE_LABEL}={recipe()}", '--change=CMD ["/sbin/init"]']
        run("podman", "import", *changes, tarball, IMAGE)


def build_from_base(base: str) -> None:
    """Add the packages to an image that the user named."""
    tags = [f"--tag={IMAGE}", f"--label={RECIPE_LABEL}={recipe()}"]
    arguments = [f"--build-arg=BASE={base}", f"--build-arg=PACKAGES={' '.join(PACKAGES)}"]
    arguments.append(f"--build-arg=NO_SSHD={NO_SSHD.format(root='')}")
    run("podman", "build", "--network=host", f"--file={LAB_DIR}/Containerfile", *tags, *arguments, str(LAB_DIR))


def choose_podman_settings() -> None:
    """Leave podman alone where it can run a container as it is; otherwise use the settings in containers.conf."""
    for choice in ("", str(CONTAINERS_CONF)):
        PODMAN_CHOICE.write_text(choice)
        tried = run("podman", "run", "--rm", "--network=none", IMAGE, "/bin/true", check=False)
        if tried.returncode == 0:
            return
    PODMAN_CHOICE.unlink()
    raise LabError(f"podman cannot run a container on this machine:\n{tried.stderr.strip()}")


# --- containers ------------------------------------------------------------------------------------------------------


def up(hosts: Sequence[Host] = HOSTS, *, fresh: bool = False) -> None:
    """Make what is missing; with fresh, throw the containers away first. Those of another topology go in any case."""
    with exclusive():
        make_namespace()
        make_networks()
        remove(containers() - {host.container for host in hosts})
        running = {} if fresh else running_specs()
        missing = [host for host in hosts if running.get(host.container) != host.spec()]
        with ThreadPoolExecutor() as pool:
            list(pool.map(start, missing))
            list(pool.map(wait_until_booted, missing))


def make_namespace() -> None:
    if not run("ip", "netns", "pids", NAMESPACE, check=False).returncode:
        return
    run("ip", "netns", "add", NAMESPACE)
    # No way around the balancer: the bridges' side of the networks forwards nothing.
    for command in ("ip link set lo up", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0"):
        run("nsenter", f"--net={NAMESPACE_PATH}", *command.split())


def make_networks() -> None:
    for name, subnets in NETWORKS.items():
        if run("podman", "network", "exists", name, check=False).returncode:
            options = [part for subnet, gateway in subnets for part in (f"--subnet={subnet}", f"--gateway={gateway}")]
            podman("network", "create", "--internal", "--disable-dns", "--ipv6", *options, name)


def running_specs() -> dict[str, str]:
    """Running containers of the lab, and the spec each was made from."""
    listed = json.loads(podman("ps", "--filter", f"label={SPEC_LABEL}", "--format=json") or "[]")
    return {container["Names"][0]: container["Labels"][SPEC_LABEL] for container in listed}


def containers() -> set[str]:
    """All containers of the lab, of any topology."""
    return set(podman("ps", "--all", f"--filter=label={SPEC_LABEL}", "--format={{.Names}}").split())


def remove(names: Iterable[str]) -> None:
    for name in names:
        podman("rm", "--force", "--time=0", "--ignore", name)


def start(host: Host) -> None:
    remove([host.container])
    podman("run", "--detach", f"--label={SPEC_LABEL}={host.spec()}", *host.options(), host.image, "/sbin/init")


def wait_until_booted(host: Host) -> None:
    """Return when every unit has started, the servers included (they are of Type=notify)."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    state = ""
    # Right after the start there is nobody to ask yet, and the answer is empty.
    while state not in ("running", "degraded") and time.monotonic() < deadline:
        state = podman("exec", host.container, "systemctl", "is-system-running", "--wait", check=False).strip()
    if state != "running":
        failed = podman("exec", host.container, "systemctl", "--failed", "--no-legend", check=False)
        raise LabError(f"{host.container} did not boot: {state or 'no answer'}\n{failed}")


def reboot(name: str) -> None:
    """Restart a container: its namespace is wiped, its files stay."""
    host = next(host for host in HOSTS if host.name == name)
    podman("restart", "--time=10", host.container)
    wait_until_booted(host)


def down() -> None:
    """Remove containers, networks and the namespace. The image stays."""
    with exclusive():
        # podman needs the namespace to take its interfaces away.
        make_namespace()
        remove(containers())
        for name in NETWORKS:
            podman("network", "rm", "--force", name)
        run("ip", "netns", "delete", NAMESPACE)


def remove_image() -> None:
    run("podman", "image", "rm", "--force", IMAGE, check=False)


def say(message: str) -> None:
    print(f"lab: {message}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("image", help="build the image if its recipe changed")
    up_parser = commands.add_parser("up", help="make the containers that are missing")
    up_parser.add_argument("--fresh", action="store_true", help="make all of them anew")
    commands.add_parser("down", help="remove containers, networks and the namespace")
    commands.add_parser("remove-image", help="remove the image")
    reboot_parser = commands.add_parser("reboot", help="restart a host")
    reboot_parser.add_argument("host", choices=[host.name for host in HOSTS])
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "image":
                build_image()
            case "up":
                up(fresh=arguments.fresh)
            case "down":
                down()
            case "remove-image":
                remove_image()
            case "reboot":
                reboot(arguments.host)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
