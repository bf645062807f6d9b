"""The lab has names and addresses that are there once on a machine, so one test at a time has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import sys
from collections.abc import Iterator

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
LOCK = pathlib.Path("/run/natlb-lab-scenario.lock")


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Wait for the lab, and say for whom: another file of this run, or another checkout's."""
    with open(LOCK, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"\nwaits for the lab, which {LOCK.read_text().strip() or 'somebody'} has", file=sys.__stderr__)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} of {CHECKOUT}\n")
        lock.flush()
        yield
