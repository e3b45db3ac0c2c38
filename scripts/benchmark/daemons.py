"""The two that are compared, behind one class: start, stop, ask, order, count.

A `Daemon` is one process in one firewall's namespace, configured from one `Place`, so
that both get the same buffers, the same group and the same interface.
"""

import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from syncd.config import SecurityConfig
from syncd.daemon.secrecy import read_security
from syncd.replication.frame import Coder, Data
from syncd.replication.seal import Sealer

from benchmark import counters

GROUP = "225.0.0.50"
PORT = 3780
NETLINK_BUFFER_BYTES = 64 << 20
LINK_BUFFER_BYTES = 16 << 20
_START_S = 20.0
_STOP_S = 10.0
_ORDER_S = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a daemon runs and whom it talks to."""

    node: str
    enter: tuple[str, ...]  # the command line that leads into the namespace
    directory: Path
    interface: str
    address: str
    buffers: bool  # whether sockets may be given more room than net.core allows
    key_file: Path | None = None  # of syncd, whose frames are plain without
    warm: bool = False  # does the standby write what it is told into its kernel?


@dataclass(frozen=True, slots=True)
class Commit:
    """How long a commit took: for the one who ordered it, and by its own account."""

    wall_s: float
    reported_s: float


def wait_until(
    reached: Callable[[], bool],
    seconds: float,
    what: Callable[[], str],
    pause_s: float = 0.01,
) -> float:
    """Seconds until it was so; `TimeoutError` if it never was."""
    begin = time.monotonic()
    while not reached():
        if time.monotonic() - begin > seconds:
            raise TimeoutError(f"after {seconds:.0f} s still not: {what()}")
        time.sleep(pause_s)
    return time.monotonic() - begin


class Daemon(ABC):
    """One daemon of either kind."""

    kind: str

    def __init__(self, place: Place) -> None:
        self.place = place
        self._log_path = place.directory / f"{self.kind}-{place.node}.log"
        self._socket_path = place.directory / f"{self.kind}-{place.node}.socket"
        self._config_path = place.directory / f"{self.kind}-{place.node}.conf"
        self._config_path.write_text(self._config())
        self._running: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _config(self) -> str: ...

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def flows(self) -> tuple[int, int]:
        """(own, peer) flows in the daemon's tables."""

    @abstractmethod
    def take_over(self) -> None:
        """Make this node the one that carries the traffic."""

    @abstractmethod
    def commit(self) -> Commit:
        """Put the peer's flows into this kernel."""

    @abstractmethod
    def flush_peer(self) -> None:
        """Forget the peer's flows."""

    @abstractmethod
    def pull(self) -> None:
        """Ask the peer for all it has; may return before it is here."""

    @abstractmethod
    def rejoin(self) -> None:
        """What an operator does after a restart, so that all is here again."""

    @abstractmethod
    def opened(self, datagram: bytes) -> bytes:
        """The flows in a datagram of the sync link, addresses in clear."""

    @abstractmethod
    def linked(self) -> bool:
        """Whether the peer has been met."""

    @classmethod
    @abstractmethod
    def version(cls) -> str: ...

    @property
    def pid(self) -> int:
        if self._running is None:
            raise RuntimeError(f"{self.kind} on {self.place.node} is not running")
        return self._running.pid

    def start(self, wait: bool = True) -> None:
        """Return when the daemon answers."""
        with open(self._log_path, "ab") as log:
            self._running = subprocess.Popen(
                [*self.place.enter, *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            wait_until(self.answers, _START_S, lambda: f"an answer: {self.tail()}")

    def answers(self) -> bool:
        """Whether the daemon is up; its death ends the waiting."""
        if self._running is not None and self._running.poll() is not None:
            raise RuntimeError(f"{self.kind} ended by itself: {self.tail()}")
        try:
            self.flows()
        except (OSError, ValueError, KeyError):
            return False
        return True

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """End the process; safe to repeat."""
        if self._running is None:
            return
        self._running.send_signal(sign)
        try:
            self._running.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._running = None
        for path in self._remains():
            path.unlink(missing_ok=True)

    def _remains(self) -> tuple[Path, ...]:
        """What a daemon leaves behind and stumbles over at its next start."""
        return ()

    def tail(self) -> str:
        """The last lines of its log."""
        if not self._log_path.exists():
            return ""
        return " | ".join(self._log_path.read_text().splitlines()[-3:])

    def cpu_ns(self) -> int:
        return counters.cpu_ns(self.pid)

    def lost(self) -> int:
        """Events and datagrams that were dropped for want of room, since the start."""
        return counters.lost_events(self.pid) + counters.lost_datagrams(self.pid)

    def _ask(self, question: bytes, seconds: float = _ORDER_S) -> bytes:
        """What the control socket answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(self._socket_path))
            connection.sendall(question)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def _order(self, *command: str) -> tuple[float, str]:
        """(seconds, output) of a client command; it must succeed."""
        begin = time.monotonic()
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_ORDER_S
        )
        seconds = time.monotonic() - begin
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return seconds, done.stdout


class Conntrackd(Daemon):
    """Debian's conntrackd: FTFW over multicast."""

    kind = "conntrackd"
    _STATISTICS = struct.pack("=i", 21)
    _COMMITTED = re.compile(r"commit has taken ([0-9.]+) seconds")
    _ACTIVE = re.compile(r"current active connections:\s+([0-9]+)")

    def _config(self) -> str:
        place = self.place
        buffers = f"""SndSocketBuffer {LINK_BUFFER_BYTES}
    RcvSocketBuffer {LINK_BUFFER_BYTES}"""
        return f"""
Sync {{
  Mode FTFW {{
    DisableExternalCache {"On" if place.warm else "Off"}
  }}
  Multicast {{
    IPv4_address {GROUP}
    Group {PORT}
    IPv4_interface {place.address}
    Interface {place.interface}
    {buffers if place.buffers else ""}
    Checksum on
  }}
}}
General {{
  Systemd off
  HashSize 262144
  HashLimit 4194304
  LogFile {self._record_path}
  Syslog off
  LockFile {self._lock_path}
  UNIX {{
    Path {self._socket_path}
  }}
  NetlinkBufferSize {NETLINK_BUFFER_BYTES}
  NetlinkBufferSizeMaxGrowth {NETLINK_BUFFER_BYTES}
}}
"""

    @property
    def _record_path(self) -> Path:
        return self.place.directory / f"conntrackd-{self.place.node}.record"

    @property
    def _lock_path(self) -> Path:
        return self.place.directory / f"conntrackd-{self.place.node}.lock"

    def _command(self) -> list[str]:
        return ["conntrackd", "-C", str(self._config_path)]

    def _remains(self) -> tuple[Path, ...]:
        return self._lock_path, self._socket_path

    def flows(self) -> tuple[int, int]:
        if self.place.warm:  # without an external cache there is nothing to count
            self._ask(self._STATISTICS)
            return 0, 0
        counts = self._ACTIVE.findall(self._ask(self._STATISTICS).decode())
        own, peer = map(int, counts)
        return own, peer

    def _client(self, *options: str) -> float:
        return self._order("conntrackd", "-C", str(self._config_path), *options)[0]

    def take_over(self) -> None:
        """A conntrackd has no role: whatever it sees, it sends."""

    def linked(self) -> bool:
        words = self._ask(self._STATISTICS).decode()
        return int(words.partition("Bytes sent")[2].split()[0]) > 0

    def commit(self) -> Commit:
        before = len(self._COMMITTED.findall(self._record_path.read_text()))
        wall_s = self._client("-c", "ct")
        found: list[str] = []

        def reported() -> bool:
            found[:] = self._COMMITTED.findall(self._record_path.read_text())[before:]
            return bool(found)

        wait_until(reported, _ORDER_S, lambda: "conntrackd's commit logged", 0.001)
        return Commit(wall_s, float(found[-1]))

    def flush_peer(self) -> None:
        self._client("-f", "external")

    def pull(self) -> None:
        self._client("-n")

    def rejoin(self) -> None:
        self.pull()

    def opened(self, datagram: bytes) -> bytes:
        return datagram

    @classmethod
    def version(cls) -> str:
        return _version("conntrackd", "-v")


class Syncd(Daemon):
    """The daemon of this tree."""

    kind = "syncd"
    _PROGRAM = str(Path(sys.executable).with_name("syncd"))
    _coder = Coder()

    def _config(self) -> str:
        place = self.place
        return f"""
[node]
name = "{place.node}"
[control]
socket = "{self._socket_path}"
[[link]]
type = "multicast"
interface = "{place.interface}"
group = "{GROUP}"
port = {PORT}
receive_buffer = {LINK_BUFFER_BYTES}
send_buffer = {LINK_BUFFER_BYTES}
[security]
{self._security()}
[kernel]
receive_buffer = {NETLINK_BUFFER_BYTES}
[replication]
standby = "{"kernel" if place.warm else "table"}"
"""

    def _security(self) -> str:
        key_file = self.place.key_file
        return 'mode = "off"' if key_file is None else f'key_file = "{key_file}"'

    def _command(self) -> list[str]:
        return [self._PROGRAM, "run", "-c", str(self._config_path)]

    def status(self) -> dict[str, object]:
        """The status object, without starting a client."""
        lines = self._ask(b'{"command": "status"}\n').splitlines()
        status = json.loads(lines[-1])
        if not isinstance(status, dict) or not status.get("ok", True):
            raise ValueError(f"no status: {lines[-1]!r}")
        return status

    def flows(self) -> tuple[int, int]:
        tables = self.status()["tables"]
        assert isinstance(tables, dict)
        return int(tables["own"]["flows"]), int(tables["peer"]["flows"])

    def _client(self, *words: str) -> tuple[float, str]:
        command = (self._PROGRAM, *words, "--json", "-c", str(self._config_path))
        return self._order(*command)

    def take_over(self) -> None:
        self._client("promote")

    def linked(self) -> bool:
        peers = self.status()["peers"]
        assert isinstance(peers, list)
        return any(peer["state"] == "in-step" for peer in peers)

    def commit(self) -> Commit:
        wall_s, _ = self._client("commit")
        commit = self.status()["commit"]
        assert isinstance(commit, dict)
        return Commit(wall_s, float(commit["last"]["seconds"]))

    def flush_peer(self) -> None:
        self._client("flush", "peer")

    def pull(self) -> None:
        self._client("resync", "pull")

    def rejoin(self) -> None:
        """A syncd asks by itself."""

    def opened(self, datagram: bytes) -> bytes:
        envelope = self._coder.unwrap(datagram)
        payload = envelope.payload
        if self.place.key_file is not None:
            told = SecurityConfig("enforce", str(self.place.key_file))
            sealer = Sealer("bench", 1, read_security(told))
            payload = sealer.open(envelope, datagram)
        content = self._coder.content(payload)
        return b"".join(content.flows) if isinstance(content, Data) else b""

    @classmethod
    def version(cls) -> str:
        return _version(cls._PROGRAM, "--version")


@dataclass(frozen=True, slots=True)
class Pair:
    """An active and a standby daemon of one kind."""

    active: Daemon
    standby: Daemon

    def start(self) -> None:
        """Return when both have met and the active one owns the traffic."""
        self.active.start()
        self.standby.start()
        wait_until(
            lambda: self.active.linked() and self.standby.linked(),
            _START_S,
            lambda: f"{self.active.kind} met its peer: {self.active.tail()}",
        )
        self.active.take_over()
        time.sleep(1.5)  # conntrackd's hello, and the first digests, go by

    def stop(self) -> None:
        for daemon in (self.active, self.standby):
            daemon.stop()

    def lost(self) -> int:
        return self.active.lost() + self.standby.lost()

    def await_standby(self, flows: int, seconds: float = 30.0) -> float:
        """Seconds until the standby holds so many flows."""
        return wait_until(
            lambda: self.standby.flows()[1] == flows,
            seconds,
            lambda: (
                f"{flows} flows on {self.active.kind}'s standby (own, peer: active "
                f"{self.active.flows()}, standby {self.standby.flows()})"
            ),
            pause_s=0.002,
        )


def _version(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = re.search(r"[0-9]+\.[0-9][^ ,]*", done.stdout)
    return found[0].rstrip(".") if found else "unknown"
