# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on the balancer: the core itself, and looks at what it did to the kernel."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from _natlb.errors import HostError
from _natlb.host import store
from _natlb.iptables import service as iptables_service
from _natlb.nftables import render, table
from _natlb.nftables.engine import NftablesEngine
from _natlb.plan import balance as runs
from _natlb.plan import draining, engines, request, rollback
from _natlb.status import info as balancer_info
from _natlb.trace import question, trace

from . import run_once

SAVES = ("iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save")
OURS = ("ip natlb", "ip6 natlb")


def balance(root: str, services: Any, egress: Any = None, **options: Any) -> Any:
    """`balance` of the core with its files below `root`."""
    return runs.balance(services, egress, paths=_paths(root), **options)


def balance_in_small_sets(root: str, clients: int, services: Any, **options: Any) -> Any:
    """`balance`, with room for so many clients in each set that packets fill."""
    with _small_sets(clients):
        return balance(root, services, **options)


def info_in_small_sets(root: str, clients: int, variant: str | None = None) -> Any:
    """`info` of what `balance_in_small_sets` made."""
    with _small_sets(clients):
        return info(root, variant=variant)


@contextlib.contextmanager
def _small_sets(clients: int) -> Iterator[None]:
    room = {module: module.CLIENTS for module in (render, table, iptables_service)}
    try:
        for module in room:
            module.CLIENTS = clients
        yield
    finally:
        for module, was in room.items():
            module.CLIENTS = was


def refuse_the_next_delta() -> None:
    """As a kernel does that still has a chain in use."""
    original = NftablesEngine.commands

    def commands(self: Any, transaction: Any) -> Any:
        NftablesEngine.commands = original  # type: ignore[method-assign]
        return [*original(self, transaction)[:1], ("false", "")]

    NftablesEngine.commands = commands  # type: ignore[method-assign]


def info(root: str, service: str | None = None, variant: str | None = None, pending: bool = False) -> Any:
    return balancer_info.info(paths=_paths(root), service=service, pending=pending, iptables_variant=variant)


def traces(root: str, variant: str | None, connections: Sequence[tuple[str, str]]) -> list[Any]:
    """What `natlb trace` tells of (client, target), without asking backends."""
    asked = [question.parse(words) for words in connections]
    return [trace.trace(item, ask=False, paths=_paths(root), iptables_variant=variant).dump() for item in asked]


def backend(root: str, variant: str | None, name: str, state: str | None, options: dict[str, Any]) -> Any:
    """`draining.backend` with the defaults of the module."""
    asked = {"service": None, "weight": None, "reason": "", "wait": False, "wait_timeout": 300, "check": False}
    asked |= {"close_connections": False, "min_active": 1, "allow_missing": False, **options}
    return draining.backend(backend=name, state=state, paths=_paths(root), variant=variant, **asked)


def drain_at_once(root: str, variant: str | None, names: Sequence[str], **options: Any) -> list[str]:
    """Drain these, each in a thread, and no thread takes the lock before all have seen the host as it was before.

    What became of each: its error, or nothing.
    """
    barrier, real = threading.Barrier(len(names)), store.lock

    def lock(paths: store.Paths) -> Any:
        # The lock is taken more than once. They meet the first time.
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            barrier.wait(60)
        return real(paths)

    def drain(name: str) -> str:
        try:
            backend(root, variant, name, "drained", options)
        except HostError as error:
            return str(error)
        return ""

    met: set[int] = set()
    with mock.patch.object(store, "lock", lock), ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(drain, names))


def serving(root: str, variant: str | None) -> set[tuple[str, str]]:
    """(service, backend) of every way that the live rules offer to a new connection, read back from the kernel."""
    state = store.read_state(_paths(root))
    config = request.declared(state)
    engine, _warnings = engines.choose(str(state["engine"]), variant) if state else (None, [])
    return set(engine.counters(config)[0]) if engine else set()


def declared(root: str) -> Any:
    """What the host remembers of the last run."""
    return request.declared(store.read_state(_paths(root)))


def confirm(root: str, token: str) -> None:
    """What the controller does over its new connection."""
    rollback.confirm(_paths(root), token)


def undo(root: str, token: str) -> None:
    """The same where the change turned out to be wrong."""
    rollback.undo(_paths(root), token)


def hold(root: str, token: str, seconds: int = 120) -> None:
    """What the controller says over its new connection where the change is verified first."""
    with mock.patch.object(rollback, "VERIFIED_WITHIN_S", seconds):
        rollback.hold(_paths(root), token)


def put_off_the_undoing(root: str) -> None:
    """As if the script of the change that waits had been killed, long ago."""
    for path in Path(root, "run").glob("rollback.*/pending"):
        path.write_text("0")


def die(root: str, after: str, services: Any, egress: Any = None, **options: Any) -> int:
    """A run in a process of its own that is killed the moment the function `after` has returned. Its exit status."""
    request = {"services": services, "egress": egress, "options": options, "die": after}
    argv = [sys.executable, run_once.__file__, str(Path(runs.__file__).parents[2]), root]
    return subprocess.run(argv, input=json.dumps(request), text=True, timeout=60, check=False).returncode


def balance_by(python: str, root: str, services: Any, egress: Any = None, **options: Any) -> Any:
    """A run in a process of its own, by another interpreter than that of the tests. What `run_once` prints."""
    request = {"services": services, "egress": egress, "options": options}
    argv = [python, "-I", "-B", run_once.__file__, str(Path(runs.__file__).parents[2]), root]
    done = subprocess.run(argv, input=json.dumps(request), capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{python}: exit status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def _paths(root: str) -> Any:
    return store.Paths(etc=Path(root, "etc"), run=Path(root, "run"))


def snapshot() -> dict[str, str]:
    """All that a firewall tool could have changed here, by the program that shows it."""
    seen = {"nft": _shown("nft", "-s", "list", "ruleset")}
    seen.update({program: _without_comments(_shown(program)) for program in SAVES if "legacy" in program})
    seen.update({f"rules{flag}": _shown("ip", flag, "rule") for flag in ("-4", "-6")})
    seen.update({f"routes{flag}": _routes(flag) for flag in ("-4", "-6")})
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        seen[key] = Path("/proc/sys/net", key).read_text()
    return seen


def foreign() -> dict[str, str]:
    """What is not ours of all firewall rules, as the programs print it, with the counters of every rule."""
    seen = {"nft": foreign_nft(_shown("nft", "list", "ruleset"))}
    for program in SAVES:
        seen[program] = foreign_save(_shown(program, "--counters"))
    return seen


def foreign_nft(text: str) -> str:
    """`nft list ruleset` without our tables. Rules of iptables-nft are left to iptables-save, which can read them."""
    kept, skipping = [], False
    for line in text.splitlines():
        table = re.match(r"table (\S+ \S+) \{", line)
        if table:
            skipping = table[1] in OURS or _of_iptables(table[1])
        if not skipping and not line.startswith("#"):
            kept.append(re.sub(r" expires \S+", "", line))
    return "\n".join(kept)


def _of_iptables(table: str) -> bool:
    family, name = table.split()
    return family in ("ip", "ip6") and name in ("filter", "nat", "mangle", "raw", "security")


def foreign_save(text: str) -> str:
    """iptables-save output without our chains, the jumps to them, and tables that are empty but for those.

    Packets that reached a built-in chain's end count for its policy, whoever sent them: those numbers are left out.
    """
    tables = []
    for block in re.findall(r"^\*.*?^COMMIT$", text, re.MULTILINE | re.DOTALL):
        lines = [
            line for line in block.splitlines() if not re.match(r":NATLB|\S+ -A NATLB|\S+ -A .* -[jg] NATLB", line)
        ]
        lines = [re.sub(r"^(:.*) \[.*", r"\1", line) for line in lines]
        if any(line.startswith("[") or re.match(r":\S+ (-|DROP)", line) for line in lines):
            tables.append("\n".join(lines))
    return "\n".join(sorted(tables))


def ours_left() -> list[str]:
    """Every line anywhere that bears our name."""
    found = [line for text in snapshot().values() for line in text.splitlines()]
    found += [line for program in SAVES if "nft" in program for line in _shown(program).splitlines()]
    return [line for line in found if "natlb" in line.lower()]


Contents = dict[tuple[str, ...], list[str]]


def contents(seen: dict[str, str]) -> Contents:
    """A snapshot as what it means: rules in order by chain, elements in any order by set, the rest line by line.

    The order of chains tells when they were made, and a built-in chain without rules only that somebody asked.
    """
    found: Contents = {}
    for program, text in seen.items():
        if program == "nft":
            found.update({(program, *key): lines for key, lines in _nft_blocks(text).items()})
        elif program.endswith("-save"):
            found.update({(program, *key): lines for key, lines in _save_blocks(text).items()})
        else:
            found[(program,)] = text.splitlines()
    return found


def _save_blocks(text: str) -> Contents:
    found: Contents = {}
    for block in re.findall(r"^\*.*?^COMMIT$", text, re.MULTILINE | re.DOTALL):
        table = block.split()[0]
        for chain, rule in re.findall(r"^-A (\S+) (.*)$", block, re.MULTILINE):
            found.setdefault((table, chain), []).append(rule)
    return found


#: How nft shows a limit of iptables where it is the first in the order in which chains were made.
_LIMIT = re.compile(r"add @connlimit\d+ \{[^}]*\}")


def _nft_blocks(text: str) -> Contents:
    found: Contents = {}
    table, name = "", ""
    for line in text.splitlines():
        if line.startswith("table "):
            table = line
        elif re.match(r"\t\w+ \S+ \{$", line):
            name = line.strip()
        elif line.startswith("\t\t"):
            found.setdefault((table, name), []).append(_LIMIT.sub("xt match connlimit", line.strip()))
        elif line.startswith("\t") and line != "\t}":
            found.setdefault((table, ""), []).append(line.strip())
    for (_table, block), lines in found.items():
        if not block.startswith("chain"):
            lines[:] = sorted(re.sub(r"elements = \{|[,}]", "", line).strip() for line in lines)
    bare = ("type ", "policy ")
    return {key: lines for key, lines in found.items() if "natlb" in key[0] or not lines[-1].startswith(bare)}


def _routes(flag: str) -> str:
    """All but those that the kernel itself adds in its own time, as links and addresses come up."""
    lines = _shown("ip", flag, "route", "show", "table", "all").splitlines()
    return "\n".join(line for line in lines if "proto kernel" not in line)


def _without_comments(text: str) -> str:
    """No dates and no counters."""
    lines = [re.sub(r"\[\d+:\d+\]", "[0:0]", line) for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(lines)


def _shown(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
