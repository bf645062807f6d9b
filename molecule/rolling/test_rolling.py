"""What the roll-outs of side_effect.yml ended with, and what the clients saw of them."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest

RECORDS = pathlib.Path(os.environ["NATLB_RECORD_DIR"])


@pytest.fixture(scope="module")
def load() -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RECORDS / "load.json").read_text())
    assert report["ended"]
    (clients,) = report["targets"].values()
    print(
        f"figures: {clients['attempts']} connections in {report['seconds']} s, {clients['failed']} failed "
        f"{clients['errors']}, longest wait {clients['longest_s']} s; {clients['answers']}"
    )
    return {**clients, "seconds": report["seconds"]}


@pytest.fixture(scope="module")
def rollouts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RECORDS / "rollouts.json").read_text())
    return found


def test_no_connection_failed(load: dict[str, Any]) -> None:
    assert (load["failed"], load["errors"]) == (0, {})


def test_there_were_as_many_clients_as_promised(load: dict[str, Any]) -> None:
    """All through the roll-outs, or nothing was proved."""
    assert load["attempts"] >= 190 * load["seconds"]
    assert sum(load["answers"].values()) == load["attempts"]


def test_clients_met_the_old_and_the_new_version_of_each(load: dict[str, Any]) -> None:
    versions = {f"{name} identity/{version}" for name in ("web1", "web2", "web3") for version in (1, 2)}
    assert {*load["answers"]} == {*versions, "web1 identity/3"}


def said(rollout: dict[str, Any]) -> str:
    """All that it printed. Failures are among the errors."""
    return f"{rollout['stdout']}\n{rollout['stderr']}"


def test_the_first_rollout_updated_all(rollouts: list[dict[str, Any]]) -> None:
    assert rollouts[0]["rc"] == 0, said(rollouts[0])


def test_a_host_that_fails_stops_the_rollout(rollouts: list[dict[str, Any]]) -> None:
    """web1 is updated, web2 fails and stays drained, and nothing is done to web3."""
    assert rollouts[1]["rc"] == 2
    assert "[web2]: FAILED!" in said(rollouts[1])
    assert "[web3" not in said(rollouts[1])


def test_the_floor_stops_whoever_goes_on(rollouts: list[dict[str, Any]]) -> None:
    assert rollouts[2]["rc"] == 2
    assert "1 of its backends would serve without web3, and min_active is 2" in said(rollouts[2])
    assert "Install the new version" not in said(rollouts[2])
