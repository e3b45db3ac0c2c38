"""A laboratory of network namespaces for tests and scripts.

In: names. Out: namespaces, cables and bridges that are gone when the `with` block ends,
also after a failure. The rule: nothing outside the namespaces made here is touched.

    with Lab("events") as lab:
        left, right = lab.namespace("left"), lab.namespace("right")
        lab.cable(left, "eth0", right, "eth0")
        lab.address(left, "eth0", "10.0.0.1/24", "fd00::1/64")
        with inside(left):
            sock = socket.socket(...)        # lives in `left`, for ever
        run_in(left, "ping", "-c1", "10.0.0.2")
"""

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_SERIAL = itertools.count(1)
_STOP_S = 5.0

TRACKING = """
table inet tracking {
  chain input { type filter hook input priority 0; ct state new counter; }
  chain forward { type filter hook forward priority 0; ct state new counter; }
  chain output { type filter hook output priority 0; ct state new counter; }
}
"""


def run(*command: str, stdin: str | None = None) -> str:
    """Run a command, return what it printed; what it said goes into the error."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}"
        )
    return done.stdout


def run_in(namespace: str, *command: str, stdin: str | None = None) -> str:
    """Run a command inside a namespace, return what it printed."""
    return run("ip", "netns", "exec", namespace, *command, stdin=stdin)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in the namespace; sockets made here stay there."""
    with (
        open("/proc/thread-self/ns/net") as home,
        open(f"/run/netns/{namespace}") as there,
    ):
        _set_namespace(there.fileno())
        try:
            yield
        finally:
            _set_namespace(home.fileno())


def sysctl(namespace: str, name: str, value: str | int | None = None) -> str:
    """Read, or write and read back, `net.*` of a namespace (dots or slashes)."""
    file = Path("/proc/sys") / (name if "/" in name else name.replace(".", "/"))
    with inside(namespace):
        if value is not None:
            file.write_text(f"{value}\n")
        return file.read_text().strip()


class Lab:
    """Namespaces with unique names, taken down at the end of the `with` block."""

    def __init__(self, name: str = "lab") -> None:
        self._prefix = f"syncd-{name}-{os.getpid()}-{next(_SERIAL)}"
        self._namespaces: list[str] = []
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in reversed(self._started):
            stop(child)
        for namespace in reversed(self._namespaces):
            subprocess.run(
                ["ip", "netns", "delete", namespace], capture_output=True, check=False
            )

    def namespace(self, name: str, *, tracking: bool = False) -> str:
        """A new namespace, loopback up, no duplicate address detection; its full name.

        `tracking` loads rules that make conntrack see every packet.
        """
        full = f"{self._prefix}-{name}"
        run("ip", "netns", "add", full)
        self._namespaces.append(full)
        for scope in ("all", "default", "lo"):
            sysctl(full, f"net/ipv6/conf/{scope}/accept_dad", 0)
        run("ip", "-n", full, "link", "set", "lo", "up")
        if tracking:
            self.rules(full, TRACKING)
        return full

    def rules(self, namespace: str, text: str) -> None:
        """Load nftables rules."""
        run_in(namespace, "nft", "-f", "-", stdin=text)

    def cable(self, one: str, one_end: str, other: str, other_end: str) -> None:
        """A veth pair between two namespaces, both ends up."""
        run(
            *("ip", "-n", one, "link", "add", one_end, "type", "veth"),
            *("peer", "name", other_end, "netns", other),
        )
        for namespace, end in ((one, one_end), (other, other_end)):
            run("ip", "-n", namespace, "link", "set", end, "up")

    def bridge(self, namespace: str, name: str) -> None:
        """A bridge, up, that floods multicast."""
        kind = ("type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        run("ip", "-n", namespace, "link", "add", name, *kind)
        run("ip", "-n", namespace, "link", "set", name, "up")

    def plug(self, namespace: str, end: str, switch: str, bridge: str) -> None:
        """A cable from `end` in the namespace to a port of a bridge in `switch`."""
        port = f"port{next(_SERIAL)}"
        self.cable(switch, port, namespace, end)
        run("ip", "-n", switch, "link", "set", port, "master", bridge)

    def address(self, namespace: str, interface: str, *addresses: str) -> None:
        """Give an interface addresses with their prefix lengths."""
        for address in addresses:
            run("ip", "-n", namespace, "address", "add", address, "dev", interface)

    def link(self, namespace: str, interface: str, *change: str) -> None:
        """Change an interface: `"down"`, or `"mtu", "1400"`."""
        run("ip", "-n", namespace, "link", "set", interface, *change)

    def unplug(self, namespace: str, interface: str) -> None:
        """Delete an interface; the other end of its cable goes with it."""
        run("ip", "-n", namespace, "link", "delete", interface)

    def start(
        self, namespace: str, *command: str, output: int | None = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start a program inside a namespace; it is stopped with the laboratory."""
        child = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
        )
        self._started.append(child)
        return child


def stop(child: subprocess.Popen[bytes], grace_s: float = _STOP_S) -> None:
    """Ask a child to end, insist after a while; its pipes are closed."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _set_namespace(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"setns: {os.strerror(errno)}")
