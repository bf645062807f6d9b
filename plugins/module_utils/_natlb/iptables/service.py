# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One service as iptables chains: the conditions for a new connection, and the choice of its backend.

    NATLB.web.guard            sources, limits, log: once per service, so limits count all of its protocols together
    NATLB.web.tcp              the guard, affinity, then the method; sub-chains where a list would be long
    NATLB.web.tcp.ADDRESS:PORT a backend, where affinity has to note its client, or packets to it have a mark

The guard is a separate chain, so that a drain does not change it, nor the counts of its limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from ..model.admission import Admission
from ..model.entities import Backend, Frontend, Service
from ..model.hash_keys import BITS, mask
from ..model.slots import HASHES, dealt_slots, dealt_weights, slots
from ..model.territory import APART, Territory
from ..packets import Family, Protocol
from ..ruleset.names import digest
from ..ruleset.sections import Key, Ruleset, Section
from . import source_tree
from .choice import Target, by_chance, by_hash, by_turn, hash_slots
from .dispatch import chain_name
from .packet_hash import match_of

#: Clients that an affinity list keeps before it forgets the oldest, unless xt_recent was loaded with another
#: `ip_list_tot`; the parameter's file tells which (net/netfilter/xt_recent.c).
RECENT_CLIENTS = 100
RECENT_PARAMETER = "/sys/module/xt_recent/parameters/ip_list_tot"
#: Clients whose rate one list of xt_hashlimit keeps. It drops packets of any more, so there is room for many, and they
#: are forgotten as soon as their rate is as new: one second after their last connection.
CLIENTS = 262144
_HASH_CHAIN = 32
#: A prefix in the kernel's log is 29 characters long at most (struct xt_log_info); a longer name of a service is cut.
_LOG_PREFIX = 29

_PAST = "-j ACCEPT"
#: What begins a connection; of other protocols than TCP every first packet does.
BEGINS = ("-p tcp -m tcp --tcp-flags SYN SYN ", "! -p tcp ")


class Tables:
    """The chains of one family while they are being written: (table, name) to rules without `-A CHAIN`."""

    def __init__(self, family: Family, territory: Territory = APART, takeover: Collection[str] = frozenset()) -> None:
        self.family = family
        #: The names of services whose connections are taken over.
        self.takeover = takeover
        #: See `frontends`.
        self.territory = territory
        self.bits = 128 if family == "ip6" else 32
        self.chains: dict[tuple[str, str], list[str]] = {}
        #: The chain that a built-in one leads to.
        self.jumps: dict[tuple[str, str], str] = {}

    def frontends(self, service: Service) -> list[Frontend]:
        """The frontends of a service in this family, without what others take of them."""
        return [frontend for frontend in self.territory.of(service) if frontend.family == self.family]

    def enter(self, table: str, builtin: str, name: str, rules: Sequence[str]) -> None:
        """Add rules to `NATLB.<name>`, and let a built-in chain jump there."""
        chain = chain_name(name)
        self.chains.setdefault((table, chain), []).extend(rules)
        self.jumps[table, builtin] = chain

    def ruleset(self) -> Ruleset:
        found: Ruleset = {}
        for (table, name), rules in self.chains.items():
            found[Key(self.family, table, "chain", name)] = Section((), tuple(f"-A {name} {rule}" for rule in rules))
        for (table, builtin), chain in self.jumps.items():
            found[Key(self.family, table, "jump", builtin)] = Section((), (f"-A {builtin} -j {chain}",))
        return found


def service_target(tables: Tables, service: Service, protocol: Protocol) -> str:
    """Where connections to the service's frontends are to go: its chain, which is added, or past it all."""
    serving = service.serving(tables.family)
    if not serving:
        return "ACCEPT"
    name = chain_name(service.name, protocol)
    rules = [f"-j {guard}" for guard in _guard(tables, service)]
    targets = {backend: _backend_target(tables, service, protocol, backend) for backend in serving}
    rules += _pins(tables, service, protocol, targets)
    if service.affinity_s:
        known = f"--mask {_client_mask(tables, service)} --rsource"
        back = f"-m recent --rcheck --seconds {service.affinity_s} --reap --name {{}} {known}"
        rules += [targets[b].when(back.format(affinity_list(service, b))) for b in serving]
    chosen = _choice(name, service, tables.family, targets)
    chosen[name] = rules + chosen[name]
    for chain, lines in chosen.items():
        tables.chains["nat", chain] = lines
    return name


def affinity_list(service: Service, backend: Backend) -> str:
    """The list of a backend's clients in /proc/net/xt_recent; the protocols of a service share it. Clients of another
    prefix have another list, since xt_recent keeps the mask of a list that exists already."""
    bits = service.client_prefix.of(backend.family)
    prefix = "" if bits == BITS[backend.family] else f"/{bits}"
    return f"natlb-{service.name}-{digest(backend.key + prefix)}"


def rate_list(service: Service) -> str:
    """The list of clients in /proc/net/ipt_hashlimit: one for each rate, since xt_hashlimit keeps the rate of a list
    that exists already."""
    return f"natlb{digest(f'{service.name} {service.new_connections_per_second} {CLIENTS}')}"


def _client_mask(tables: Tables, service: Service) -> str:
    return mask(tables.family, service.client_prefix.of(tables.family))


def destination(service: Service, backend: Backend) -> str:
    """A backend as DNAT names it: with a shift, the ports that it comes to, and the one that leads to the first."""
    host = f"[{backend.address}]" if backend.family == "ip6" else backend.address
    if backend.shift:
        low, high = service.listen_range
        return f"{host}:{low + backend.shift}-{high + backend.shift}/{low}"
    return backend.address if backend.port is None else f"{host}:{backend.port}"


def _backend_target(tables: Tables, service: Service, protocol: Protocol, backend: Backend) -> Target:
    """A translation to the backend; with affinity or a mark, a jump to a chain that notes the client first, and marks
    the packet. Later packets of a connection are marked elsewhere (`packet_marks.py`)."""
    # A port can be translated only where the rule itself names the protocol.
    dnat = Target(f"-p {protocol}", f"-j DNAT --to-destination {destination(service, backend)}")
    mark = service.mark_to(backend)
    if not service.affinity_s and mark is None:
        return dnat
    name = chain_name(service.name, protocol, backend.key.replace(" ", "/"))
    known = f"--name {affinity_list(service, backend)} --mask {_client_mask(tables, service)} --rsource"
    noted = f"-m recent --set {known}" if service.affinity_s else ""
    marks = [f"-j MARK --set-xmark {mark}"] if mark else []
    tables.chains["nat", name] = [*marks, dnat.when(noted)]
    return Target("", f"-j {name}")


def _choice(name: str, service: Service, family: Family, targets: dict[Backend, Target]) -> dict[str, list[str]]:
    """The chains of the service's method."""
    key = service.hash_key(family)
    if key is not None:
        table = [targets[backend] for backend in hashed_slots(service, family)]
        return by_hash(name, table, service.seed(), match_of(key, family))
    if service.takes_turns:
        return by_turn(name, [targets[backend] for backend in slots(service, family)])
    return by_chance(name, list(zip(targets.values(), dealt_weights(list(targets)))))


def dealt(service: Service, family: Family) -> dict[str, int]:
    """How new connections are shared out, see `Engine.dealt`."""
    if service.method in HASHES:
        return Counter(backend.key for backend in hashed_slots(service, family))
    if service.takes_turns:
        return dealt_slots(service, family)
    # It draws by weight and has no slots, so weights that would need too many of them are fine here.
    serving = service.serving(family)
    return dict(zip([backend.key for backend in serving], dealt_weights(serving)))


def hashed_slots(service: Service, family: Family) -> list[Backend]:
    """The slots of a hash on iptables: other ones than slots.slots gives, made for a tree of few rules.

    As there, a backend that does not serve leaves its slots to the others and finds them again afterwards.
    """
    serving = {backend.key for backend in service.serving(family)}
    if not serving:
        return []
    declared = sorted((b for b in service.backends if b.family == family and b.weight > 0), key=lambda b: b.key)
    table = hash_slots(
        [backend.key for backend in declared],
        dealt_weights(declared),
        primary=[index for index, backend in enumerate(declared) if not backend.backup],
        staying=[index for index, backend in enumerate(declared) if backend.key in serving],
    )
    return [declared[index] for index in table]


def _pins(tables: Tables, service: Service, protocol: Protocol, targets: dict[Backend, Target]) -> list[str]:
    """A tree that takes pinned clients to their backend, and returns with those of one that does not serve."""
    pinned = service.pinned(tables.family)
    if not pinned:
        return []
    name = (service.name, protocol, "pins")
    rules = {
        network: targets[backend].when(f"-s {network}") if backend in targets else f"-s {network} -j RETURN"
        for network, backend in pinned
    }
    tree = source_tree.build(name, tables.bits, rules, "-j RETURN")
    tables.chains.update((("nat", chain), found) for chain, found in tree.items())
    return [f"-j {chain_name(*name)}"]


def _guard(tables: Tables, service: Service) -> list[str]:
    """The chain that turns away what the service does not want, by ACCEPT, and returns with the rest; none if idle."""
    name = chain_name(service.name, "guard")
    if ("nat", name) in tables.chains:
        return [name]
    admission = service.admission(tables.family)
    rules = _limits(tables, service)
    if admission is not None and len(admission.networks) < 2:
        match = "! -s" if admission.only else "-s"
        rules.insert(0, " ".join([*(f"{match} {network}" for network in admission.networks), _PAST]))
    elif admission is not None and service.words.alone is not None:
        rules.insert(0, f"-j {_shared_sources(tables, service.words.alone, admission)}")
    elif admission is not None:
        _add_sources(tables, service, admission, rules)
        return [name]
    if not rules:
        return []
    tables.chains["nat", name] = rules
    return [name]


def _limits(tables: Tables, service: Service) -> list[str]:
    rate, most = service.new_connections_per_second, service.max_connections_per_client
    rules = []
    if rate:
        above = f"-m hashlimit --hashlimit-above {rate}/sec --hashlimit-burst {rate} --hashlimit-mode srcip"
        room = f"--hashlimit-htable-size {CLIENTS // _HASH_CHAIN} --hashlimit-htable-max {CLIENTS}"
        ends = "--hashlimit-htable-gcinterval 500 --hashlimit-htable-expire 1000"
        # What goes on after a takeover is no new connection.
        begins = BEGINS if service.name in tables.takeover else ("",)
        rules += [f"{match}{above} --hashlimit-name {rate_list(service)} {room} {ends} {_PAST}" for match in begins]
    if most:
        rules.append(f"-m connlimit --connlimit-above {most} --connlimit-mask {tables.bits} --connlimit-saddr {_PAST}")
    if service.log:
        prefix = service.log_prefix or f"natlb {service.name}"[: _LOG_PREFIX - 1] + " "
        rules.append(f'-m limit --limit 10/sec --limit-burst 20 -j LOG --log-prefix "{prefix}"')
    return rules


def _shared_sources(tables: Tables, name: str, admission: Admission) -> str:
    """The chain of a list that services share: it comes back with the clients that are admitted."""
    within, otherwise = ("-j RETURN", _PAST) if admission.only else (_PAST, "-j RETURN")
    parts = ("", "only" if admission.only else "all_but", name)
    if ("nat", chain_name(*parts)) not in tables.chains:
        rules = {network: f"-s {network} {within}" for network in admission.networks}
        tree = source_tree.build(parts, tables.bits, rules, otherwise)
        tables.chains.update((("nat", chain), found) for chain, found in tree.items())
    return chain_name(*parts)


def _add_sources(tables: Tables, service: Service, admission: Admission, limits: list[str]) -> None:
    """A tree over many sources as the guard: it goes on to the limits, or past the service."""
    onward = "-j RETURN"
    if limits:
        tables.chains["nat", chain_name(service.name, "limits")] = limits
        onward = f"-g {chain_name(service.name, 'limits')}"
    # A chain that was entered by -g comes back to the service, not to the one it was entered from.
    within, otherwise = (onward, _PAST) if admission.only else (_PAST, onward)
    rules = {network: f"-s {network} {within}" for network in admission.networks}
    tree = source_tree.build((service.name, "guard"), tables.bits, rules, otherwise)
    tables.chains.update((("nat", chain), found) for chain, found in tree.items())
