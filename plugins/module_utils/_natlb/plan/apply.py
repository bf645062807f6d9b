# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the host match the declaration: reads it, compares, and carries out the difference.

A plan is a list of parts. Each part has a live and a wanted ruleset, and the commands that lead from one to the other.
`changed`, the diff, check mode and the real run all use this one plan.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..errors import CommandsError, HostError
from ..firewalls import forward
from ..host import cleanup, links, nf_tables, observation, proc, processes, revision, staging, store, sysctl
from ..host.nf_tables import BaseChain
from ..host.observation import Watch, digest
from ..host.revision import Revision
from ..host.routes import Routes
from ..host.staging import Staging
from ..model import tracking, unclaimed
from ..model.engine import Engine
from ..model.entities import Config
from ..model.surroundings import Surroundings
from ..ruleset import normal_form
from ..ruleset.normal_form import NormalForm
from ..ruleset.sections import Ruleset, unified
from ..ruleset.transaction import Transaction
from ..warnings import host, interfaces
from . import (
    agent_files,
    boot,
    engines,
    expected,
    forwarding,
    last_declaration,
    overlay,
    removal,
    rollback,
    summary,
    taken,
    unchanged,
)
from . import request as requests
from .forwarding import Before
from .last_declaration import KnownForms
from .outcome import Outcome
from .overlay import Overlay, Record
from .parts import Part, engine_part, other_engine_part, sysctl_part, sysctls, uplinks_part
from .request import Request
from .rollback import WayBack
from .stale_flows import delete_stale
from .unchanged import Asked
from .undo import undo_now, way_back


@dataclass
class Plan:
    """Everything that a run will do, in order."""

    request: Request
    previous: Config
    engine: Engine
    path: forward.ForwardPath
    rendered: Ruleset
    transaction: Transaction
    parts: list[Part]
    #: The one of the parts whose `commands` carry `transaction` out, and the one of what boots.
    rules: Part
    files: Part
    #: What is left for the next boot once the rest stands.
    staged: Staging
    #: What the last run has left about normal forms, and those of this run.
    known: KnownForms
    normal: list[NormalForm]
    #: What holds as long as nothing changes, and what is said of this change alone.
    warnings: list[str]
    passing: list[str]
    #: What the last run has kept of its request, as it was read.
    state: Mapping[str, Any]
    #: What is kept now, and what will be.
    records: tuple[Record, Record]
    #: What overrides and health make of the declaration.
    laid: Overlay
    around: Surroundings

    def diff(self) -> str:
        """First what a person wants to know, then the rules, files and settings."""
        before, after = self.records
        diff = "".join(unified(part.live, part.wanted) for part in self.parts)
        lost = removal.lost_takeovers(self.state, self.request.config)
        return summary.with_summary(diff, before.request, after.request, before.effective, after.effective, lost)

    def must_be_possible(self) -> None:
        """Raises `HostError` where the host cannot be brought to what is asked for."""
        obstacles = [part.obstacle for part in self.parts if part.obstacle]
        if obstacles:
            raise HostError("\n".join(obstacles))

    def must_be_accepted(self) -> None:
        """Ask a kernel about the rules as a whole; a run that changes the host asks its own.

        Raises `HostError`. What only the whole can have wrong is not in any of the sections that are asked about.
        """
        if self.transaction.kind not in ("none", "remove"):
            for unit, text in self.engine.texts(self.rendered).items():
                self.engine.normal(unit, text)

    def outcome(self) -> Outcome:
        """What to tell of it, without its diff."""
        return Outcome(
            changed=any(part.differs for part in self.parts),
            diff="",
            engine=self.engine.name,
            transaction=self.transaction.kind,
            services=len(self.request.config.services),
            sysctls=sysctls(self.request),
            warnings=[*self.warnings, *self.passing, *self.laid.passing],
        )


def check(request: Request, state: str) -> Outcome:
    """What a run would change."""
    plan, outcome = _planned(request, state)
    plan.must_be_accepted()
    outcome.diff = plan.diff()
    return outcome


def carry_out(request: Request, state: str, asked: Asked) -> tuple[Plan, Outcome]:
    """Change what is to be changed. To be called with the lock held."""
    began = revision.current()
    with observation.watched() as watch:
        plan, outcome = _planned(request, state)
    with ThreadPoolExecutor(1) as pool:
        diff = pool.submit(plan.diff)
        outcome.token = _commit_parts(plan)
    outcome.diff = diff.result()
    outcome.transaction = plan.transaction.kind
    outcome.warnings += delete_stale(plan.previous, plan.laid.config)
    outcome.warnings += _tidied(plan, bool(outcome.token))
    if not request.config.empty:
        _remember(plan, asked, watch, began, bool(outcome.token))
    return plan, outcome


def carry_out_live(request: Request) -> tuple[Plan, Outcome, Revision | None]:
    """The same of a change that waits for its confirmation, to which what boots is left. The revision is the one that
    this leaves, where it is certain. To be called with the lock held."""
    began = revision.current()
    plan, outcome = _planned(request, "present")
    parts = [part for part in plan.parts if part.differs and part is not plan.files]
    with _all_or_nothing(parts):
        _run_commands(plan, parts)
    outcome.changed = bool(parts)
    outcome.diff = "".join(unified(part.live, part.wanted) for part in parts)
    outcome.transaction = plan.transaction.kind
    outcome.warnings += delete_stale(plan.previous, plan.laid.config)
    outcome.warnings += _tidied(plan, waits=True)
    after = began and began.after(sum(part.commits() for part in parts))
    return plan, outcome, after if after == revision.current() else None


def _remember(plan: Plan, asked: Asked, watch: Watch, began: Revision | None, waits: bool) -> None:
    """So that the next run need not look for what this one has left."""
    settings = sysctls(plan.request)
    ours = {("host.sysctl.get", (name,)): digest(value) for name, value in settings.items()}
    ours.update(boot.will_be_read(plan.request.paths, plan.staged))
    ours.update(overlay.will_be_read(plan.laid))
    if not waits:
        ours.update(Watch({call: told for call, told in watch.seen.items() if call[0] in boot.MOVED}).replay())
    commits = sum(part.commits() for part in plan.parts if part.differs)
    kept = {"engine": plan.engine.name, "services": len(plan.request.config.services), "warnings": plan.warnings}
    unchanged.keep(plan.request.paths, asked.key, watch, began, commits, ours, {**kept, "sysctls": settings})
    state = plan.records[1].request
    if asked.services and state is not None:
        configs = plan.request.config, plan.laid.live
        rules = last_declaration.rules_key(plan.engine, *configs, plan.around, plan.known, len(plan.rendered))
        last_declaration.keep(plan.request.paths, asked, state, rules)


def _tidied(plan: Plan, waits: bool) -> list[str]:
    """Keep what the next run is quicker with, and nothing where nothing is declared any more.

    The host is what was asked for by now, so what fails here is a warning.
    """
    try:
        _keep_normal_form(plan)
        forwarding.keep_before(plan.request.paths, plan.request.before)
        overlay.repair_health_file(plan.laid)  # Who reads a change that waits must not meet what it has ended.
        if not waits:
            agent_files.remove_left_metrics(plan.records[0].request, plan.request)
            store.remove(plan.request.paths.run / store.CONFIRMED)
            cleanup.remove_if_unused(plan.request.paths)
    except HostError as error:
        return [f"the change is made, but {error}"]
    return []


def _planned(request: Request, state: str) -> tuple[Plan, Outcome]:
    plan = make_plan(request)
    plan.must_be_possible()
    plan.passing += requests.complaints(request.paths, plan.state)
    if state == "present":
        plan.passing += removal.warnings(plan.state, request.config)
    return plan, plan.outcome()


def _commit_parts(plan: Plan) -> str:
    """Carry the plan out. Returns the token to confirm it with, if it has to be confirmed.

    What the next boot finds waits for the confirmation: a reboot before it comes up with the former rules.
    """
    request = plan.request
    parts = [part for part in plan.parts if part.differs]
    waits = bool(parts and request.rollback_after_s)
    # Prepared first: that a disk is full must not be found out when the rules are new already.
    with staging.prepared(request.paths, Staging() if waits else plan.staged) as put_in_place:
        token = rollback.arm(request.paths, request.rollback_after_s, _way_back(parts), plan.staged) if waits else ""
        try:
            with _all_or_nothing(parts):
                _run_commands(plan, parts)
                put_in_place()
        except Exception:
            rollback.disarm(request.paths)
            raise
    return token


@contextlib.contextmanager
def _all_or_nothing(parts: Sequence[Part]) -> Iterator[None]:
    """Undo these parts at once where they cannot all be made."""
    try:
        yield
    except Exception as error:
        said = undo_now(parts)
        if not isinstance(error, HostError):
            raise
        raise HostError(f"{error} ({said})") from error


def _run_commands(plan: Plan, parts: list[Part]) -> None:
    """Commit all parts, and run their commands. Where the kernel refuses the rules, their engine may know another
    way."""
    with taken.noted(plan.request, plan.engine):
        _run(plan, parts)


def _run(plan: Plan, parts: list[Part]) -> None:
    for part in parts:
        part.commit()
    commands = [(part, command) for part in parts for command in part.commands()]
    try:
        processes.run_commands([command for _unused, command in commands])
    except CommandsError as error:
        part = commands[error.done][0]
        fallback = plan.engine.fallback(plan.transaction, plan.rendered) if part is plan.rules else None
        if fallback is None:
            raise
        plan.transaction = fallback
        later = [command for other, command in commands[error.done :] if other is not part]
        processes.run_commands([*part.commands(), *later])


def _way_back(parts: list[Part]) -> WayBack:
    try:
        return way_back(parts)
    except HostError as error:
        raise HostError(
            f"no rollback could be prepared, so nothing was changed: {error} "
            f"(rollback_after: 0 makes changes without a rollback)"
        ) from error


# -- the plan --------------------------------------------------------------------------------------------------------


def make_plan(request: Request) -> Plan:
    """Read the host and say what separates it from what is asked for. Touches nothing.

    Reasoning for the order of the parts: forwarding and routes do no harm without rules, rules without them lose
    packets; what another engine left goes once its successor stands; files come last, since they say what was done.
    """
    state = store.read_state(request.paths, request.last.file if request.last else None)
    laid = overlay.read(request, state)
    config = laid.config
    engine, warnings = _engine(request)
    table = Routes()
    no_ip = request.expected and processes.find("ip") is None
    with ThreadPoolExecutor(3) as pool:
        boot_read = pool.submit(boot.read, request.paths)
        # The kernel takes as long to list all as to validate all. What depends on neither is done meanwhile.
        known = last_declaration.known_forms(request.paths)
        listing = pool.submit(last_declaration.live, engine, request.paths, known)
        previous, before = requests.previous(request.paths, state)
        request, released, passing = _forwarded(request, before, table, no_ip)
        around = _surroundings(request, config, table)
        rendered = last_declaration.rendered(request.last, engine, request.config, laid.live, around, known)
        # The question stands before anything else begins: threads of Python take turns, and the kernel would wait.
        question = normal_form.question(engine, rendered, known.forms)
        validation = pool.submit(question.answer)
        chains = nf_tables.base_chains()
        path = forward.read(config, request.firewall, table, chains)
        settings = _settings(request, validation)
        boots = rendered if laid.live is config else engine.render(config, around)
        files = boot.change(engine, path, request, boots, settings, boot_read.result(), laid)
        warnings += files.warnings
        # Some warnings come from what ip prints.
        warnings += [] if no_ip else _host_warnings(request, laid, engine, table, chains)
        normal = validation.result()
        live = engine.overtaken(listing.result(), rendered, path.preceding())
    warnings += [*path.warnings, *engine.retained(normal.ruleset)]
    idle = interfaces.idle(config.uplinks(), table, links.names() if config.uplinks() else [])
    warnings += [*interfaces.idle_warnings(idle), *laid.warnings]
    rules = engine_part(engine, live, normal.ruleset, lambda: plan.transaction)
    transaction = engine.plan(live, normal.ruleset, rendered)
    kept = (files.staging, known, [normal], warnings, passing, state, files.records, laid, around)
    plan = Plan(request, previous, engine, path, rendered, transaction, [], rules, files.part, *kept)
    plan.parts += [
        sysctl_part({**settings, **released}, request.expected),
        *([] if no_ip else [uplinks_part(config, previous, list(idle))]),
        *(_opening_part(opening, plan) for opening in path.openings),
        rules,
        *(other_engine_part(other, left) for other, left in engines.other_engine_rules(engine)),
        files.part,
    ]
    return plan


def _surroundings(request: Request, config: Config, table: Routes) -> Surroundings:
    """What the rules depend on beside the configuration. What they do not depend on is not read."""
    hairpin = any(service.source_nat.shows_clients for service in config.services)
    return Surroundings(
        connected=table.connected if hairpin else [],
        closed=request.before.closed if request.transit == "drop" else {},
        unclaimed={} if config.empty else unclaimed.unclaimed(config, table.ways, proc.local_addresses()),
    )


def _host_warnings(
    request: Request, laid: Overlay, engine: Engine, table: Routes, chains: Sequence[BaseChain]
) -> list[str]:
    """What the declaration meets on this host."""
    boots = forwarding.settings(laid.config, request.before) if request.forwarding and request.persist else {}
    return host.collect(laid.config, engine, table, chains, boots)


def _settings(request: Request, validation: Future[NormalForm]) -> dict[str, str]:
    """The kernel settings that the run is to see to. Those of connection tracking are there once the kernel has its
    module, which comes with the first rules that it is asked about."""
    if not sysctl.get(tracking.names()[0]):
        validation.result()
    return sysctls(request)


def _engine(request: Request) -> tuple[Engine, list[str]]:
    """The engine for what is asked for, and warnings about what else lives on the host."""
    if request.held_by and not request.config.empty:
        return engines.choose_to_read(request.held_by, request.variant)
    choose = expected.choose_to_remove if request.config.empty else engines.choose
    if request.expected:
        choose = expected.choose
    return choose(request.held_by or request.engine, request.variant)


def _forwarded(
    request: Request, before: Before, table: Routes, no_ip: bool
) -> tuple[Request, dict[str, str], list[str]]:
    """The request with what this host was before natlb forwarded for it; and of families that it no longer forwards for
    the settings that go back, and what to say of them."""
    if not request.forwarding:
        return request, {}, []
    families = request.config.families()
    found = forwarding.read_before(before, families, table, sysctl.get, partial(links.bridges, not no_ip))
    return replace(request, before=found), *forwarding.released(before, families)


def _keep_normal_form(plan: Plan) -> None:
    # Where this fails, `_remember` must not tell the next run that the former rules are those of this one.
    known, plan.known = plan.known, last_declaration.NO_FORMS
    plan.known = last_declaration.keep_forms(plan.request.paths, known, plan.normal)


def _opening_part(opening: forward.Opening, plan: Plan) -> Part:
    normal = normal_form.ask(opening, opening.rendered, plan.known.forms)
    plan.normal.append(normal)
    wanted = normal.ruleset

    def commits() -> int:
        return sum(opening.program.commits(text) for _line, text in opening.commands(wanted))

    return Part(
        opening.live, wanted, lambda: opening.commands(wanted), opening.undo, reread=opening.read, commits=commits
    )
