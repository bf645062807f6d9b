"""Clients that come at a steady rate, whatever becomes of those before, for as long as they are wanted.

    python3 load.py http://192.0.2.10:80 --rate 200 --seconds 120 --report load.json

Each client opens a connection, asks for one page and reads it to its end. Several targets share the rate. The load ends
after so many seconds, or at SIGTERM, when the last clients have their answers. The report is written anew each second.
Standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

#: A SYN is sent again after 1, 3, 7 and 15 s. Whoever has no answer until then has failed.
TIMEOUT_S = 20.0
MAX_SECONDS = 600
REPORT_S = 1.0


class Target:
    """One of the addresses, and what clients of it have seen."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname:
            raise SystemExit(f"{url}: no address to connect to (write http://192.0.2.10:80)")
        self.url = url
        self.host, self.port = parts.hostname, parts.port or 80
        self.attempts = 0
        self.answers: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.longest_s = 0.0

    async def attempt(self) -> None:
        self.attempts += 1
        began = time.monotonic()
        try:
            self.answers[await asyncio.wait_for(self._ask(), TIMEOUT_S)] += 1
        except (OSError, EOFError, ValueError) as error:
            self.errors[type(error).__name__] += 1
        self.longest_s = max(self.longest_s, time.monotonic() - began)

    async def _ask(self) -> str:
        """Who answered, and which version it is: `web1 identity/2`."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(f"GET / HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
            head, _blank, body = (await reader.read()).decode().partition("\r\n\r\n")
        finally:
            writer.close()
        fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
        if not body or len(body) != int(fields["content-length"]):
            raise EOFError
        return f"{body.split()[0]} {fields.get('server', '')}".rstrip()

    def report(self) -> dict[str, Any]:
        return {
            "attempts": self.attempts,
            "failed": self.errors.total(),
            "errors": dict(self.errors),
            "answers": dict(sorted(self.answers.items())),
            "longest_s": round(self.longest_s, 2),
        }


def write(path: str, targets: list[Target], began: float, ended: bool) -> None:
    """Whole, or not at all: somebody may be reading."""
    report = {
        "seconds": round(time.monotonic() - began, 1),
        "ended": ended,
        "targets": {target.url: target.report() for target in targets},
    }
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
    os.replace(f"{path}.new", path)


async def main(targets: list[Target], rate: float, seconds: float, path: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    began, begun, told = time.monotonic(), 0, 0.0
    waiting: set[asyncio.Task[None]] = set()
    while not stopped.is_set() and (now := time.monotonic() - began) < seconds:
        # A machine that was busy for a moment is behind; the clients come all the same.
        while begun < now * rate:
            task = asyncio.create_task(targets[begun % len(targets)].attempt())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            begun += 1
        if now >= told:
            write(path, targets, began, ended=False)
            told = now + REPORT_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), 1 / rate)
    if waiting:
        await asyncio.wait(waiting)
    write(path, targets, began, ended=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="+")
    parser.add_argument("--rate", type=float, default=200.0, help="clients a second, of all targets together")
    parser.add_argument("--seconds", type=float, default=60.0, help=f"at most {MAX_SECONDS}")
    parser.add_argument("--report", required=True)
    arguments = parser.parse_args()
    asked = [Target(url) for url in arguments.url]
    asyncio.run(main(asked, arguments.rate, min(arguments.seconds, MAX_SECONDS), arguments.report))
