# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this host can serve: what `natlb ready` answers each second or two, for whoever moves virtual addresses.

So it imports little, lists no rules and parses no declaration. The agent tells what it knows; on a host without one a
small file keeps what follows from the declaration (`serving.py`), until one of the files changes that it was made from.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Literal, NamedTuple

from ..errors import HostError
from ..host import agent_socket, left, nf_tables, service_manager, store, sysctl
from ..host.store import Paths
from ..packets import Family, family_name

#: The agent answers within milliseconds, but for the moments in which it reads the host as a whole.
PATIENCE_S = 3.0
#: So many names of services are told.
_MOST = 5
#: As `nftables/text.py` and `iptables/dispatch.py` call what is ours.
TABLE, PREFIX = "natlb", "NATLB."


#: What the rules may be held by.
Holder = Literal["nftables", "iptables-nft", "iptables-legacy"]


class Facts(NamedTuple):
    """What follows from the declaration, overrides and health.

    `settings` are those of the kernel that have to be so. `agent` says whether there has to be one. Of `services`,
    which declare a backend each, `idle` have none that can serve; `unserved` names these, and, with a family behind the
    name, those that have none of this family.
    """

    held_by: Holder
    families: Sequence[Family]
    settings: Mapping[str, str]
    agent: bool
    services: int
    idle: int
    unserved: Sequence[str]


class Readiness(NamedTuple):
    """The host is ready if there is no reason why not. Notes do not make it unready."""

    reasons: list[str]
    notes: list[str]

    def dump(self) -> dict[str, Any]:
        return {"ready": not self.reasons, "reasons": self.reasons, "notes": self.notes}


def judged(
    facts: Facts,
    missing: Sequence[Family],
    settings: Mapping[str, str | None],
    answers: bool,
    gone: left.Away | None = None,
) -> Readiness:
    """What that comes to. `missing` are the families without rules of ours, `settings` are those of the kernel now,
    `answers` says whether the agent does, and `gone` that an operator has taken the host out. Pure."""
    reasons = [str(gone)] if gone else []
    if missing:
        names = " and ".join(map(family_name, missing))
        reasons.append(f"the rules for {names} are gone (natlb apply puts them back)")
    reasons += [
        f"{name} is {settings.get(name) or 'missing'}, so the kernel does not forward (natlb apply sets it to {value})"
        for name, value in facts.settings.items()
        if settings.get(name) != value
    ]
    if facts.agent and not answers:
        reasons.append(f"the agent does not answer ({service_manager.says_how()})")
    told = ", ".join(facts.unserved[:_MOST])
    told += f" and {len(facts.unserved) - _MOST} more" if len(facts.unserved) > _MOST else ""
    if facts.services and facts.idle == facts.services:
        return Readiness([*reasons, f"no backend of any service can serve: {told}"], [])
    return Readiness(reasons, [f"no backend can serve: {told}"] if told else [])


def readiness(paths: Paths, of_files: Callable[[], Facts | None]) -> Readiness:
    """Of this host, now. `of_files` makes what follows from the declaration; None where nothing is declared."""
    facts, answers = None, False
    with contextlib.suppress(HostError, TypeError):
        told = agent_socket.asked(paths.run / store.AGENT_SOCKET, agent_socket.READY, PATIENCE_S)
        # One that has read nothing of the declaration yet answers that.
        facts, answers = Facts(**told) if told is not None else None, True
    if facts is None:
        facts = kept(paths) or of_files()
    if facts is None:
        return Readiness(["nothing is declared on this host (run natlb.netfilter.deploy)"], [])
    settings = {name: sysctl.get_unobserved(name) for name in facts.settings}
    return judged(facts, missing(facts), settings, answers, left.read(paths))


def kept(paths: Paths) -> Facts | None:
    """What the last call has found out from files, as long as they are the same."""
    found = store.read_cache(paths.run / store.READINESS)
    if found.get("stamps") == stamps(paths) and not is_pending(paths):
        with contextlib.suppress(KeyError, TypeError):
            return Facts(**found["facts"])
    return None


def keep(paths: Paths, seen: Sequence[Any], facts: Facts) -> None:
    """Keep it. `seen` are the stamps from before the files were read."""
    # A full disk makes the next call find it out again.
    with contextlib.suppress(HostError):
        store.write_text(paths.run / store.READINESS, json.dumps({"stamps": seen, "facts": facts._asdict()}))


def stamps(paths: Paths) -> list[list[int] | None]:
    """What tells the files of a host from what they were."""
    names = (store.STATE, store.OVERRIDES, store.HEALTH)
    found = [store.stamp(folder / name) for folder in (paths.etc, paths.run) for name in names]
    return [None if stamp is None else list(stamp) for stamp in found]


def is_pending(paths: Paths) -> bool:
    """Whether a change may wait for its confirmation (`plan/rollback.py`): what it will leave is in no file yet."""
    return any(paths.run.glob("rollback.*/pending"))


def holder(shares_tables: bool, is_numbered: bool) -> Holder:
    """What holds the rules of an engine of which this is so, see `Engine`."""
    if not shares_tables:
        return "nftables"
    return "iptables-nft" if is_numbered else "iptables-legacy"


def missing(facts: Facts) -> list[Family]:
    """The families of which the kernel has no way into rules of ours, told without listing them."""
    return [family for family in facts.families if not any(map(_WAYS[facts.held_by], _CHAINS, [family] * 2))]


def _of_table(chain: str, family: Family) -> bool:
    return bool(nf_tables.rules(family, TABLE, chain))


def _of_nft(chain: str, family: Family) -> bool:
    return any(PREFIX.encode() in rule for rule in nf_tables.rules(family, "nat", chain.upper()) or [])


def _of_legacy(chain: str, family: Family) -> bool:
    # Imported only where it is needed.
    from ..iptables import program  # noqa: PLC0415

    return program.legacy_way(family, chain.upper(), PREFIX)


_CHAINS = ("prerouting", "postrouting")
#: By what holds the rules.
_WAYS: Mapping[Holder, Callable[[str, Family], bool]] = {
    "nftables": _of_table,
    "iptables-nft": _of_nft,
    "iptables-legacy": _of_legacy,
}
