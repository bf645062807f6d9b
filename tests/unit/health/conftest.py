# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers and loops that end with their test."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _natlb.model.entities import Service
from checks_lab import LOCAL, Loop


@pytest.fixture
def loop() -> Iterator[Callable[..., Loop]]:
    with contextlib.ExitStack() as stack:

        def begin(*services: Service, **more: Any) -> Loop:
            found = Loop(*services, **more)
            stack.callback(found.close)
            return found

        yield begin


@pytest.fixture
def listen() -> Iterator[Callable[..., int]]:
    """Listens on a port and lets `serve` speak with whoever connects; nobody accepts where there is none."""
    with contextlib.ExitStack() as stack:

        def start(serve: Callable[[socket.socket], None] | None = None) -> int:
            server = stack.enter_context(socket.create_server((LOCAL, 0), backlog=64))

            def accept() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        peer, _address = server.accept()
                        peer.settimeout(2)
                        with peer, contextlib.suppress(OSError):
                            assert serve
                            serve(peer)

            if serve is not None:
                thread = threading.Thread(target=accept)
                thread.start()
                stack.callback(thread.join)
                stack.callback(server.shutdown, socket.SHUT_RDWR)
            return int(server.getsockname()[1])

        yield start


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate by nobody, for 127.0.0.1 and www.example.com."""
    folder = tmp_path_factory.mktemp("certificate")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    argv = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", "-subj", "/CN=natlb"]
    names = ["-addext", "subjectAltName=DNS:www.example.com,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run([*argv, *names, *files], check=True, capture_output=True, timeout=20)
    return folder


@pytest.fixture
def answer_datagrams() -> Iterator[Callable[..., int]]:
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[bytes], bytes | None]) -> int:
            server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            server.bind((LOCAL, 0))
            stopped = threading.Event()

            def serve() -> None:
                while True:
                    data, address = server.recvfrom(65535)
                    if stopped.is_set():
                        return
                    found = answer(data)
                    if found is not None:
                        server.sendto(found, address)

            thread = threading.Thread(target=serve)
            thread.start()

            def stop() -> None:
                stopped.set()
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waking:
                    waking.sendto(b"", server.getsockname())
                thread.join()

            stack.callback(stop)
            return int(server.getsockname()[1])

        yield start
