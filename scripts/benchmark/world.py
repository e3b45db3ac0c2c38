"""Where it all takes place: three namespaces, their cables, and what to put back.

    far --client--> fw1 --server--> far      the packets of the load pass through fw1
                     | sync
                    fw2                       the standby sees nothing but the sync link

In comes nothing, out go namespace names; whatever is made or changed here is undone in
`close`, also when making it failed half way.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmark import packets

SYNC = "sync"
ADDRESSES = {"fw1": "192.168.77.1", "fw2": "192.168.77.2"}
_NETFILTER = Path("/proc/sys/net/netfilter")
_BACKLOG = Path("/proc/sys/net/core/netdev_max_backlog")
_BACKLOG_PACKETS = 100_000  # so that a busy CPU delays the load's packets, not drops
_SETTINGS = {  # of both firewalls
    "net.netfilter.nf_conntrack_events": "1",
    "net.netfilter.nf_conntrack_checksum": "0",
    "net.netfilter.nf_conntrack_tcp_loose": "0",
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
}
_RULES = f"""
table inet bench {{
  chain early {{
    type filter hook prerouting priority raw;
    iifname "{SYNC}" notrack
  }}
  chain local {{
    type filter hook output priority raw;
    oifname "{SYNC}" notrack
  }}
  chain forward {{
    type filter hook forward priority filter;
    ct state invalid counter drop
  }}
}}
"""


def run(*command: str, text: str | None = None) -> str:
    """What the command prints; it must succeed."""
    done = subprocess.run(
        command, check=False, input=text, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Limits:
    """The machine's own limits: raised while needed, then as they were."""

    def __init__(self, entries: int) -> None:
        self.fixed: list[str] = []  # what is too low and not ours to raise
        self._changed: list[tuple[Path, str, str]] = []
        for path, least in (
            (_NETFILTER / "nf_conntrack_max", entries),
            (_NETFILTER / "nf_conntrack_buckets", entries // 2),
            (_BACKLOG, _BACKLOG_PACKETS),
        ):
            self._raise(path, least)

    def _raise(self, path: Path, least: int) -> None:
        try:
            before = path.read_text().strip()
            if int(before) >= least:
                return
            path.write_text(str(least))
        except OSError:
            self.fixed.append(f"{path.name} could not be raised to {least}")
            return
        self._changed.append((path, before, path.read_text().strip()))

    def restore(self) -> None:
        """Put back what still is as we left it."""
        for path, before, ours in reversed(self._changed):
            if path.read_text().strip() == ours:
                path.write_text(before)
        self._changed.clear()


def is_root_of_machine() -> bool:
    """Root, and not only within a user namespace."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


class World:
    """The namespaces of one run."""

    def __init__(self, entries: int) -> None:
        mark = f"syncd-bench-{os.getpid()}"
        self.far, self.fw1, self.fw2 = (f"{mark}-{n}" for n in ("far", "fw1", "fw2"))
        self._made: list[str] = []
        self._limits = Limits(entries)
        self.notes = self._limits.fixed
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        for name in (self.far, self.fw1, self.fw2):
            run("ip", "netns", "add", name)
            self._made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for name in (self.fw1, self.fw2):
            for key, value in _SETTINGS.items():
                self.inside(name, "sysctl", "-qw", f"{key}={value}")
            self.inside(name, "nft", "-f", "-", text=_RULES)
        self.inside(self.far, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        self._cable(self.far, "client", packets.CLIENT_SIDE_MAC, "10.0.0.0/8", "1")
        self._cable(self.far, "server", packets.SERVER_SIDE_MAC, "172.16.0.0/12", "2")
        self._sync_cable()

    def _cable(self, far: str, name: str, mac: str, network: str, number: str) -> None:
        """fw1's cable to a side: all of `network` lies behind one neighbour there."""
        run("ip", "-n", far, "link", "add", name, "type", "veth",
            "peer", "name", name, "address", mac, "netns", self.fw1)  # fmt: skip
        run("ip", "-n", far, "link", "set", name, "up")
        inside = ("ip", "-n", self.fw1)
        gateway = f"192.168.{number}.2"
        run(*inside, "link", "set", name, "up")
        run(*inside, "address", "add", f"192.168.{number}.1/24", "dev", name)
        run(*inside, "neighbour", "add", gateway, "lladdr", packets.FAR_MAC,
            "dev", name, "nud", "permanent")  # fmt: skip
        run(*inside, "route", "add", network, "via", gateway)

    def _sync_cable(self) -> None:
        run("ip", "-n", self.fw1, "link", "add", SYNC, "type", "veth",
            "peer", "name", SYNC, "netns", self.fw2)  # fmt: skip
        for name, address in zip((self.fw1, self.fw2), ADDRESSES.values(), strict=True):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", SYNC)
            run("ip", "-n", name, "link", "set", SYNC, "up")

    def inside(self, namespace: str, *command: str, text: str | None = None) -> str:
        """What the command prints, run in a namespace."""
        return run(*self.entering(namespace, command), text=text)

    def entering(self, namespace: str, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in a namespace, as the same process."""
        return ["ip", "netns", "exec", namespace, *command]

    def flows(self, namespace: str) -> int:
        """How many entries the kernel has there."""
        return int(self.inside(namespace, "conntrack", "-C"))

    def flush(self, namespace: str) -> None:
        """Empty the kernel's table there."""
        self.inside(namespace, "conntrack", "-F")

    def invalid_packets(self) -> int:
        """Packets of the load that fw1's conntrack did not understand."""
        words = self.inside(
            self.fw1, "nft", "list", "chain", "inet", "bench", "forward"
        )
        return int(words.split("packets")[1].split()[0])

    def close(self) -> None:
        """Undo everything; safe to repeat."""
        for name in self._made:
            subprocess.run(
                ["ip", "netns", "delete", name], check=False, capture_output=True
            )
        self._made.clear()
        self._limits.restore()
