# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the host be what is declared: read it, compare, and close the gap.

A plan is a list of parts, each a live and a wanted ruleset and the way from one to the other. `changed`, the diff,
check mode and the real run all read that one plan.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import CarryError, ConfigError, HostError
from ..firewalls import forward
from ..host import links, proc, processes, store, sysctl
from ..host.processes import Command
from ..host.routes import Routes
from ..host.store import DEFAULT_PATHS, Content, Paths
from ..model import unclaimed, values
from ..model.closed import CHOICES
from ..model.engine import Engine
from ..model.entities import EMPTY, Config
from ..model.services import parse_config
from ..model.tracking import Tracking, parse_tracking
from ..nftables.program import Nft
from ..ruleset import normal_form
from ..ruleset.normal_form import NormalForm
from ..ruleset.sections import Ruleset, unified
from ..ruleset.transaction import Transaction
from ..warnings import host, interfaces
from . import boot, declaration, engines, expected, forwarding, guard, removal, rollback, summary
from .parts import Part, engine_part, leftovers_part, sysctl_part, sysctls, uplinks_part
from .request import Request
from .request import previous as last_request
from .stale_flows import forget_gone
from .way_back import put_back, way_back


@dataclass
class Outcome:
    """What a run found and did. `diff` is unified; `transaction` is none, delta, replace or remove; `sysctls` are the
    kernel settings that the declaration needs, by name with slashes."""

    changed: bool
    diff: str
    engine: str
    transaction: str
    services: int
    sysctls: dict[str, str]
    warnings: list[str]
    #: What `rollback.confirm` takes, where the change is undone unless it is confirmed.
    token: str = ""


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
    #: The one of the parts whose `commands` carry `transaction` out.
    rules: Part
    #: Files to write, or to remove where None, once the rest stands.
    staged: dict[Path, Content | None]
    #: What the last run has left about normal forms, and those of this run.
    known: dict[str, Any]
    normal: list[NormalForm]
    warnings: list[str]
    #: The request that is kept now, and the one that will be.
    records: tuple[str | None, str | None]

    def diff(self) -> str:
        """First what a person wants to know, then the rules, files and settings."""
        return summary.above("".join(unified(part.live, part.wanted) for part in self.parts), *self.records)

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
            warnings=self.warnings,
        )


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without passes of the garbage collector: over ten thousand services they take a quarter of a run's Python time,
    and what they look for, objects that only refer to each other, is hardly made here."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def balance(
    services: Any,
    egress: Any = None,
    *,
    engine: str = "auto",
    forwarding: bool = True,
    forward: str = "warn",
    forward_others: str = "drop",
    persist: bool = True,
    state: str = "present",
    check: bool = False,
    mark_mask: Any = None,
    conntrack: Any = None,
    rollback_after: int = 0,
    allow_management_port: bool = False,
    assume_installed: bool = False,
    paths: Paths = DEFAULT_PATHS,
    iptables_variant: str | None = None,
) -> Outcome:
    """Make this network namespace's NAT be exactly what is declared; with `check`, only say what would change.

    With `rollback_after` the host goes back by itself after so many seconds, unless `rollback.confirm` is called with
    the token of the outcome. Raises `ConfigErrors` for a declaration that cannot be carried out, before anything is
    touched, and `HostError` where the host cannot do it; the kernel then holds the old rules or the new ones, never a
    mix.
    """
    if services is None and not egress and state == "present":
        raise ConfigError("services", "is missing", "write services: [] or state: absent to take every service away")
    config = parse_config(services, egress, mark_mask)
    rollback_after = declaration.rollback_seconds(rollback_after)
    if state == "absent":
        config = EMPTY
    if not allow_management_port:
        guard.check(config, guard.endpoints(proc.parent_environments()))
    request = Request(config, engine, iptables_variant, forwarding, persist, paths, rollback_after)
    request.forward = values.choice(forward, "forward", ("warn", "accept"))
    request.forward_others = values.choice(forward_others, "forward_others", CHOICES)
    request.tracking = parse_tracking(conntrack) if state == "present" else Tracking()
    request.expected = check and assume_installed
    if os.geteuid() != 0:
        raise HostError("only root may read or change the rules of this host (become: true)")
    if check:
        plan, outcome = _planned(request, state)
        plan.must_be_accepted()
        outcome.diff = plan.diff()
        return outcome
    with rollback.settled(paths):
        plan, outcome = _planned(request, state)
        with ThreadPoolExecutor(1) as aside:
            diff = aside.submit(plan.diff)
            outcome.token = _commit_parts(plan)
        outcome.diff = diff.result()
        outcome.transaction = plan.transaction.kind
        outcome.warnings += forget_gone(plan.previous, request.config)
        outcome.warnings += _tidied(plan, bool(outcome.token))
    return outcome


def _tidied(plan: Plan, waits: bool) -> list[str]:
    """Keep what the next run is quicker with, and nothing where nothing is declared any more.

    The host is what was asked for by now, so what fails here is a warning.
    """
    try:
        _keep_normal_form(plan)
        _keep_before(plan.request)
        if not waits:
            store.remove(plan.request.paths.run / store.CONFIRMED)
            store.remove_if_unused(plan.request.paths)
    except HostError as error:
        return [f"the change is made, but {error}"]
    return []


def _planned(request: Request, state: str) -> tuple[Plan, Outcome]:
    plan = make_plan(request)
    plan.must_be_possible()
    if state == "present":
        plan.warnings += removal.warnings(store.read_state(request.paths), request.config)
    return plan, plan.outcome()


def _commit_parts(plan: Plan) -> str:
    """Carry the plan out. Returns the token to confirm it with, if it has to be confirmed.

    The files for the next boot wait for the confirmation: a reboot before it comes up with the former rules.
    """
    request = plan.request
    parts = [part for part in plan.parts if part.differs]
    waits = bool(parts and request.rollback_after_s)
    # Prepared first: a disk that is full must not be found out about when the rules are new already.
    with store.prepared({} if waits else plan.staged) as put:
        token = rollback.arm(request.paths, request.rollback_after_s, _way_back(parts), plan.staged) if waits else ""
        try:
            for part in parts:
                part.commit()
            _carry(plan, parts)
            put()
        except Exception as error:
            said = put_back(parts)
            rollback.disarm(request.paths)
            if not isinstance(error, HostError):
                raise
            raise HostError(f"{error} ({said})") from error
    return token


def _carry(plan: Plan, parts: list[Part]) -> None:
    """Run the commands of all parts. Where the kernel refuses the rules, their engine may know another way."""
    made = [(part, part.commands()) for part in parts]
    commands = [(part, command) for part, found in made for command in found]
    try:
        processes.carry([command for _unused, command in commands])
    except CarryError as error:
        part = commands[error.done][0]
        instead = plan.engine.instead(plan.transaction, plan.rendered) if part is plan.rules else None
        if instead is None:
            raise
        plan.transaction = instead
        later = [command for other, command in commands[error.done :] if other is not part]
        processes.carry([*part.commands(), *later])


def _way_back(parts: list[Part]) -> list[Command]:
    try:
        return way_back(parts)
    except HostError as error:
        raise HostError(
            f"the former rules could not be put back again, so nothing was changed: {error} "
            f"(rollback_after: 0 changes them with no way back)"
        ) from error


# -- the plan --------------------------------------------------------------------------------------------------------


def make_plan(request: Request) -> Plan:
    """Read the host and say what separates it from what is asked for. Touches nothing.

    Reasoning for the order of the parts: forwarding and routes do no harm without rules, rules without them lose
    packets; what another engine left goes once its successor stands; files come last, since they say what was done.
    """
    config = request.config
    choose = expected.choose_to_remove if config.empty else engines.choose
    if request.expected:
        choose = expected.choose
    engine, warnings = choose(request.held_by or request.engine, request.variant)
    table = Routes()
    no_ip = request.expected and processes.find("ip") is None
    with ThreadPoolExecutor(2) as aside:
        # The kernel takes as long to list ten thousand services as it takes to validate them. What depends on neither
        # is done meanwhile.
        listing = aside.submit(engine.listed)
        hairpin = any(service.snat == "none" for service in config.services)
        previous, before = last_request(request.paths)
        released: dict[str, str] = {}
        if request.forwarding:
            bridges = partial(links.bridges, not no_ip)
            request.before = forwarding.look(before, config.families(), table, sysctl.get, bridges)
            released, more = forwarding.released(before, config.families())
            warnings += more
        closed = request.before.closed if request.forward_others == "drop" else {}
        alone = unclaimed.unclaimed(config, table.ways, proc.local_addresses()) if not config.empty else {}
        rendered = engine.render(config, table.connected if hairpin else [], closed, alone)
        # The question stands before anything else begins: threads of Python take turns, and the kernel would wait.
        known = store.read_json(request.paths.run / store.NORMAL)
        question = normal_form.question(engine, rendered, known)
        validation = aside.submit(question.answer)
        chains = Nft().chains() if processes.find("nft") else None
        path = forward.look(config, request.forward, table, chains)
        files, staged, records = _files_part(request, engine, path, rendered)
        leftovers = engines.leftovers(engine)
        boots = forwarding.settings(config, request.before) if request.forwarding and request.persist else {}
        # Some warnings are read from what ip prints.
        warnings += path.warnings if no_ip else host.found(config, engine, table, chains, boots) + path.warnings
        normal = validation.result()
        live = listing.result()
    idle = interfaces.idle(config.uplinks(), table)
    warnings += interfaces.idle_warnings(idle)
    wanted = normal.ruleset
    rules = engine_part(engine, live, wanted, lambda: plan.transaction)
    transaction = engine.plan(live, wanted, rendered)
    kept = (staged, known, [normal], warnings, records)
    plan = Plan(request, previous, engine, path, rendered, transaction, [], rules, *kept)
    plan.parts.append(sysctl_part({**sysctls(request), **released}, request.expected))
    plan.parts += [] if no_ip else [uplinks_part(config, previous, list(idle))]
    plan.parts += [_opening_part(opening, plan) for opening in path.openings]
    plan.parts.append(rules)
    plan.parts += [leftovers_part(other, left) for other, left in leftovers]
    plan.parts.append(files)
    return plan


def _keep_normal_form(plan: Plan) -> None:
    known = {normal.engine.title: normal.learned() for normal in plan.normal if normal.rendered}
    if known and plan.known != known:
        store.write_text(plan.request.paths.run / store.NORMAL, json.dumps(known))


def _keep_before(request: Request) -> None:
    """What the host was before the first run nobody can find out later, should state.json be lost: a second copy."""
    path, kept = request.paths.run / store.BEFORE, forwarding.dump_before(request.before)
    if request.before.closed and store.read_json(path) != kept:
        store.write_text(path, json.dumps(kept))


def _opening_part(opening: forward.Opening, plan: Plan) -> Part:
    normal = normal_form.ask(opening, opening.rendered, plan.known)
    plan.normal.append(normal)
    wanted = normal.ruleset
    return Part(opening.live, wanted, lambda: opening.commands(wanted), opening.undo, look=opening.look)


def _files_part(
    request: Request, engine: Engine, path: forward.ForwardPath, rendered: Ruleset
) -> tuple[Part, dict[Path, Content | None], tuple[str | None, str | None]]:
    """The files of ours, of these what to write or, where None, to remove, and the kept request before and after."""
    known = {request.paths.etc / name for name in boot.NAMES} | {request.paths.run / store.STATE}
    wanted = boot.files(engine, path, request, rendered)
    live = {path: content for path in known for content in [boot.read(path)] if content is not None}
    staged = {path: wanted.get(path) for path in live.keys() | wanted.keys() if live.get(path) != wanted.get(path)}
    return Part(boot.sections(live), boot.sections(wanted)), staged, (boot.record(live), boot.record(wanted))
