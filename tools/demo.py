"""`make demo`: start the lab, run the playbook, open 300 connections, show who answered."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
INVENTORY = ROOT / "tests" / "lab" / "inventory.yml"
DECLARED = ROOT / "tests" / "lab" / "demo.yml"
TARGET = "192.0.2.10:80"
CONNECTIONS = 300
BAR_WIDTH = 40
PERFECT = "Every backend got exactly its share, and no connection was lost."

TOPOLOGY = """\
                                                    +--> web1  10.0.0.3:8080   weight 4
  client  ------->  balancer  192.0.2.10:80  -------+--> web2  10.0.0.4:8080   weight 3
  192.0.2.100       (nothing but NAT rules)         +--> web3  10.0.0.5:8080   weight 2
                                                    +--> web4  10.0.0.6:8080   weight 1
"""

NEXT = """\
What to look at next:
  the rules that do it      podman exec natlb-balancer nft list ruleset
  one more connection       podman exec natlb-client python3 -c \\
                              "import urllib.request as u; print(u.urlopen('http://192.0.2.10').read().decode())"
  the configuration         tests/lab/demo.yml: change a weight, and run `make demo` again
  a table of who gets what  tools/run ansible-playbook -i tests/lab/inventory.yml natlb.netfilter.status

Clean up:
  only the containers       make down
  everything made here      make clean
"""


class DemoError(Exception):
    """A step failed; the message is what it said."""


def report(answers: Mapping[str, int], weights: Mapping[str, int]) -> Iterator[str]:
    """Lines of a table and bar chart: who answered how often, and how often the weights say it should have.

    `answers` maps a backend's name to its number of connections, `weights` to its weight. Backends that
    answered without being declared are shown too, with a share of 0.
    """
    total = sum(answers.values())
    total_weight = sum(weights.values())
    names = [*weights, *sorted(answers.keys() - weights.keys())]
    width = max([len("backend"), *map(len, names)])
    most = max([1, *answers.values()])
    yield f"{'backend':<{width}}  weight  expected  answered"
    for name in names:
        answered = answers.get(name, 0)
        expected = total * weights.get(name, 0) / total_weight
        blocks = "█" * round(BAR_WIDTH * answered / most)
        yield f"{name:<{width}}  {weights.get(name, 0):>6}  {expected:>8.4g}  {answered:>8}  {blocks}"
    yield f"{'total':<{width}}  {total_weight:>6}  {total:>8}  {total:>8}"


def verdict(answers: Mapping[str, int], weights: Mapping[str, int], errors: int) -> str:
    """One sentence: did every backend get its share?"""
    total, total_weight = sum(answers.values()), sum(weights.values())
    off = [name for name, weight in weights.items() if answers.get(name, 0) * total_weight != total * weight]
    if not off and not errors:
        return PERFECT
    problems = [f"{', '.join(off)} did not get the declared share"] if off else []
    problems += [f"{errors} connections failed"] if errors else []
    return f"Something is wrong: {' and '.join(problems)}."


def run(*command: str) -> str:
    """Run a program in the checkout; what it says is shown only if it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DemoError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def start_lab() -> None:
    """Make the containers that are not there yet."""
    run(sys.executable, "tests/lab/lab.py", "up")


def deploy() -> None:
    """Run the collection's own playbook, as a user would."""
    run("ansible-playbook", f"--inventory={INVENTORY}", f"--extra-vars=@{DECLARED}", "natlb.netfilter.deploy")


def probe() -> dict[str, Any]:
    """Open the connections from the client container with the collection's own module."""
    options = {"target": TARGET, "protocol": "http", "connections": CONNECTIONS, "identify": r"^(\S+)"}
    output = run(
        *("ansible", f"--inventory={INVENTORY}", "client"),
        *("--module-name=natlb.netfilter.probe", f"--args={json.dumps(options)}"),
    )
    # client | SUCCESS => {...}
    result: dict[str, Any] = json.loads(output.partition(" => ")[2])
    return result


def declared_weights() -> dict[str, int]:
    """The weights in demo.yml, by backend."""
    (service,) = yaml.safe_load(DECLARED.read_text())["natlb_services"]
    return {backend["name"]: backend.get("weight", 1) for backend in service["backends"]}


def timed(title: str, step: Any) -> Any:
    """Run a step and print what it is and how long it took."""
    print(f"  {title:<58}", end="", flush=True)
    started = time.monotonic()
    result = step()
    print(f"{time.monotonic() - started:5.1f} s", flush=True)
    return result


def main() -> int:
    """Exit status: 0 if every backend got exactly its share."""
    print(f"\n{TOPOLOGY}")
    try:
        timed("start six containers: client, balancer, web1 to web4", start_lab)
        timed("ansible-playbook natlb.netfilter.deploy", deploy)
        result = timed(f"open {CONNECTIONS} connections to {TARGET} from the client", probe)
    except DemoError as error:
        print(f"failed\n\n{error}", file=sys.stderr)
        return 1
    answers, weights = result["backends"], declared_weights()
    print("\n" + "\n".join(report(answers, weights)))
    sentence = verdict(answers, weights, result["errors"])
    print(f"\n{sentence}\n\n{NEXT}")
    return 0 if sentence == PERFECT else 1


if __name__ == "__main__":
    sys.exit(main())
