"""The attacker of `attacker.py` on TCP links: with a peer's address, without the key.

In: an order as JSON, a file of recorded frames. Out: one line of JSON that says how
many datagrams were sent from where to where. The nodes call it as they would call a
peer; it takes their calls and sends each what `attacker.SOURCES` has.

    record      write what the nodes say to the file
    lengths     lengths that cannot be, or of what never comes
    strangers   connections from an address that should not call, as many as it goes
"""

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator

from tests.kernel.attacker import SOURCES, Draw, Sent, data_of, read_recorded, way

_CALLED_S = 8.0  # in which the nodes call again
_TICK_S = 0.002
_CHUNK = 1 << 16


def main() -> None:
    """Follow one order."""
    order, file = json.loads(sys.argv[1]), sys.argv[2]
    kind, seconds, rate = order["kind"], order["seconds"], order["rate"]
    own, port = order["own"], order["port"]
    if kind == "strangers":
        sent = visit(order["nodes"], own, port, seconds)
    else:
        callers = take_calls(own, port, len(order["nodes"]))
        if kind == "record":
            sent = record(callers, own, seconds, file)
        else:
            draw = Draw(order.get("seed", 1))
            if kind == "lengths":
                stream = lengths(draw)
            else:
                frames = SOURCES[kind](read_recorded(file), draw)
                stream = (prefixed(data) for f in frames if (data := data_of(f)))
            sent = send(callers, own, stream, seconds, rate)
    print(json.dumps(sent), flush=True)


def take_calls(own: str, port: int, wanted: int) -> dict[str, socket.socket]:
    """Listen until all nodes have called, or for as long as they may take."""
    callers: dict[str, socket.socket] = {}
    end = time.monotonic() + _CALLED_S
    with socket.create_server((own, port)) as listener:
        while len(callers) < wanted and time.monotonic() < end:
            listener.settimeout(max(end - time.monotonic(), 0.01))
            try:
                caller, address = listener.accept()
            except TimeoutError:
                break
            callers[address[0]] = caller
    return callers


def prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def record(
    callers: dict[str, socket.socket], own: str, seconds: float, file: str
) -> Sent:
    """Add what the nodes say to the file, as if it had come over UDP."""
    heard = Sent()
    waiting = {caller: bytearray() for caller in callers.values()}
    names = {caller: name for name, caller in callers.items()}
    end = time.monotonic() + seconds
    with open(file, "a") as book:
        while (left := end - time.monotonic()) > 0:
            for caller in select.select(list(waiting), [], [], left)[0]:
                data = waiting[caller]
                data += caller.recv(_CHUNK)
                while len(data) >= 4:
                    size = int.from_bytes(data[:4], "big")
                    if len(data) < 4 + size:
                        break
                    ends = (socket.inet_aton(names[caller]), socket.inet_aton(own))
                    head = bytes(26) + b"".join(ends) + bytes(4)
                    udp = struct.pack(">HH", 8 + size, 0)
                    frame = head + udp + bytes(data[4 : 4 + size])
                    book.write(f"{frame.hex()}\n")
                    heard[names[caller]] += 1
                    del data[: 4 + size]
    return heard


def lengths(draw: Draw) -> Iterator[bytes]:
    """What no datagram can be as long as, and what is announced and never comes."""
    while True:
        yield draw.choice(
            (
                b"\xff\xff\xff\xff",
                bytes(4),
                (65535).to_bytes(4, "big") + draw.randbytes(100),
                draw.randbytes(4),
            )
        )


def send(
    callers: dict[str, socket.socket],
    own: str,
    stream: Iterator[bytes],
    seconds: float,
    rate: float,
) -> Sent:
    """Send at an even pace, or as fast as they take it; what went to whom."""
    sent, ends = Sent(), {}
    for name, caller in callers.items():
        caller.settimeout(1.0)
        ends[name] = way(socket.inet_aton(own) + socket.inet_aton(name))
    begin, count = time.monotonic(), 0
    while callers and (now := time.monotonic()) < begin + seconds:
        due = count + 64 if rate == 0 else int((now - begin) * rate) + 1
        while count < due:
            data = next(stream)
            count += 1
            for name, caller in list(callers.items()):
                try:
                    caller.sendall(data)
                    sent[ends[name]] += 1
                except OSError:  # it hung up, or takes nothing
                    callers.pop(name).close()
        _discard(callers)
        if rate:
            time.sleep(_TICK_S)
    for caller in callers.values():
        caller.shutdown(socket.SHUT_WR)
        caller.settimeout(2.0)
        while caller.recv(_CHUNK):  # until all of ours has been read
            pass
    return sent


def _discard(callers: dict[str, socket.socket]) -> None:
    """Read what the nodes say, so that they do not wait for us."""
    for caller in select.select(list(callers.values()), [], [], 0)[0]:
        caller.recv(_CHUNK)


def visit(nodes: list[str], own: str, port: int, seconds: float) -> Sent:
    """Call everybody, say something, hang up; as fast as it goes."""
    sent, end = Sent(), time.monotonic() + seconds
    while time.monotonic() < end:
        for node in nodes:
            try:
                with socket.create_connection((node, port), 1.0, (own, 0)) as call:
                    call.sendall(prefixed(b"garbage"))
            except OSError:
                continue
            sent[way(socket.inet_aton(own) + socket.inet_aton(node))] += 1
    return sent


if __name__ == "__main__":
    main()
