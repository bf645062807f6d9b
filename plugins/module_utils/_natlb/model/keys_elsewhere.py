# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What other balancers call the keys of a declaration. None of these is taken: each is answered with the key to write.

Sources: docs/coming-from.md and docs/health.md, whose tables a test compares with these, and so the manuals that they
are of: Kubernetes, keepalived.conf(5) and ipvsadm(8), nginx, HAProxy, nftlb, loxilb, Seesaw, OpenWrt. Pure data.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple


class Key(NamedTuple):
    """A key of natlb, what has it, what it is called elsewhere (words apart by spaces), and what differs."""

    ours: str
    of: str
    theirs: str
    differs: str = ""


_SERVICE, _BACKEND, _HEALTH = "the service", "a backend", "health"

#: In services, in their backends and in their health checks. Where two keys are called alike, the one counts that can
#: stand where it was written, or else the first.
SERVICES: tuple[Key, ...] = (
    Key(
        "listen",
        _SERVICE,
        "bind vip virtual_server virtual_server_group virtual_addr virtual_ports entry_address vserver_entry addresses "
        "family cluster_ip external_ips load_balancer_ip status.loadBalancer.ingress node_port ip_family_policy "
        "frontend src_dip src_dport",
    ),
    Key("listen", _SERVICE, "port ports", "as ADDRESS:PORT; port is a key of backends"),
    Key(
        "listen",
        _SERVICE,
        "fwmark use_fwm firewall_mark",
        "addresses, ports and networks choose a service, with protocol and interface; a mark of packets does not. The "
        "key mark is what natlb puts on packets itself",
    ),
    Key("protocol", _SERVICE, "proto tcp udp sctp use_udp"),
    Key("interface", _SERVICE, "src iif iifname in_interface reflection", "the interface by which clients come in"),
    Key(
        "method",
        _SERVICE,
        "balance lb_algo lvs_sched scheduler sched sched_param algorithm lb_method lb_policy select hash ip_hash "
        "least_conn random",
    ),
    Key("affinity", _SERVICE, "persistence_timeout persistence persist persist_ttl session_affinity timeout_seconds"),
    Key("affinity", _SERVICE, "sticky sticky_sessions stick stick_table"),
    Key("client_prefix", _SERVICE, "persistence_granularity netmask ipmask"),
    Key(
        "snat",
        _SERVICE,
        "lb_kind lvs_method forwarding_method mode external_traffic_policy",
        "natlb is NAT: with none backends see clients, with masquerade (the default) the balancer",
    ),
    Key("snat", _SERVICE, "source source_addr snat_ip proxy_bind usesrc masquerade masq target to_source"),
    Key("snat_ports", _SERVICE, "snat_port to_ports"),
    Key("snat_by_client", _SERVICE, "cluster_cidr detect_local_mode"),
    Key("mark", _SERVICE, "set_mark"),
    Key("idle_timeout", _SERVICE, "timeout proxy_timeout inatimeout timeout_client timeout_server timeout_tunnel"),
    Key("helper", _SERVICE, "ip_vs_ftp"),
    Key(
        "allow_from",
        _SERVICE,
        "whitelist allowlist allow load_balancer_source_ranges source_ranges sources src_ip allowed_cidrs",
    ),
    Key("allow_from", _SERVICE, "include elements ipset", "or deny_from; both may name a list of natlb_networks"),
    Key("deny_from", _SERVICE, "blacklist denylist blocklist deny tcp_request"),
    Key("when_denied", _SERVICE, "silent_drop"),
    Key("max_connections_per_client", _SERVICE, "limit_conn src_conn_cur est_connlimit"),
    Key("new_connections_per_second", _SERVICE, "src_conn_rate new_rtlimit limit_req rate_limit rate_limit_sessions"),
    Key("redispatch", _SERVICE, "retries proxy_next_upstream", "once, for a backend that refuses"),
    Key("takeover", _SERVICE, "lvs_sync_daemon start_daemon"),
    Key(
        "min_healthy",
        _SERVICE,
        "quorum server_low_watermark min_active nbsrv",
        "a number of backends or a percentage of them, whatever their weights",
    ),
    Key("min_healthy_again", _SERVICE, "server_high_watermark"),
    Key("min_healthy_again", _SERVICE, "hysteresis", "the quorum with the hysteresis added"),
    Key("pins", _SERVICE, "use_server geo map sessions"),
    Key("backups", _SERVICE, "allbackups"),
    Key(
        "backends",
        _SERVICE,
        "real_server real_servers server servers upstream upstreams endpoint endpoints member members pool "
        "target_group targets nodes proxy_pass",
    ),
    Key("address", _BACKEND, "addr ip host dest dest_ip"),
    Key("port", _BACKEND, "ports target_port dest_port"),
    Key("weight", _BACKEND, "weight"),
    Key("state", _BACKEND, "state enabled disabled drain ready serving down"),
    Key("backup", _BACKEND, "backup terminating"),
    Key("backup", _BACKEND, "sorry_server sorry fallback", "a backend with backup: true serves when no other can"),
    Key(
        "max_connections",
        _BACKEND,
        "maxconn max_conn max_conns uthreshold upper_threshold connection_limit est_connlimit",
        "of all clients; max_connections_per_client is of each",
    ),
    Key("priority", _BACKEND, "priority"),
    Key(
        "health",
        _SERVICE,
        "healthcheck health_check check checks monitor liveness_probe readiness_probe",
    ),
    Key("type", _HEALTH, "tcp_check http_get ssl_get udp_check dns_check misc_check httpchk http_check external_check"),
    Key("type", _HEALTH, "agent_check probetype probe_type"),
    Key("health", _SERVICE, "max_fails fail_timeout", "the agent asks backends; clients do not have to fail for it"),
    Key("interval", _HEALTH, "delay_loop inter"),
    Key("fast_interval", _HEALTH, "fastinter delay_before_retry"),
    Key("jitter", _HEALTH, "spread_checks warmup"),
    Key("fall", _HEALTH, "fall retry failure_threshold"),
    Key("rise", _HEALTH, "rise success_threshold"),
    Key("timeout", _HEALTH, "connect_timeout timeout_check"),
    Key("port", _HEALTH, "connect_port"),
    Key("address", _HEALTH, "connect_ip addr"),
    Key("source", _HEALTH, "bindto"),
    Key("status", _HEALTH, "status_code"),
    Key("body", _HEALTH, "digest http_check_expect"),
    Key("host", _HEALTH, "virtualhost check_sni"),
    Key("verify", _HEALTH, "check_ssl"),
    Key("send", _HEALTH, "payload"),
    Key("expect", _HEALTH, "require_reply"),
    Key("argv", _HEALTH, "misc_path command"),
    Key("slow_start", _HEALTH, "slow_start slowstart"),
    Key("on_down", _HEALTH, "on_marked_down expire_nodest_conn inhibit_on_failure"),
    Key("natlb_conntrack", "the host", "conntrack_tcp_timeout_established"),
    Key("natlb_failover_addresses", "the host", "virtual_ipaddress virtual_ipaddress_excluded vrrp_sync_group"),
    Key("natlb_anycast_neighbors", "the host", "bgp_peer bgp"),
)

#: In rules of egress and in their uplinks.
EGRESS: tuple[Key, ...] = (
    Key("source", "the rule", "masq_src src_ip saddr src sources networks"),
    Key("destination", "the rule", "masq_dest dest_ip daddr dst destinations"),
    Key("out_interface", "the rule", "oif oifname dest device interface"),
    Key("protocol", "the rule", "proto"),
    Key("destination_ports", "the rule", "dest_port dport dports ports port"),
    Key("snat", "the rule", "snat_ip to_source masq masquerade target address"),
    Key("snat_ports", "the rule", "snat_port to_ports source_ports"),
    Key("uplinks", "the rule", "gateways nexthops gateway"),
    Key("gateway", "an uplink", "via nexthop gw"),
    Key("interface", "an uplink", "dev device oif oifname out_interface"),
    Key("weight", "an uplink", "weight"),
)


def answer(key: str, known: Collection[str], table: Sequence[Key]) -> str | None:
    """What to write instead of a key of another balancer, where `known` are the keys that can stand there; None where
    it is nobody's."""
    found = [entry for entry in table if _plain(key) in map(_plain, entry.theirs.split())]
    if not found:
        return None
    best = next((entry for entry in found if entry.ours in known), found[0])
    place = "" if best.ours in known else f" of {best.of}"
    return f"write {best.ours}{place}{': ' if best.differs else ''}{best.differs}"


def _plain(key: str) -> str:
    """The same for `sorry-server`, `sorry_server` and `sorryServer`."""
    return re.sub(r"[^a-z0-9]", "", key.lower())
