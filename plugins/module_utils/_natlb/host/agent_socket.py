# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to the agent of this host; `health/inquiries.py` answers them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from ..errors import HostError
from . import service_manager, unix_socket

CHECKS, VITALS, TROUBLES, READY, FOLLOW = "checks", "vitals", "troubles", "ready", "follow"
#: How long a question and its answer may take.
TIMEOUT_S = 5.0
_CHUNK = 1 << 16


def asked(path: Path, question: str, timeout_s: float = TIMEOUT_S) -> Any:
    """The agent's answer. Raises `HostError` where there is none."""
    try:
        with contextlib.closing(unix_socket.connected(path, timeout_s)) as peer:
            peer.sendall(f"{question}\n".encode())
            answer = b"".join(iter(lambda: peer.recv(_CHUNK), b""))
        return json.loads(answer)
    except (OSError, ValueError) as error:
        raise silent(path, error) from error


def silent(path: Path, error: Exception) -> HostError:
    """What to say where it does not answer."""
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        why = f"nobody listens at {path}"
    elif isinstance(error, TimeoutError):
        why = f"{path}: no answer within {TIMEOUT_S:g} s"
    else:
        why = f"{path}: {getattr(error, 'strerror', None) or error}"
    return HostError(f"the agent does not answer: {why} ({service_manager.says_how()})")
