# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of what health checks have found over time: in /run at once, and some time later in /etc for the next boot.

No rule depends on it. So where it cannot be written, the agent goes on, and says so.
"""

from __future__ import annotations

from ..host import store
from ..host.store import Paths
from ..model import history
from ..model.effective import Findings
from ..model.history import History
from . import overlay


def note(paths: Paths, changes: Findings) -> None:
    """Add what has changed. Only the agent does so, and there is one of it. Raises `HostError`."""
    if not changes:
        return
    path, host = paths.run / store.HISTORY, overlay.identity()
    if not path.exists():
        store.write_text(path, history.bounded(_text(paths), host))
    store.append_text(path, history.lines(changes))
    if path.stat().st_size > history.MOST_BYTES:
        store.write_text(path, history.bounded(_text(paths), host))


def keep(paths: Paths) -> None:
    """Let it survive a reboot. Raises `HostError`."""
    now = store.read_text(paths.run / store.HISTORY)
    if now is not None and now != store.read_text(paths.etc / store.HISTORY):
        store.write_text(paths.etc / store.HISTORY, now)


def read(paths: Paths) -> History:
    """What is known of this host. Raises `HostError`."""
    return history.parse(_text(paths), overlay.identity())


def _text(paths: Paths) -> str | None:
    """After a boot there is only the file that survived."""
    found = store.read_text(paths.run / store.HISTORY)
    return store.read_text(paths.etc / store.HISTORY) if found is None else found
