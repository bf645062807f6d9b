"""A client that opens a connection to each target every so often, whatever becomes of those before, and tells of each.

    python3 attempts.py 192.0.2.10:80 [2001:db8:1::10]:80 --every 0.02

A line for each: the target, when it began, and who answered, or `-`. To open, it has half a second, less than the
kernel takes to send a SYN again. So what is lost is told as lost, and when it was. The backend's kernel opens it; the
program there, which waits for a processor of a busy machine, has longer to answer. Ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

TIMEOUT_S, ANSWER_S, EVERY_S = 0.5, 10.0, 0.02


async def ask(target: str) -> str:
    host, _colon, port = target.rpartition(":")
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), TIMEOUT_S)
    try:
        return (await asyncio.wait_for(reader.readline(), ANSWER_S)).decode().split(" ")[0] or "-"
    finally:
        writer.close()


async def attempt(target: str) -> None:
    began = time.monotonic()
    try:
        name = await ask(target)
    except (TimeoutError, OSError):
        name = "-"
    print(target, began, name, flush=True)


async def main(targets: list[str], every_s: float) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    waiting: set[asyncio.Task[None]] = set()
    while not ended.done():
        for target in targets:
            task = asyncio.create_task(attempt(target))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.sleep(every_s)
    if waiting:
        await asyncio.wait(waiting)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="+")
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between two attempts at each target")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.target, arguments.every))
