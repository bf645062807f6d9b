# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validates the options of a run without a host: the controller does this before it opens a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ..errors import ConfigError, ConfigErrors
from ..model import choices
from ..model import values as parse
from ..model.entities import EMPTY, Config
from ..model.metrics import parse_metrics
from ..model.services import parse_config
from ..model.tracking import parse_tracking
from . import engines, rollback

CHOICES: Mapping[str, Sequence[str]] = {
    "engine": choices.ENGINES,
    "firewall": choices.FIREWALL,
    "transit": choices.TRANSIT,
    "state": choices.STATES,
}
FLAGS = ("forwarding", "agent", "persist", "allow_management_port")
#: Options of the module `balancer`.
OPTIONS = ("services", "egress", "networks", "mark_mask", "conntrack", "metrics", "rollback_after", *CHOICES, *FLAGS)


def check(values: Mapping[str, Any]) -> Config:
    """What is declared. Raises `ConfigErrors` with all that is wrong with the values of these options; one that is not
    there is right."""
    errors: list[ConfigError] = []
    config = EMPTY
    try:
        given = (values.get("services"), values.get("egress"), values.get("mark_mask") or None)
        config = parse_config(*given, networks=values.get("networks"))
    except ConfigErrors as found:
        errors.extend(found.errors)
    readers: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (parse_tracking, (values.get("conntrack"),)),
        (parse_metrics, (values.get("metrics"), config)),
        (rollback_seconds, (values.get("rollback_after", 0),)),
    ]
    readers += [
        (parse.choice, (values[option], option, offered)) for option, offered in CHOICES.items() if option in values
    ]
    readers += [(parse.boolean, (values[option], option)) for option in FLAGS if option in values]
    for read, arguments in readers:
        try:
            read(*arguments)
        except ConfigErrors as found:
            errors.extend(found.errors)
        except ConfigError as error:
            errors.append(error)
    errors += engines.unable(values.get("engine"), config)
    if errors:
        raise ConfigErrors(errors)
    return config


def rollback_seconds(value: Any) -> int:
    """How long a change may wait to be confirmed."""
    return parse.integer(value, "rollback_after", 0, rollback.LONGEST_S, "a number of seconds")
