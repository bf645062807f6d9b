# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user declares as source NAT of the host's own, read into typed values (`entities.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import parse
from .entities import (
    DEFAULT_MARK_MASK,
    MAX_UPLINK_WEIGHT_SUM,
    MAX_UPLINKS,
    MAX_WEIGHT,
    PROTOCOLS,
    Config,
    Egress,
    Uplink,
    family_of,
)
from .errors import ConfigError
from .parse_lists import networks, snat_choice


def egress_rule(value: Any, path: str) -> Egress:
    known = ("source", "out_interface", "protocol", "destination_ports", "snat", "uplinks")
    given = parse.mapping(value, path, known, required=("source",))
    sources = networks(given["source"], f"{path}.source")
    if not sources:
        raise ConfigError(f"{path}.source", "is empty", "name at least one network")
    protocol = parse.choice(given["protocol"], f"{path}.protocol", PROTOCOLS) if "protocol" in given else None
    ports = tuple(
        parse.port_range(str(item), at)
        for at, item in parse.one_or_more(given.get("destination_ports", []), f"{path}.destination_ports")
    )
    if ports and protocol is None:
        raise ConfigError(f"{path}.destination_ports", "needs a protocol", "add protocol: tcp, udp or sctp")
    snat, addresses = snat_choice(given.get("snat", "masquerade"), f"{path}.snat")
    if snat == "none" or len(addresses) > 1:
        raise ConfigError(
            f"{path}.snat", f"{parse.shown(given['snat'])} is not a choice here", "masquerade or one address"
        )
    interface = given.get("out_interface")
    egress = Egress(
        sources=sources,
        out_interface=None if interface is None else parse.interface(interface, f"{path}.out_interface"),
        protocol=protocol,
        ports=_merged(ports),
        snat=snat,
        snat_address=addresses[0] if addresses else None,
        uplinks=_uplinks(given.get("uplinks", []), f"{path}.uplinks", family_of(sources[0])),
    )
    _check_egress(egress, path)
    return egress


def _merged(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Port ranges sorted, with overlapping and adjoining ones made one."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _uplinks(value: Any, path: str, family: str) -> tuple[Uplink, ...]:
    """`family` is that of the source, which tells an uplink without a gateway."""
    uplinks = []
    for index, item in enumerate(parse.sequence(value, path)):
        at = f"{path}[{index}]"
        given = parse.mapping(item, at, ("interface", "gateway", "weight"), required=("interface",))
        gateway = str(parse.address(given["gateway"], f"{at}.gateway")) if "gateway" in given else None
        uplinks.append(
            Uplink(
                family=family if gateway is None else family_of(gateway),
                interface=parse.interface(given["interface"], f"{at}.interface"),
                gateway=gateway,
                weight=parse.integer(given.get("weight", 1), f"{at}.weight", 1, MAX_WEIGHT, "a weight"),
            )
        )
    if len({uplink.key for uplink in uplinks}) != len(uplinks):
        raise ConfigError(path, "names the same uplink twice", "name it once, with a higher weight")
    if sum(uplink.weight for uplink in uplinks) > MAX_UPLINK_WEIGHT_SUM:
        raise ConfigError(path, "the weights are too large", f"their sum may be {MAX_UPLINK_WEIGHT_SUM} at most")
    return tuple(uplinks)


def _check_egress(egress: Egress, path: str) -> None:
    families = egress.families()
    if len(families) > 1 and (egress.snat_address or egress.uplinks):
        raise ConfigError(f"{path}.source", "mixes IPv4 and IPv6", "write one egress rule for each family")
    if egress.uplinks and egress.out_interface:
        raise ConfigError(f"{path}.out_interface", "stands beside uplinks", "the uplinks name the interfaces; drop it")
    if egress.uplinks and egress.snat_address:
        raise ConfigError(f"{path}.snat", "a fixed address does not fit every uplink", "use masquerade with uplinks")
    for index, uplink in enumerate(egress.uplinks):
        if uplink.family not in families:
            raise ConfigError(
                f"{path}.uplinks[{index}].gateway", "is not of the family of the source", "use one that is"
            )
    if egress.snat_address and family_of(egress.snat_address) not in families:
        raise ConfigError(
            f"{path}.snat", f"{egress.snat_address} is not of the family of the source", "use one that is"
        )


def mark_mask(value: Any) -> int:
    remedy = "write a run of adjoining bits such as 0x3f000000"
    if value is None:
        return DEFAULT_MARK_MASK
    try:
        mask = int(value, 0) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError("mark_mask", f"{parse.shown(value)} is not a number", remedy) from None
    shifted = mask // (mask & -mask) if mask else 0
    if isinstance(value, bool) or not 0 < mask < 2**32 or shifted & (shifted + 1):
        raise ConfigError("mark_mask", f"{parse.shown(value)} is not a mask", remedy)
    return mask


def uplink_count(egress: Sequence[Egress], mask: int) -> list[ConfigError]:
    count = len(Config((), tuple(egress), mask).uplinks())
    room = min(mask // (mask & -mask), MAX_UPLINKS)
    if count <= room:
        return []
    return [
        ConfigError("egress", f"{count} uplinks do not fit into the mark mask {mask:#x}", f"it has room for {room}")
    ]
