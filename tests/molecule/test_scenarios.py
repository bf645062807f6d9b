"""Every molecule scenario is a test. One after the other: they share the lab's names and this machine's two cores."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))
LONGEST_S = 600
# The lab has room for one: whoever comes second waits.
LOCK = "/run/natlb-lab-scenario.lock"


@pytest.fixture(scope="module", autouse=True)
def _clear_up() -> Iterator[None]:
    """Each scenario makes the containers anew, so only after the last one they are to be removed."""
    yield
    subprocess.run(["flock", LOCK, "tools/run", "python3", "tests/lab/lab.py", "down"], cwd=ROOT, check=True)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nmolecule test --scenario-name {scenario} ", end="", flush=True)
    done = subprocess.run(
        ["flock", LOCK, "tools/run", "molecule", "test", "--scenario-name", scenario],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1", "MOLECULE_COMMAND_BORDERS": "false"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    # A playbook that molecule does not find is no failure to it.
    assert "Missing playbook" not in done.stdout, done.stdout
    assert re.search(r"\b[1-9]\d* passed\b", done.stdout), f"testinfra checked nothing\n{done.stdout}"


def test_all_scenarios_are_here() -> None:
    required = {"default", "iptables", "weights", "udp", "ipv6", "snat_none", "reboot", "remove"}
    assert required <= set(SCENARIOS)
