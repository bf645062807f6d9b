# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared source NAT for networks behind this host, read into typed values (`entities.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, TypeVar

from ..errors import ConfigError
from ..packets import Family, family_name, family_of
from . import keys_elsewhere, snat_ports, values, words
from .entities import MAX_WEIGHT, Config
from .lists import networks, snat_choice
from .outbound import DEFAULT_MARK_MASK, MAX_UPLINK_WEIGHT_SUM, MAX_UPLINKS, Egress, EgressSnat, Uplink
from .ranges import collapsed, merged
from .reading import Reading
from .spelling import is_everything

T = TypeVar("T")

KEYS = ("source", "destination", "out_interface", "protocol", "destination_ports", "snat", "snat_ports", "uplinks")
UPLINK_KEYS = ("interface", "gateway", "weight")


def egress_rule(value: Any, path: str) -> Egress:
    reading = Reading()
    given = reading.mapping(value, path, KEYS, ("source",), keys_elsewhere.EGRESS)

    def read(key: str, otherwise: T, function: Callable[..., T], *more: Any) -> T:
        if key not in given:
            return otherwise
        return reading.read(function, given[key], f"{path}.{key}", *more, otherwise=otherwise)

    no_ports: tuple[tuple[int, int], ...] = ()
    no_uplinks: tuple[Uplink, ...] = ()
    masquerade: tuple[EgressSnat, str | None] = ("masquerade", None)
    no_sources: tuple[str, ...] = ()
    sources = collapsed(read("source", no_sources, networks, "name at least one network"))
    destinations = collapsed(read("destination", no_sources, networks, "leave it out for every destination"))
    protocol = read("protocol", None, words.protocol)
    ports = read("destination_ports", no_ports, _ports)
    if "destination_ports" in given and "protocol" not in given:
        reading.add(f"{path}.destination_ports", "needs a protocol", "add protocol: tcp, udp or sctp")
    snat, address = read("snat", masquerade, _snat)
    egress = Egress(
        sources=sources,
        destinations=destinations,
        out_interface=read("out_interface", None, values.interface),
        protocol=protocol,
        ports=ports,
        snat=snat,
        snat_address=address,
        snat_ports=read("snat_ports", None, snat_ports.read_ports),
        uplinks=read("uplinks", no_uplinks, _uplinks, family_of(sources[0]) if sources else None),
    )
    reading.done()
    _check_egress(egress, path)
    return egress


def _ports(value: Any, path: str) -> tuple[tuple[int, int], ...]:
    reading = Reading()
    ports = reading.each(lambda item, at: values.port_range(str(item), at), values.one_or_more(value, path))
    reading.done()
    if not ports:
        raise ConfigError(path, "is empty", "name at least one port, or leave it out for all of them")
    return merged(ports)


def _snat(value: Any, path: str) -> tuple[EgressSnat, str | None]:
    snat, addresses = snat_choice(value, path)
    if len(addresses) > 1:
        raise ConfigError(path, f"{values.shown(value)} is not a choice here", "masquerade, none or one address")
    return snat, addresses[0] if addresses else None


def _uplinks(value: Any, path: str, family: Family | None) -> tuple[Uplink, ...]:
    """`family` is that of the source, which tells an uplink without a gateway; None where the source cannot be read."""
    items = values.sequence(value, path)
    reading = Reading()
    numbered = [(f"{path}[{index}]", item) for index, item in enumerate(items)]
    uplinks = reading.each(lambda item, at: _uplink(item, at, family or "ip"), numbered)
    reading.done()
    if not uplinks:
        raise ConfigError(path, "is empty", "name at least one uplink, or leave it out")
    if len({uplink.key for uplink in uplinks}) != len(uplinks):
        raise ConfigError(path, "names the same uplink twice", "name it once, with a higher weight")
    if sum(uplink.weight for uplink in uplinks) > MAX_UPLINK_WEIGHT_SUM:
        raise ConfigError(path, "the weights are too large", f"their sum may be {MAX_UPLINK_WEIGHT_SUM} at most")
    return tuple(uplinks)


def _uplink(value: Any, path: str, family: Family) -> Uplink:
    reading = Reading()
    given = reading.mapping(value, path, UPLINK_KEYS, ("interface",), keys_elsewhere.EGRESS)

    def read(key: str, otherwise: T, function: Callable[..., T], *more: Any) -> T:
        if key not in given:
            return otherwise
        return reading.read(function, given[key], f"{path}.{key}", *more, otherwise=otherwise)

    gateway = read("gateway", None, _gateway)
    uplink = Uplink(
        family=family if gateway is None else family_of(gateway),
        interface=read("interface", "", values.interface),
        gateway=gateway,
        weight=read("weight", 1, values.integer, 1, MAX_WEIGHT, "a weight"),
    )
    reading.done()
    return uplink


def _gateway(value: Any, path: str) -> str:
    return str(values.address(value, path))


def _check_egress(egress: Egress, path: str) -> None:
    reading = Reading()
    families = egress.families()
    if len(families) > 1 and (egress.snat_address or egress.uplinks):
        reading.add(f"{path}.source", "mixes IPv4 and IPv6", "write one egress rule for each family")
    if egress.uplinks and egress.out_interface:
        reading.add(
            f"{path}.out_interface", "cannot be combined with uplinks", "leave it out: the uplinks name the interfaces"
        )
    if egress.uplinks and egress.snat != "masquerade":
        problem = (
            "a fixed address does not fit every uplink" if egress.snat_address else "none does not go with uplinks"
        )
        reading.add(f"{path}.snat", problem, "use masquerade with uplinks")
    if egress.snat_ports and egress.snat == "none":
        reading.add(f"{path}.snat_ports", "no source is translated (snat: none)", "leave it out, or change snat")
    _check_destinations(egress, path, reading)
    for index, uplink in enumerate(egress.uplinks):
        if uplink.family not in families:
            reading.add(f"{path}.uplinks[{index}].gateway", "is not of the family of the source", "use one that is")
    if egress.snat_address and family_of(egress.snat_address) not in families:
        reading.add(f"{path}.snat", f"{egress.snat_address} is not of the family of the source", "use one that is")
    named = egress.destinations and not any(map(is_everything, egress.destinations))
    for source in filter(is_everything, egress.sources):
        if not egress.ways() and not named and egress.snat != "none":
            reading.add(
                f"{path}.source",
                f"{source} without an interface would rewrite all that this host forwards, to its backends too",
                "add out_interface: the one towards the outside, or name the networks behind this host",
            )
    reading.done()


def _check_destinations(egress: Egress, path: str, reading: Reading) -> None:
    families = egress.families()
    for network in egress.destinations:
        if family_of(network) not in families:
            reading.add(f"{path}.destination", f"{network} is not of the family of the source", "drop it")
    for family in families:
        if egress.destinations and not egress.destinations_of(family):
            problem = f"names no {family_name(family)} network, but the source does"
            reading.add(f"{path}.destination", problem, "name one, or write one egress rule for each family")


def mark_mask(value: Any) -> int:
    remedy = "write a run of adjoining bits such as 0x3f000000"
    if value is None:
        return DEFAULT_MARK_MASK
    try:
        mask = int(value, 0) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError("mark_mask", f"{values.shown(value)} is not a number", remedy) from None
    shifted = mask // (mask & -mask) if mask else 0
    if isinstance(value, bool) or not 0 < mask < 2**32 or shifted & (shifted + 1):
        raise ConfigError("mark_mask", f"{values.shown(value)} is not a mask", remedy)
    return mask


def uplink_count(egress: Sequence[Egress], mask: int) -> list[ConfigError]:
    count = len(Config((), tuple(egress), mask).uplinks())
    room = min(mask // (mask & -mask), MAX_UPLINKS)
    if count <= room:
        return []
    return [
        ConfigError("egress", f"{count} uplinks do not fit into the mark mask {mask:#x}", f"it has room for {room}")
    ]
