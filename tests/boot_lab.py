# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host in a folder, for what a run leaves for the next boot: no rules, and a systemd that notes what it is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import HostError
from _natlb.firewalls.forward import ForwardPath
from _natlb.host import boot_set, cleanup, journal, processes, staging, store, units
from _natlb.host.staging import Staging
from _natlb.model.services import parse_config
from _natlb.plan import boot
from _natlb.plan.overlay import Overlay
from _natlb.plan.parts import Part
from _natlb.plan.request import Request

#: Audit events of what changes a file system (sys.addaudithook), beside a file that is opened to be written.
_CHANGES = ("os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.chmod", "os.chown")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SERVICE = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3"}]}
UPLINKS = [{"source": "10.0.0.0/24", "uplinks": [{"interface": "eth1", "gateway": "203.0.113.1"}]}]
SETTINGS = {"net/ipv4/ip_forward": "1"}


class Engine:
    """Rules of one line."""

    def __init__(self, name: str, rules: str) -> None:
        self.name, self._rules = name, rules
        self.loads_modules = name == "iptables"

    def boot(self, _rendered: Any, directory: str) -> tuple[dict[str, str], list[str]]:
        name = {"nftables": "ruleset.nft", "iptables": "ruleset.iptables"}[self.name]
        return {name: self._rules}, [f"load {directory}/{name}"]


class Systemd:
    """Knows which units are active; what `fails` names cannot be done."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.active: set[str] = set()
        self.fails = ""
        self.stale: set[str] = set()

    def run(self, argv: list[str], _text: str | None = None, ok: Any = (0,)) -> str:
        del ok
        if Path(argv[0]).name != "systemctl":
            return "first words\nlast words\n"
        if argv[1] == "show":
            names = argv[argv.index("--") + 1 :]
            return "\n\n".join(self._shown(name) for name in names)
        verb, *names = argv[2:]
        self.told.append(" ".join([verb, *names]))
        if self.fails == self.told[-1]:
            raise HostError("systemctl: Job for it failed.")
        if verb in ("start", "restart"):
            self.active.update(names)
        if verb == "stop":
            self.active.difference_update(names)
        return ""

    def _shown(self, name: str) -> str:
        state = "failed" if name in self.fails else "active" if name in self.active else "inactive"
        return f"ActiveState={state}\nInvocationID=5a\nNeedDaemonReload={'yes' if name in self.stale else 'no'}"


class Host:
    """`declare` makes a plan, `put` carries it out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = store.Paths(root / "etc/natlb", root / "run/natlb", root)
        self.systemd = Systemd()
        for folder in ("etc/systemd/system", "etc/sysctl.d", "etc/modules-load.d", "usr/local/sbin", "run"):
            (root / folder).mkdir(parents=True)

    def request(self, name: str = "", **options: Any) -> Request:
        """`name` is what the rules say; without one nothing is declared."""
        more = {key: options[key] for key in ("health", "helper") if key in options}
        services = [{**SERVICE, "name": name, **more}] if name else []
        config = parse_config(services, options.get("egress", []) if name else [])
        forwarding, persist = options.get("forwarding", True), options.get("persist", True)
        firewall = options.get("firewall", "warn")
        program = options.get("program")
        return Request(config, "auto", None, forwarding, persist, self.paths, firewall=firewall, program=program)

    def plan(self, name: str = "", **options: Any) -> tuple[Part, Staging]:
        """See `request`; and `engine` and `settings`."""
        live, request = boot.read(self.paths), self.request(name, **options)
        engine: Any = Engine(options.get("engine", "nftables"), f"rules of {name}\n")
        settings, laid = options.get("settings", SETTINGS), Overlay(request.config)
        wanted = boot.wanted(engine, ForwardPath("warn"), request, {}, settings, live, laid)
        return boot.difference(self.paths, live, wanted)

    def put(self, staged: Staging) -> None:
        with staging.prepared(self.paths, staged) as put_in_place:
            put_in_place()

    def run(self, name: str = "", **options: Any) -> bool:
        """A run to its end; whether it changed anything."""
        staging.remove_unfinished(self.paths)
        part, staged = self.plan(name, **options)
        self.put(staged)
        cleanup.remove_if_unused(self.paths)
        return part.differs

    def boots(self) -> dict[str, str]:
        """Everything that a boot would find, by the names by which it looks for it."""
        found = {}
        sysctl = self.root / "etc/sysctl.d/zz-natlb.conf"
        rules = list((self.paths.etc / "current").glob("ruleset*"))
        for path in (*(self.paths.etc / name for name in boot_set.LINKS), sysctl, *rules):
            if path.exists():
                found[path.name] = path.read_text()
        return found

    def files(self) -> dict[str, str]:
        """Every file and link below the root, without /run."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            if path.is_symlink() or path.is_file():
                name = str(path.relative_to(self.root))
                found[name] = f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        return {name: text for name, text in found.items() if not name.startswith("run/")}

    def unit(self, name: str) -> Path:
        return self.root / "etc/systemd/system" / name


def boot_host(root: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host below this folder. The core takes its systemd for that of the machine."""
    made = Host(root)
    monkeypatch.setattr(units, "systemd_runs", lambda: True)
    # It takes most of the time, and nothing here looks below the file system.
    monkeypatch.setattr(store.os, "fsync", lambda _descriptor: None)
    for module in (units.processes, journal.processes):
        monkeypatch.setattr(module, "run", made.systemd.run)
    monkeypatch.setattr(processes, "require", lambda program, _package: program)
    return made


def interrupted(work: Callable[[], None], at: int, error: OSError | None = None) -> int:
    """Do `work` in a process that is gone right before its change number `at` of the file system, or, with an error,
    that fails there. The exit status: 0 it ended, 1 it was gone, 3 a `HostError`."""
    pid = os.fork()
    if not pid:
        status = 2
        try:
            sys.addaudithook(_Counter(at, error))
            work()
            status = 0
        except HostError:
            status = 3
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class _Counter:
    def __init__(self, at: int, error: OSError | None) -> None:
        self._left, self._error = at, error

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES and not (event == "open" and arguments[2] & _WRITING):
            return
        self._left -= 1
        if self._left:
            return
        if self._error is None:
            os._exit(1)
        raise self._error
