# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host of the lab: a process in namespaces of its own, for network and mounts, that calls the functions it is sent.

Run as `python worker.py FD`. The namespaces have no name and live as long as this process; the process ends when its
parent closes the connection, however the parent ends. So nothing is left behind, even by a killed test run.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
import threading
import traceback
from multiprocessing.connection import Connection

from kernel_lab import mounts

CLONE_NEWNET = 0x40000000
#: Sent instead of a call: leave the namespace for a new, empty one.
RENEW = b"renew"
#: Sent instead of a call: end.
END = b"end"

_libc = ctypes.CDLL(None, use_errno=True)


def new_namespace() -> None:
    """Move this thread, and those that it starts from now on, into a new network namespace."""
    if _libc.unshare(CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def answer(payload: bytes) -> bytes:
    """Call what was sent. Errors travel as their parts, because few of them survive pickle."""
    try:
        function, args, kwargs = pickle.loads(payload)
        return pickle.dumps((True, function(*args, **kwargs)))
    except BaseException as error:
        plain = {key: value for key, value in vars(error).items() if isinstance(value, (str, int, float))}
        return pickle.dumps((False, (type(error), str(error), plain, traceback.format_exc())))


def serve(connection: Connection) -> None:
    """Each call gets a thread, so that a host can do several things at a time."""
    sending = threading.Lock()

    def work(ticket: int, payload: bytes) -> None:
        reply = answer(payload)
        with sending:
            connection.send((ticket, reply))

    while True:
        try:
            ticket, payload = connection.recv()
        except (EOFError, ConnectionError):
            os._exit(0)
        if payload == END:
            os._exit(0)
        if payload == RENEW:
            # Only in this thread: threads of later calls inherit its namespace.
            new_namespace()
            with sending:
                connection.send((ticket, pickle.dumps((True, None))))
        else:
            threading.Thread(target=work, args=(ticket, payload), daemon=True).start()


if __name__ == "__main__":
    new_namespace()
    mounts.new_namespace()
    serve(Connection(int(sys.argv[1])))
