"""A client that opens a connection to each address every so often, whatever becomes of those before, and tells of each.

    python3 attempts.py 192.0.2.10 2001:db8:1::10 --port 80 --every 0.02

A line for each: the address, when it began, and who answered, or `-`. It has half a second, which is less than the
kernel takes to send a SYN again. So what is lost is told as lost, and when it was. Ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

TIMEOUT_S = 0.5


async def ask(host: str, port: int) -> str:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        return (await reader.readline()).decode().split(" ")[0] or "-"
    finally:
        writer.close()


async def attempt(host: str, port: int) -> None:
    began = time.monotonic()
    try:
        name = await asyncio.wait_for(ask(host, port), TIMEOUT_S)
    except (TimeoutError, OSError):
        name = "-"
    print(host, began, name, flush=True)


async def main(hosts: list[str], port: int, every_s: float) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    waiting: set[asyncio.Task[None]] = set()
    while not ended.done():
        for host in hosts:
            task = asyncio.create_task(attempt(host, port))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.sleep(every_s)
    if waiting:
        await asyncio.wait(waiting)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", nargs="+")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--every", type=float, default=0.02, help="seconds between two attempts at each address")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.host, arguments.port, arguments.every))
