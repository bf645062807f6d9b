# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that takes a while, in a process of its own, so that checks go on meanwhile."""

from __future__ import annotations

import os
import socket
import traceback
import weakref
from typing import Callable

from ..errors import NatlbError
from ..host import service_manager

_parents_own: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def keep_from_children(peer: socket.socket) -> socket.socket:
    """Have children close this socket. As long as one of them has it, somebody listens there, for all that others can
    tell, and nobody else can."""
    _parents_own.add(peer)
    return peer


def close_what_is_the_parents() -> None:
    """To be called by a child, as it begins."""
    for peer in list(_parents_own):
        peer.close()


def forked(work: Callable[[], object], what: str = "") -> int:
    """The number of the process that does this. It ends by itself, and says what went wrong; `what` comes before."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            close_what_is_the_parents()
            work()
            status = 0
        except NatlbError as error:
            service_manager.say(f"{what}{error}", service_manager.WARNING)
        except Exception:
            service_manager.say(traceback.format_exc(), service_manager.WARNING)
        finally:
            os._exit(status)
    return child
