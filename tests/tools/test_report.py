# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook report, run on two balancers that are network namespaces."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from playbook_site import VIP, WEB1, WEB2, Site

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces and nft"
)

BACKENDS = [{"address": WEB1, "port": 8080, "name": "web1"}, {"address": WEB2, "port": 8080, "name": "web2"}]
DECLARED = [{"name": "web", "listen": f"{VIP}:80", "backends": BACKENDS}]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    made.deploy(DECLARED)
    yield made
    made.close()


def report(site: Site, path: Path, *arguments: str) -> str:
    status, printed = site.playbook("report", "-e", f"natlb_report_file={path}", *arguments)
    assert status == 0, printed
    assert str(path) in printed.splitlines()
    return path.read_text() if path.exists() else ""


def test_the_page_is_of_all_balancers(site: Site, tmp_path: Path) -> None:
    text = report(site, tmp_path / "report.html")
    assert text.startswith("<!DOCTYPE html>")
    assert "All backends of all services serve" in text
    assert "natlb: 2 balancers" in text
    assert f"{VIP}:80" in text
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_what_is_broken_stands_in_it_and_what_was_typed_is_no_template(site: Site, tmp_path: Path) -> None:
    reason = "{{ 6 * 7 }} <script>alert(1)</script>"
    status, printed = site.play(
        "natlb.netfilter.drain", "-e", "natlb_backend=web2", "-e", '{"natlb_reason": !unsafe "' + reason + '"}'
    )
    assert status == 0, printed
    try:
        text = report(site, tmp_path / "report.html")
        assert "is drained" in text
        assert "{{ 6 * 7 }} &lt;script&gt;alert(1)&lt;/script&gt;" in text
        site.own["lb2"] = {"ansible_port": 1}
        status, _printed = site.playbook("report", "-e", f"natlb_report_file={tmp_path / 'other.html'}")
        assert status == 4
        assert "could not be read" in (tmp_path / "other.html").read_text()
    finally:
        site.own.clear()
        site.playbook("restore", "-e", "natlb_backend=web2")


def test_check_mode_writes_nothing(site: Site, tmp_path: Path) -> None:
    assert report(site, tmp_path / "report.html", "--check") == ""


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/report.html", "path: /nowhere/report.html cannot be written: No such file or directory"),
        ("/tmp/", "natlb_report_file: '/tmp/' is not a file (write a path such as /tmp/natlb-report.html)"),
    ],
)
def test_a_path_that_cannot_be_is_an_error(site: Site, path: str, message: str) -> None:
    status, printed = site.playbook("report", "-e", f"natlb_report_file={path}")
    assert status != 0
    assert message in " ".join(printed.split()), printed
