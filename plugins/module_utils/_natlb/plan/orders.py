# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator says of a backend on the host: drained, disabled, another weight, or as declared again.

It is kept beside the declaration (`model/local_state.py`), and the host is made to follow in the same step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple, Union

from ..errors import ConfigError, HostError, UnknownBackendError
from ..host import store
from ..host.date import utc
from ..host.store import Paths
from ..model import local_state, values
from ..model.choices import Variant
from ..model.effective import Override, Place, joined
from ..model.entities import MAX_WEIGHT, Backend, Config, Service, State
from . import overlay, rollback, running, waiting
from . import request as requests
from .outcome import Outcome
from .request import Request

#: What becomes of the override of a backend; None is none.
Order = Callable[[Override], Union[Override, None]]

#: So many reasons of an override are kept apart. The oldest of more become one, with these words.
_REASONS, _EARLIER = 8, "earlier reasons"

#: How many names a message lists.
_NAMED = 8


class Target(NamedTuple):
    """A backend of a service."""

    service: Service
    backend: Backend

    @property
    def place(self) -> Place:
        return Place(self.service.name, self.backend.address, self.backend.port)


def named(config: Config, service: str | None) -> list[Service]:
    """The service of this name, or all. Raises `UnknownBackendError` where there is none."""
    found = [item for item in config.services if service in (None, item.name)]
    if not found:
        known = _listed(item.name for item in config.services)
        raise UnknownBackendError(f"service {service}: not declared on this host (declared: {known})")
    return found


def targets(config: Config, backend: str, service: str | None = None) -> list[Target]:
    """The backends of this name, or at this `address` or `address:port`: of one service, or of all.

    Raises `UnknownBackendError` where there is none.
    """
    services = named(config, service)
    found = [Target(item, one) for item in services for one in item.backends if backend in _names(item, one)]
    if not found:
        where = f"service {service}" if service else "every service"
        known = _listed(one.name for item in services for one in item.backends)
        raise UnknownBackendError(f"backend {backend}: {where} has none of this name or address (there are: {known})")
    return found


def _names(service: Service, backend: Backend) -> set[str]:
    """A port may be named where it is all of the backend: one without a port of its own has those of the service."""
    ports = {backend.ports_at(listen.low, listen.high) for listen in service.listens}
    low, high = next(iter(ports))
    is_one = len(ports) == 1 and low == high
    return {backend.name, backend.address, *([values.endpoint(backend.address, low)] if is_one else [])}


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more or "none"


def combined(state: State | None, weight: int | None, reason: str = "", only_reason: str | None = None) -> Order:
    """The order for a state, a weight or both. `active` takes back whatever was said before, or with `only_reason` what
    was said for that reason alone. What is said for another reason than before is kept beside it.

    Raises `ConfigError` for a weight that is none, and for an `only_reason` of anything but `active`.
    """
    if weight is not None:
        values.integer(weight, "weight", 0, MAX_WEIGHT)
    if only_reason is None:
        return partial(_ordered, state, weight, local_state.line(reason))
    if state != "active" or weight is not None:
        raise ConfigError("only_reason", "goes with the state active alone", "leave it out, or write state: active")
    return partial(_without, local_state.line(only_reason))


def _without(reason: str, former: Override) -> Override | None:
    """What is left of an override once this reason is gone."""
    left = [part for part in former.by_reason if part.reason != reason]
    return joined(left) if left else None


def _ordered(state: State | None, weight: int | None, reason: str, former: Override) -> Override | None:
    before = () if state == "active" else former.by_reason
    mine = next((part for part in before if part.reason == reason), Override())
    said = Override(
        mine.state if state is None or state == "active" else state,
        mine.weight if weight is None else weight,
        utc(),
        reason,
    )
    if said.idle:
        return None
    if (said.state, said.weight) == (mine.state, mine.weight):
        is_held = state in (None, former.state) and weight in (None, former.weight)
        if is_held:
            return former
    return joined(_bounded([*(part for part in before if part.reason != reason), said]))


def _bounded(parts: list[Override]) -> list[Override]:
    """No more than `_REASONS`, and with the same effect.

    The oldest are no longer taken back one by one: they keep the backend out until all is taken back, or what was said
    for `_EARLIER`.
    """
    if len(parts) <= _REASONS:
        return parts
    older, newer = parts[: 1 - _REASONS], parts[1 - _REASONS :]
    return [replace(joined(older), reason=_EARLIER, parts=()), *newer]


class Change(NamedTuple):
    """What an order changes of the overrides of a host: nothing where they are the same."""

    request: Request
    targets: list[Target]
    before: Mapping[Place, Override]
    after: Mapping[Place, Override]

    @property
    def is_none(self) -> bool:
        return self.before == self.after

    @property
    def changed(self) -> list[Target]:
        """The backends of which something else holds now."""
        return [target for target in self.targets if self.before.get(target.place) != self.after.get(target.place)]

    @property
    def holding(self) -> list[str]:
        """What holds of these backends now, in words."""
        found = ((target.place, self.after.get(target.place)) for target in self.targets)
        return [f"{place}: {words(said)}" for place, said in found if said is not None and not said.idle]

    @property
    def diff(self) -> str:
        """The lines that go and come, for people."""
        return "".join(
            f"{sign}{place}: {words(said)}\n"
            for place in dict.fromkeys([*self.before, *self.after])
            if self.before.get(place) != self.after.get(place)
            for sign, said in (("-", self.before.get(place)), ("+", self.after.get(place)))
            if said is not None
        )


def preview(paths: Paths, backend: str, service: str | None, order: Order, variant: Variant | None = None) -> Change:
    """What the order would change. Raises `HostError` where there is no such backend."""
    return _change(requests.restored(waiting.live(paths), variant)[0], backend, service, order)


def give(
    paths: Paths,
    backend: str,
    service: str | None,
    order: Order,
    variant: Variant | None = None,
    permit: Callable[[Change], None] = lambda _change: None,
) -> tuple[Change, Outcome]:
    """Say this of a backend of one service or of all, and let the host follow. Raises `HostError`.

    `permit` raises where the change must not be. It is asked with the lock held: of two orders at a time, the second
    meets what the first has left. While a change waits for its confirmation, it is said of the former declaration too.
    """
    with waiting.lock(paths) as directory:
        change = preview(paths, backend, service, order, variant)
        permit(change)
        if change.is_none:
            return change, running.carry_out(paths, variant, directory)[1]
        kept: Change | None = change
        if directory is not None:
            kept = None
            with contextlib.suppress(UnknownBackendError):
                # The former declaration may have no such backend.
                kept = _change(requests.restored(paths, variant)[0], backend, service, order)
        with _all_or_nothing() as undo:
            if directory is not None:
                undo.append(partial(rollback.restage, directory, rollback.staged(directory)))
                waiting.say(directory, _path(change.request), _text(change))
            if kept is not None:
                undo.append(partial(_write, kept._replace(after=kept.before)))
                _write(kept)
            return change, running.carry_out(paths, variant, directory)[1]


@contextlib.contextmanager
def _all_or_nothing() -> Iterator[list[Callable[[], None]]]:
    """Where the host cannot follow, what was said is taken back by these steps, the last one first: an error has to
    mean that nothing has changed."""
    undo: list[Callable[[], None]] = []
    try:
        yield undo
    except Exception:
        for step in reversed(undo):
            with contextlib.suppress(HostError):
                step()
        raise


def _change(request: Request, backend: str, service: str | None, order: Order) -> Change:
    found = targets(request.config, backend, service)
    path = _path(request)
    kept = local_state.parse_overrides(store.kept_text(request.paths, path), overlay.identity())
    if kept.fault:
        raise HostError(f"{path}: {kept.fault} (a run of the module balancer, or `natlb apply`, puts it right)")
    before = kept.entries
    after = dict(before)
    for place in (target.place for target in found):
        said = order(after.get(place, Override()))
        if said is None:
            after.pop(place, None)
        elif not _same(said, after.get(place)):
            after[place] = said
    return Change(request, found, before, after)


def _path(request: Request) -> Path:
    return (request.paths.etc if request.persist else request.paths.run) / store.OVERRIDES


def words(said: Override) -> str:
    """An override on one line."""
    found = [said.state or "", "" if said.weight is None else f"weight {said.weight}"]
    return ", ".join(filter(None, found)) + (f" ({said.reason})" if said.reason else "")


def _same(one: Override, other: Override | None) -> bool:
    """Whether nothing differs but the time."""
    if other is None:
        return False
    each = ([(part.state, part.weight, part.reason) for part in said.by_reason] for said in (one, other))
    return next(each) == next(each)


def _text(change: Change) -> str | None:
    return local_state.dump_overrides(change.after, overlay.identity()) if change.after else None


def _write(change: Change) -> None:
    path, text = _path(change.request), _text(change)
    if text is None:
        store.remove(path)
    else:
        store.write_text(path, text)
