# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What probes and the counters of the balancers say together: which balancer passed what on to whom. Pure.

A connection that comes about proves that somebody answers its address; only its counters prove that it was this
balancer. So each balancer is judged by what its own counters grew by, and by its rules. One that nothing came to is a
standby where another balancer of the run counted the connections, and a fault where none did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.probe.settings import DEFAULT_SIGNIFICANCE
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.probe.spread import judge
from ansible_collections.natlb.netfilter.plugins.plugin_utils import own_shares, probe_options

Item = Mapping[str, Any]
#: Of more probes that a balancer would open itself, so many are taken at most: its change waits meanwhile.
MOST_OWN = 32
_HEALS = "this undoes nothing: health checks take a dead backend out"


@dataclass
class Seen:
    """What one balancer tells of one service."""

    service: Item
    #: New connections by name of backend, of each address family.
    growth: dict[bool, dict[str, int]]
    #: The counters are of rules that were loaded meanwhile.
    restarted: bool
    probes: list[Item] = field(default_factory=list)
    #: As it was before the probes.
    former: Item | None = None

    @property
    def counted(self) -> int:
        """New connections that were passed on to backends."""
        return sum(sum(counts.values()) for counts in self.growth.values())

    @property
    def targets(self) -> list[str]:
        """Where it was probed."""
        return list(dict.fromkeys(str(probe["item"]["options"]["target"]) for probe in self.probes))

    @property
    def opened(self) -> int:
        """How many connections the probes tried."""
        return sum(int(probe.get("connections") or 0) for probe in self.probes)

    @property
    def failed(self) -> int:
        """How many of these did not come about."""
        return sum(int(probe.get("errors") or 0) for probe in self.probes)

    @property
    def heals(self) -> bool:
        """Whether its agent takes dead backends out, of which there are others that answer."""
        return bool(self.service.get("health")) and self.counted > 0

    @property
    def limited(self) -> bool:
        """Whether it refuses clients that want too much."""
        keys = ("max_connections_per_client", "new_connections_per_second")
        return any(self.service.get(key) for key in keys) or probe_options.limits_backends(self.service)


@dataclass
class Host:
    """What one balancer told, before and after; `checks` are the balancer's own connections to backends. With `own`
    those of the probes are its own as well, and what is wrong undoes a change."""

    name: str
    after: Item
    seen: dict[str, Seen]
    checks: list[Item]
    declared: list[str]
    own: bool = False


@dataclass
class Verdict:
    """What to tell of a balancer, and what is wrong with it. `doubts` are what looks wrong and may be right."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def host(
    name: str,
    before: Item,
    after: Item,
    probes: Sequence[Item],
    checks: Sequence[Item],
    declared: Sequence[str],
    own: bool = False,
) -> Host:
    """The results of the tasks of one balancer, put together. `declared` are the names of its services in the
    inventory."""
    former = {service["name"]: service for service in before.get("services") or []}
    seen = {}
    for service in after.get("services") or []:
        grown, restarted = _growth(former.get(service["name"]), service)
        mine = [probe for probe in probes if probe["item"]["service"] == service["name"]]
        one = seen[service["name"]] = Seen(service, grown, restarted, mine, former.get(service["name"]))
        if own and one.former is not None and one.counted < one.opened - one.failed:
            # Of slots that a change of health took away, or that somebody flushed, the counters went as well.
            moved = before.get("generation") != after.get("generation")
            one.restarted = restarted or moved or own_shares.changed_meanwhile(one.former, service)
    return Host(name, after, seen, list(checks), list(declared), own)


def _growth(before: Item | None, after: Item) -> tuple[dict[bool, dict[str, int]], bool]:
    counts = {_place(backend): int(backend["new_connections"]) for backend in (before or {}).get("backends", [])}
    grown: dict[bool, dict[str, int]] = {}
    restarted = before is None
    for backend in after["backends"]:
        new = int(backend["new_connections"]) - counts.get(_place(backend), 0)
        restarted = restarted or new < 0
        family = grown.setdefault(":" in backend["address"], {})
        family[backend["name"]] = family.get(backend["name"], 0) + new
    return grown, restarted


def _place(backend: Item) -> tuple[str, Any]:
    return backend["address"], backend.get("port")


def verdict(hosts: Sequence[Host], name: str, options: Any = None) -> Verdict:
    """What to tell of the balancer `name` among those of the run. `options` are those of single services."""
    found = Verdict()
    this = next(item for item in hosts if item.name == name)
    found.problems += _of_the_host(this)
    # A balancer that is verified by itself knows nothing of the others' services.
    unknown = [key for key in options or {} if not this.own and not any(key in item.seen for item in hosts)]
    found.problems += [
        f"natlb_verify_probes: there are options for {key}, but no balancer has such a service (check its spelling)"
        for key in unknown
    ]
    for seen in this.seen.values():
        _of_a_service(seen, this, hosts, found)
    if not this.seen:
        _without_services(this, found)
    return found


def _of_the_host(this: Host) -> Iterator[str]:
    if this.after.get("drift"):
        yield "its rules differ from the last declaration: somebody changed them; run natlb.netfilter.deploy"
    if this.after.get("forwarding") is False:
        yield "the kernel does not forward packets; run natlb.netfilter.deploy"
    missing = [name for name in this.declared if name not in this.seen]
    if missing and this.seen:
        yield f"{', '.join(missing)}: declared, but not on this host; run natlb.netfilter.deploy"


def _without_services(this: Host, found: Verdict) -> None:
    if this.declared:
        found.problems.append("has none of the declared services; run natlb.netfilter.deploy")
    elif this.after.get("egress"):
        found.lines.append("no services, only egress: nothing to probe")
    elif this.own:
        found.lines.append("no services: nothing to probe")
    else:
        found.problems.append("nothing is declared on this host, so nothing was verified; run natlb.netfilter.deploy")


def _of_a_service(seen: Seen, this: Host, hosts: Sequence[Host], found: Verdict) -> None:
    name = seen.service["name"]
    at = ", ".join(seen.targets)
    # Whoever deploys a pair is to know which one has not been verified in full.
    away = probe_options.answered_elsewhere(seen.service) if this.own else {}
    if not seen.probes:
        told = found.doubts if away else found.lines
        told.append(f"{name}: not probed, as {_why_not(seen.service, this)}")
        return
    found.doubts += [f"{name}: not probed over {family}, as {why}" for family, why in away.items()]
    if seen.restarted and this.own:
        # Not by the change, which was there before. What failed is wrong nevertheless.
        found.doubts.append(f"{name}: its rules were changed during the probes, so its counters were not judged")
        _failures([seen], this.own, found)
        _checks(seen, this, found)
        return
    if seen.restarted:
        found.problems.append(f"{name}: its rules were reloaded during the probes; verify it again")
        return
    found.problems += [f"{name}: {problem}" for problem in _answers(seen)]
    # Answers that are spread otherwise may be chance, or health.
    (found.doubts if this.own else found.problems).extend(f"{name}: {problem}" for problem in _uneven_answers(seen))
    if not seen.opened:
        return
    others = [item for item in hosts if item is not this and _probed_alike(item.seen.get(name), seen)]
    # Connections were opened in the turns of all these, and each of them may have got any.
    alike = [seen, *(item.seen[name] for item in others)]
    opened, counted = sum(one.opened for one in alike), sum(one.counted for one in alike)
    came = opened - sum(one.failed for one in alike)
    carriers = [item.name for item in others if item.seen[name].counted]
    standby = not seen.counted and bool(carriers)
    if not standby:
        _failures(alike, this.own, found)
    _checks(seen, this, found)
    if seen.counted:
        elsewhere = f"; {', '.join(carriers)} counted the others" if carriers else ""
        found.lines.append(f"{name}: {_spread(seen)} ({came} of {opened} connections to {at} succeeded{elsewhere})")
        _judge_shares(seen, this.own, found)
    elif standby:
        rules = f"its rules are {'not ' if this.after.get('drift') else ''}as declared"
        where = f"the connections to {at} came to {', '.join(carriers)}"
        found.lines.append(f"{name}: carries no traffic now: {where} (a standby; {rules})")
    elif not came:
        found.problems.append(f"{name}: none of {opened} connections to {at} came here{_hints(seen.service)}")
    if came and counted < came:
        found.problems.append(f"{name}: {_elsewhere(seen, at, came, counted, _of(this, others))}")


def _elsewhere(seen: Seen, at: str, came: int, counted: int, who: str) -> str:
    if any(probe["item"]["options"]["protocol"] == "udp" for probe in seen.probes):
        return f"{came} datagrams and connections went to {at}, and {who} counted {counted}{_hints(seen.service)}"
    return (
        f"{came} connections to {at} succeeded, and {who} counted {counted}: another host answers the address (if "
        "that is a balancer, verify it in the same run, without --limit)"
    )


def _of(this: Host, others: Sequence[Host]) -> str:
    return f"{this.name} with {', '.join(item.name for item in others)}" if others else this.name


def _probed_alike(one: Seen | None, other: Seen) -> bool:
    """Whether both were probed at the same address, so that either may have got the connections of both."""
    return one is not None and not {*one.targets}.isdisjoint(other.targets)


def _why_not(service: Item, this: Host) -> str:
    if not any(backend["expected_share"] for backend in service["backends"]):
        return "no backend can serve"
    if not {"tcp", "udp"}.intersection(service.get("protocol") or ["tcp"]):
        return "only TCP and UDP can be"
    left_out = probe_options.not_for_itself(service) if this.own else ""
    away = probe_options.answered_elsewhere(service) if this.own else {}
    if left_out or away:
        return left_out or " and ".join(away.values())
    families = {":" in backend["address"] for backend in service["backends"] if backend["expected_share"]}
    taken = [listen for listen in service["listen"] if not (this.own and "/" in listen)]
    fixed = [listen for listen in taken if not listen.startswith(("*", "0.0.0.0/0:", "[::/0]:"))]
    if any(listen.startswith("[") in families for listen in fixed):
        return "there are many addresses, and others were chosen"
    if len(fixed) == len(taken):
        return "no backend can serve in the family of its addresses"
    if this.own and sum(len(seen.probes) for seen in this.seen.values()) > MOST_OWN // 2:
        return "there are many addresses, and others were chosen"
    return "no address is known of a family in which backends can serve (natlb_verify_address names one)"


def _spread(seen: Seen) -> str:
    counts = [f"{name} {count}" for family in seen.growth.values() for name, count in family.items()]
    return ", ".join(counts)


def _answers(seen: Seen) -> Iterator[str]:
    """What the probes say by themselves: what could not be tried, and answers of others."""
    for probe in seen.probes:
        item, target = probe["item"], probe["item"]["options"]["target"]
        if "connections" not in probe:
            yield f"{target} could not be probed: {probe.get('msg') or 'no result'}"
        elif not item["options"].get("connect_only"):
            strangers = [name for name in probe.get("backends") or {} if name not in item["names"]]
            if strangers:
                yield (
                    f"{target} was answered by {', '.join(strangers)}, not by {', '.join(item['names'])} (if they use "
                    "other names, set identify or names in natlb_verify_probes)"
                )


def _uneven_answers(seen: Seen) -> Iterator[str]:
    for probe in seen.probes:
        if "connections" in probe and not probe["item"]["options"].get("connect_only"):
            # Of the lines of a failed probe, those about failed connections are told below.
            lines = str(probe.get("msg") or "").splitlines()
            target = probe["item"]["options"]["target"]
            yield from (f"{target}: {line}" for line in lines if line.startswith("the spread"))


def _failures(alike: Sequence[Seen], own: bool, found: Verdict) -> None:
    """Connections to one address that did not come about, in whose turn ever they were opened.

    What failed at a standby's address failed at the balancer that has it now, and is told there.
    """
    seen = alike[0]
    for probe in seen.probes:
        same = [other for one in alike for other in one.probes if _aim(other) == _aim(probe)]
        errors, tried = (sum(int(one.get(key) or 0) for one in same) for key in ("errors", "connections"))
        allowed = sum(int(one["item"]["judge"].get("max_errors") or 0) for one in same)
        if not errors:
            continue
        text = f"{seen.service['name']}: {errors} of {tried} connections to {_aim(probe)[0]} failed"
        asked = sum(int(one["item"]["options"]["connections"]) for one in same)
        text += f", so the rest of {asked} was not tried" if tried < asked else ""
        text += f": {_reasons(same)}{_of_ports(seen.service)}"
        # A limit lets the first ones in. Where none came about, it is something else.
        if errors <= allowed or (seen.limited and seen.counted and errors < tried):
            why = "the service limits its clients" if errors > allowed else f"max_errors is {allowed}"
            found.lines.append(f"{text} ({why})")
        elif own and seen.heals:
            # One dead backend is an ordinary day, on which a roll-out must be possible.
            found.doubts.append(f"{text} ({_HEALS})")
        else:
            found.problems.append(text)


def _of_ports(service: Item) -> str:
    """What may be the reason where its connections share few ports."""
    room = service.get("snat_connections")
    return (
        f" (its snat_ports allow {room} connections at a time to one backend, closed ones for up to two minutes more; "
        "if clients use them up, widen the range, or name several addresses in snat)"
        if room
        else ""
    )


def _aim(probe: Item) -> tuple[str, str]:
    options = probe["item"]["options"]
    return str(options["target"]), str(options["protocol"])


def _reasons(probes: Sequence[Item]) -> str:
    counts: Counter[str] = Counter()
    for row in (row for probe in probes for row in probe.get("error_messages") or []):
        counts[row["message"]] += int(row["count"])
    return "; ".join(f"{message} ({count})" for message, count in counts.items())


def _checks(seen: Seen, this: Host, found: Verdict) -> None:
    """The backends that the balancer cannot connect to itself: also a standby, which is the next to be asked."""
    name, heals = seen.service["name"], this.own and seen.heals
    for check in this.checks:
        if check["item"]["service"] == name and (check.get("errors") or "connections" not in check):
            rows = check.get("error_messages") or [{"message": check.get("msg") or "no result"}]
            (found.doubts if heals else found.problems).append(
                f"{name}: backend {check['item']['backend']} does not answer {this.name} "
                f"({rows[0]['message']} at {check['item']['options']['target']})" + (f"; {_HEALS}" if heals else "")
            )


def _judge_shares(seen: Seen, own: bool, found: Verdict) -> None:
    name = seen.service["name"]
    if not own:
        found.problems += [f"{name}: {problem}" for problem in _shares(seen, DEFAULT_SIGNIFICANCE)]
        return
    moved = own_shares.moving(seen.former or seen.service, seen.service)
    if seen.counted != seen.opened or seen.failed:
        moved = moved or "other connections were counted as well"
    if not moved:
        probes = Counter(str(probe["item"]["options"]["target"]).startswith("[") for probe in seen.probes)
        wrong = list(own_shares.wrong(seen.service, seen.growth, probes))
        found.problems += [f"{name}: {problem}" for problem in wrong]
        if wrong or seen.service["method"] == "round_robin":
            return
        moved = f"the method {seen.service['method']} leaves it to chance"
    odd = _shares(seen, own_shares.TOLD_SIGNIFICANCE)
    found.doubts += [f"{name}: {problem} (this undoes nothing: {moved})" for problem in odd]


def _shares(seen: Seen, usual: float) -> Iterator[str]:
    """Where the counters grew otherwise than the shares say; each address family has shares of its own."""
    chosen = next((probe["item"]["judge"] for probe in seen.probes if probe["item"]["judge"]), {})
    free = not probe_options.spreads(seen.service)
    for six, counts in seen.growth.items():
        backends = [item for item in seen.service["backends"] if (":" in item["address"]) == six]
        shares: dict[str, float] = {}
        for item in backends:
            shares[item["name"]] = shares.get(item["name"], 0.0) + item["expected_share"]
        expected = {name: share for name, share in shares.items() if share}
        if free or not expected:
            strangers = [name for name, count in counts.items() if count and name not in expected]
            if strangers:
                yield f"{', '.join(strangers)}: got connections, but should get none"
        elif sum(counts.values()):
            tolerance, significance = chosen.get("tolerance"), chosen.get("significance", usual)
            wrong = judge(
                {name: count for name, count in counts.items() if count or name in expected},
                expected,
                None if tolerance is None else float(tolerance),
                float(significance),
                "connections that this balancer counted",
            )
            yield from [wrong] if wrong else []


def _hints(service: Item) -> str:
    """Why none may have come."""
    reasons = [
        "the address has to lead here from the host that opens the connections (natlb_verify_from names another host)"
    ]
    if service.get("interface"):
        reasons.append(f"the service takes only what comes in by {service['interface']}")
    if service.get("restricted"):
        reasons.append("allow_from and deny_from have to let the host in that opens the connections")
    return f" ({'; '.join(reasons)})"
