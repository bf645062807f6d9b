# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of what other balancers promise, declared to natlb and asked with packets.

A case is what the other one calls it, the services that say the same here, and the connections that show it. All cases
of a table are declared at once, each on addresses of its own, as they would be on one host. These words stand for
addresses:

    VIP, VIP2, VIP6     addresses of the case alone, which the balancer has
    WEB1 to WEB4        the backends; SIX1 to SIX4 over IPv6
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import server, traffic
from .balancer import Balancer
from .topology import WEB, WEB6
from .traffic import Answer

REFUSED, SILENT = "ConnectionRefusedError", "TimeoutError"
#: How long nobody has to answer. A SYN is sent again after a second.
SILENCE_S = 0.3

#: The source ports of TCP connections; a table has fewer. Ports that chance picks meet now and then: with the client's
#: address kept, connections through two frontends are then one and the same for a backend that both have, and iptables
#: sends the second to the next port of a range.
_source_ports = itertools.cycle(range(24000, 30000))

Tally = Mapping[str, int]
Verdict = Callable[[Tally], bool]


@dataclass(frozen=True)
class Flow:
    """Connections to one target, one after the other, and what is to become of them."""

    target: str
    count: int
    #: Who is to answer how often, or with which errors it ends; or a condition for that.
    expected: Tally | Verdict
    protocol: str = "tcp"
    #: Where the connections come from, in turn.
    sources: Sequence[str] = ()
    #: The host that opens them.
    at: str = "client"
    #: The source address that all who answer have to see.
    seen: str = ""
    #: The source ports that may be seen; by default any.
    seen_ports: Sequence[int] = ()
    #: The port at which the connections have to arrive; by backend, where these differ.
    port: int | Mapping[str, int] = 0
    #: Whether they stay open until the end of the case.
    held: bool = False


@dataclass(frozen=True)
class Case:
    """`words` are those of the other balancer."""

    words: str
    services: Sequence[Mapping[str, Any]]
    flows: Sequence[Flow]
    egress: Sequence[Mapping[str, Any]] = field(default=())
    #: Whether natlb can say it with nftables only.
    nftables: bool = False


def served(target: str, *, seen: str = "", port: int | Mapping[str, int] = 0, **names: Any) -> Flow:
    """These answer, each so often: `web1=2, web2=1`. Keys of `Flow` may stand among them."""
    keys = {key: names.pop(key) for key in ("protocol", "sources", "at", "held", "seen_ports") if key in names}
    return Flow(target, sum(names.values()), names, seen=seen, port=port, **keys)


def refused(target: str, count: int = 1, **keys: Any) -> Flow:
    return Flow(target, count, {REFUSED: count}, **keys)


def silent(target: str, **keys: Any) -> Flow:
    """No answer at all."""
    return Flow(target, 1, {SILENT: 1}, **keys)


def same(target: str, count: int, **keys: Any) -> Flow:
    """One backend answers all of them, whichever it is."""
    return Flow(target, count, lambda tally: len(tally) == 1 and set(tally) <= set(WEB), **keys)


def among(target: str, count: int, *names: str, **keys: Any) -> Flow:
    """Each of these answers, and nobody else. Let `count` be so large that chance leaves nobody out."""
    return Flow(target, count, lambda tally: set(tally) == set(names), **keys)


def check(balancer: Balancer, cases: Sequence[Case], ports: Sequence[int] = ()) -> None:
    """Declare all cases at once, and ask. Each flow that goes wrong is named. To declare them again changes nothing.

    `ports` are those on which the balancer itself has a server.
    """
    cases = [case for case in cases if balancer.nftables or not case.nftables]
    placed = [_placed(case, number) for number, case in enumerate(cases, 1)]
    balancer.host.ip("\n".join(line for number in range(1, len(cases) + 1) for line in _addresses(number)))
    if ports:
        balancer.host.call(server.start, "balancer", ports)
    services = [dict(service) for case in placed for service in case.services]
    egress = [dict(rule) for case in placed for rule in case.egress]
    balancer.apply(services, egress)
    wrong = [f"{case.words}: {complaint}" for case in placed for complaint in _complaints(balancer, case)]
    assert not wrong, "\n".join(["", *wrong])
    # After a commit of somebody else all rules are read anew.
    balancer.host.run("nft", "add", "table", "inet", "others")
    again = balancer.apply(services, egress)
    assert not again.changed, again.diff


def _places(number: int) -> dict[str, str]:
    own = {"VIP6": f"2001:db8:113::{number:x}", "VIP2": f"198.51.100.{number}", "VIP": f"203.0.113.{number}"}
    backends = {name.upper(): address for name, address in WEB.items()}
    return own | backends | {name.upper().replace("WEB", "SIX"): address for name, address in WEB6.items()}


def _addresses(number: int) -> list[str]:
    places = _places(number)
    lengths = {"VIP": "32", "VIP2": "32", "VIP6": "128 nodad"}
    return [f"address add {places[name]}/{length} dev front" for name, length in lengths.items()]


def _placed(case: Case, number: int) -> Case:
    """The case with addresses in the place of words, and with names for its services."""

    def put(value: Any) -> Any:
        text = json.dumps(value)
        for word, address in _places(number).items():
            text = text.replace(word, address)
        return json.loads(text)

    services = [{"name": f"case{number}-{i}", **put(service)} for i, service in enumerate(case.services, 1)]
    flows = [replace(flow, target=put(flow.target), seen=put(flow.seen)) for flow in case.flows]
    return replace(case, services=services, flows=flows, egress=put(case.egress))


def _complaints(balancer: Balancer, case: Case) -> list[str]:
    hosts = {"client": balancer.client, "balancer": balancer.host, **balancer.lab.backends}
    found = []
    for flow in case.flows:
        timeout_s = SILENCE_S if flow.expected == {SILENT: 1} else traffic.TIMEOUT_S
        keys = {"protocol": flow.protocol}
        if flow.held:
            source = flow.sources[0] if flow.sources else None
            held = hosts[flow.at].call(traffic.hold, flow.target, flow.count, source=source, **keys)
            answers = [answer for _handle, answer in held]
        else:
            keys |= {"sources": flow.sources, "timeout_s": timeout_s}
            if flow.protocol == "tcp":
                keys["source_ports"] = list(itertools.islice(_source_ports, flow.count))
            answers = hosts[flow.at].call(traffic.ask, flow.target, flow.count, **keys)
        found += [f"{flow.protocol} from {flow.at} to {flow.target}: {text}" for text in _differences(flow, answers)]
    for host in {flow.at for flow in case.flows if flow.held}:
        hosts[host].call(traffic.release)
    return found


def _differences(flow: Flow, answers: Sequence[Answer]) -> list[str]:
    found: list[str] = []
    tally = Counter(answer.who for answer in answers)
    as_expected = flow.expected(tally) if callable(flow.expected) else tally == flow.expected
    if not as_expected:
        wanted = "" if callable(flow.expected) else f", and not {dict(flow.expected)}"
        found.append(f"{dict(tally)}{wanted}")
    peers = {answer.peer for answer in answers if answer.name}
    if flow.seen and peers != {flow.seen}:
        found.append(f"seen as {peers}, and not as {flow.seen}")
    strange = {answer.peer_port for answer in answers if answer.name and answer.peer_port not in flow.seen_ports}
    if flow.seen_ports and strange:
        found.append(f"seen from the ports {strange}")
    if flow.port:
        arrived = {(answer.name, answer.local_port) for answer in answers if answer.name}
        wrong = {(name, port) for name, port in arrived if port != _port(flow.port, name)}
        if wrong:
            found.append(f"arrived at {wrong}, and not at {flow.port}")
    return found


def _port(port: int | Mapping[str, int], name: str) -> int:
    return port if isinstance(port, int) else port[name]
