# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the checks of many backends cost: the part of one core, and the memory, of a process that does nothing else.

    tools/run python tests/bench/health_checks.py [BACKENDS [INTERVAL_S [SECONDS]]]

The backends are addresses of the loopback network, on one port that listens. Their kernel's part of each handshake is
done by the checker's process, and so is in the figure. CPU seconds do not depend on who else works; memory is that of
the whole process, with the interpreter.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins" / "module_utils"))

from _natlb.health.checks import Checker
from _natlb.model.services import parse_config


def main(backends: int = 1000, interval_s: float = 2.0, seconds: float = 20.0) -> None:
    """Print the figures."""
    with socket.create_server(("0.0.0.0", 0), backlog=1024) as server:
        port = server.getsockname()[1]
        services = parse_config(
            [
                {
                    "name": f"s{number}",
                    "listen": f"192.0.2.10:{1000 + number}",
                    # The address of a backend may not be one of the loopback network, that of a check may.
                    "health": {
                        "type": "tcp",
                        "port": port,
                        "address": f"127.{1 + number // 65536}.{number // 256 % 256}.{number % 256}",
                        "interval": interval_s,
                        "timeout": min(1.0, interval_s),
                    },
                    "backends": [{"address": f"10.0.{number // 250}.{number % 250 + 1}"}],
                }
                for number in range(backends)
            ]
        ).services
        selector = selectors.DefaultSelector()
        checker = Checker(selector)
        checker.set_checks(services, {}, time.monotonic())
        events = 0
        began, spent = time.monotonic(), time.process_time()
        end = began + seconds
        while (now := time.monotonic()) < end:
            checker.advance(now)
            due = checker.next_due()
            for key, mask in selector.select(max(0.0, min(end, due or end) - time.monotonic())):
                key.data(mask)
            events += len(checker.take_events())
        took, spent = time.monotonic() - began, time.process_time() - spent
        made = sum(status.question.health.interval_s > 0 for status in checker.overview() if status.took_s is not None)
        checker.close()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = backends / interval_s
    print(f"{backends} backends, tcp, every {interval_s:g} s, for {took:.0f} s: {made} answered, {events} changes")
    print(f"{100 * spent / took:.1f} % of one core ({spent / took / rate * 1e6:.0f} us a check), {rss:.1f} MiB at most")


if __name__ == "__main__":
    main(*(kind(given) for kind, given in zip((int, float, float), sys.argv[1:], strict=False)))
