# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Both ends of SCTP associations, with the kernel's own sockets. Copied to the virtual machine, whose kernel has them.

python3 sctp_endpoint.py serve NAME ADDRESS PORT
    answers each message with NAME and the address that it came from
python3 sctp_endpoint.py ask ADDRESS PORT COUNT
    opens so many associations, keeps all of them, speaks twice over each, and prints what was answered as JSON
"""

from __future__ import annotations

import json
import socket
import sys
import threading

TIMEOUT_S = 60


def _socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)


def serve(name: str, address: str, port: int) -> None:
    listener = _socket()
    listener.bind((address, port))
    listener.listen(64)
    print("listening", flush=True)
    while True:
        association, peer = listener.accept()
        threading.Thread(target=_answer, args=(association, f"{name} {peer[0]}"), daemon=True).start()


def _answer(association: socket.socket, text: str) -> None:
    with association:
        while association.recv(64):
            association.send(text.encode())


def ask(address: str, port: int, count: int) -> None:
    associations = []
    for _unused in range(count):
        association = _socket()
        association.settimeout(TIMEOUT_S)
        association.connect((address, port))
        associations.append(association)
    said = [[_talk(association) for association in associations] for _turn in range(2)]
    print(json.dumps(said))


def _talk(association: socket.socket) -> str:
    association.send(b"?")
    return association.recv(64).decode()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
