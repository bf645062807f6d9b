# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the shapes that other tools leave on a host: Docker, firewalld, ufw, kube-proxy, fail2ban, libvirt.

Counters are set to odd values, so that a rule that was taken out and put back would show. Nothing here matches the
traffic of the tests.
"""

from __future__ import annotations

#: For iptables-restore --counters; also for ip6tables with `SIX` applied.
IPTABLES = """
*mangle
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:LIBVIRT_PRT - [0:0]
[0:0] -A POSTROUTING -o virbr0 -j LIBVIRT_PRT
[11:660] -A LIBVIRT_PRT -o virbr0 -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NATLBISNOTUS - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
[7:420] -A PREROUTING -d 172.30.0.1/32 -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[3:180] -A PREROUTING -i docker0 -m addrtype --dst-type LOCAL -j DOCKER
[0:0] -A OUTPUT -d 172.30.0.1/32 -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[2:120] -A OUTPUT ! -d 127.0.0.0/8 -o docker0 -m addrtype --dst-type LOCAL -j DOCKER
[5:300] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
[0:0] -A POSTROUTING -o cni0 -j KUBE-POSTROUTING
[0:0] -A DOCKER -i docker0 -j RETURN
[9:540] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 32768 -j DNAT --to-destination 172.17.0.2:80
[0:0] -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
[0:0] -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
[0:0] -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
[0:0] -A KUBE-POSTROUTING -j MASQUERADE --random-fully
[13:780] -A KUBE-SERVICES -d 172.30.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-NATLBISNOTUS
[6:360] -A KUBE-SVC-NATLBISNOTUS -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A
[7:420] -A KUBE-SVC-NATLBISNOTUS -j KUBE-SEP-B
[6:360] -A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 172.31.0.5:6443
[7:420] -A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination 172.31.0.6:6443
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-USER - [0:0]
:f2b-sshd - [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
:ufw-logging-deny - [0:0]
[17:1020] -A INPUT -i eth9 -p tcp -m multiport --dports 22 -j f2b-sshd
[0:0] -A INPUT -i eth9 -j ufw-before-input
[0:0] -A FORWARD -j DOCKER-USER
[0:0] -A FORWARD -i docker0 -j DOCKER-ISOLATION-STAGE-1
[0:0] -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[0:0] -A FORWARD -o docker0 -j DOCKER
[0:0] -A DOCKER-ISOLATION-STAGE-1 -j RETURN
[0:0] -A DOCKER-USER -i front -j ACCEPT
[0:0] -A DOCKER-USER -i back -j ACCEPT
[0:0] -A DOCKER-USER -j RETURN
[19:1140] -A f2b-sshd -s 203.0.113.66/32 -j REJECT --reject-with icmp-port-unreachable
[0:0] -A f2b-sshd -j RETURN
[0:0] -A ufw-before-input -j ufw-user-input
[0:0] -A ufw-logging-deny -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
[23:1380] -A ufw-user-input -s 203.0.113.0/24 -p tcp -m tcp --dport 22 -m comment --comment "it's mine" -j ACCEPT
COMMIT
"""
SIX = {
    "172.30.0.1/32": "2001:db8:30::1/128",
    "172.17.0.0/16": "2001:db8:17::/64",
    "127.0.0.0/8": "::1/128",
    "172.17.0.2:80": "[2001:db8:17::2]:80",
    "172.31.0.5:6443": "[2001:db8:31::5]:6443",
    "172.31.0.6:6443": "[2001:db8:31::6]:6443",
    "203.0.113.66/32": "2001:db8:66::1/128",
    "203.0.113.0/24": "2001:db8:66::/64",
    "icmp-port-unreachable": "icmp6-port-unreachable",
}

#: For nft -f. The names come near ours on purpose.
NFT = """
table inet firewalld {
  set ipset-good {
    type ipv4_addr
    flags interval
    elements = { 198.51.100.0/24, 203.0.113.5-203.0.113.9 }
  }
  map zones {
    type ifname : verdict
    elements = { "eth8" : goto nat_PRE_public, "eth9" : drop }
  }
  chain mangle_PREROUTING {
    type filter hook prerouting priority mangle + 10; policy accept;
    iifname "eth9" jump mangle_PRE_public
  }
  chain mangle_PRE_public {
    counter packets 31 bytes 1860
  }
  chain nat_PREROUTING {
    type nat hook prerouting priority dstnat + 10; policy accept;
    iifname vmap @zones
  }
  chain nat_PRE_public {
    tcp dport 2222 counter packets 37 bytes 2220 dnat ip to 172.16.0.9:22
  }
  chain nat_POSTROUTING {
    type nat hook postrouting priority srcnat + 10; policy accept;
    oifname "eth9" masquerade
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "eth9" ip saddr @ipset-good reject with icmpx admin-prohibited
  }
}
table inet f2b-table {
  set addr-set-sshd {
    type ipv4_addr
    flags timeout
    elements = { 203.0.113.66 timeout 7d }
  }
  chain f2b-chain {
    type filter hook input priority filter - 1; policy accept;
    tcp dport 22 ip saddr @addr-set-sshd reject with icmp port-unreachable
  }
}
table inet natlb {
  comment "not ours: another family"
  counter hits {
    packets 41 bytes 2460
  }
  chain prerouting {
    type nat hook prerouting priority dstnat - 5; policy accept;
    tcp dport 4444 counter name "hits" redirect to :22
  }
}
table ip natlb-local {
  map service {
    type ipv4_addr . inet_service : ipv4_addr . inet_service
    counter
    elements = { 203.0.113.80 . 80 counter packets 43 bytes 2580 : 172.16.0.4 . 8080 }
  }
  chain prerouting {
    type nat hook prerouting priority -110; policy accept;
    dnat ip to ip daddr . tcp dport map @service
  }
}
table netdev ingress {
}
table arp filter {
  chain INPUT {
    type filter hook input priority filter; policy accept;
  }
}
"""


def ip6tables() -> str:
    text = IPTABLES
    for four, six in SIX.items():
        text = text.replace(four, six)
    return text
