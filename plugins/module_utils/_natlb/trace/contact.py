# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks a backend from this host whether it answers, as the last step of a trace."""

from __future__ import annotations

import errno
import socket

from ..model.values import endpoint
from ..packets import Protocol
from .steps import Step

WAIT_S = 1.0


def asked(address: str, port: int, protocol: Protocol) -> Step:
    """One connection, which is closed at once. Datagrams have no answer to wait for."""
    where = endpoint(address, port)
    if protocol != "tcp":
        return Step("backend", "fact", f"{where} is not asked: {protocol} has no connection to open")
    try:
        with socket.create_connection((address, port), WAIT_S):
            return Step("backend", "ok", f"{where} accepts a connection of this host")
    except ConnectionRefusedError:
        return Step("backend", "stops", f"{where} refuses: nothing listens there", f"start the service at {where}")
    except TimeoutError:
        said = f"{where} does not answer within {WAIT_S:.0f} s"
        return Step("backend", "stops", said, "is it up, and does a firewall of its own let this host pass?")
    except OSError as error:
        known = errno.errorcode.get(error.errno or 0, "")
        return Step("backend", "stops", f"{where}: {error.strerror or error} ({known})", "is it up, and reachable?")
