# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host of a fleet: the first process of its own network, mount and pid namespaces, which greets who connects.

Run by fleet.py through unshare(1) as `python fleet_host.py PORT`. It has its own /run, /etc and
/usr/local/sbin, in memory, and ends with its standard input.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

#: Of /etc: what programs need in order to run, and no more.
KEPT = ("passwd", "group", "nsswitch.conf", "protocols", "services", "ld.so.cache", "localtime", "alternatives")


def own_folders() -> None:
    """Nothing of this is seen by the machine."""
    run, etc = Path("/run"), Path("/etc")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "fleet", str(run)], check=True)
    made = run / "etc"
    made.mkdir()
    for path in map(etc.joinpath, KEPT):
        if path.is_dir():
            shutil.copytree(path, made / path.name, symlinks=True)
        elif path.exists():
            shutil.copy(path, made / path.name)
    subprocess.run(["mount", "--bind", str(made), str(etc)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "fleet", "/usr/local/sbin"], check=True)


def greet(listener: socket.socket) -> None:
    while True:
        connection, _peer = listener.accept()
        with connection:
            connection.sendall(b"fleet\n")


def main() -> None:
    own_folders()
    listener = socket.create_server(("", int(sys.argv[1])), backlog=64)
    threading.Thread(target=greet, args=(listener,), daemon=True).start()
    print("listening", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
