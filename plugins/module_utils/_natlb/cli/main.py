# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`natlb COMMAND`: what is typed on the host. `commands.py` has the commands and the exit codes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable, TextIO

from ..errors import BusyError, ConfigError, HostError, MinActiveError, NatlbError
from ..host import agent_socket, cleanup, commits, store
from ..host.store import Paths
from ..model.entities import State
from ..status import readiness
from ..trace.question import Question
from . import arguments, commands, quick

if TYPE_CHECKING:
    from ..status.table import Line

_STATUSES = {MinActiveError: commands.TOO_FEW, BusyError: commands.BUSY}
_STATES: dict[str, State] = {"drain": "drained", "disable": "disabled", "restore": "active"}


def main(words: Sequence[str] | None = None) -> int:
    """Carry out a command line, and return the exit code."""
    words = sys.argv[1:] if words is None else words
    try:
        # Another program may know arguments that this one does not.
        root, command = arguments.beginning(words)
        if command in commands.OF_THE_DECLARATION and readiness.is_pending(quick.paths(root)):
            _leave_to_another(quick.paths(root), words)
        parsed = arguments.parser().parse_args(words)
        where = quick.paths(parsed.root)
        status = RUNS[parsed.command](parsed, where)
        sys.stdout.flush()
        return status or commands.DONE
    except NatlbError as error:
        _say(f"natlb: {error}", sys.stderr)
        return next((code for kind, code in _STATUSES.items() if isinstance(error, kind)), commands.ERROR)
    except KeyboardInterrupt:
        return commands.INTERRUPTED
    except BrokenPipeError:
        # Whoever reads has had enough. Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return commands.DONE


def _leave_to_another(paths: Paths, words: Sequence[str]) -> None:
    """Where a change of another version waits, have its program carry out the command line: it knows what is declared.
    Returns where there is none."""
    from ..plan import rollback, waiting  # noqa: PLC0415

    directory = rollback.waiting(paths)
    program = None if directory is None else waiting.other_program(directory)
    if program is not None:
        file = os.memfd_create("natlb", 0)
        with open(file, "w", encoding="utf-8", closefd=False) as written:
            written.write(program)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-I", f"/proc/self/fd/{file}", *words])


def _say(text: str, stream: TextIO | None = None) -> None:
    (stream or sys.stdout).write(f"{text}\n")


def _status(parsed: argparse.Namespace, paths: Paths) -> None:
    from ..status import details, info, table  # noqa: PLC0415  (other commands do not wait for it)

    found = info.info(service=parsed.service, paths=paths, iptables_variant=parsed.variant)
    if parsed.json:
        _say(json.dumps(found, indent=2))
        return
    found["remarks"] = found.pop("warnings")
    shown = table.coloured if _colours() else _plain
    _say("\n".join(map(shown, table.marked({socket.gethostname(): found}))))
    if parsed.details:
        _say("\n".join(details.lines(found)))


def _colours() -> bool:
    """Whether standard output is a terminal that shows colours, and nobody has said no (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _plain(line: Line) -> str:
    return line.text


def _ready(parsed: argparse.Namespace, paths: Paths) -> int:
    _root_alone()
    return quick.ready(parsed.json, paths, parsed.variant)


def _leave(parsed: argparse.Namespace, paths: Paths) -> None:
    from . import leaving  # noqa: PLC0415

    _root_alone()
    for line in leaving.leave(paths, parsed.reason):
        _say(line)


def _join(parsed: argparse.Namespace, paths: Paths) -> int:
    from . import leaving  # noqa: PLC0415

    _root_alone()
    _say(leaving.join(paths, parsed.all))
    # It may be unable to serve for other reasons.
    found = quick.ready(as_json=False, where=paths)
    return commands.DONE if found == 0 else commands.ERROR


def _checks(parsed: argparse.Namespace, paths: Paths) -> int:
    from ..health import overview  # noqa: PLC0415
    from ..plan import orders, overlay, request, waiting  # noqa: PLC0415
    from ..status import checks_table  # noqa: PLC0415

    _root_alone()
    problem, answers = None, True
    try:
        checks = agent_socket.asked(paths.run / store.AGENT_SOCKET, agent_socket.CHECKS)
    except HostError as error:
        kept = request.restored(waiting.live(paths), parsed.variant)[0]
        checks = overview.of_files(kept.config.services, overlay.read(kept).findings)
        problem, answers = error if checks else None, False
    nothing = "no health checks are declared"
    if parsed.service is not None:
        checks = [item for item in checks if parsed.service in {backend["service"] for backend in item["backends"]}]
        if not checks:
            orders.named(request.restored(waiting.live(paths), parsed.variant)[0].config, parsed.service)
        nothing = f"{nothing} for service {parsed.service}"
    if parsed.json:
        _say(json.dumps({"agent": answers, "checks": checks}, indent=2))
    else:
        _say("\n".join(checks_table.lines(checks, datetime.now(timezone.utc)) or [nothing]))
    if problem is None:
        return commands.DONE
    _say(f"natlb: {problem}; this is what was found last", sys.stderr)
    return commands.NO_AGENT


def _root_alone() -> None:
    if os.geteuid() != 0:
        raise HostError("only root may read the state of this host (sudo)")


def _trace(parsed: argparse.Namespace, paths: Paths) -> int:
    from ..status import columns  # noqa: PLC0415
    from ..trace import question, steps, trace  # noqa: PLC0415

    seconds = getattr(parsed, "for")
    if seconds is not None and not parsed.live:
        return _misunderstood("--for: says how long --live waits, which is not asked for (add --live, or leave it out)")
    try:
        asked = question.parse(parsed.connection)
    except ConfigError as error:
        return _misunderstood(error)
    if parsed.live:
        return _follow(asked, commands.LIVE_S if seconds is None else seconds, parsed.json)
    found = trace.trace(asked, parsed.interface, not parsed.no_contact, paths, parsed.variant)
    told = [line for item in steps.lines(found) for line in columns.wrapped(item.text, hanging=item.hanging)]
    _say(json.dumps(found.dump(), indent=2) if parsed.json else "\n".join(told))
    return commands.DONE if found.reachable else commands.UNREACHABLE


def _misunderstood(problem: object) -> int:
    _say(f"natlb: {problem}", sys.stderr)
    return commands.USAGE


def _follow(asked: Question, seconds: float, as_json: bool) -> int:
    from ..trace import live  # noqa: PLC0415

    for item in live.follow(asked, seconds):
        line, reached = (item.line, item.reached) if isinstance(item, live.Outcome) else (item, None)
        _say(json.dumps({"said": line, "reached": reached}) if as_json else line)
        sys.stdout.flush()
    return commands.DONE if reached else commands.UNREACHABLE


def _metrics(parsed: argparse.Namespace, paths: Paths) -> None:
    from ..plan import waiting  # noqa: PLC0415
    from ..status import metrics, scrape  # noqa: PLC0415
    from . import single_file  # noqa: PLC0415

    _root_alone()
    checks, vitals = [], None
    agent = paths.run / store.AGENT_SOCKET
    with contextlib.suppress(HostError):
        checks, vitals = agent_socket.asked(agent, agent_socket.CHECKS), metrics.Vitals()
        # One of an earlier version does not know the question.
        vitals = metrics.Vitals(*agent_socket.asked(agent, agent_socket.VITALS))
    state = scrape.State.of_files(waiting.live(paths), parsed.variant)
    sys.stdout.write(scrape.scrape(state, single_file.digest(), checks, vitals, not parsed.no_idle))


def _progress(backend: str, timeout_s: float) -> Callable[[int, float], None]:
    """Tells whoever waits at a terminal how far it is, on one line that is gone at the end."""

    def tell(left: int, waited_s: float) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{backend}: {left} connections left, {waited_s:.0f} of {timeout_s:.0f} s\r")
            sys.stderr.flush()

    return tell


def _order(parsed: argparse.Namespace, paths: Paths) -> int:
    from ..plan import draining  # noqa: PLC0415

    waits = getattr(parsed, "wait", False)
    told = draining.backend(
        backend=parsed.backend,
        service=parsed.service,
        state=_STATES.get(parsed.command),
        weight=getattr(parsed, "weight", None),
        reason=parsed.reason,
        only_reason=getattr(parsed, "only_reason", None),
        wait=waits,
        wait_timeout=getattr(parsed, "timeout", 0),
        close_connections=getattr(parsed, "close", False),
        min_active=getattr(parsed, "min_active", 0),
        allow_missing=False,
        check=False,
        paths=paths,
        variant=parsed.variant,
        progress=_progress(parsed.backend, getattr(parsed, "timeout", 0)),
    )
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    for line in _outcome(parsed, told):
        _say(line)
    return commands.TOO_LATE if waits and told["active_connections"] else commands.DONE


def _outcome(parsed: argparse.Namespace, told: Mapping[str, Any]) -> Iterator[str]:
    """Of which services something has changed, and of which not; and what goes on for other reasons."""
    words = [f"{told['active_connections']} connections left"]
    if told["closed"]:
        words.insert(0, f"{told['closed']} connections closed")
    changed = told["services"] if told["closed"] else told["changed_services"]
    unchanged = [name for name in told["services"] if name not in changed]
    for names, what in ((changed, "changed"), (unchanged, "was so already")):
        if names:
            told_of_each = [what] if parsed.command == "restore" else [what, *words]
            yield f"{parsed.backend} of {', '.join(names)}: {', '.join(told_of_each)}"
    if parsed.command == "restore":
        yield from (f"goes on: {line}" for line in told["overrides"])


def _apply(parsed: argparse.Namespace, paths: Paths) -> None:
    from ..plan import running, waiting  # noqa: PLC0415

    outcome = running.restore(paths, parsed.variant)
    sys.stdout.write(outcome.diff)
    for warning in outcome.warnings:
        _say(f"natlb: {warning}", sys.stderr)
    _say("changed" if outcome.changed else waiting.NOTHING_TO_CHANGE)


def _agent(parsed: argparse.Namespace, paths: Paths) -> None:
    from ..health import overview  # noqa: PLC0415
    from ..health.agent import Agent  # noqa: PLC0415
    from ..health.checks import Checker  # noqa: PLC0415
    from ..health.inquiries import Inquiries  # noqa: PLC0415
    from ..health.publisher import Publisher  # noqa: PLC0415
    from ..host import proc, service_manager  # noqa: PLC0415
    from ..host.agent_socket import CHECKS, READY, TROUBLES, VITALS  # noqa: PLC0415
    from ..plan.running import Running  # noqa: PLC0415
    from ..status import scrape, serving  # noqa: PLC0415
    from ..status.metrics import Vitals  # noqa: PLC0415
    from . import single_file  # noqa: PLC0415

    with selectors.DefaultSelector() as selector, commits.followed() as news:
        checker = Checker(selector)
        store.make_directory(paths.run)
        path = paths.run / store.AGENT_SOCKET
        began, pid = time.time(), os.getpid()

        def checks() -> list[dict[str, Any]]:
            return overview.of_agent(checker.overview(), time.monotonic())

        def vitals() -> Vitals:
            # A child answers, whose own times are not asked for.
            return Vitals(began, proc.processor_s(pid), agent.restored)

        running = Running(paths, parsed.variant)
        desk = Inquiries(
            path,
            selector,
            {CHECKS: checks, VITALS: vitals, TROUBLES: lambda: [*agent.troubles, *publisher.troubles]},
            {READY: serving.OfRunning(running).facts},
        )

        def say(message: str, priority: int = service_manager.INFO, **fields: str) -> None:
            service_manager.say(message, priority, **fields)
            desk.tell(message, **fields)

        with contextlib.closing(desk):

            def collect(idle: bool) -> str:
                return scrape.of_running(running, single_file.digest(), checks(), vitals(), idle)

            publisher = Publisher(selector, collect, say)
            agent = Agent(running, checker, selector, news, say, publisher)
            with _ended_by_signals(selector, agent.stop):
                agent.run()
    _leave_nothing(paths)


def _leave_nothing(paths: Paths) -> None:
    """Where nothing is declared any more, the socket of the agent and the lock may be all that is left. Of a first
    change that waits for its confirmation nothing is declared yet."""
    from ..plan import rollback  # noqa: PLC0415

    if store.state_path(paths) is None:
        with contextlib.suppress(HostError), store.lock(paths):
            if rollback.waiting(paths) is None:
                cleanup.remove_if_unused(paths)


@contextlib.contextmanager
def _ended_by_signals(selector: selectors.BaseSelector, stop: Callable[[], None]) -> Iterator[None]:
    """A signal calls `stop`, and ends the wait of the loop."""
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    selector.register(woken, selectors.EVENT_READ, lambda _mask: woken.recv(64))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop())
    yield


def _watch(parsed: argparse.Namespace, paths: Paths) -> int:
    from . import watch  # noqa: PLC0415

    _root_alone()
    return watch.watch(parsed, paths)


def _completion(parsed: argparse.Namespace, _paths: Paths) -> None:
    from . import completion  # noqa: PLC0415

    sys.stdout.write(completion.SCRIPTS[parsed.shell])


def _complete(parsed: argparse.Namespace, paths: Paths) -> None:
    from . import completion  # noqa: PLC0415

    found = completion.candidates(parsed.words[1:], store.read_state(paths))
    sys.stdout.writelines(f"{word}\t{says}\n" for word, says in found)


def _manual(_parsed: argparse.Namespace, _paths: Paths) -> None:
    from . import manual  # noqa: PLC0415

    sys.stdout.write(manual.page())


def _version(_parsed: argparse.Namespace, _paths: Paths) -> None:
    from . import single_file  # noqa: PLC0415

    _say(single_file.digest())


#: What carries out each command.
RUNS = {
    "status": _status,
    "ready": _ready,
    "leave": _leave,
    "join": _join,
    "checks": _checks,
    "watch": _watch,
    **dict.fromkeys(("drain", "disable", "weight", "restore"), _order),
    "trace": _trace,
    "metrics": _metrics,
    "apply": _apply,
    "agent": _agent,
    "completion": _completion,
    arguments.COMPLETE: _complete,
    "manual": _manual,
    "version": _version,
}
