# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation keeps up with the code: examples are valid, keys and variables are named, links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from _natlb.cli import commands
from _natlb.iptables import render as iptables
from _natlb.iptables import restore
from _natlb.model.entities import Config, dump
from _natlb.model.services import parse_config
from _natlb.nftables import render as nftables
from _natlb.nftables import text as nftables_text

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md"), *ROOT.glob("roles/*/README.md")])
ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/defaults/main.yml"))
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
RULEBOOKS = sorted(path.stem for path in (ROOT / "extensions" / "eda" / "rulebooks").glob("*.yml"))
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))

#: A declaration with everything in it that has keys of its own.
FULL = {
    "services": [
        {
            "name": kind,
            "listen": f"192.0.2.{number}:80",
            "health": {"type": kind, **needed},
            "backends": [{"address": "10.0.0.3"}],
        }
        for number, (kind, needed) in enumerate(
            [
                ("tcp", {}),
                ("https", {}),
                ("command", {"argv": ["true"]}),
                ("agent", {"port": 8888}),
                ("udp", {"send": "ping"}),
                ("dns", {"query": "www.example.com"}),
            ],
            1,
        )
    ],
    "egress": [{"source": "10.0.0.0/24", "uplinks": [{"interface": "eth1", "gateway": "203.0.113.1"}]}],
}


def title(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def declarations(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within that holds `natlb_services` or `natlb_egress`."""
    if isinstance(value, dict):
        if "natlb_services" in value or "natlb_egress" in value:
            yield value
        for item in value.values():
            yield from declarations(item)
    elif isinstance(value, list):
        for item in value:
            yield from declarations(item)


EXAMPLES = [
    pytest.param(declared, id=f"{title(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(fenced(page.read_text(), "yaml"), 1)
    for declared in declarations(yaml.safe_load(block))
]


def parsed(declared: dict[str, Any]) -> Config:
    """What it says. A list that a template reads from a file has one network here."""
    given = (declared.get("natlb_networks") or {}).items()
    lists = {name: "203.0.113.0/24" if "{{" in str(item) else item for name, item in given}
    return parse_config(declared.get("natlb_services"), declared.get("natlb_egress"), networks=lists)


@pytest.mark.parametrize("declared", EXAMPLES)
def test_examples_are_valid(declared: dict[str, Any]) -> None:
    assert not parsed(declared).empty


def test_there_are_examples() -> None:
    pages = {str(example.id).rpartition("-")[0] for example in EXAMPLES}
    assert pages >= {"README.md", "docs/services.md", "docs/egress.md", "docs/roles.md"}


def test_a_recipe_of_the_docs_is_valid() -> None:
    for path in (DOCS / "recipes").glob("*.yml"):
        for declared in declarations(yaml.safe_load(path.read_text())):
            parsed(declared)


def test_the_rolling_update_is_the_file_that_tests_run() -> None:
    shown = fenced((DOCS / "rolling-update.md").read_text(), "yaml")[0]
    assert f"---\n{shown}" == (DOCS / "rolling-update.yml").read_text()


def keys(value: Any) -> set[str]:
    """All keys at any depth."""
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in keys(item)}
    return {key for item in value for key in keys(item)} if isinstance(value, list) else set()


@pytest.mark.parametrize("part", ["services", "egress"])
def test_every_key_is_described(part: str) -> None:
    """What a declaration can hold is what the model writes out with all defaults."""
    text = (DOCS / f"{part}.md").read_text()
    described = {
        name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    known = keys(dump(parse_config(**FULL))[part])
    assert "name" in known or part == "egress"
    assert sorted(known - described) == []


def table_rows(text: str) -> dict[str, str]:
    """First cell to second cell of every row of every table that begins with a name."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_variables_of_roles_are_described(role: Path) -> None:
    rows = table_rows((DOCS / "roles.md").read_text())
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    assert sorted({*defaults, *options} - set(rows)) == []
    for name, default in defaults.items():
        shown = re.fullmatch(r"`([^`]*)`", rows[name])
        if shown:
            assert yaml.safe_load(shown[1]) == default, f"{name} is {default!r}"


def test_roles_playbooks_and_modules_are_described() -> None:
    text = (DOCS / "roles.md").read_text()
    assert {path.name for path in ROLES} <= set(re.findall(r"^## (\w+)$", text, re.MULTILINE))
    for name in [*PLAYBOOKS, *MODULES]:
        assert f"| `natlb.netfilter.{name}` |" in text, name
    named = set(re.findall(r"natlb\.netfilter\.(\w+)", "".join(page.read_text() for page in PAGES)))
    filters = {path.stem for kind in ("filter", "lookup") for path in (ROOT / "plugins" / kind).glob("*.py")}
    assert named <= {*PLAYBOOKS, *RULEBOOKS, *MODULES, *filters, *(path.name for path in ROLES)}


def test_variables_of_playbooks_are_described() -> None:
    rows = table_rows((DOCS / "roles.md").read_text())
    for path in (ROOT / "playbooks").glob("*.yml"):
        head = path.read_text().partition("\n- ")[0]
        assert set(re.findall(r"^#   (natlb_\w+)", head, re.MULTILINE)) <= set(rows), path.name


def test_the_page_of_the_program_has_all_that_can_be_typed() -> None:
    text = (DOCS / "program.md").read_text()
    for command in commands.COMMANDS:
        (line,) = re.findall(rf"^\| `(natlb {command.name}\b[^`]*)`", text, re.MULTILINE)
        shown = " ".join(["natlb", command.name, *(item.shown for item in command.arguments)])
        assert line in (shown, f"natlb {command.name} BACKEND …"), command.name
    codes = dict(re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE))
    assert {int(code): words.replace("`", "") for code, words in codes.items()} == commands.EXIT_CODES


def anchor(heading: str) -> str:
    """How the usual renderers of Markdown name a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(("page", "target"), list(links()), ids=lambda value: str(value).rpartition("/")[2])
def test_links_lead_somewhere(page: Path, target: str) -> None:
    name, _hash, part = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    assert file.exists()
    if part:
        assert part in map(anchor, re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE))


def test_files_that_pages_name_exist() -> None:
    named = {
        (page, name)
        for page in PAGES
        for name in re.findall(r"`((?:tests|docs|roles|playbooks|tools|plugins)/[\w./-]+)`", page.read_text())
    }
    assert [(title(page), name) for page, name in sorted(named) if not (ROOT / name).exists()] == []


def test_targets_of_make_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:^    |`)make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert named
    assert named <= targets


#: What docs/how-it-works.md shows the rules of.
SHOWN = [
    {
        "name": "web",
        "listen": "192.0.2.10:80",
        "backends": [{"address": "10.0.0.3", "port": 8080, "weight": 2}, {"address": "10.0.0.4", "port": 8080}],
    },
    {
        "name": "api",
        "listen": "192.0.2.11:443",
        "method": "random",
        "backends": [{"address": "10.0.0.3"}, {"address": "10.0.0.4"}],
    },
    {"name": "gone", "listen": "192.0.2.12:80", "backends": []},
]


def test_the_rules_that_are_shown_are_those_that_are_made() -> None:
    config = parse_config(SHOWN)
    made = nftables_text.full(nftables.render(config), ["ip"]) + restore.full(iptables.render(config), "ip")
    lines = {line.strip().rstrip(",") for line in made.splitlines()}
    text = (DOCS / "how-it-works.md").read_text()
    blocks = [block for block in fenced(text, "") if "chain prerouting" in block or "-A NATLB" in block]
    assert len(blocks) == 2
    for line in "".join(blocks).splitlines():
        shown = re.sub(r"^elements = \{|[ ,}]+$", "", line.strip()).strip()
        assert not shown or shown in lines or shown + " }" in lines, line
