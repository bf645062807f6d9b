# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify makes of counters and probes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.natlb.netfilter.plugins.filter import verify_probes as probes_plugin
from ansible_collections.natlb.netfilter.plugins.filter import verify_verdict as verdict_plugin

verdict = verdict_plugin.FilterModule().filters()["verify_verdict"]
probes = probes_plugin.FilterModule().filters()["verify_probes"]

STANDBY = "carries no traffic now: the connections to 192.0.2.10:80 came to lb1 (a standby; its rules are as declared)"


def backend(name: str, address: str, new: int, share: float = 0.5) -> dict[str, Any]:
    return {
        "name": name,
        "address": address,
        "port": 8080,
        "weight": 1,
        "new_connections": new,
        "expected_share": share,
    }


def service(*new: int, name: str = "web", **more: Any) -> dict[str, Any]:
    names = ("web1", "web2", "web3")
    share = 1 / max(1, len(new))
    made = [backend(names[i], f"10.0.0.{3 + i}", count, share) for i, count in enumerate(new)]
    found = {"name": name, "listen": ["192.0.2.10:80"], "protocol": ["tcp"], "method": "round_robin", "backends": made}
    return {**found, **more}


def info(*services: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"services": list(services), "drift": False, "forwarding": True, "egress": [], **more}


def host(
    before: dict[str, Any],
    after: dict[str, Any],
    result: Any = None,
    checks: Any = (),
    **variables: Any,
) -> dict[str, Any]:
    """The variables of a host; `result` is what each probe returned beside 300 connections that came about."""
    items = probes(after["services"], overrides=variables.get("natlb_verify_probes"))
    given = {"connections": 300, "errors": 0, "error_messages": [], **(result or {})}
    answers = [{"item": item, **{key: value for key, value in given.items() if value is not None}} for item in items]
    return {
        "natlb_verify_before": before,
        "natlb_read": after,
        "natlb_verify_answers": {"results": answers},
        "natlb_verify_checks": {"results": list(checks)},
        **variables,
    }


def judged(*hosts: dict[str, Any], of: str = "lb1") -> tuple[list[str], list[str]]:
    """Lines and problems, without the name of the host in front."""
    named = {f"lb{number}": variables for number, variables in enumerate(hosts, 1)}
    found = verdict(named, list(named))[of]
    assert all(line.startswith(f"{of}: ") for kind in found.values() for line in kind)
    return tuple([line.removeprefix(f"{of}: ") for line in found[kind]] for kind in ("lines", "problems"))  # type: ignore[return-value]


BEFORE, GOOD = info(service(10, 10)), info(service(160, 160))
SPREAD = "web: web1 150, web2 150 (300 of 300 connections to 192.0.2.10:80 succeeded)"


def test_counters_tell_who_got_what() -> None:
    assert judged(host(BEFORE, GOOD)) == ([SPREAD], [])


def test_a_spread_that_is_not_the_declared_one() -> None:
    _lines, (problem,) = judged(host(BEFORE, info(service(10, 310))))
    assert problem.startswith("web: the spread of 300 connections that this balancer counted is not the expected one")
    assert "web1: expected 150, seen 0; web2: expected 150, seen 300" in problem


@pytest.mark.parametrize(("tolerance", "right"), [(0, False), (0.05, True)])
def test_the_tolerance_that_was_chosen_is_for_the_counters_as_well(tolerance: float, right: bool) -> None:
    chosen = {"natlb_verify_probes": {"web": {"tolerance": tolerance}}}
    _lines, problems = judged(host(BEFORE, info(service(158, 162)), **chosen))
    assert (not problems) == right


def test_others_may_use_the_service_at_the_same_time() -> None:
    assert judged(host(BEFORE, info(service(1160, 1160))))[1] == []


def test_a_backend_that_should_get_nothing() -> None:
    before = info(service(0, 0, method="source_hash"))
    after = info(service(300, 0, method="source_hash"))
    after["services"][0]["backends"][0]["expected_share"] = 0.0
    assert judged(host(before, after))[1] == ["web: web1: got connections, but should get none"]


@pytest.mark.parametrize(
    "more", [{"method": "source_hash"}, {"method": "destination_hash"}, {"affinity": 3600}, {"pins": 2}]
)
def test_one_client_may_stay_with_one_backend(more: dict[str, Any]) -> None:
    assert judged(host(info(service(0, 0, **more)), info(service(300, 0, **more))))[1] == []


def test_a_standby_is_told_apart_and_is_no_fault() -> None:
    active = host(BEFORE, info(service(310, 310)))
    assert judged(active, host(BEFORE, BEFORE), of="lb2") == ([f"web: {STANDBY}"], [])


def test_the_numbers_of_a_line_agree() -> None:
    """Connections are opened in each balancer's turn, and one of them gets those of all turns."""
    active, standby = host(BEFORE, info(service(310, 310))), host(BEFORE, BEFORE)
    both = "web: web1 300, web2 300 (600 of 600 connections to 192.0.2.10:80 succeeded)"
    assert judged(active, standby) == ([both], [])
    failed = host(BEFORE, info(service(160, 160)), FAILED)
    lines, (problem,) = judged(failed, host(BEFORE, BEFORE, FAILED))
    assert lines == ["web: web1 150, web2 150 (300 of 600 connections to 192.0.2.10:80 succeeded)"]
    assert problem == "web: 300 of 600 connections to 192.0.2.10:80 failed: connect: Connection refused (300)"
    # A balancer with an address of its own has nothing to do with it.
    assert judged(host(BEFORE, GOOD), host(info(), info()))[0] == [SPREAD]


def test_two_balancers_that_share_an_address_say_so() -> None:
    line = "web: web1 100, web2 100 (600 of 600 connections to 192.0.2.10:80 succeeded; lb2 counted the others)"
    assert judged(host(BEFORE, info(service(110, 110))), host(BEFORE, info(service(210, 210)))) == ([line], [])


def test_a_standby_whose_rules_are_gone_is_one() -> None:
    """That it is not asked does not make it right: it is the one to be asked next."""
    broken = host(BEFORE, {**BEFORE, "drift": True, "forwarding": False})
    lines, problems = judged(host(BEFORE, info(service(310, 310))), broken, of="lb2")
    assert lines == [f"web: {STANDBY.replace('are as', 'are not as')}"]
    assert problems == [
        "its rules differ from the last declaration: somebody changed them; run natlb.netfilter.deploy",
        "the kernel does not forward packets; run natlb.netfilter.deploy",
    ]


def test_somebody_else_answers_the_address() -> None:
    lines, (problem,) = judged(host(BEFORE, BEFORE))
    assert lines == []
    assert problem.startswith(
        "web: 300 connections to 192.0.2.10:80 succeeded, and lb1 counted 0: another host answers"
    )
    # Two balancers do not make it better.
    for name, other in (("lb1", "lb2"), ("lb2", "lb1")):
        _lines, (problem,) = judged(host(BEFORE, BEFORE), host(BEFORE, BEFORE), of=name)
        assert f"{name} with {other} counted 0" in problem


def test_somebody_else_answers_a_part_of_them() -> None:
    _lines, (problem,) = judged(host(BEFORE, info(service(110, 110))))
    assert "300 connections to 192.0.2.10:80 succeeded, and lb1 counted 200" in problem


def test_two_balancers_at_a_time_share_the_connections() -> None:
    half = info(service(160, 160))
    for name in ("lb1", "lb2"):
        assert judged(host(BEFORE, half), host(BEFORE, half), of=name)[1] == []


def test_a_balancer_with_an_address_of_its_own_has_no_standby() -> None:
    """Counted by the other one were other connections."""
    own = info(service(0, 0, listen=["192.0.2.2:80"]))
    _lines, (problem,) = judged(host(own, own), host(BEFORE, info(service(310, 310))))
    assert "lb1 counted 0: another host answers the address" in problem


def test_datagrams_that_nobody_counted() -> None:
    udp = info(service(0, 0, protocol=["udp"], interface="eth0"))
    _lines, (problem,) = judged(host(udp, udp))
    assert problem.startswith(
        "web: 300 datagrams and connections went to 192.0.2.10:80, and lb1 counted 0 (the address"
    )
    assert "the service takes only what comes in by eth0" in problem


FAILED = {"errors": 150, "error_messages": [{"message": "connect: Connection refused", "count": 150}]}
CHECK = {"service": "web", "backend": "web1", "options": {"target": "10.0.0.3:8080", "protocol": "tcp"}}
CHECKS = [
    {"item": CHECK, "connections": 1, "errors": 1, "error_messages": [{"message": "connect: Connection refused"}]},
    {"item": {**CHECK, "backend": "web2"}, "connections": 1, "errors": 0, "error_messages": []},
]


def test_a_refused_connection_names_the_backend() -> None:
    lines, problems = judged(host(BEFORE, GOOD, FAILED, CHECKS))
    assert lines == ["web: web1 150, web2 150 (150 of 300 connections to 192.0.2.10:80 succeeded)"]
    assert problems == [
        "web: 150 of 300 connections to 192.0.2.10:80 failed: connect: Connection refused (150)",
        "web: backend web1 does not answer lb1 (connect: Connection refused at 10.0.0.3:8080)",
    ]


def test_what_failed_at_the_active_one_is_told_there_alone() -> None:
    active = host(BEFORE, info(service(310, 310)), FAILED, CHECKS)
    assert judged(active, host(BEFORE, BEFORE, FAILED), of="lb2") == ([f"web: {STANDBY}"], [])
    # But a standby that cannot reach a backend will not reach it later.
    (problem,) = judged(active, host(BEFORE, BEFORE, FAILED, CHECKS), of="lb2")[1]
    assert "web1 does not answer lb2" in problem


def test_errors_that_are_allowed_are_told() -> None:
    lines, problems = judged(host(BEFORE, GOOD, FAILED, natlb_verify_probes={"web": {"max_errors": 150}}))
    assert problems == []
    assert lines[0].endswith("Connection refused (150) (max_errors is 150)")


def test_a_limited_service_may_refuse() -> None:
    limited = {"new_connections_per_second": 400}
    before, after = info(service(0, 0, **limited)), info(service(75, 75, **limited))
    lines, problems = judged(host(before, after, FAILED))
    assert problems == []
    assert lines[0].endswith("(the service limits its clients)")


def test_backends_with_limits_may_refuse() -> None:
    before, after = info(service(0, 0)), info(service(75, 75))
    for told in (before, after):
        told["services"][0]["backends"][0]["max_connections"] = 2
    lines, problems = judged(host(before, after, FAILED))
    assert problems == []
    assert lines[0].endswith("(the service limits its clients)")


def test_a_limit_does_not_excuse_an_address_that_leads_nowhere() -> None:
    limited = {"max_connections_per_client": 500, "listen": ["192.0.2.10:80", "192.0.2.11:80"]}
    before, after = info(service(0, 0, **limited)), info(service(75, 75, **limited))
    variables = host(before, after)
    _good, lost = variables["natlb_verify_answers"]["results"]
    unreachable = [{"message": "connect: Network is unreachable", "count": 19}]
    lost |= {"connections": 19, "errors": 19, "error_messages": unreachable}
    _lines, problems = judged(variables)
    assert problems[0].startswith("web: 19 of 19 connections to 192.0.2.11:80 failed"), problems


def test_nothing_comes_here_at_all() -> None:
    nothing = {"connections": 10, "errors": 10, "error_messages": [{"message": "connect: timed out", "count": 10}]}
    closed = info(service(0, 0, restricted=True))
    _lines, problems = judged(host(closed, closed, nothing))
    assert problems[0] == (
        "web: 10 of 10 connections to 192.0.2.10:80 failed, so the rest of 300 was not tried: connect: timed out (10)"
    )
    assert problems[1].startswith(
        "web: none of 10 connections to 192.0.2.10:80 came here (the address has to lead here"
    )
    assert "allow_from and deny_from have to let the host in that opens the connections" in problems[1]


def test_what_cannot_be_probed_hides_nothing_else() -> None:
    before, after = (
        info(service(0, 0), service(0, 0, name="api")),
        info(service(150, 150), service(150, 150, name="api")),
    )
    variables = host(before, after)
    first = variables["natlb_verify_answers"]["results"][0]
    variables["natlb_verify_answers"]["results"][0] = {"item": first["item"], "failed": True, "msg": "source: 1 is bad"}
    lines, problems = judged(variables)
    assert problems == ["web: 192.0.2.10:80 could not be probed: source: 1 is bad"]
    assert [line[:4] for line in lines] == ["api:"]


ASKED = {"natlb_verify_probes": {"web": {"protocol": "http"}}}


def test_answers_prove_more_where_they_are_asked_for() -> None:
    assert judged(host(BEFORE, GOOD, {"backends": {"web1": 150, "web2": 150}}, **ASKED)) == ([SPREAD], [])
    _lines, (problem,) = judged(host(BEFORE, GOOD, {"backends": {"web1": 150, "x": 150}, "msg": ""}, **ASKED))
    assert problem.startswith("web: 192.0.2.10:80 was answered by x, not by web1, web2 (if they use other names")
    uneven = {"backends": {"web1": 290, "web2": 10}, "msg": "the spread of 300 answers is not the expected one (p)"}
    assert judged(host(BEFORE, GOOD, uneven, **ASKED))[1] == [
        "web: 192.0.2.10:80: the spread of 300 answers is not the expected one (p)"
    ]


def test_rules_that_were_loaded_meanwhile() -> None:
    assert judged(host(BEFORE, info(service(5, 5))))[1] == [
        "web: its rules were reloaded during the probes; verify it again"
    ]
    assert judged(host(info(), GOOD))[1] == ["web: its rules were reloaded during the probes; verify it again"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"backends": []}, "no backend can serve"),
        ({"protocol": ["sctp"]}, "only TCP and UDP can be"),
        ({"listen": ["[2001:db8::1]:80"]}, "no backend can serve in the family of its addresses"),
    ],
)
def test_what_is_not_probed_is_said(more: dict[str, Any], why: str) -> None:
    found = info(service(0, 0, **more))
    assert judged(host(found, found)) == ([f"web: not probed, as {why}"], [])


@pytest.mark.parametrize(
    ("after", "declared", "lines", "problem"),
    [
        (info(), [], [], "nothing is declared on this host, so nothing was verified"),
        (info(), ["web"], [], "has none of the declared services"),
        (info(egress=[{}]), [], ["no services, only egress: nothing to probe"], ""),
        (GOOD, ["web", "api"], [SPREAD], "api: declared, but not on this host"),
        (GOOD, ["web"], [SPREAD], ""),
    ],
)
def test_what_should_be_there(after: Any, declared: Any, lines: list[str], problem: str) -> None:
    before = BEFORE if after["services"] else after
    found, problems = judged(host(before, after, natlb_verify_declared=declared))
    assert found == lines
    assert [text for text in problems if not text.startswith(problem)] == []
    assert bool(problems) == bool(problem)


def test_options_for_a_service_of_another_balancer_are_fine() -> None:
    chosen = {"natlb_verify_probes": {"api": {"timeout": "1s"}}}
    other = host(info(service(0, 0, name="api")), info(service(150, 150, name="api")), **chosen)
    assert judged(host(BEFORE, GOOD, **chosen), other)[1] == []
    assert "there are options for api, but no balancer has" in judged(host(BEFORE, GOOD, **chosen))[1][0]


def test_each_family_has_shares_of_its_own() -> None:
    def both(*new: int) -> dict[str, Any]:
        four = [backend("a", "10.0.0.3", new[0]), backend("b", "10.0.0.4", new[1])]
        return info({**service(), "backends": [*four, backend("six", "2001:db8::3", new[2], 1.0)]})

    assert judged(host(both(0, 0, 0), both(150, 150, 20)))[1] == []
    assert len(judged(host(both(0, 0, 0), both(300, 0, 20)))[1]) == 1


@pytest.mark.parametrize(("hostvars", "hosts"), [(None, []), ({}, "lb1"), ([], ["lb1"])])
def test_it_refuses_what_is_no_run(hostvars: Any, hosts: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="write hostvars"):
        verdict(hostvars, hosts)
