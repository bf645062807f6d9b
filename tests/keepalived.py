# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""keepalived, as far as it reads a configuration and says what it makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

UNPACKED = Path(__file__).parents[1] / ".cache" / "keepalived" / "root"
#: In a network of its own with these interfaces; keepalived looks for them.
_INSIDE = 'for name in $1; do ip link add "$name" type bridge || exit; ip link set "$name" up; done; shift; exec "$@"'


def config_test(file: Path, interfaces: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What `keepalived --config-test` says of a file. Standard error comes with the output."""
    unpacked = UNPACKED / "usr" / "sbin" / "keepalived"
    found = str(unpacked) if unpacked.exists() else shutil.which("keepalived", path="/usr/sbin:/usr/bin")
    assert found, "keepalived is missing: tools/setup dev fetches it"
    libraries = {str(path.parent) for path in UNPACKED.rglob("lib*.so*")}
    inside = ["unshare", "--net", "sh", "-c", _INSIDE, "sh", " ".join(interfaces)]
    return subprocess.run(
        [*inside, found, "--config-test", f"--use-file={file}", "--log-console"],
        env={**os.environ, **({"LD_LIBRARY_PATH": ":".join(sorted(libraries))} if libraries else {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
