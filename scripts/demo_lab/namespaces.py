"""The network of the demo: four namespaces, two bridges, a sync link, two rulesets.

Runs in a network and mount namespace of its own (scripts/demo sees to that), which
holds the bridges: nothing is seen from outside, and all of it vanishes with the last
program.  The rule: what a command refuses ends the demo with that command's words.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from .plan import (
    BACKUP,
    CLIENT,
    CLIENT_V4,
    CLIENT_V6,
    FIREWALLS,
    LAN_V4,
    LAN_V6,
    NAMESPACES,
    PRIMARY,
    RULESET,
    SERVER,
    SERVER_V4,
    SERVER_V6,
    SYNC_V4,
    VIRTUAL,
    WAN_V4,
    WAN_V6,
)

RUN = Path("/run")
NO_DAD = "nodad"

# Duplicate address detection would hold back every first packet for a second or two.
IPV6_AT_ONCE = {
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/dad_transmits": "0",
}


class StageError(Exception):
    """A command needed for the stage failed; the text says which and why."""


def run(*command: str, given: str | None = None) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StageError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def inside(name: str, *command: str) -> list[str]:
    """Return the command that runs `command` in a namespace and dies with us."""
    return [
        "nsenter",
        f"--net={RUN}/netns/{name}",
        "setpriv",
        "--pdeathsig",
        "KILL",
        *command,
    ]


def set_values(name: str | None, values: dict[str, str]) -> None:
    """Write kernel settings below /proc/sys/net in a namespace, one program for all."""
    lines = "".join(f"echo {v} > /proc/sys/net/{k}\n" for k, v in values.items())
    shell = ["sh", "-e", "-c", lines]
    run(*(shell if name is None else inside(name, *shell)))


def build(*, strict: bool) -> None:
    """Build the whole network, with the virtual addresses on the primary."""
    run("mount", "-t", "tmpfs", "tmpfs", str(RUN))
    for name in NAMESPACES:
        run("ip", "netns", "add", name)
        set_values(name, IPV6_AT_ONCE)
    _lay_cables()
    _address_hosts()
    for name in FIREWALLS:
        _make_firewall(name, strict=strict)
    _ip(
        PRIMARY,
        *(
            f"address add {address}/{length} dev {interface}"
            + (f" {NO_DAD}" if ":" in address else "")
            for interface, address, length in VIRTUAL
        ),
    )


def cut_cables(name: str) -> None:
    """Pull all cables of a firewall; its peer is left with a sync link that is dead."""
    _ip(None, f"link set {name}-lan down", f"link set {name}-wan down")
    _ip(name, "link set sync down")


def dropped_packets(name: str) -> str:
    """Return the counters of a firewall's forward chain, for people."""
    return run(*inside(name, "nft", "list", "chain", "inet", "firewall", "forward"))


def _lay_cables() -> None:
    _ip(None, "link set lo up", "link add lan type bridge", "link add wan type bridge")
    # A switch that learns nothing about groups and waits for no spanning tree.
    _ip(
        None,
        *(
            f"link set {b} type bridge mcast_snooping 0 stp_state 0"
            for b in ("lan", "wan")
        ),
        "link set lan up",
        "link set wan up",
    )
    _ip(None, f"link add sync netns {PRIMARY} type veth peer sync netns {BACKUP}")
    plugs = [(CLIENT, "lan"), (SERVER, "wan")]
    plugs += [(name, side) for name in FIREWALLS for side in ("lan", "wan")]
    for name, side in plugs:
        _ip(
            None,
            f"link add {name}-{side} type veth peer {side} netns {name}",
            f"link set {name}-{side} master {side} up",
        )
        _ip(name, "link set lo up", f"link set {side} up")


def _address_hosts() -> None:
    hosts = (
        (CLIENT, "lan", CLIENT_V4, CLIENT_V6, LAN_V4, LAN_V6),
        (SERVER, "wan", SERVER_V4, SERVER_V6, WAN_V4, WAN_V6),
    )
    for name, side, v4, v6, gateway4, gateway6 in hosts:
        _ip(
            name,
            f"address add {v4}/24 dev {side}",
            f"address add {v6}/64 dev {side} {NO_DAD}",
            f"route add default via {gateway4}",
            f"-6 route add default via {gateway6}",
        )


def _make_firewall(name: str, *, strict: bool) -> None:
    settings = {
        "ipv4/ip_forward": "1",
        "ipv6/conf/all/forwarding": "1",
        "ipv4/conf/all/rp_filter": "0",
        "ipv4/conf/default/rp_filter": "0",
    }
    run(*inside(name, "nft", "-f", "-"), given=RULESET)
    if strict:
        settings["netfilter/nf_conntrack_tcp_be_liberal"] = "0"
        settings["netfilter/nf_conntrack_tcp_loose"] = "0"
    set_values(name, settings)
    _ip(name, f"address add {SYNC_V4[name]}/30 dev sync", "link set sync up")


def _ip(name: str | None, *lines: str) -> None:
    where = () if name is None else ("-n", name)
    for line in lines:
        run("ip", *where, *line.split())
