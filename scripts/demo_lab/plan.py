"""Who is where in the demo: names, addresses, ports, and the firewalls' ruleset.

Nothing comes in; constants and texts go out.  The rule: what both ends of a connection
must agree on is written here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

CLIENT, SERVER, PRIMARY, BACKUP = "client", "server", "fw1", "fw2"
FIREWALLS = (PRIMARY, BACKUP)
NAMESPACES = (CLIENT, PRIMARY, BACKUP, SERVER)

CLIENT_V4, CLIENT_V6 = "192.168.101.10", "2001:db8:1::10"
SERVER_V4, SERVER_V6 = "203.0.113.10", "2001:db8:2::10"
LAN_V4, LAN_V6 = "192.168.101.1", "2001:db8:1::1"
WAN_V4, WAN_V6 = "203.0.113.1", "2001:db8:2::1"
SYNC_V4 = {PRIMARY: "10.255.0.1", BACKUP: "10.255.0.2"}
GROUP, GROUP_PORT = "225.0.0.50", 3780

# The addresses that move: interface, address, prefix length.  They are the only ones
# on lan and wan: `masquerade` takes the first address of an interface, and a flow that
# was masqueraded to an address that stays behind dies with it.
VIRTUAL = (
    ("lan", LAN_V4, 24),
    ("wan", WAN_V4, 24),
    ("lan", LAN_V6, 64),
    ("wan", WAN_V6, 64),
)

MASQUERADE_PORT, UDP_PORT, V6_PORT, FTP_PORT = 5001, 5002, 5003, 21
FORWARDED_PORT, INNER_PORT = 8443, 443


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of the demo, as the table at the end shows it."""

    name: str
    title: str
    path: str


CONNECTIONS = (
    Connection(
        "masquerade",
        "TCP, masqueraded",
        f"client -> [{WAN_V4}] -> server:{MASQUERADE_PORT}",
    ),
    Connection(
        "forward",
        "TCP, DNAT with port change",
        f"server -> {WAN_V4}:{FORWARDED_PORT} -> client:{INNER_PORT}",
    ),
    Connection("v6", "TCP, IPv6 without NAT", f"client -> server:{V6_PORT}"),
    Connection(
        "udp",
        "UDP stream, masqueraded",
        f"client -> [{WAN_V4}] -> server:{UDP_PORT}",
    ),
    Connection(
        "ftp",
        "FTP, data opened afterwards",
        f"client -> [{WAN_V4}] -> server:{FTP_PORT}",
    ),
)
STREAMS = ("masquerade", "forward", "v6")

RULESET = f"""\
table inet firewall {{
    ct helper ftp {{
        type "ftp" protocol tcp
        l3proto ip
    }}
    chain sync {{
        type filter hook prerouting priority raw
        iifname "sync" notrack
    }}
    chain sync_out {{
        type filter hook output priority raw
        oifname "sync" notrack
    }}
    chain helpers {{
        type filter hook prerouting priority filter
        ip protocol tcp tcp dport {FTP_PORT} ct helper set "ftp"
    }}
    chain input {{
        type filter hook input priority filter; policy drop
        iifname {{ "lo", "sync" }} accept
        meta l4proto ipv6-icmp accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop
        ct state invalid counter drop
        ct state established counter accept
        ct state related counter accept
        tcp flags & (fin | syn | rst | ack) != syn counter drop
        iifname "lan" oifname "wan" ip version 4 \\
            tcp dport {{ {MASQUERADE_PORT}, {FTP_PORT} }} counter accept
        iifname "lan" oifname "wan" ip version 4 udp dport {UDP_PORT} counter accept
        iifname "lan" oifname "wan" ip6 version 6 tcp dport {V6_PORT} counter accept
        iifname "wan" oifname "lan" ct status dnat tcp dport {INNER_PORT} counter accept
    }}
    chain forwarded_ports {{
        type nat hook prerouting priority dstnat
        iifname "wan" ip daddr {WAN_V4} tcp dport {FORWARDED_PORT} \\
            dnat ip to {CLIENT_V4}:{INNER_PORT}
    }}
    chain hidden {{
        type nat hook postrouting priority srcnat
        oifname "wan" ip saddr {CLIENT_V4} masquerade fully-random
    }}
}}
"""
