# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that restores the rules and routes of uplinks between runs, at boot and after.

An interface that goes down loses its routes, and systemd-networkd removes rules of other tools
(`ManageForeignRoutingPolicyRules=` in networkd.conf(5)). So the script can stay active and listen to the kernel. It is
a shell script with ip(8), since both exist on every host; no Python of natlb stays there.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ..host import processes
from ..model.entities import Config
from . import routing

#: `round` changes only what is missing: each change is an event that would wake the follower again. Each uplink stands
#: alone: one whose interface is gone must not keep the others from theirs.
_TEXT = """#!/bin/sh
# Written by natlb.netfilter, as its last successful run; changes here are undone.
# Puts rules and routes of uplinks in place where they are missing. With "follow" it stays and does so again whenever
# links, addresses, routes or rules change.
set -u
export PATH={path}
self={self} run={run} failed=0

route() { # version, table, words as ip prints them
    version=$1 table=$2 words=$3
    ip "$version" -oneline route show table "$table" 2>/dev/null | sed 's/$/ /' | grep -qF -- "$words " && return
    ip "$version" route replace $words table "$table" || { echo "no way by: $words" >&2; failed=1; }
}

rule() { # version, preference, selector as ip prints it, words as it takes them
    version=$1 pref=$2
    have=$(ip "$version" rule show pref "$pref" | sed 's/ fwmark 0x0\\// fwmark 0\\//; s/[[:space:]]*$//')
    [ "$have" = "$(printf '%s:\\t%s' "$pref" "$3")" ] && return
    for again in 1 2 3 4 5 6 7 8; do ip "$version" rule delete pref "$pref" 2>/dev/null || break; done
    ip "$version" rule add pref "$pref" $4 || failed=1
}

settled() { # No run is at work, and no change waits to be confirmed: that is not to be undone here.
    [ ! -e "$run/lock" ] || { exec 9<"$run/lock" && flock --timeout 60 9; } || return
    for pending in "$run"/rollback.*/pending; do [ ! -e "$pending" ] || return; done
}

round() {
    said=$(/bin/sh "$self" 2>&1)
    [ "$said" = "$told" ] || echo "${said:-every uplink has its route}" >&2
    told=$said
}

if [ "${1:-}" = follow ]; then
    told=
    round
    # One read takes all that has happened during the sleep, so a burst of changes is one round.
    sh -c 'echo $$; exec ip monitor link address route rule' | {
        read -r monitor
        sleep 1
        round
        while [ -e "$self" ] && [ -n "$(dd bs=65536 count=1 2>/dev/null)" ]; do
            sleep 1
            round
        done
        kill "$monitor" 2>/dev/null
        [ ! -e "$self" ]
    }
    exit
fi

until settled; do sleep 2; done
[ -e "$self" ] || exit 0
{lines}
exit $failed
"""


def script(config: Config, path: Path, run: Path) -> str:
    """The text of the script, which is kept at `path`; empty where there are no uplinks. A run works in `run`."""
    lines = []
    for key, section in sorted(routing.render(config).items()):
        version = "-6" if key.family == "ip6" else "-4"
        for words in section.body:
            if key.kind == "route":
                lines.append(f"route {version} {key.name} '{words}'")
            else:
                shown = f"not from all {words[4:]}" if words.startswith("not ") else f"from all {words}"
                lines.append(f"rule {version} {key.name} '{shown}' '{words}'")
    if not lines:
        return ""
    given = {
        "path": processes.PATH,
        "self": shlex.quote(str(path)),
        "run": shlex.quote(str(run)),
        "lines": "\n".join(lines),
    }
    text = _TEXT
    for name, value in given.items():
        text = text.replace(f"{{{name}}}", value)
    return text
