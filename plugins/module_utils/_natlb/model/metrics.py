# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the agent publishes metrics: read, kept as typed values, and written again. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..packets import family_of
from . import values
from .entities import Config
from .reading import Reading

_KEYS = ("directory", "listen", "idle")
_FILE = "natlb.prom"
_DIRECTORY = re.compile(r"/[A-Za-z0-9._/-]+\Z")


@dataclass(frozen=True)
class Metrics:
    """`directory` is that of node_exporter's textfile collector; `listen` an address and a port. Both may be None."""

    directory: str | None = None
    listen: tuple[str, int] | None = None
    #: Whether backends without connections are told of as well.
    idle: bool = True

    @property
    def file(self) -> str | None:
        """Where the agent writes them; None where it writes none."""
        return None if self.directory is None else f"{self.directory}/{_FILE}"

    @property
    def published(self) -> bool:
        """Whether anybody is to see them."""
        return self.directory is not None or self.listen is not None


def parse_metrics(value: Any, config: Config) -> Metrics:
    """Raises `ConfigErrors`. No service may listen where metrics are served."""
    if value is None:
        return Metrics()
    reading = Reading()
    given = reading.mapping(value, "metrics", _KEYS)
    listen = reading.read(_listen, given["listen"], "metrics.listen", otherwise=None) if "listen" in given else None
    found = Metrics(
        reading.read(_directory, given["directory"], "metrics.directory", otherwise=None)
        if "directory" in given
        else None,
        listen,
        reading.read(values.boolean, given.get("idle", True), "metrics.idle", otherwise=True),
    )
    owner = next((name for name in _owners(config, listen)), None)
    if owner is not None:
        reading.add("metrics.listen", f"is a frontend of service {owner}", "choose another port")
    reading.done()
    return found


def _owners(config: Config, listen: tuple[str, int] | None) -> list[str]:
    if listen is None:
        return []
    address, port = listen
    return [
        service.name
        for service in config.services
        for frontend in service.frontends()
        if (frontend.protocol, frontend.family) == ("tcp", family_of(address))
        and frontend.low <= port <= frontend.high
        and frontend.address in (None, address)
    ]


def _listen(value: Any, path: str) -> tuple[str, int]:
    text = values.text(value, path)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ConfigError(path, f"{values.shown(text)} has no port", "write it like 127.0.0.1:9780")
    return str(values.address(host.strip("[]"), path)), values.port(port, path)


def _directory(value: Any, path: str) -> str:
    text = values.text(value, path)
    if _DIRECTORY.match(text) and ".." not in text.split("/"):
        return text.rstrip("/")
    raise ConfigError(path, f"{values.shown(text)} is not an absolute path of plain characters", "write /var/lib/…")


def dump_metrics(metrics: Metrics) -> dict[str, Any]:
    """As `parse_metrics` reads it; what was left out is null."""
    listen = metrics.listen
    shown = None if listen is None else values.endpoint(*listen)
    return {"directory": metrics.directory, "listen": shown, "idle": metrics.idle}
