# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The summary of a change for people: services, backends, shares. Pure.

It compares the kept request of the last run (`request.state_text`) with that of this run. If 4,096 backends get another
share, or an allow list has 20,000 networks, it names the first ones and counts the others.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..model.backups import BACKUPS, Backups, joining
from ..model.dumps import UNUSED, UNUSED_OF_BACKENDS
from ..model.takeover import Obstacle
from ..model.values import endpoint, mappings

#: How many items of a list are named, and how many lines a service may take.
NAMED = 4
LINES = 20
#: Of a backend, what makes it that one; of the rest, what is not shown by its own line.
_IDENTITY = ("address", "port")
#: What overrides and health may make another one, and the words for why.
_HELD, _WHY = ("state", "weight"), ("because", "why")
#: Of the file alone.
_UNSAID = ("format",)

#: The line of a kept request behind which each service has its own (`request.state_text`).
_SERVICES = '"services": ['

Item = Mapping[str, Any]


def with_summary(
    diff: str,
    before: str | None,
    after: str | None,
    held: str | None = None,
    holds: str | None = None,
    lost: Mapping[str, Obstacle] = MappingProxyType({}),
) -> str:
    """A diff with the summary above it; empty where it is. `held` and `holds` are what overrides and health made of the
    declaration before and after (`overlay.py`); `lost` says of services why they take over no longer."""
    if not diff:
        return ""
    same = "the declaration is unchanged; the host differs from it"
    head = [*lines(before, after, held, holds), *_lost(lost)]
    head = head or [same if before == after else "the declaration is unchanged; it is written again"]
    return "".join(f"{line}\n" for line in head) + diff


def lines(before: str | None, after: str | None, held: str | None = None, holds: str | None = None) -> list[str]:
    """What has changed from one kept request to the next, for people; None where nothing is kept."""
    if before == after and held == holds:
        return []
    old, new = map(_read, _differing(before, after) if held == holds else (before, after))
    if not (old and new):
        # Nothing is kept, or it is damaged: then all of the other one is news.
        old, new = _read(before), _read(after)
    found = [*_services(_standing(old, held), _standing(new, holds))]
    found += _egress(_items(old, "egress"), _items(new, "egress"))
    if old and new:
        keys = [key for key in new if key in old and key not in ("services", "egress", "networks", *_UNSAID)]
        found += _lists(old.get("networks"), new.get("networks"))
        found += [f"{key}: {_change(old[key], new[key])}" for key in keys if old[key] != new[key]]
    return found


def _lost(takeovers: Mapping[str, Obstacle]) -> Iterator[str]:
    yield from (
        f"{name}: takeover on -> off ({why.problem})" for name, why in itertools.islice(takeovers.items(), LINES)
    )
    if len(takeovers) > LINES:
        yield f"takeover on -> off for {len(takeovers) - LINES:,} more services"


def _differing(before: str | None, after: str | None) -> tuple[str | None, str | None]:
    """The same without the services that have the same line at the same place in both: there is nothing to say of them,
    and of ten thousand most are so."""
    old, new = ((text or "").split("\n") for text in (before, after))
    if (old.count(_SERVICES), new.count(_SERVICES)) != (1, 1) or old.index(_SERVICES) != new.index(_SERVICES):
        return before, after
    first = old.index(_SERVICES) + 1
    kept, others = (list(itertools.takewhile(_is_item, lines[first:])) for lines in (old, new))
    if not (_is_list(kept) and _is_list(others)):
        return before, after
    changed = [pair for pair in itertools.zip_longest(kept, others, fillvalue="") if pair[0] != pair[1]]

    def reduced(side: int, lines: Sequence[str], count: int) -> str:
        items = [pair[side].rstrip(",") for pair in changed if pair[side]]
        return "\n".join([*lines[:first], ",\n".join(items), *lines[first + count :]])

    return reduced(0, old, len(kept)), reduced(1, new, len(others))


def _is_item(line: str) -> bool:
    return line.startswith("{")


def _is_list(items: Sequence[str]) -> bool:
    """Whether these lines are items of JSON that follow each other."""
    return bool(items) and all(line.endswith("},") for line in items[:-1]) and items[-1].endswith("}")


def _standing(request: Item, holds: str | None) -> list[Item]:
    """The services of a request, with what overrides and health make of their backends."""
    services = _items(request, "services")
    others = {(str(item.get("service")), *_key(item)): item for item in _items(_read(holds), "effective")}
    names = {name for name, *_place in others}
    return [_laid(service, others) if str(service.get("name")) in names else service for service in services]


def _laid(service: Item, others: Mapping[Any, Item]) -> Item:
    backends = []
    for backend in _items(service, "backends"):
        # Who holds it knows its ports by nothing but the address, where they depend on those of the service.
        place = {**backend, "port": None} if isinstance(backend.get("port"), str) else backend
        other = others.get((str(service.get("name")), *_key(place)), {})
        backends.append({**backend, **{key: other[key] for key in (*_HELD, *_WHY) if key in other}})
    return {**service, "backends": backends}


def _read(text: str | None) -> Item:
    """A kept request, which may be damaged: then it says nothing."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _items(request: Item, key: str) -> list[Item]:
    return mappings(request.get(key))


def _services(old: Iterable[Item], new: Iterable[Item]) -> Iterator[str]:
    before = {str(item.get("name")): item for item in old}
    after = {str(item.get("name")): item for item in new}
    for name, service in before.items():
        if name not in after:
            yield f"{name}: service removed ({_named(service.get('listen'))})"
    for name, service in after.items():
        former = before.get(name)
        if former is None:
            names = [str(backend.get("name")) for backend in _items(service, "backends")]
            to = f"to {_named(names)}" if names else "without backends"
            yield f"{name}: service added ({_named(service.get('listen'))} {to})"
        elif former != service:
            whole = _whole(former), _whole(service)
            told = [*_keys(*whole), *_backends(*whole)]
            yield from (f"{name}: {line}" for line in told[:LINES])
            if len(told) > LINES:
                yield f"{name}: and {len(told) - LINES:,} more changes"
    if before.keys() == after.keys() and list(before) != list(after):
        yield "services in another order"


def _whole(service: Item) -> Item:
    """With the keys that it does not use, at its end."""
    backends = [_completed(backend, UNUSED_OF_BACKENDS) for backend in _items(service, "backends")]
    return _completed({**service, "backends": backends}, UNUSED)


def _completed(item: Item, unused: Item) -> Item:
    return {**item, **{key: value for key, value in unused.items() if key not in item}}


def _keys(former: Item, service: Item) -> Iterator[str]:
    """What differs beside the backends. A key that an older version did not write says nothing."""
    for key, value in service.items():
        if key == "backends" or key not in former or former[key] == value:
            continue
        if isinstance(value, list) and isinstance(former[key], list):
            lists = [_networks(items) if key == "snat_by_client" else items for items in (former[key], value)]
            yield from _list(key, *lists)
        elif isinstance(value, Mapping) and isinstance(former[key], Mapping):
            names = dict.fromkeys([*former[key], *value])
            yield from (
                f"{key}: {name} {_change(former[key].get(name), value.get(name))}"
                for name in names
                if former[key].get(name) != value.get(name)
            )
        else:
            yield f"{key} {_change(former[key], value)}"


def _networks(rules: Sequence[Any]) -> list[str]:
    """Each network of `snat_by_client` by itself: a rule may have thousands."""
    found = [rule for rule in rules if isinstance(rule, Mapping) and isinstance(rule.get("networks"), list)]
    return [f"{network} as {_named(rule.get('snat'))}" for rule in found for network in rule["networks"]]


def _lists(old: Any, new: Any) -> Iterator[str]:
    """What differs in lists of networks. An older version wrote none."""
    before, after = (found if isinstance(found, Mapping) else {} for found in (old, new))
    for name in dict.fromkeys([*before, *after]):
        former, value = before.get(name), after.get(name)
        if name not in after:
            yield f"list {name}: removed"
        elif name not in before:
            yield f"list {name}: added ({_named(value)})"
        elif former != value and isinstance(former, list) and isinstance(value, list):
            yield from (f"list {name}: {line.strip()}" for line in _list("", former, value))


def _list(key: str, former: Sequence[Any], value: Sequence[Any]) -> Iterator[str]:
    """Items that came and went. Where none did, their order is another one."""
    old, new = ({json.dumps(item, sort_keys=True): item for item in items} for items in (former, value))
    gone = [item for text, item in old.items() if text not in new]
    come = [item for text, item in new.items() if text not in old]
    if gone:
        yield f"{key} {_named(gone)} removed" + ("" if value else ", which leaves none")
    if come:
        yield f"{key} {_named(come)} added" + ("" if former else ", where there was none")
    if not gone and not come:
        yield f"{key} in another order"


def _backends(former: Item, service: Item) -> Iterator[str]:
    old, new = _items(former, "backends"), _items(service, "backends")
    shares = _shares(old, former.get("backups", BACKUPS[0])), _shares(new, service.get("backups", BACKUPS[0]))
    before, after = ({_key(item): item for item in items} for items in (old, new))
    for key, backend in before.items():
        if key not in after:
            yield f"backend {_titled(backend)} removed, which had a share of {_percent(shares[0][key])}"
    loud: list[str] = []
    quiet: list[str] = []
    for key, backend in after.items():
        share = shares[1][key]
        if key not in before:
            weight = "" if backend.get("weight") == 1 else f" weight {backend.get('weight')},"
            state = "" if backend.get("state") == "active" else f" {backend.get('state')},"
            yield f"backend {_titled(backend)} added,{weight}{state} share {_percent(share)}{_reason({}, backend)}"
            continue
        told = [
            f"{name} {_change(*(_unsaid(name) if item is None else item for item in (before[key][name], value)))}"
            for name, value in backend.items()
            if name in before[key] and name not in (*_IDENTITY, *_WHY) and before[key][name] != value
        ]
        shown = _percent(shares[0][key]), _percent(share)
        moved = [f"share {shown[0]} -> {shown[1]}"] if shown[0] != shown[1] else []
        if told or moved:
            held = "min_healthy" in (before[key].get("because"), backend.get("because"))
            why = _reason(before[key], backend) if told or held else ""
            (loud if told else quiet).append(f"{before[key].get('name')} " + ", ".join([*told, *moved]) + why)
    yield from [*loud, *quiet]
    if list(before) != list(after) and before.keys() == after.keys():
        yield "backends in another order"


def _unsaid(name: str) -> str | None:
    """What holds where a backend leaves a key out, if it is not nothing."""
    return "of the service" if name == "snat" else None


def _reason(former: Item, backend: Item) -> str:
    """Why a backend stands elsewhere than it is declared, or why it does no longer."""
    if backend.get("why"):
        return f" ({backend['why']})"
    return {"override": " (no override any more)", "health": " (up again)", "min_healthy": " (enough are healthy)"}.get(
        str(former.get("because")), ""
    )


def _key(backend: Item) -> tuple[Any, ...]:
    return tuple(str(backend.get(name)) for name in _IDENTITY)


def _titled(backend: Item) -> str:
    """Name, and address and port where the name is not the address."""
    address, port = str(backend.get("address")), backend.get("port")
    place = endpoint(address, port)
    return place if backend.get("name") == address else f"{backend.get('name')} ({place})"


def _shares(backends: Sequence[Item], backups: Backups) -> dict[tuple[Any, ...], float]:
    """Share of the new connections of its address family, by backend."""
    shares = {_key(backend): 0.0 for backend in backends}
    for six in (False, True):
        listed = [b for b in backends if (":" in str(b.get("address"))) == six]
        able = [b for b in listed if _weight(b)]
        mine = [b for b in able if not b.get("backup")]
        out = sum(not b.get("backup") for b in listed) - len(mine)
        spares = [b for b in listed if b.get("backup")]
        serving = [*mine, *joining(backups, spares, len(mine), out, lambda b: _weight(b) > 0, _priority)]
        whole = sum(map(_weight, serving))
        shares.update({_key(backend): _weight(backend) / whole for backend in serving})
    return shares


def _priority(backend: Item) -> int:
    return int(backend.get("priority") or 0)


def _weight(backend: Item) -> int:
    weight = backend.get("weight")
    serves = backend.get("state") == "active" and backend.get("because") != "min_healthy"
    return weight if isinstance(weight, int) and serves else 0


def _egress(old: Sequence[Item], new: Sequence[Item]) -> Iterator[str]:
    before, after = ({_text(item): item for item in items} for items in (old, new))
    yield from (f"egress: {_way(item)} removed" for text, item in before.items() if text not in after)
    yield from (f"egress: {_way(item)} added" for text, item in after.items() if text not in before)
    if list(before) != list(after) and before.keys() == after.keys():
        yield "egress: rules in another order"


def _text(item: Item) -> str:
    """The same for two rules that say the same; one that an older version has kept lacks keys."""
    return json.dumps({key: value for key, value in item.items() if value not in (None, [])}, sort_keys=True)


def _way(item: Item) -> str:
    """A rule of egress in short."""
    words = [_named(item.get("source"))]
    if item.get("destination"):
        words.append(f"to {_named(item['destination'])}")
    if item.get("destination_ports"):
        words.append(f"to {item.get('protocol')} {_named(item['destination_ports'])}")
    uplinks = [str(uplink.get("interface")) for uplink in _items(item, "uplinks")]
    if uplinks or item.get("out_interface"):
        words.append(f"by {_named(uplinks or [item.get('out_interface')])}")
    if item.get("snat") == "none":
        words.append("as it is")
    elif item.get("snat") not in (None, "masquerade"):
        words.append(f"as {item['snat']}")
    if item.get("snat_ports"):
        words.append(f"from ports {item['snat_ports']}")
    return " ".join(words)


def _named(value: Any) -> str:
    """The first items of a list, and how many more there are."""
    items = value if isinstance(value, list) else [value]
    more = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return ", ".join(map(_shown, items[:NAMED])) + more


def _change(old: Any, new: Any) -> str:
    return f"{_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        return str(value["type"])
    return value if isinstance(value, str) else json.dumps(value)


def _percent(share: float) -> str:
    text = f"{100 * share:.1f}"
    return f"{text[:-2] if text.endswith('.0') else text} %"
