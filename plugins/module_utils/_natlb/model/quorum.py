# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`min_healthy`: how many backends of a service have to be healthy for it to use them. Pure.

With fewer, the few would get what all are made for. So they get no new connections, and the backups take over. As in
keepalived (`quorum`, `hysteresis`) and Seesaw (watermarks), a service that has fallen below may need more to come back
(`min_healthy_again`), so that a backend that comes and goes does not move all clients each time.

Each address family counts by itself, as it has its own backends and backups.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import ConfigError
from . import values

#: More backends than this no service has (`entities.MAX_BACKENDS`).
_MOST = 4096


class Least(NamedTuple):
    """A number of backends, or a percentage of those that are declared."""

    number: int
    is_percent: bool = False

    def of(self, declared: int) -> int:
        """How many of so many declared ones that is. Parts are rounded up: 40% of 4 are 2."""
        return -(-self.number * declared // 100) if self.is_percent else self.number

    def dump(self) -> int | str:
        """As a user writes it."""
        return f"{self.number}%" if self.is_percent else self.number


class Quorum(NamedTuple):
    """`least` holds while a service is above, and `again` while it is below."""

    least: Least
    again: Least

    def needed(self, declared: int, was_below: bool) -> int:
        """How many have to be healthy now, of so many declared ones."""
        return (self.again if was_below else self.least).of(declared)

    def dump_again(self) -> int | str | None:
        """None where it is the same number."""
        return None if self.again == self.least else self.again.dump()


def read_least(value: Any, path: str) -> Least:
    """`3`, or `40%`. Raises `ConfigError`."""
    if isinstance(value, str) and value.endswith("%"):
        text = value[:-1].strip()
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:4]) <= 100):
            problem = f"{values.shown(value)} is not a percentage of the backends"
            raise ConfigError(path, problem, "1% to 100%")
        return Least(int(text), is_percent=True)
    try:
        return Least(values.integer(value, path, 1, _MOST))
    except ConfigError:
        remedy = f"1-{_MOST}, or a percentage such as 40%; leave it out to use the backends as long as one is healthy"
        raise ConfigError(path, f"{values.shown(value)} is not a number of backends", remedy) from None


def quorum(least: Least | None, again: Least | None) -> Quorum | None:
    """Both keys together."""
    return None if least is None else Quorum(least, again or least)


def dump(found: Quorum | None) -> dict[str, int | str | None]:
    """The keys as a declaration has them."""
    if found is None:
        return {"min_healthy": None, "min_healthy_again": None}
    return {"min_healthy": found.least.dump(), "min_healthy_again": found.dump_again()}


def of_dump(least: int | str | None, again: int | str | None) -> Quorum | None:
    """What `dump` was made of."""
    if least is None:
        return None
    return quorum(read_least(least, ""), None if again is None else read_least(again, ""))
