"""Every molecule scenario is a test. One after the other: they share the lab's names and this machine's two cores."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "lab"))
from reservation import reserved  # noqa: E402

#: These take minutes, and `make fleet` runs them.
WHOLE = os.environ.get("NATLB_FLEET") == "full"
FLEET = set() if WHOLE else {"active_active", "anycast", "pair_faults", "pair_sync", "rollout"}
SCENARIOS = sorted({path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")} - FLEET)
LONGEST_S = 1800 if WHOLE else 600


@pytest.fixture(scope="module", autouse=True)
def _clear_up() -> Iterator[None]:
    """Each scenario makes the containers anew, so only after the last one they are to be removed."""
    yield
    with reserved():
        subprocess.run(["tools/run", "python3", "tests/lab/lab.py", "down"], cwd=ROOT, check=True)


@pytest.fixture
def _lab() -> Iterator[None]:
    """What a test waits for it counts as its setup, not against the limit of the scenario."""
    with reserved():
        yield


def plain_environment() -> dict[str, str]:
    """Nothing of what tools/run sets."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "CONTAINERS_"))}
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    colours = {"NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1", "MOLECULE_COMMAND_BORDERS": "false"}
    return {**kept, **colours, "PATH": path}


@pytest.mark.usefixtures("_lab")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As a person types it: plain molecule, with no more than its folder on the path."""
    with capsys.disabled():
        print(f"\nmolecule test --scenario-name {scenario} ", end="", flush=True)
    done = subprocess.run(
        ["molecule", "test", "--scenario-name", scenario],
        cwd=ROOT,
        env=plain_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    with capsys.disabled():
        print(*re.findall(r"figures: [^\"]*", done.stdout), sep="\n", end="", flush=True)
    # A playbook that molecule does not find is no failure to it.
    assert "Missing playbook" not in done.stdout, done.stdout
    assert re.search(r"\b[1-9]\d* passed\b", done.stdout), f"testinfra checked nothing\n{done.stdout}"
    # These are left out of a `molecule verify` by hand, and must not be missed here.
    assert "test_the_second_run_changes_nothing PASSED" in done.stdout, done.stdout


def test_all_scenarios_are_here() -> None:
    required = {"default", "iptables", "weights", "udp", "ipv6", "snat_none", "reboot", "remove", "rolling", "pair"}
    assert required <= set(SCENARIOS)
