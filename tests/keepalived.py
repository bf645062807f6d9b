# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""keepalived and conntrackd, as far as they read a configuration and say what they make of it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

UNPACKED = Path(__file__).parents[1] / ".cache" / "keepalived" / "root"
#: In a network of its own with these interfaces; keepalived looks for them.
_INSIDE = 'for name in $1; do ip link add "$name" type bridge || exit; ip link set "$name" up; done; shift; exec "$@"'


def config_test(file: Path, interfaces: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What `keepalived --config-test` says of a file. Standard error comes with the output."""
    words = [_program("keepalived"), "--config-test", f"--use-file={file}", "--log-console"]
    return _run(words, interfaces)


def validated(command: str, interfaces: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What comes of a command that has conntrackd read a file."""
    path = f"{Path(_program('conntrackd')).parent}{os.pathsep}{os.environ['PATH']}"
    return _run(["env", f"PATH={path}", *shlex.split(command)], interfaces)


def _program(name: str) -> str:
    unpacked = UNPACKED / "usr" / "sbin" / name
    found = str(unpacked) if unpacked.exists() else shutil.which(name, path="/usr/sbin:/usr/bin")
    assert found, f"{name} is missing: tools/setup dev fetches it"
    return found


def _run(words: Sequence[str], interfaces: Sequence[str]) -> subprocess.CompletedProcess[str]:
    libraries = {str(path.parent) for path in UNPACKED.rglob("lib*.so*")}
    return subprocess.run(
        ["unshare", "--net", "sh", "-c", _INSIDE, "sh", " ".join(interfaces), *words],
        env={**os.environ, **({"LD_LIBRARY_PATH": ":".join(sorted(libraries))} if libraries else {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
