"""A client whose connections are open while something becomes of the balancer, and that tells how they fare.

    python3 established.py 192.0.2.10:90 [2001:db8:1::10]:91 --count 50 --busy 4 --sources 192.0.2. 2001:db8:1::

To each target three groups of connections: `client`, which speak when they are told to, `backend`, which wait for the
backend to speak, and `busy`, which ask again as soon as they have an answer. The sources are prefixes: connection i of
a group comes from the prefix with 101 + i. An empty one leaves it to the kernel.

Prints a line when all are open: who answered, and how often. Then each line of its standard input names a group, and is
answered with a line about it: a JSON mapping of `kept`, `reset`, `closed`, `silent` and `other` (another backend
answered) to the number of connections, and `longest_s`, the longest that any of them waited for an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable

OPEN_S, ANSWER_S, BETWEEN_S, MOMENT_S = 5.0, 30.0, 0.05, 0.01
QUESTION = b"?\n"


class Connection:
    """One of them, and what became of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
        self._reader, self._writer, self.first = reader, writer, first
        self.longest_s = 0.0
        #: Whether a busy one is to go on.
        self.goes_on = True

    async def forget(self) -> None:
        """What a backend has said unasked is no answer."""
        with contextlib.suppress(TimeoutError, OSError):
            while await asyncio.wait_for(self._reader.readline(), MOMENT_S):
                pass

    async def hear(self, speak: bool) -> str:
        """What comes of one more answer."""
        began = time.monotonic()
        try:
            if speak:
                self._writer.write(QUESTION)
            line = await asyncio.wait_for(self._reader.readline(), ANSWER_S)
        except TimeoutError:
            return "silent"
        except OSError:
            return "reset"
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        return "kept" if line == self.first else "other" if line else "closed"

    async def stay_busy(self) -> str:
        found = "kept"
        while self.goes_on and found == "kept":
            found = await self.hear(speak=True)
            await asyncio.sleep(BETWEEN_S)
        return found


async def opened(target: str, source: str) -> Connection:
    host, _colon, port = target.rpartition(":")
    local = (source, 0) if source else None
    reader, writer = await asyncio.wait_for(
        asyncio.open_connection(host.strip("[]"), int(port), local_addr=local), OPEN_S
    )
    return Connection(reader, writer, await asyncio.wait_for(reader.readline(), OPEN_S))


async def open_all(ways: Iterable[tuple[str, str]], count: int) -> list[Connection]:
    """One after the other, as they would come."""
    return [
        await opened(target, f"{prefix}{101 + number}" if prefix else "")
        for target, prefix in ways
        for number in range(count)
    ]


def told(connections: list[Connection], fates: list[str]) -> str:
    longest_s = max((connection.longest_s for connection in connections), default=0.0)
    return json.dumps({**Counter(fates), "longest_s": round(longest_s, 2)})


async def main(targets: list[str], sources: list[str], count: int, busy: int) -> None:
    ways = list(itertools.zip_longest(targets, sources, fillvalue=""))
    groups = {
        "client": await open_all(ways, count),
        "backend": await open_all(ways, count),
        "busy": await open_all(ways, busy),
    }
    whoever = Counter(one.first.decode().split(" ")[0] for one in itertools.chain(*groups.values()))
    at_work = [asyncio.create_task(one.stay_busy()) for one in groups["busy"]]
    print(json.dumps(whoever), flush=True)
    loop = asyncio.get_running_loop()
    while name := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        for one in groups["busy"] if name == "busy" else ():
            one.goes_on = False
        if name == "client":
            await asyncio.gather(*(one.forget() for one in groups[name]))
        waiting = at_work if name == "busy" else [one.hear(speak=name == "client") for one in groups[name]]
        print(told(groups[name], await asyncio.gather(*waiting)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="+")
    parser.add_argument("--sources", nargs="*", default=[], help="a prefix for each target")
    parser.add_argument("--count", type=int, default=50, help="of the groups client and backend each, to each target")
    parser.add_argument("--busy", type=int, default=4, help="of the group busy, to each target")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.target, arguments.sources, arguments.count, arguments.busy))
