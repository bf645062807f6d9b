# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host: the only file that runs programs or reads /proc.

Programs get argument lists, and rulesets through standard input. A shell runs constant lines and paths of ours; where
such lines are kept for the next boot (`boot.py`) they hold addresses and names of interfaces as well, which were
checked letter by letter before (`parse.py`).
"""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from .errors import CarryError, HostError

#: A command line for the shell, and the text that it reads. Nothing that a user typed stands in the line.
Command = tuple[str, str]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: A program that hangs. Ten thousand services take a few seconds; a million slots up to a hundred on a busy machine.
TIMEOUT_S = 600.0
_DENIED = ("Operation not permitted", "you must be root")


def find(program: str) -> str | None:
    return shutil.which(program, path=PATH)


def require(program: str, package: str) -> str:
    path = find(program)
    if path is None:
        raise HostError(f"{program}: not found on this host (install the package {package})")
    return path


def run(argv: Sequence[str], text: str | None = None, ok: Sequence[int] = (0,)) -> str:
    """Run a program and return what it printed. Raises `HostError` with what it said where its exit status is not in
    `ok`."""
    program = os.path.basename(argv[0])
    status, printed, complained = attempt(argv, text or "")
    if status not in ok:
        raise HostError(complaint(program, status, complained or printed))
    return printed


def carry(commands: Sequence[Command], past_failures: bool = False) -> None:
    """Run commands in turn, up to the first that fails (or all of them), in a process that does not depend on this one.

    Where this one is killed between two of them, also along with its whole process group, the change is still made as a
    whole. Until then no other run begins: the process has the lock that this one holds (`store.lock`). Raises
    `CarryError`.
    """
    if not commands:
        return
    with contextlib.ExitStack() as stack:
        # A line on standard output is a command that is done; what they print themselves goes to standard error.
        lines = ["failed=0"]
        for line, text in commands:
            file = stack.enter_context(_memory_file(text))
            os.set_inheritable(file.fileno(), True)
            otherwise = "failed=1" if past_failures else "exit"
            lines.append(f"if {{ {line} < /proc/self/fd/{file.fileno()}; }} >&2; then echo; else {otherwise}; fi")
        lines.append("exit $failed")
        status, done, complained = _ended("sh", ["/bin/sh", "-c", "\n".join(lines)], "", independent=True)
    if status:
        # It may also have been killed behind the last one.
        failed = 0 if past_failures else min(len(done), len(commands) - 1)
        raise CarryError(complaint(os.path.basename(commands[failed][0].split()[0]), status, complained), failed)


def attempt(argv: Sequence[str], text: str) -> tuple[int, str, str]:
    """The exit status of a program, and what it left on its standard output and standard error."""
    return _ended(os.path.basename(argv[0]), argv, text, independent=False)


def _ended(program: str, argv: Sequence[str], text: str, independent: bool) -> tuple[int, str, str]:
    """The exit status of a program, and what it left on its standard output and standard error.

    An independent one leads a session of its own, and has what descriptors of this process are inheritable: by default
    none is (PEP 446).
    """
    try:
        with _memory_file(text) as stdin, _memory_file() as stdout, _memory_file() as stderr:
            process = subprocess.Popen(
                list(argv),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                close_fds=not independent,
                start_new_session=independent,
                env={"PATH": PATH, "LC_ALL": "C"},
            )
            status = _wait(process, TIMEOUT_S, group=independent)
            if status is None:
                raise HostError(f"{program}: did not end within {TIMEOUT_S:.0f} s")
            return status, _content(stdout), _content(stderr)
    except OSError as error:
        raise HostError(f"{program}: {error.strerror}") from error


def _wait(process: subprocess.Popen[bytes], seconds: float, group: bool) -> int | None:
    """The exit status; None where the process (or the whole group that it leads) had to be killed.

    `Popen.wait` with a time-out only looks now and then, and so sees a program's end up to 50 ms late.
    """
    late = threading.Event()

    def give_up() -> None:
        late.set()
        if group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        status = process.wait()
    finally:
        timer.cancel()
    return None if late.is_set() else status


def complaint(program: str, status: int, said: str) -> str:
    text = " / ".join([line for line in said.splitlines() if line.strip()][:6]) or f"ended with status {status}"
    denied = any(words in text for words in _DENIED)
    return f"{program}: {text}" + (" (this needs root and the capability CAP_NET_ADMIN)" if denied else "")


@contextlib.contextmanager
def _memory_file(text: str = "") -> Iterator[BinaryIO]:
    """A file without a name. Pipes are filled and read in bits of 512 bytes or a line: seconds for 10,000 services."""
    with os.fdopen(os.memfd_create("natlb"), "w+b") as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def _content(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _identity(path: str) -> str:
    status = os.stat(path)
    return f"{path} {status.st_size} {status.st_mtime_ns} {os.uname().release}"


class Nft:
    """The program nft, in this network namespace."""

    def __init__(self) -> None:
        self.path = require("nft", "nftables")

    def identity(self) -> str:
        """What the normal form of a ruleset depends on: the program, and the kernel below it."""
        return _identity(self.path)

    def tables(self) -> list[tuple[str, str]]:
        """(family, name) of every table. To list just the tables, nft 1.0.6 fetches all that is in them."""
        lines = self.chains().splitlines()
        return [(words[1], words[2]) for words in map(str.split, lines) if len(words) == 4 and words[0] == "table"]

    def chains(self) -> str:
        """Every table, and the heads of its chains."""
        return run([self.path, "list", "chains"])

    def terse(self, family: str, table: str) -> str:
        """A table without counters and without the elements of its sets."""
        return run([self.path, "--stateless", "--terse", "list", "table", family, table])

    def list_table(self, family: str, table: str, counters: bool = False) -> str:
        return run([self.path, *([] if counters else ["--stateless"]), "-nn", "list", "table", family, table])

    def check(self, text: str) -> None:
        run([self.path, "--check", "-f", "-"], text)

    def load(self, texts: Iterable[str]) -> list[Command]:
        """What loads these, each in one transaction."""
        return [(f"{self.path} -f -", text) for text in texts]


_FAMILY_PROGRAM = {"ip": "iptables", "ip6": "ip6tables"}


class Iptables:
    """iptables and ip6tables of one variant: `nft`, `legacy`, or None for the only one that the host has."""

    def __init__(self, variant: str | None) -> None:
        self.variant = variant
        require(self.program("ip"), "iptables")

    @property
    def title(self) -> str:
        return f"iptables-{self.variant}" if self.variant else "iptables"

    def identity(self) -> str:
        """See `Nft.identity`."""
        return _identity(self.path("ip", "restore"))

    def program(self, family: str, action: str = "") -> str:
        name = _FAMILY_PROGRAM[family] + (f"-{self.variant}" if self.variant else "")
        return f"{name}-{action}" if action else name

    def path(self, family: str, action: str = "") -> str:
        return require(self.program(family, action), "iptables")

    def save(self, family: str, counters: bool = False, table: str = "") -> str:
        words = [*(["--counters"] if counters else []), *(["--table", table] if table else [])]
        return run([self.path(family, "save"), *words])

    def builtin(self, family: str, table: str, chain: str) -> str:
        """The rules of one built-in chain, as `-A` lines."""
        return run([self.path(family), "--wait", "30", "-t", table, "-S", chain])

    def restore(self, texts: Mapping[str, str]) -> list[Command]:
        """What loads these texts, by family; each table in one transaction."""
        return [(f"{self.path(family, 'restore')} --noflush --wait 30", text) for family, text in sorted(texts.items())]

    def test(self, family: str, text: str) -> None:
        """Whether the program can read it; the kernel is hardly asked."""
        run([self.path(family, "restore"), "--noflush", "--test"], text)


def iptables_variants() -> list[str]:
    """The variants that the host offers by name."""
    return [variant for variant in ("nft", "legacy") if find(f"iptables-{variant}-restore")]


def default_variant() -> str | None:
    """The variant that plain `iptables` is, or None where there is no program of that name."""
    if find("iptables") is None:
        return None
    return "nft" if "nf_tables" in run([require("iptables", "iptables"), "--version"]) else "legacy"


def legacy_tables(family: str) -> list[str]:
    """Tables that iptables-legacy holds here. Asking iptables-legacy-save itself would make them."""
    name = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}[family]
    return _read(f"/proc/thread-self/net/{name}").split()


def legacy_has_rules() -> bool:
    """Whether anything but empty chains lives in iptables-legacy, of any owner."""
    for family, program in (("ip", "iptables-legacy-save"), ("ip6", "ip6tables-legacy-save")):
        path = find(program) if legacy_tables(family) else None
        if path is not None and any(line.startswith("-A ") for line in run([path]).splitlines()):
            return True
    return False


# -- /proc ---------------------------------------------------------------------------------------------------------


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def sysctl_path(name: str) -> str:
    """Names are written with slashes (`net/ipv4/ip_forward`), since the name of an interface may hold dots."""
    return f"/proc/sys/{name}"


def sysctl_get(name: str) -> str | None:
    return _read(sysctl_path(name)).strip() or None


def sysctl_writable(name: str) -> bool:
    return os.access(sysctl_path(name), os.W_OK)


def sysctl_set(name: str, value: str) -> None:
    try:
        with open(sysctl_path(name), "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise HostError(f"sysctl {name}: {error.strerror} (set it to {value} where this host is configured)") from error
    now = sysctl_get(name)
    if now != value:
        raise HostError(f"sysctl {name}: set to {value}, but the kernel says {now}")


def sysctl_files(directories: Sequence[str]) -> dict[str, str]:
    """The files that set sysctls at boot, path to text; one directory's file hides those of the same name before it."""
    by_name: dict[str, str] = {}
    for directory in directories:
        for path in sorted(glob.glob(f"{directory}/*.conf")):
            by_name[os.path.basename(path)] = path
    paths = [*by_name.values(), "/etc/sysctl.conf"]
    return {path: text for path in paths for text in [_read(path)] if text}


def memory_bytes() -> int:
    """All of the host's memory, or 0 where it cannot be told."""
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def sysctl_number(name: str) -> int:
    """A setting as a number; 0 where there is none."""
    text = sysctl_get(name) or ""
    return int(text) if text.isdigit() else 0


def conntrack_statistics() -> str:
    return _read("/proc/thread-self/net/stat/nf_conntrack")


def _inet6() -> Iterable[str]:
    """Each IPv6 address of this host."""
    for line in _read("/proc/thread-self/net/if_inet6").splitlines():
        fields = line.split()
        if len(fields) >= 6:
            yield str(ipaddress.IPv6Address(bytes.fromhex(fields[0])))


def local_addresses() -> set[str]:
    """Every address of this host, loopback included."""
    found = set(_inet6())
    lines = _read("/proc/thread-self/net/fib_trie").splitlines()
    for line, after in zip(lines, lines[1:]):
        if "|-- " in line and after.strip().startswith("/32 host LOCAL"):
            found.add(line.rpartition("|-- ")[2].strip())
    return found


def recent_list_size() -> int:
    """How many client addresses xt_recent remembers in one list."""
    text = _read("/sys/module/xt_recent/parameters/ip_list_tot").strip()
    return int(text) if text.isdigit() else 100


def parent_environments() -> list[str]:
    """The environments of this process and its parents, NUL-separated; of those that may be read."""
    found = []
    pid = os.getpid()
    while pid > 1:
        found.append(_read(f"/proc/{pid}/environ"))
        # The program's name stands in brackets and may hold anything; the parent's id is the second field behind it.
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 else 0
    return found


# -- routing -------------------------------------------------------------------------------------------------------


def ip_json(family: str, *words: str) -> list[dict[str, Any]]:
    """What `ip -json` says; an empty list where there is nothing, or no such table yet."""
    version = "-6" if family == "ip6" else "-4"
    try:
        text = run([require("ip", "iproute2"), version, "-json", *words])
    except HostError as error:
        if "FIB table does not exist" in str(error):
            return []
        raise
    parsed = json.loads(text) if text.strip() else []
    return [item for item in parsed if item]


def ip_batch(texts: Mapping[str, str]) -> list[Command]:
    """What carries these lines of ip(8) out, by family."""
    return [(f"ip {'-6' if family == 'ip6' else '-4'} -batch -", text) for family, text in texts.items()]
