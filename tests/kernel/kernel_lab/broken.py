# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the balancer with a fault in them: rules that a kernel refuses, and programs that fail on this host alone."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from _natlb.host import processes
from _natlb.iptables import render as iptables
from _natlb.nftables import render as nftables
from _natlb.nftables.text import TABLE
from _natlb.ruleset.sections import Key, Section

from . import drive

#: A rule that every program can read and no kernel takes.
RULES = {"nftables": "limit rate 0/second", "iptables": "-j CT --notrack"}
#: nf_tables takes sixteen jumps in a row. Each of these chains is a good one by itself.
DEPTH = 20

#: A program of the same name that stands before the real one. In the balancer's own namespace, not in a scratch one, it
#: fails where its input has the words.
_WRAPPER = """#!/bin/sh
[ "$(readlink /proc/self/ns/net)" = '{namespace}' ] || exec {real} "$@"
[ "{text}" ] || {{ echo '{name}: made to fail' >&2; exit 4; }}
input=$(mktemp)
cat > "$input"
if grep -q -e '{text}' "$input"; then
    {before}
    rm "$input"
    echo '{name}: made to fail' >&2
    exit 4
fi
{real} "$@" < "$input"
status=$?
rm "$input"
exit $status
"""


def balance(root: str, deep: bool, services: Any, egress: Any = None, **options: Any) -> Any:
    """`drive.balance` whose rules lead into a chain with such a rule, or into too many chains in a row."""
    names = [f"broken{number}" for number in range(DEPTH if deep else 1)]
    nft: dict[Key, Section] = {}
    tables: dict[Key, Section] = {}
    for name, after in zip(names, [*names[1:], ""], strict=True):
        rules = [f"jump {after}"] if after else [] if deep else [RULES["nftables"]]
        nft[Key("ip", TABLE, "chain", name)] = Section((), tuple(rules))
        rules = [f"-j NATLB.{after}"] if after else [] if deep else [RULES["iptables"]]
        tables[Key("ip", "nat", "chain", f"NATLB.{name}")] = Section(
            (), tuple(f"-A NATLB.{name} {rule}" for rule in rules)
        )
    with (
        _rendering(nftables, nft, Key("ip", TABLE, "chain", "prerouting"), "jump broken0"),
        _rendering(iptables, tables, Key("ip", "nat", "chain", "NATLB.pre"), "-A NATLB.pre -j NATLB.broken0"),
    ):
        return drive.balance(root, services, egress, **options)


@contextlib.contextmanager
def _rendering(module: Any, more: Mapping[Key, Section], entry: Key, jump: str) -> Iterator[None]:
    real = module.render

    def render(*args: Any) -> Any:
        found = {**real(*args), **more}
        found[entry] = Section(found[entry].header, (*found[entry].body, jump))
        return found

    with mock.patch.object(module, "render", render):
        yield


def balance_beside(
    root: str, program: str, text: str, before: str, services: Any, egress: Any = None, **options: Any
) -> Any:
    """`drive.balance` on a host where a program fails, once it has done what the shell lines `before` say."""
    with tempfile.TemporaryDirectory() as folder:
        real = processes.find(program)
        wrapper = Path(folder, program)
        values = {"namespace": os.readlink("/proc/thread-self/ns/net"), "real": real, "name": program}
        wrapper.write_text(_WRAPPER.format(**values, text=text, before=before or ":"))
        wrapper.chmod(0o700)
        path = f"{folder}:{processes.PATH}"
        assert shutil.which(program, path=path) == str(wrapper)
        with mock.patch.object(processes, "PATH", path):
            return drive.balance(root, services, egress, **options)


def exact() -> dict[str, str]:
    """All rules byte by byte, in their order, but for what packets count.

    In which order the chains of iptables-nft were made only nft shows, and it means nothing: iptables-save sorts them.
    """
    seen = drive.snapshot()
    tables = re.split(r"^(?=table )", seen["nft"], flags=re.MULTILINE)
    seen["nft"] = "".join(
        table for table in tables if not table or not drive._of_iptables(table[6:].partition(" {")[0])
    )
    for program in drive.SAVES:
        if "nft" in program:
            seen[program] = drive._without_comments(drive._shown(program))
    return seen
