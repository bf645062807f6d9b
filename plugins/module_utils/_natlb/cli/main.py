# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`natlb COMMAND`: what is typed on the host, and the status that it ends with.

0: done. 1: it could not be done. 2: it was not understood.
"""

from __future__ import annotations

import argparse
import json
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import NatlbError
from ..host import commits
from ..host.store import DEFAULT_PATHS, Paths

_EXAMPLES = """examples:
  natlb status            what is balanced, and how the backends are
  natlb status --json     the same for programs
  natlb drain web2        give web2 no new connections, whatever runs of Ansible come by
  natlb restore web2      take that back
  natlb apply             make the rules be what was declared last
"""

_ORDERS = {
    "drain": "give a backend no new connections; existing ones go on",
    "disable": "take a backend out of the rotation",
    "weight": "give a backend another share of the new connections",
    "restore": "take back what was said of a backend: it is as declared again",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    paths = DEFAULT_PATHS if parsed.root is None else Paths(Path(parsed.root, "etc"), Path(parsed.root, "run"))
    try:
        return int(parsed.run(parsed, paths) or 0)
    except NatlbError as error:
        _say(f"natlb: {error}", sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def _say(text: str, stream: TextIO | None = None) -> None:
    (stream or sys.stdout).write(f"{text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="natlb",
        description="NAT load balancing with the kernel, as natlb.netfilter has declared it on this host.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # For tests: another place than /etc/natlb and /run/natlb, and one variant of iptables.
    parser.add_argument("--root", help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    status = _command(commands, "status", _status, "show what is balanced, and how the backends are")
    status.add_argument("service", nargs="?", help="this service alone")
    status.add_argument("--json", action="store_true", help="for programs")
    _orders(commands)
    _command(commands, "apply", _apply, "make the rules be what was declared last, with overrides and health")
    _command(commands, "agent", _agent, "check backends, and keep the rules; a service of systemd runs it")
    _command(commands, "version", _version, "say which code this is")
    return parser


def _orders(commands: Any) -> None:
    """What is said of a backend."""
    for name, words in _ORDERS.items():
        parser = _command(commands, name, _order, words)
        parser.add_argument("backend", help="name or address[:port]")
        if name == "weight":
            parser.add_argument("weight", type=int, help="0 to 256; 0 gets no new connections")
        parser.add_argument("--service", help="of this service alone; otherwise of every service that has it")
        parser.add_argument("--reason", default="", help="shown by status, and in the diff of later runs")
        parser.set_defaults(order=name)


def _command(commands: Any, name: str, run: Any, words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=words, description=f"{words.capitalize()}.")
    parser.set_defaults(run=run)
    return parser


def _status(parsed: argparse.Namespace, paths: Paths) -> None:
    from ..status import info, table  # noqa: PLC0415  (other commands do not wait for it)

    found = info.info(service=parsed.service, paths=paths, iptables_variant=parsed.variant)
    if parsed.json:
        _say(json.dumps(found, indent=2))
        return
    found["remarks"] = found.pop("warnings")
    _say("\n".join(table.lines({socket.gethostname(): found})))


def _order(parsed: argparse.Namespace, paths: Paths) -> None:
    from ..plan import orders  # noqa: PLC0415

    state = {"drain": "drained", "disable": "disabled", "restore": "active"}.get(parsed.order)
    order = orders.combined(state, getattr(parsed, "weight", None), parsed.reason)
    change, outcome = orders.give(paths, parsed.backend, parsed.service, order, parsed.variant)
    services = ", ".join(target.service.name for target in change.targets)
    _say(f"{parsed.backend} of {services}: {'changed' if outcome.changed else 'was so already'}")


def _apply(parsed: argparse.Namespace, paths: Paths) -> None:
    from ..plan import running  # noqa: PLC0415

    outcome = running.restore(paths, parsed.variant)
    sys.stdout.write(outcome.diff)
    for warning in outcome.warnings:
        _say(f"natlb: {warning}", sys.stderr)
    _say("changed" if outcome.changed else "nothing to change")


def _agent(parsed: argparse.Namespace, paths: Paths) -> None:
    from ..health.agent import Agent  # noqa: PLC0415
    from ..health.checks import Checker  # noqa: PLC0415
    from ..plan.running import Running  # noqa: PLC0415

    with selectors.DefaultSelector() as selector, commits.followed() as news:
        agent = Agent(Running(paths, parsed.variant), Checker(selector), selector, news)
        # A signal ends the wait of the loop.
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno())
        selector.register(woken, selectors.EVENT_READ, lambda _mask: woken.recv(64))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: agent.stop())
        agent.run()


def _version(_parsed: argparse.Namespace, _paths: Paths) -> None:
    from . import single_file  # noqa: PLC0415

    _say(single_file.digest())
