# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which modules of the kernel the helpers of services need, who loads them, and who says that one is missing."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.model.services import parse_config
from _natlb.nftables.engine import NftablesEngine
from _natlb.plan.unit_files import modules_text
from _natlb.ruleset.transaction import Transaction
from _natlb.warnings import helpers

FTP = {"listen": "192.0.2.10:21", "backends": ["10.0.0.3"], "helper": "ftp"}
SIP = {"listen": "192.0.2.10:5060", "backends": ["10.0.0.3"], "protocol": "tcp,udp", "helper": "sip"}


class Nft:
    """No program."""

    path = "/sbin/nft"

    def load(self, texts: Any) -> list[tuple[str, str]]:
        return [("nft -f -", text) for text in texts]


def test_what_boots_loads_them_first() -> None:
    plain = parse_config([{"name": "web", "listen": "192.0.2.10:80", "backends": ["10.0.0.3"]}]).services
    helped = parse_config([{"name": "ftp", **FTP}, {"name": "two", **FTP, "listen": "192.0.2.11:21"}]).services
    assert modules_text(True, plain).splitlines()[2:] == ["nf_conntrack"]
    assert modules_text(True, helped).splitlines()[2:] == ["nf_conntrack", "nf_nat_ftp"]
    assert modules_text(False, helped).splitlines()[1:] == ["nf_nat_ftp"]
    assert not modules_text(False, plain)


def test_who_adds_a_helper_loads_its_module() -> None:
    engine = NftablesEngine(Nft())  # type: ignore[arg-type]
    config = parse_config([{"name": "ftp", **FTP}, {"name": "sip", **SIP}])
    rendered = engine.render(config)
    (first, *others) = engine.commands(engine.plan({}, rendered, rendered))
    assert first == ("modprobe --quiet --all nf_nat_ftp nf_nat_sip 2> /dev/null || :", "")
    assert [line for line, _text in others] == ["nft -f -"]
    # One at a time, as a delta does.
    delta = engine.commands(engine.plan(engine.render(parse_config([{"name": "sip", **SIP}])), rendered, rendered))
    assert delta[0][0].startswith("modprobe --quiet --all nf_nat_ftp 2>")
    removal = engine.plan(rendered, {}, {})
    assert [line for line, _text in engine.commands(removal)] == ["nft -f -"]
    assert engine.commands(Transaction("none", {})) == []
    # So does a boot, also without systemd.
    _files, lines = engine.boot(rendered, "/etc/natlb/current")
    assert lines == [first[0], "/sbin/nft -f /etc/natlb/current/ruleset.nft"]
    _files, lines = engine.boot(engine.render(parse_config([])), "/etc/natlb/current")
    assert lines == ["/sbin/nft -f /etc/natlb/current/ruleset.nft"]


@pytest.mark.parametrize(
    ("loaded", "missing"),
    [
        ([], []),
        (["nf_conntrack_ftp", "nf_nat_ftp", "nf_conntrack_sip", "nf_nat_sip"], []),
        (["nf_conntrack_ftp", "nf_conntrack_sip", "nf_nat_sip"], ["nf_nat_ftp"]),
        (["nf_conntrack_ftp"], ["nf_nat_ftp"]),
        (["nf_conntrack"], []),
    ],
)
def test_a_reader_without_its_translator_is_told(loaded: list[str], missing: list[str]) -> None:
    found = list(helpers.warnings(["nf_nat_ftp", "nf_nat_sip"], loaded))
    assert [next(name for name in ("nf_nat_ftp", "nf_nat_sip") if name in text) for text in found] == missing
