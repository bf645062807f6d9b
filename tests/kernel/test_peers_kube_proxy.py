# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Services of Kubernetes promise, as kube-proxy does it: the balancer is a node, and the backends are pods."""

from __future__ import annotations

from kernel_lab import traffic
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.peers import Case, among, check, refused, same, served, silent
from kernel_lab.topology import BACK, BACK6, CLIENT, CLIENT6, FRONT, FRONT6, VIP

PODS = ["WEB1:8080", "WEB2:8080", "WEB3:8080"]
PODS6 = ["[SIX1]:8080", "[SIX2]:8080"]
INSIDE, OUTSIDE = "198.18.7.7", "198.18.9.9"
#: The port of a process on the node itself.
NODE = 7000
NODE6 = f"[{FRONT6}]"

CLUSTER_IP = [
    Case(
        "type: ClusterIP, sessionAffinity: None, targetPort: 8080",
        [{"listen": "VIP:80", "method": "random", "backends": PODS}],
        [among("VIP:80", 60, "web1", "web2", "web3", port=8080)],
    ),
    Case(
        "a pod connects to a ClusterIP",
        [{"listen": "VIP:80", "backends": ["WEB1:8080", "WEB2:8080"]}],
        [served("VIP:80", web1=2, web2=2, at="web4", port=8080)],
    ),
    Case(
        "hairpin: a pod connects to the Service of which it is the endpoint",
        [{"listen": "VIP:80", "snat": "none", "backends": ["WEB1:8080"]}],
        [served("VIP:80", web1=2, at="web1", seen=BACK), served("VIP:80", web1=2, seen=CLIENT)],
    ),
    Case(
        "the node connects to a ClusterIP",
        [{"listen": "VIP:80", "snat": "none", "backends": PODS}],
        [served("VIP:80", web1=1, web2=1, web3=1, at="balancer", seen=BACK)],
    ),
    Case(
        "--masquerade-all",
        [{"listen": "VIP:80", "snat": "masquerade", "backends": PODS}],
        [served("VIP:80", web1=1, web2=1, web3=1, seen=BACK)],
    ),
    Case(
        "--cluster-cidr: pods see pods, and the node for all others",
        [
            {
                "listen": ["VIP:80", "[VIP6]:80"],
                "snat_by_client": [{"networks": ["198.18.7.0/24", "2001:db8:18::/112"], "snat": "none"}],
                "backends": ["WEB1:8080", "[SIX1]:8080"],
            }
        ],
        [
            served("VIP:80", web1=2, sources=[INSIDE], seen=INSIDE),
            served("VIP:80", web1=2, sources=[OUTSIDE], seen=BACK),
            served("VIP:80", web1=2, at="balancer", seen=BACK),
            served("[VIP6]:80", web1=1, sources=["2001:db8:18::7"], seen="2001:db8:18::7"),
            served("[VIP6]:80", web1=1, sources=["2001:db8:18::1:7"], seen=BACK6),
        ],
    ),
    Case(
        "--masquerade-all with --cluster-cidr: pods as well",
        [{"listen": "VIP:80", "snat": "masquerade", "snat_by_client": [], "backends": ["WEB1:8080"]}],
        [served("VIP:80", web1=2, sources=[INSIDE, OUTSIDE], seen=BACK)],
    ),
    Case(
        "type: NodePort, externalTrafficPolicy: Cluster, with --cluster-cidr",
        [
            {
                "listen": "*:30079",
                "snat_by_client": [{"networks": ["198.18.7.0/24"], "snat": "none"}],
                "backends": ["WEB1:8080"],
            }
        ],
        [
            served(f"{FRONT}:30079", web1=2, sources=[INSIDE], seen=INSIDE),
            served(f"{FRONT}:30079", web1=2, sources=[OUTSIDE], seen=BACK),
        ],
    ),
    Case(
        "an endpoint in the host network: the address of the node",
        [{"listen": "VIP:80", "backends": [f"{FRONT}:{NODE}"]}],
        [served("VIP:80", balancer=2, port=NODE)],
    ),
    Case(
        "ports: [{port: 80, targetPort: http}, {port: 443, targetPort: https}]",
        [{"listen": "VIP:80", "backends": ["WEB1:8080"]}, {"listen": "VIP:443", "backends": ["WEB1:9000"]}],
        [served("VIP:80", web1=2, port=8080), served("VIP:443", web1=2, port=9000)],
    ),
    Case(
        "targetPort: http, a name that is another number in some pods",
        [{"listen": "VIP:80", "backends": ["WEB1:8080", "WEB2:9000"]}],
        [served("VIP:80", web1=2, web2=2, port={"web1": 8080, "web2": 9000})],
    ),
    Case(
        "ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]",
        [{"listen": "VIP:53", "protocol": ["UDP", "TCP"], "backends": ["WEB1:53", "WEB2:53"]}],
        [served("VIP:53", web1=2, web2=2, protocol=protocol) for protocol in ("udp", "tcp")],
    ),
    Case(
        "protocol: UDP; over TCP nothing is there",
        [{"listen": "VIP:53", "protocol": "udp", "backends": ["WEB1:53"]}],
        [served("VIP:53", web1=2, protocol="udp"), refused("VIP:53")],
    ),
    Case(
        "ipFamilyPolicy: RequireDualStack",
        [{"listen": ["VIP:80", "[VIP6]:80"], "backends": [*PODS, *PODS6]}],
        [served("VIP:80", web1=1, web2=1, web3=1, seen=BACK), served("[VIP6]:80", web1=2, web2=2, seen=BACK6)],
    ),
    Case(
        "ipFamilies: [IPv6]",
        [{"listen": "[VIP6]:80", "protocol": "tcp,udp", "snat": "none", "backends": PODS6}],
        [served("[VIP6]:80", web1=1, web2=1, protocol=protocol, seen=CLIENT6) for protocol in ("tcp", "udp")],
    ),
    Case(
        "sessionAffinity: ClientIP, timeoutSeconds: 10800",
        [{"listen": "VIP:80", "affinity": 10800, "backends": PODS}],
        [
            same("VIP:80", 6, sources=[INSIDE]),
            among("VIP:80", 9, "web1", "web2", "web3", sources=[INSIDE, OUTSIDE, CLIENT]),
        ],
    ),
    Case(
        "sessionAffinity: ClientIP over UDP",
        [{"listen": "VIP:53", "protocol": "udp", "affinity": "3h", "backends": ["WEB1:53", "WEB2:53"]}],
        [same("VIP:53", 6, sources=[INSIDE], protocol="udp")],
    ),
]

FROM_OUTSIDE = [
    Case(
        "type: NodePort, externalTrafficPolicy: Cluster",
        [{"listen": "*:30080", "protocol": "tcp,udp", "backends": ["WEB1:8080", "WEB2:8080"]}],
        [
            served(f"{FRONT}:30080", web1=2, web2=2, seen=BACK, port=8080),
            served("VIP:30080", web1=2, web2=2, seen=BACK),
            served(f"{FRONT}:30080", web1=2, web2=2, seen=BACK, protocol="udp"),
            served(f"{BACK}:30080", web1=2, web2=2, at="web3"),
            served(f"{FRONT}:30080", web1=2, web2=2, at="balancer"),
        ],
    ),
    Case(
        "type: NodePort, externalTrafficPolicy: Local; the endpoints are those of this node",
        [{"listen": "*:30081", "snat": "none", "backends": ["WEB1:8080"]}],
        [served(f"{FRONT}:30081", web1=2, seen=CLIENT, port=8080)],
    ),
    Case(
        "type: NodePort over IPv6",
        [{"listen": "*:30082", "backends": PODS6}],
        [served(f"{NODE6}:30082", web1=2, web2=2, seen=BACK6, port=8080)],
    ),
    Case(
        "mode: nftables has no NodePort on loopback",
        [{"listen": "*:30083", "backends": PODS}],
        [refused("127.0.0.1:30083", at="balancer")],
    ),
    Case(
        "allocateLoadBalancerNodePorts: false",
        [{"listen": "VIP:80", "backends": PODS}],
        [served("VIP:80", web1=1, web2=1, web3=1), refused(f"{FRONT}:30084")],
    ),
    Case(
        "a LoadBalancer whose port is the NodePort of another Service",
        [{"listen": "*:30087", "backends": ["WEB1:8080"]}, {"listen": "VIP:30087", "backends": ["WEB2:8080"]}],
        [served("VIP:30087", web2=2), served(f"{FRONT}:30087", web1=2), served("VIP:30087", web2=2, at="balancer")],
    ),
    Case(
        "type: LoadBalancer, with its ClusterIP, NodePort and status.loadBalancer.ingress",
        [{"listen": ["VIP:80", "VIP2:80", "*:30085"], "backends": ["WEB1:8080", "WEB2:8080"]}],
        [
            served("VIP:80", web1=2, web2=2),
            served("VIP2:80", web1=2, web2=2, seen=BACK),
            served(f"{FRONT}:30085", web1=2, web2=2),
            served("VIP2:80", web1=1, web2=1, at="web3"),
            served("VIP2:80", web1=1, web2=1, at="balancer"),
        ],
    ),
    Case(
        "type: LoadBalancer, externalTrafficPolicy: Local",
        [{"listen": "VIP:80", "snat": "none", "backends": ["WEB1:8080"]}],
        [served("VIP:80", web1=2, seen=CLIENT), served("VIP:80", web1=2, at="web3")],
    ),
    Case(
        "loadBalancerSourceRanges: [198.18.7.0/24]",
        [
            {"listen": "VIP:80", "allow_from": "198.18.7.0/24", "when_denied": "drop", "backends": PODS},
            {"listen": ["VIP2:80", "*:30086"], "backends": PODS},
        ],
        [
            served("VIP:80", web1=1, web2=1, web3=1, sources=[INSIDE]),
            silent("VIP:80", sources=[OUTSIDE]),
            # They hold for the load balancer's address alone.
            served("VIP2:80", web1=1, web2=1, web3=1, sources=[OUTSIDE]),
            served(f"{FRONT}:30086", web1=1, web2=1, web3=1, sources=[OUTSIDE]),
        ],
    ),
    Case(
        "loadBalancerSourceRanges of both families",
        [
            {
                "listen": ["VIP:80", "[VIP6]:80"],
                "allow_from": ["198.18.7.0/24", "2001:db8:18::/112"],
                "when_denied": "drop",
                "backends": ["WEB1:8080", "[SIX1]:8080"],
            }
        ],
        [
            served("VIP:80", web1=1, sources=[INSIDE]),
            served("[VIP6]:80", web1=1, sources=["2001:db8:18::7"]),
            silent("[VIP6]:80", sources=["2001:db8:18::1:7"]),
        ],
    ),
    Case(
        "externalIPs: [VIP2]",
        [{"listen": ["VIP:80", "VIP2:80"], "backends": ["WEB1:8080", "WEB2:8080"]}],
        [served("VIP2:80", web1=2, web2=2, seen=BACK), served("VIP2:80", web1=1, web2=1, at="web3")],
    ),
    Case(
        "externalIPs that no interface has",
        [{"listen": f"{VIP}:80", "backends": ["WEB1:8080"]}],
        [served(f"{VIP}:80", web1=2)],
    ),
]

ENDPOINTS = [
    Case(
        "no endpoints: rejected, at every address and protocol",
        [{"listen": ["VIP:80", "VIP2:80", "[VIP6]:80", "*:30090"], "protocol": "tcp,udp", "backends": []}],
        # One of each: after six ICMP errors in a row to one client the kernel allows one a second.
        [
            refused(target, protocol=protocol)
            for target in ("VIP:80", "VIP2:80", "[VIP6]:80", f"{FRONT}:30090")
            for protocol in ("tcp", "udp")
        ],
    ),
    Case(
        "no endpoints: rejected for the node and for pods",
        [{"listen": "VIP:80", "backends": []}],
        [refused("VIP:80", at="balancer"), refused("VIP:80", at="web1")],
    ),
    Case(
        "externalTrafficPolicy: Local without an endpoint on this node: dropped",
        [{"listen": ["VIP:80", "*:30091"], "when_empty": "drop", "backends": []}],
        [silent("VIP:80"), silent(f"{FRONT}:30091")],
    ),
    Case(
        "internalTrafficPolicy: Local without an endpoint on this node, UDP",
        [{"listen": "VIP:53", "protocol": "udp", "when_empty": "drop", "backends": []}],
        [silent("VIP:53", protocol="udp"), silent("VIP:53", protocol="udp", at="web1")],
    ),
    Case(
        "conditions: {ready: true} and {ready: false, serving: true, terminating: true}",
        [{"listen": "VIP:80", "backends": ["WEB1:8080", {"address": "WEB2:8080", "backup": True}]}],
        [served("VIP:80", web1=4)],
    ),
    Case(
        "all endpoints are {serving: true, terminating: true}",
        [{"listen": "VIP:80", "backends": [{"address": f"WEB{i}:8080", "backup": True} for i in (1, 2)]}],
        [served("VIP:80", web1=2, web2=2)],
    ),
    Case(
        "all endpoints are {serving: false, terminating: true}",
        [{"listen": "VIP:80", "backends": [{"address": "WEB1:8080", "state": "disabled"}]}],
        [refused("VIP:80")],
    ),
    Case(
        "publishNotReadyAddresses: true",
        [{"listen": "VIP:80", "backends": PODS}],
        [served("VIP:80", web1=1, web2=1, web3=1)],
    ),
]


def test_a_node(balancer: Balancer) -> None:
    check(balancer, [*CLUSTER_IP, *FROM_OUTSIDE, *ENDPOINTS], ports=[NODE])


def test_an_endpoint_goes(balancer: Balancer) -> None:
    """A connection to a pod that terminates goes on; flows of UDP to one that is gone do not."""
    both = {"listen": f"{VIP}:53", "protocol": ["tcp", "udp"]}
    balancer.apply([service(**both, backends=webs("web1"))])
    ((tcp, _first),) = balancer.hold(f"{VIP}:53")
    ((udp, before),) = balancer.hold(f"{VIP}:53", protocol="udp")
    balancer.apply([service(**both, backends=webs("web2"))])
    assert balancer.talk(tcp).name == "web1"
    assert (before.name, balancer.talk(udp).name) == ("web1", "web2")
    assert balancer.tally(f"{VIP}:53", 2) == {"web2": 2}
    balancer.client.call(traffic.release)
