# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model to nftables: constant rules, with the data in maps.

A connection is found in one hash look-up (`service`), its backend in a second one (`slot`). Services that need
nothing but that share a handful of chains; the others have a chain of their own. Those with a hash have a look-up more
(`hashes.py`):

    prerouting, output   ip daddr . meta l4proto . th dport vmap @service
    random_4_tcp         dnat ip to ip daddr . tcp dport . numgen random mod 4 map @slot_tcp; goto first_slot_tcp
    s.web.tcp            [limits, log, affinity] and its own counter: ... numgen inc mod 4 map @slot_tcp
    postrouting          ct status dnat jump source_nat

Only plain strings leave this file; `program.py` loads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ..model.entities import Backend, Config, Frontend, Service
from ..model.hash_keys import BITS, mask
from ..model.hash_table import BLOCKS
from ..model.slots import HASHES, slots
from ..model.surroundings import NOWHERE, Surroundings
from ..model.takeover import decides
from ..packets import FAMILIES, Family, Protocol
from ..ruleset.sections import Ruleset
from . import objects, places, shifted_ports, takeover, transit
from .egress import EgressRules
from .filter import add_filter
from .hashes import SEED, HashTable, hash_table, most_frequent, widest
from .layout import Layout, has_own_chain, laid_out_anew, lay_out
from .marks import add_marks
from .names import SlotMap, affinity_set, backend_chain, client_set, count_set, pin_chain, pin_map, rate_set
from .source_nat import add_snat
from .table import CLIENTS, Table, frontend_key, frontend_lookups, frontend_map, plain
from .text import Lines

#: Priorities of our chains: just before the usual ones (`dstnat`, `srcnat`, and those of iptables). Of two chains with
#: one priority that comes first which was loaded last, so a reload of somebody's rules would decide whose are met.
NAT = {"prerouting": -101, "postrouting": 99}


def render(config: Config, around: Surroundings = NOWHERE) -> Ruleset:
    """The tables for a configuration."""
    return _tables(config, around, lay_out(config))


def _tables(config: Config, around: Surroundings, layout: Layout) -> Ruleset:
    ruleset: Ruleset = {}
    for family in FAMILIES:
        services = [service for service in config.services if family in service.families()]
        egress = [item for item in config.egress if family in item.families()]
        if not services and not egress:
            continue
        table = ServiceTable(family, layout)
        for service in services:
            table.add_service(service)
        add_snat(table, services, around.connected)
        add_marks(table, services, layout.marked)
        add_filter(table, services, around.unclaimed.get(family), layout.spared, table.asks_again)
        ways_back = takeover.add_ways_back(table, services, layout.takeover)
        _add_base_chains(table, ways_back, EgressRules(table, config, egress))
        if family in around.closed:
            passes = takeover.passes(table, services, layout.takeover)
            transit.add_chain(table, config, around.closed[family], passes)
        ruleset.update(table.sections())
    return ruleset


class SomeServices(NamedTuple):
    """See `model.engine.SomeServices`."""

    layout: Layout
    around: Surroundings

    def render(self, services: Sequence[Service]) -> Ruleset:
        return _tables(Config(tuple(services), ()), self.around, self.layout)

    def after(
        self, before: Sequence[Service], after: Sequence[Service], services: Iterable[Service]
    ) -> tuple[SomeServices, set[str]] | None:
        if [service.frontends() for service in before] != [service.frontends() for service in after]:
            return None
        if list(map(decides, before)) != list(map(decides, after)):
            return None
        layout = laid_out_anew(self.layout, before, after, services)
        if not layout.is_like(self.layout):
            return None
        return self._replace(layout=layout), layout.moved(self.layout)


class ServiceTable(Table):
    """One family's table with what services put into it."""

    def __init__(self, family: Family, layout: Layout) -> None:
        super().__init__(family, layout.territory)
        #: Names of the tables of services with a hash.
        self.hash_tables = layout.hash_tables[family]
        #: Of each of these the one of the first service that has it.
        self.known_tables: dict[str, HashTable] = {}
        self.shards = layout.shards
        self.takeover = layout.takeover
        self.widest = widest(self.hash_tables)
        #: The names of services that have second slots: of many tables these would take long to deal and to load.
        self.asks_again = layout.takeover if self.widest == 1 else frozenset()

    # -- services ----------------------------------------------------------------------------------------------

    def add_service(self, service: Service) -> None:
        """Add the chains and elements of one service, and its frontends that lead there."""
        places.declare(self, service)
        objects.declare(self, service)
        if service.name in self.hash_tables:
            name = self.hash_tables[service.name]
            shared = hash_table(service, self.family, name, self.widest, self.known_tables.get(name))
            self.known_tables.setdefault(name, shared)
            verdicts = {protocol: self.hash_verdict(service, protocol, shared) for protocol in service.protocols}
        else:
            table = slots(service, self.family)
            verdicts = {protocol: self.verdict(service, protocol, table) for protocol in service.protocols}
        for protocol, verdict in verdicts.items():
            for frontend in self.frontends(service):
                if frontend.protocol == protocol:
                    self.add_frontend(frontend, verdict)

    def verdict(self, service: Service, protocol: Protocol, table: Sequence[Backend]) -> str:
        """Where new connections go: `drop`, or `goto CHAIN`, which is added. `table` has the backend of each slot."""
        if not table:
            return "drop" if service.when_empty == "drop" else f"goto {self.refuse()}"
        if not has_own_chain(service):
            shard = self.shard(service)
            self.add_slots(service, protocol, table, shard)
            name = f"{service.method}_{len(table)}_{protocol}" + (f"_{shard}" if shard else "")
            return f"goto {self.chain(name, self.choose(protocol, self.pick(service, protocol, len(table)), shard))}"
        return f"goto {self.chain(f's.{service.name}.{protocol}', self.own_chain(service, protocol, table))}"

    def hash_verdict(self, service: Service, protocol: Protocol, table: HashTable) -> str:
        """Services with the same table share a slot map, too: its chains lead to that one."""
        shard = int(table.name, 36) % self.shards
        backends, again = table.backends, []
        if protocol == "tcp" and takeover.has_second(service, self.family, self.asks_again):
            second = takeover.second_table(service, self.family, table, self.known_tables)
            backends, name = second.backends, f"{self.hash_name(service)}_tcp.{second.name}"
            again = [f"{takeover.again(self)} goto {self.chain(name, self.by_hash(service, protocol, second, shard))}"]
        self.add_slots(service, protocol, backends, shard)
        rules = [*again, *self.by_hash(service, protocol, table, shard)]
        if not has_own_chain(service):
            name = f"{self.hash_name(service)}_{protocol}.{table.name}"
            return f"goto {self.chain(f'takeover_{name}' if again else name, rules)}"
        before = [*self.guards(service, protocol), *again, *self.pins(service, protocol)]
        return f"goto {self.chain(f's.{service.name}.{protocol}', [*before, *rules[len(again) :]])}"

    def by_hash(self, service: Service, protocol: Protocol, table: HashTable, shard: int) -> Lines:
        """The rules that lead to the slots of a table; its map is added."""
        first, end = f"goto {self.first_slot(protocol, shard)}", f"_{shard}" if shard else ""
        goto = {0: first}
        # A chain that nothing leads to would go with any service that changes.
        for number in sorted({*table.slots, table.common} - {0}):
            dnat = self.dnat(protocol, f"numgen random mod 1 offset {number}", shard)
            goto[number] = f"goto {self.chain(f'hash_{protocol}_{number}{end}', [dnat, first])}"
        rules = [goto[table.common]]
        if table.mixed:
            name = f"{self.hash_name(service)}_{protocol}.{table.name}"
            if ("map", name) not in self.declarations:
                rows = table.rows()
                verdicts = {row: self.row_verdict(service, protocol, row, goto, end) for row in set(rows.values())}
                # A map of a known size is quicker to load and to look up: its hash table never grows.
                size = len(table.slots) // table.width()
                elements = self.declare("map", name, "typeof numgen random mod 65536 : verdict", f"size {size}")
                elements.update((str(place), verdicts[row]) for place, row in rows.items())
            rules.insert(0, f"{self.pick(service, protocol, len(table.slots) // table.width())} vmap @{name}")
        return rules

    def row_verdict(
        self, service: Service, protocol: Protocol, row: Sequence[int], goto: Mapping[int, str], end: str
    ) -> str:
        """Where a row of slots leads: to a number, or to a chain that looks at the rest of the hash."""
        if len(row) == 1:
            return goto[row[0]]
        name = f"{self.hash_name(service)}_{protocol}_{'.'.join(map(str, row))}{end}"
        if name in self.chains:
            return f"goto {name}"
        most = most_frequent(row)
        entries = ", ".join(f"{column} : {goto[number]}" for column, number in enumerate(row) if number != most)
        pick = f"{self.pick(service, protocol, BLOCKS)} & {len(row) - 1} vmap {{ {entries} }}"
        return f"goto {self.chain(name, [pick, goto[most]])}"

    def add_frontend(self, frontend: Frontend, verdict: str) -> None:
        """Let the dispatch lead a frontend there. Raises `ConfigError` where it leads elsewhere already."""
        (kinds, *flags), key = frontend_key(frontend, self.address)
        self.put("map", frontend_map(frontend), [f"{kinds} : verdict", *flags], key, verdict)

    def shard(self, service: Service) -> int:
        """Which of the slot maps of its protocol has the slots of a service; by its name, so that it seldom moves."""
        return service.seed() % self.shards

    def add_slots(self, service: Service, protocol: Protocol, table: Sequence[Backend], shard: int) -> None:
        """A map per protocol: one declared with `th dport` can be loaded, but no rule can be added to it later
        (1.0.6: conflicting protocols). `numgen` stands for the type of a slot number, also where a hash picks it."""
        where = f"{self.family} daddr . {protocol} dport"
        declaration = (f"typeof {where} . numgen random mod 65536 : {where}", "counter")
        elements = self.declare("map", SlotMap(protocol, shard).name, *declaration)
        for frontend in self.frontends(service):
            if frontend.protocol != protocol:
                continue
            prefix = f"{frontend.address} . {frontend.low} . "
            for index, backend in enumerate(table):
                elements[f"{prefix}{index}"] = f"{backend.address} . {backend.port_at(frontend.low)}"

    def dnat(self, protocol: Protocol, pick: str, shard: int) -> str:
        """The rule that translates by the slot maps."""
        key = f"{self.family} daddr . {protocol} dport . {pick}"
        return f"dnat {self.family} to {key} map @{SlotMap(protocol, shard).name}"

    def choose(self, protocol: Protocol, pick: str, shard: int) -> Lines:
        """The translation, and what catches a packet that meets the slots of the next generation, where the number that
        its own rule picks may be gone: slot 0 is there as long as a rule leads to it.

        The catching rule is one for all, since each rule that looks up a map makes the map dearer to load.
        """
        catch = f"goto {self.first_slot(protocol, shard)}"
        return [catch] if pick == "numgen inc mod 1" else [self.dnat(protocol, pick, shard), catch]

    def first_slot(self, protocol: Protocol, shard: int) -> str:
        """The name of the chain that takes the first slot of a service, which is added."""
        # Not `inc`, whose counter all processors would share.
        rules = [self.dnat(protocol, "numgen random mod 1", shard)]
        return self.chain(SlotMap(protocol, shard).first, rules)

    def pick_again(self, service: Service, protocol: Protocol, size: int, time: int) -> str:
        """The same for a connection whose backend is full. A client with a hash finds the same ones again, and the
        clients of one backend different ones."""
        if service.hash_key(self.family) is None:
            return f"numgen random mod {size}"
        return self.pick(service, protocol, size, SEED + time)

    def pick(self, service: Service, protocol: Protocol, size: int, seed: int = SEED) -> str:
        """The expression that picks one of `size` slots, as the method of the service wants it."""
        key = service.hash_key(self.family)
        if key is None:
            return f"numgen {'inc' if service.takes_turns else 'random'} mod {size}"
        fields = self.leading(key.field, key.bits) + (f" . {protocol} sport" if key.with_port else "")
        return f"jhash {fields} mod {size} seed {seed:#x}"

    def hash_name(self, service: Service) -> str:
        """What the names of chains and maps begin with that hash the same of a packet."""
        key = service.hash_key(self.family)
        return service.method if key is None or key.bits == BITS[self.family] else f"{service.method}/{key.bits}"

    def leading(self, field: str, bits: int) -> str:
        """An address of the packet, with all but its leading bits 0."""
        whole = f"{self.family} {field}"
        return whole if bits == BITS[self.family] else f"{whole} & {mask(self.family, bits)}"

    def client(self, service: Service) -> str:
        """What affinity knows a client by."""
        return self.leading("saddr", service.client_prefix.of(self.family))

    def own_chain(self, service: Service, protocol: Protocol, table: Sequence[Backend]) -> Lines:
        """The rules of a service that shares no chain: guards, affinity, and the choice of a backend."""
        again = places.again(self, service, protocol, partial(self.way, service, protocol))
        rules = [*self.guards(service, protocol), *again, *self.pins(service, protocol)]
        pick = self.pick(service, protocol, len(table))
        if service.is_exact and not service.affinity_s and not service.limits_backends:
            shard = self.shard(service)
            self.add_slots(service, protocol, table, shard)
            return [*rules, *self.choose(protocol, pick, shard)]
        serving = {backend.key: backend for backend in table}
        goto = {key: self.way(service, protocol, backend) for key, backend in serving.items()}
        if service.affinity_s:
            client = self.client(service)
            rules += [f"{client} @{affinity_set(service, b)} {goto[key]}" for key, b in sorted(serving.items())]
        if service.limits_backends:
            return [*rules, *self.with_room(service, protocol, pick, table)]
        # An anonymous map goes with its rule, also for a packet that is at that rule: it takes the first backend then.
        # Of a hash the slots of that one need not be in the map.
        left_out = table[0].key if service.method in HASHES else ""
        entries = [f"{index} : {goto[b.key]}" for index, b in enumerate(table) if b.key != left_out]
        choice = [f"{pick} vmap {{ {', '.join(entries)} }}"] if entries else []
        return [*rules, *choice, goto[table[0].key]]

    def pins(self, service: Service, protocol: Protocol) -> Lines:
        """What leads pinned clients to their backend. Each backend has a chain for it, which is empty and so leads back
        while it does not serve: the map is the declaration's alone."""
        pinned = service.pinned(self.family)
        if not pinned:
            return []
        serving = set(service.serving(self.family))
        verdicts = {}
        for backend in {backend: None for _network, backend in pinned}:
            goto = [self.way(service, protocol, backend)] if backend in serving else []
            verdicts[backend] = f"jump {self.chain(pin_chain(service, protocol, backend), goto)}"
        elements = {plain(network): verdicts[backend] for network, backend in pinned}
        saddr = f"{self.family} saddr"
        name = pin_map(service, protocol)
        self.declare("map", name, f"typeof {saddr} : verdict", "flags interval").update(elements)
        return [f"{saddr} vmap @{name}"]

    def way(self, service: Service, protocol: Protocol, backend: Backend) -> str:
        """The verdict that leads to one backend."""
        chain = self.backend_chain(service, protocol, backend)
        return places.attempt(self, service, protocol, backend, chain) if backend.max_connections else f"goto {chain}"

    def with_room(self, service: Service, protocol: Protocol, pick: str, table: Sequence[Backend]) -> Lines:
        """The choice of a backend, of which some may be full: those that have room, then the backups, then nobody."""
        again = partial(self.pick_again, service, protocol)
        ways = [(backend, self.way(service, protocol, backend)) for backend in table]
        rules = places.choice(ways, pick, again)
        stand_ins = service.stand_ins(self.family)
        if stand_ins:
            ways = places.weighted([(backend, self.way(service, protocol, backend)) for backend in stand_ins])
            rules += places.choice(ways, again(len(ways), 0), again)
        if all(backend.max_connections for backend in [*table, *stand_ins]):
            rules.append(places.when_full(self, service, protocol))
        return rules

    def guards(self, service: Service, protocol: Protocol) -> Lines:
        """What a new connection has to pass before a backend is chosen, cheapest first."""
        saddr = f"{self.family} saddr"
        rules: Lines = []
        admission = service.admission(self.family)
        if admission is not None:
            name = client_set(service, admission.only)
            if ("set", name) not in self.declarations:
                networks = dict.fromkeys(map(plain, admission.networks), "")
                self.declare("set", name, f"typeof {saddr}", "flags interval").update(networks)
            denied = "drop" if service.when_denied == "drop" else f"goto {self.refuse()}"
            rules.append(f"{saddr} {'!= ' if admission.only else ''}@{name} {denied}")
        if service.new_connections_per_second:
            rate, name = service.new_connections_per_second, rate_set(service)
            self.declare("set", name, f"typeof {saddr}", f"size {CLIENTS}", "flags dynamic,timeout", "timeout 60s")
            limit = f"limit rate over {rate}/second burst {rate} packets"
            begins = takeover.BEGINS if protocol == "tcp" and service.name in self.takeover else ""
            rules.append(f"{begins}update @{name} {{ {saddr} {limit} }} goto {self.refuse()}")
        if service.max_connections_per_client:
            name = count_set(service)
            self.declare("set", name, f"typeof {saddr}", f"size {CLIENTS}", "flags dynamic")
            count = f"ct count over {service.max_connections_per_client}"
            over = self.over_limit() if protocol == "tcp" else self.refuse()
            rules.append(f"add @{name} {{ {saddr} {count} }} goto {over}")
        if service.log:
            prefix = service.log_prefix or f"natlb {service.name} "
            rules.append(f'limit rate 10/second burst 20 packets log prefix "{prefix}"')
        return rules + objects.rules(service, protocol)

    def backend_chain(self, service: Service, protocol: Protocol, backend: Backend) -> str:
        """A chain that sends to one backend: for frontends without a single key in the slot maps, and for affinity."""
        rules: Lines = []
        if service.affinity_s:
            # The time stands in the rule, so that the set and what is in it stay when it changes. The translation is a
            # rule of its own: where the set is full, the kernel gives up the rule that should add to it.
            name, saddr = affinity_set(service, backend), f"{self.family} saddr"
            self.declare("set", name, f"typeof {saddr}", f"size {CLIENTS}", "flags dynamic,timeout")
            rules.append(f"update @{name} {{ {self.client(service)} timeout {service.affinity_s}s }}")
        port = f":{backend.port}" if backend.port else ""
        if backend.shift:
            port = f" : {protocol} dport map @{shifted_ports.add_map(self, service, backend.shift)}"
        target = f"[{backend.address}]" if self.family == "ip6" and port.startswith(":") else backend.address
        name = backend_chain(service, protocol, backend)
        return self.chain(name, [*rules, f"meta l4proto {protocol} counter dnat {self.family} to {target}{port}"])


def _add_base_chains(table: Table, ways_back: Lines, egress: EgressRules) -> None:
    incoming = _dispatch(table, interfaces=True) + egress.choice
    table.base("prerouting", f"type nat hook prerouting priority {NAT['prerouting']}; policy accept;", incoming)
    local = _dispatch(table, interfaces=False)
    if local:
        table.base("output", f"type nat hook output priority {NAT['prerouting']}; policy accept;", local)
    ours = ["ct status dnat jump source_nat"] if table.chains.get("source_nat") else []
    if not ours:
        table.chains.pop("source_nat", None)
    translated = ours + ways_back + egress.source_nat
    table.base("postrouting", f"type nat hook postrouting priority {NAT['postrouting']}; policy accept;", translated)
    egress.add_base_chains()


def _dispatch(table: Table, interfaces: bool) -> Lines:
    """Look-ups of the frontends; a packet that the host itself sends has no interface that it came in by."""
    return [
        f"{match}{key} vmap @{each.name}"
        for each, match, key in frontend_lookups(table, sent_here=not interfaces)
        if ("map", each.name) in table.declarations and (interfaces or not each.interface)
    ]
