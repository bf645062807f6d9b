# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept on a host goes with what is declared there."""

from __future__ import annotations

import os

from . import archive, store, unix_socket


def remove_if_unused(paths: store.Paths) -> None:
    """Leave nothing behind where nothing is declared any more. To be called with the lock held; it goes as well.

    Who waits for it holds an unlinked file then, and begins again.
    """
    if (paths.etc / store.STATE).exists() or (paths.run / store.STATE).exists():
        return
    records = (
        store.NORMAL,
        store.DECLARED,
        store.SEEN,
        store.BEFORE,
        store.HEALTH,
        store.HEALTH + store.DAMAGED_SUFFIX,
        store.HISTORY,
        store.MULTIPLES,
        store.TOTALS,
        store.TAKEN,
        store.LAST_RUN,
        store.READINESS,
        store.UNDONE,
        store.CONFIRMED,
        store.RELOAD,
        archive.NAME,
    )
    for name in (*records, "lock"):
        store.remove(paths.run / name)
    # An agent without systemd outlives this, and the next run is to find it. It removes its socket as it ends.
    if not unix_socket.is_served(paths.run / store.AGENT_SOCKET):
        store.remove(paths.run / store.AGENT_SOCKET)
    for name in (store.HISTORY, store.LEFT):
        store.remove(paths.etc / name)
    store.remove_directory(paths.etc)
    store.remove_directory(paths.run)


def remove_lock_alone(paths: store.Paths) -> None:
    """The same behind a look, which leaves alone what is no trace of its own. To be called with the lock held."""
    if store.state_path(paths) is None and {*os.listdir(paths.run)} <= {"lock", store.AGENT_SOCKET, archive.NAME}:
        for name in ("lock", archive.NAME):
            store.remove(paths.run / name)
        store.remove_directory(paths.run)
