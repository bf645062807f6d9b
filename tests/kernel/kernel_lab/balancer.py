# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core under test, on the lab's balancer, with one of its engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import drive, mounts, program, traffic
from .topology import VIP, WEB, Lab
from .traffic import Answer

#: How the tests name them: engine, and for iptables its variant.
ENGINES = ("nftables", "iptables-nft", "iptables-legacy")

Mapping = dict[str, Any]


class Balancer:
    """One engine on a fresh balancer. What it is told lasts until the test ends."""

    def __init__(self, lab: Lab, engine: str, root: Path) -> None:
        self.lab, self.host, self.client = lab, lab.balancer, lab.client
        self.engine, _dash, self.variant = engine.partition("-")
        self._root = str(root)
        # Stricter than a real host, where only /run is mounted so, and /etc/natlb may be.
        self.host.call(mounts.forbid_execution, self._root)
        self.etc = root / "etc"

    @property
    def nftables(self) -> bool:
        return self.engine == "nftables"

    def apply(self, services: Sequence[Mapping], egress: Sequence[Mapping] = (), **options: Any) -> Any:
        """One run; the Outcome. Its warnings stay for the test to read."""
        options.setdefault("engine", self.engine)
        if self.variant:
            options.setdefault("iptables_variant", self.variant)
        return self.host.call(drive.balance, self._root, list(services), list(egress), **options)

    def remove(self, **options: Any) -> Any:
        return self.apply([], state="absent", **options)

    def info(self, service: str | None = None, pending: bool = False) -> Any:
        return self.host.call(drive.info, self._root, service, self.variant or None, pending)

    def backend(self, backend: str, state: str | None = None, **options: Any) -> Mapping:
        """What the module `backend` does and returns."""
        return dict(self.host.call(drive.backend, self._root, self.variant or None, backend, state, options))

    def natlb(self, *words: str) -> tuple[int, str, str]:
        """Exit code and output of the program that a run has left."""
        status, out, err = self.host.call(program.run, self._root, self.variant or None, list(words))
        return int(status), str(out), str(err)

    def serving(self) -> set[tuple[str, str]]:
        return set(self.host.call(drive.serving, self._root, self.variant or None))

    def declared(self) -> Any:
        return self.host.call(drive.declared, self._root)

    def snapshot(self) -> dict[str, str]:
        return dict(self.host.call(drive.snapshot))

    def foreign(self) -> dict[str, str]:
        return dict(self.host.call(drive.foreign))

    def ours_left(self) -> list[str]:
        return list(self.host.call(drive.ours_left))

    def ask(self, target: str = f"{VIP}:80", count: int = 1, **options: Any) -> list[Answer]:
        """Answers to connections of the client."""
        return list(self.client.call(traffic.ask, target, count, **options))

    def tally(self, target: str = f"{VIP}:80", count: int = 1, **options: Any) -> Counter[str]:
        """Who answered the client, or with which error, how often."""
        return traffic.tally(self.ask(target, count, **options))

    def hold(self, target: str = f"{VIP}:80", count: int = 1, **options: Any) -> list[tuple[int, Answer]]:
        return list(self.client.call(traffic.hold, target, count, **options))

    def talk(self, handle: int) -> Answer:
        return traffic.Answer(*self.client.call(traffic.talk, handle))


def service(name: str = "web", **keys: Any) -> Mapping:
    """A service on the first virtual address, port 80, with all four backends, unless told otherwise."""
    return {"name": name, "listen": [f"{VIP}:80"], "backends": webs(), **keys}


def webs(*names: str, **keys: Any) -> list[Mapping]:
    """These backends (all four if none is named), each with the same further keys."""
    return [{"name": name, "address": WEB[name], **keys} for name in names or WEB]


def weighted(**weights: int) -> list[Mapping]:
    return [{"name": name, "address": WEB[name], "weight": weight} for name, weight in weights.items()]
