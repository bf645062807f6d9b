"""Every linter is a test, so that one run of pytest tells all there is to tell."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

LINTERS = {
    "ruff-check": ["ruff", "check"],
    "ruff-format": ["ruff", "format", "--check"],
    "mypy": ["tools/typecheck"],
    "ansible-lint": ["ansible-lint", "--offline", "--profile=production", "--strict"],
    "ansible-test-sanity": ["tools/sanity"],
}

# What says that a linter found nothing because it looked at nothing.
LOOKED_AT_NOTHING = (
    "All targets skipped",
    "No Python files found",
    "0 warning(s) in 0 files",
)


@pytest.mark.parametrize("command", LINTERS.values(), ids=LINTERS.keys())
def test_lint(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{' '.join(command)} ", end="", flush=True)
    done = subprocess.run(
        ["tools/run", *command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}\n{output}"
    assert not any(sign in output for sign in LOOKED_AT_NOTHING), output


def test_sanity_is_not_told_to_ignore_anything() -> None:
    assert list(ROOT.glob("tests/sanity/ignore*")) == []
