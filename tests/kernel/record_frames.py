"""A program that records the frames of this version of the protocol.

In: a directory, and maybe `sealed`. Out: one file per session, `two-nodes.jsonl` and
`three-nodes.jsonl`; sealed there is the first alone, and `keys` beside it. See
`tests/data/frames/README.md`. The daemons are real, in namespaces around a relay that
loses and delays; what is recorded is what they sent, seen on the relay's ports. Run it
once for each version, plain and sealed, and keep the files.
"""

import json
import socket
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from syncd import keys
from syncd.replication.frame import Coder, Data, Frame
from syncd.replication.hello import Hello
from syncd.replication.seal import ENFORCE, Sealer, Security

from tests.kernel import mixture
from tests.kernel.cluster import OPEN, SYNC_PORT, Cluster, Node
from tests.lab import Lab, inside, run_in
from tests.unit.replication.recorded_frames import digest

_HEADERS = 14 + 20 + 8
_ALL_PROTOCOLS = 0x0003
_OUTGOING = 4
_WEATHER = {"loss": 0.08, "double": 0.05, "late": 0.1, "late_s": 0.02}
_FLOWS = 220
_KEPT = 100  # frames of a session, and all with something rare in them


class Tap:
    """Hears what each node sends, until it is closed."""

    def __init__(self, switch: str, names: tuple[str, ...]) -> None:
        self.heard: list[tuple[float, str, bytes]] = []
        self._open = True
        with inside(switch):
            ports = [(name, _port(f"port-{name}")) for name in names]
        self._ears = [
            threading.Thread(target=self._listen, args=port, daemon=True)
            for port in ports
        ]
        for ear in self._ears:
            ear.start()

    def _listen(self, name: str, port: socket.socket) -> None:
        while self._open:
            try:
                packet, address = port.recvfrom(65536)
            except TimeoutError:
                continue
            if (
                address[2] == _OUTGOING
                or packet[12:14] != b"\x08\x00"
                or packet[23] != socket.IPPROTO_UDP
                or int.from_bytes(packet[36:38]) != SYNC_PORT
            ):
                continue
            size = int.from_bytes(packet[38:40]) - 8
            self.heard.append(
                (time.monotonic(), name, packet[_HEADERS : _HEADERS + size])
            )
        port.close()

    def close(self) -> list[tuple[str, bytes]]:
        """Everything in the order of arrival."""
        self._open = False
        for ear in self._ears:
            ear.join()
        return [(name, datagram) for _, name, datagram in sorted(self.heard)]


def _port(interface: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.bind((interface, _ALL_PROTOCOLS))
    port.settimeout(0.2)
    return port


def _session(
    names: tuple[str, ...], file: Path, ring: keys.KeyRing | None = None
) -> None:
    with Lab("frames") as lab, TemporaryDirectory() as directory:
        security = OPEN if ring is None else _key_files(Path(directory), names, ring)
        made = Cluster(lab, Path(directory), names, relay=_WEATHER, security=security)
        roads = mixture.Roads(lab, made.nodes[0].namespace)
        tap = Tap(made.switch, names)
        try:
            made.start()
            _traffic(made.nodes, roads)
        finally:
            made.close()
            roads.close()
        _write(file, tap.close(), ring)


def _key_files(directory: Path, names: tuple[str, ...], ring: keys.KeyRing) -> str:
    """Each node has all keys, and seals with one of its own."""
    for name, key in zip(names, ring.keys, strict=True):
        keys.create(f"{directory}/{name}.keys", keys.KeyRing(ring.keys, key))
    return f'mode = "enforce"\nkey_file = "{directory}/{{name}}.keys"'


def _traffic(nodes: list[Node], roads: mixture.Roads) -> None:
    """A short day: flows, a takeover, a restart, ends, a comparison."""
    first = nodes[0].namespace
    nodes[0].command("promote")
    mixture.play(roads, first, mixture.talks(_FLOWS))
    mixture.play(roads, first, mixture.ftp_talks(8))
    mixture.open_data_connections(roads, first)
    time.sleep(1.0)
    nodes[1].command("verify")
    nodes[-1].kill()
    nodes[-1].start()
    nodes[0].wait_in_step(len(nodes) - 1)
    run_in(first, "conntrack", "-D", "-p", "udp")
    run_in(first, "conntrack", "-F", "expect")
    time.sleep(0.5)
    nodes[1].command("resync", "pull")
    nodes[0].command("demote")
    nodes[1].command("promote")
    time.sleep(0.5)


def _write(
    file: Path, heard: list[tuple[str, bytes]], ring: keys.KeyRing | None
) -> None:
    """What is worth keeping: every HELLO that says something new, DATA of each kind."""
    coder, security = Coder(), Security()
    if ring is not None:
        security = Security(
            ENFORCE, {key.id: key.secret for key in ring.keys}, ring.sending.id
        )
    sealer = Sealer("recorder", 0, security)
    lines: list[str] = []
    plain: dict[object, int] = {}
    for number, (name, datagram) in enumerate(heard, 1):
        envelope = coder.unwrap(datagram)
        content = coder.content(sealer.open(envelope, datagram))
        frame = Frame(envelope.sender, envelope.epoch, envelope.number, content)
        said: dict[str, object] = {"n": number, "from": name, "hex": datagram.hex()}
        said |= {"sender": frame.sender, "epoch": frame.epoch, "number": frame.number}
        if isinstance(content, Data):
            lists = asdict(content)
            shape: object = tuple(bool(item) for item in lists.values())
            said["data"] = {
                key: value if isinstance(value, int) else [len(value), digest(value)]
                for key, value in lists.items()
                if isinstance(value, int | list)
            }
        elif isinstance(content, Hello):
            shape = tuple((bool(a.lost), a.wants < 0, a.verdict) for a in content.acks)
            said["hello"] = asdict(content)
        shape = (name, shape)
        plain[shape] = plain.get(shape, 0) + 1
        if plain[shape] <= 3 or (number <= _KEPT and len(datagram) < 200):
            lines.append(json.dumps(said, default=bytes.hex))
    file.write_text("\n".join(lines) + "\n")
    print(f"{file}: {len(lines)} of {len(heard)} frames, {len(plain)} shapes")


def main() -> None:
    """Record the sessions."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    if sys.argv[2:] == ["sealed"]:
        both = keys.new_key("of fw1"), keys.new_key("of fw2")
        ring = keys.KeyRing(both, both[0])
        _session(("fw1", "fw2"), directory / "two-nodes.jsonl", ring)
        keys.create(str(directory / "keys"), ring)
        return
    _session(("fw1", "fw2"), directory / "two-nodes.jsonl")
    _session(("fw1", "fw2", "fw3"), directory / "three-nodes.jsonl")


if __name__ == "__main__":
    main()
