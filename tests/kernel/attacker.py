"""Somebody on the sync link without the key. A program of its own.

In: an interface, an order as JSON, a file of recorded frames. Out: one line of JSON
that says how many frames were sent from where to where. It hears all that crosses
the link, forges any address, and knows syncd's frames, but no key; it imports nothing
of syncd.

    record    write what is heard to the file
    echo      send what is heard again, at once and a second later
    others    see `SOURCES`: send at `rate` frames a second (0 = as fast as it goes)
"""

import json
import random
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

_ALL_PROTOCOLS = 0x0003
_OUTGOING = 4
_IPV4 = b"\x08\x00"
_UDP, _TCP = 17, 6
_HEAD = 14 + 20 + 8
_MTU = 1500
_ECHO_S = 1.0
_RECORDED_LIMIT = 4000
_TICK_S = 0.002
MAJOR, HELLO, DATA = 1, 0, 1

Recorded = list[bytes]
Draw = random.Random
Sent = Counter[str]


def main() -> None:
    """Follow one order."""
    interface, order, file = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    wire.bind((interface, _ALL_PROTOCOLS))
    kind, seconds = order["kind"], float(order["seconds"])
    if kind == "record":
        sent = Sent({"": record(wire, order["port"], seconds, file)})
    elif kind == "echo":
        sent = echo(wire, order["port"], seconds)
    else:
        draw = Draw(order.get("seed", 1))
        frames = SOURCES[kind](read_recorded(file), draw)
        sent = send(wire, frames, seconds, float(order.get("rate", 0)))
    print(json.dumps(sent), flush=True)


def heard(wire: socket.socket, port: int, seconds: float) -> Iterator[bytes]:
    """IPv4 frames to the sync port that others sent, until the time is up."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            frame, address = wire.recvfrom(65536)
        except TimeoutError:
            return
        if address[2] == _OUTGOING or frame[12:14] != _IPV4:
            continue
        if frame[23] == _UDP and frame[36:38] == port.to_bytes(2, "big"):
            yield frame


def record(wire: socket.socket, port: int, seconds: float, file: str) -> int:
    """Add what is heard to the file."""
    frames = [frame.hex() for frame in heard(wire, port, seconds)]
    with open(file, "a") as book:
        book.writelines(f"{frame}\n" for frame in frames)
    return len(frames)


def read_recorded(file: str) -> Recorded:
    """The latest recorded frames."""
    with open(file) as book:
        return [bytes.fromhex(line) for line in book.readlines()[-_RECORDED_LIMIT:]]


def echo(wire: socket.socket, port: int, seconds: float) -> Sent:
    """Whatever is said, say it again, twice."""
    sent = Sent()
    held: deque[tuple[float, bytes]] = deque()
    said: set[bytes] = set()
    for frame in heard(wire, port, seconds):
        if frame in said:
            continue  # by us, through the other end of the switch
        said.add(frame)
        now = time.monotonic()
        wire.send(frame)
        held.append((now + _ECHO_S, frame))
        sent[way(frame[26:34])] += 1
        while held and held[0][0] <= now:
            old = held.popleft()[1]
            wire.send(old)
            sent[way(old[26:34])] += 1
    return sent


def send(
    wire: socket.socket, frames: Iterator[bytes], seconds: float, rate: float
) -> Sent:
    """Send them at an even pace, or as fast as it goes; how many went."""
    begin, sent, names = time.monotonic(), 0, Counter[bytes]()
    while (now := time.monotonic()) < begin + seconds:
        due = sent + 64 if rate == 0 else int((now - begin) * rate) + 1
        while sent < due:
            frame = next(frames)
            try:
                wire.send(frame)
            except OSError:
                time.sleep(_TICK_S)  # the queue is full
                continue
            names[frame[26:34]] += 1
            sent += 1
        if rate:
            time.sleep(_TICK_S)
    return Sent({way(name): count for name, count in names.items()})


# Frames by hand.


def way(ends: bytes) -> str:
    """From which address it pretends to come, and to which it goes."""
    return f"{socket.inet_ntoa(ends[:4])} {socket.inet_ntoa(ends[4:])}"


def data_of(frame: bytes) -> bytes:
    """The datagram inside of a frame."""
    size = int.from_bytes(frame[38:40], "big")
    return frame[_HEAD : 34 + size]


def with_data(frame: bytes, data: bytes) -> bytes:
    """The same addresses, other data, no UDP checksum."""
    ip = bytearray(frame[14:34])
    ip[2:4] = (28 + len(data)).to_bytes(2, "big")
    ip[10:12] = bytes(2)
    total = sum(struct.unpack(">10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    udp = frame[34:38] + (8 + len(data)).to_bytes(2, "big") + bytes(2)
    return frame[:14] + bytes(ip) + udp + data


def fragments(frame: bytes, data: bytes, ident: int) -> list[bytes]:
    """One huge datagram, as IP carries it."""
    udp = frame[34:38] + (8 + len(data)).to_bytes(2, "big") + bytes(2) + data
    step, made = (_MTU - 20) // 8 * 8, []
    for start in range(0, len(udp), step):
        piece = udp[start : start + step]
        ip = bytearray(frame[14:34])
        ip[2:4] = (20 + len(piece)).to_bytes(2, "big")
        ip[4:6] = (ident & 0xFFFF).to_bytes(2, "big")
        more = 0x2000 if start + step < len(udp) else 0
        ip[6:8] = (more | start // 8).to_bytes(2, "big")
        ip[10:12] = bytes(2)
        total = sum(struct.unpack(">10H", ip))
        total = (total & 0xFFFF) + (total >> 16)
        ip[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
        made.append(frame[:14] + bytes(ip) + piece)
    return made


# The datagrams' envelope as docs/protocol.md has it.


def opened(datagram: bytes) -> list[Any]:
    """[MAJOR, sender, epoch, number, payload]; empty for something else."""
    try:
        parts = msgpack.unpackb(datagram, strict_map_key=False)
    except ValueError:
        return []
    return parts if isinstance(parts, list) and len(parts) >= 5 else []


def closed(parts: list[object]) -> bytes:
    return bytes(msgpack.packb(parts))


def hello(sender: str, epoch: int, number: int, **fields: object) -> bytes:
    """A HELLO in the clear."""
    said = {
        "version": (1, 0),
        "order": sys.byteorder,
        "capabilities": ("zstd",),
        **fields,
    }
    payload = b"\0" + bytes(msgpack.packb([HELLO, said]))
    return closed([MAJOR, sender, epoch, number, payload])


# What an attack sends, without end.


def replayed(recorded: Recorded, draw: Draw) -> Iterator[bytes]:
    """As they were, in order and out of order."""
    while True:
        yield from recorded
        yield from draw.sample(recorded, len(recorded))


def truncated(recorded: Recorded, draw: Draw) -> Iterator[bytes]:
    """Cut short, or with something behind."""
    while True:
        frame = draw.choice(recorded)
        data = data_of(frame)
        room = _MTU - 28 - len(data)
        if room > 0 and draw.random() < 0.2:
            yield with_data(frame, data + draw.randbytes(draw.randrange(1, room + 1)))
        else:
            yield with_data(frame, data[: draw.randrange(len(data))])


def turned(recorded: Recorded, draw: Draw) -> Iterator[bytes]:
    """With turned bits."""
    while True:
        frame = draw.choice(recorded)
        data = bytearray(data_of(frame))
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        yield with_data(frame, bytes(data))


def spliced(recorded: Recorded, draw: Draw) -> Iterator[bytes]:
    """The parts of genuine frames in a new order."""
    datagrams = [(frame, opened(data_of(frame))) for frame in recorded]
    known = [(frame, parts) for frame, parts in datagrams if parts]
    while True:
        frame, first = draw.choice(known)
        _, second = draw.choice(known)
        made = list(first)
        change = draw.randrange(6)
        if change == 0:
            made[4] = second[4]
        elif change == 1:
            made[1] = second[1] if second[1] != made[1] else "fw9"
        elif change == 2:
            made[2] = second[2] if second[2] != made[2] else draw.getrandbits(62)
        elif change == 3:
            made[3] = made[3] + draw.randrange(1, 1 << 20)
        elif change == 4:
            one, two = bytes(made[4]), bytes(second[4])
            middle = draw.randrange(1, max(min(len(one), len(two)), 2))
            made[4] = one[:middle] + two[middle:]
        else:
            made[:4] = second[:4]
        if made != first and made != second:
            yield with_data(frame, closed(made))


def forged(recorded: Recorded, draw: Draw) -> Iterator[bytes]:
    """HELLOs and DATA in the names of real nodes, in the clear and as if sealed."""
    known = [(f, p) for f in recorded if (p := opened(data_of(f)))]
    names = sorted({str(parts[1]) for _, parts in known})
    epochs = {str(parts[1]): int(parts[2]) for _, parts in known}
    highest = dict.fromkeys(names, 0)
    for _, parts in known:
        name, number = str(parts[1]), int(parts[3])
        highest[name] = max(highest[name], number)
    while True:
        frame, parts = draw.choice(known)
        name, other = draw.choice(names), draw.choice(names)
        epoch = epochs[name] if draw.random() < 0.5 else draw.getrandbits(62) + 1
        number = highest[name] + draw.randrange(1, 100_000)
        change = draw.randrange(4)
        if change == 0:
            acks: list[Any] = [
                (other, epochs[other], highest[other], [], -1, 1, 99, 1, 0, 0)
            ]
            made = hello(
                name,
                epoch,
                number,
                role=draw.choice(("primary", "backup", "fault")),
                claim=draw.randrange(1 << 40),
                owner=True,
                reply=True,
                acks=acks,
                services=[(other, epochs[other], 77, 77)],
                digest=(9, 9, 9, 9),
                compare=draw.randrange(1 << 30),
            )
        elif change == 1:
            ends = [draw.randbytes(40) for _ in range(8)]
            content = [DATA, 1, draw.randrange(9), [], ends, [], ends, 0]
            payload = b"\0" + bytes(msgpack.packb(content))
            made = closed([MAJOR, name, epoch, number, payload])
        elif change == 2:
            seal = bytes(parts[4])[:6]
            payload = seal + draw.randbytes(draw.randrange(16, 1200))
            made = closed([MAJOR, name, epoch, number, payload])
        else:
            payload = b"\2" + draw.randbytes(draw.randrange(0, 60))
            made = closed([MAJOR, name, epoch, number, payload])
        yield with_data(frame, made)


def unknown(recorded: Recorded, draw: Draw) -> Iterator[bytes]:
    """HELLOs of nodes that nobody has heard of, each time another one."""
    frame, number = recorded[0], 0
    while True:
        number += 1
        name = f"node{number}"
        yield with_data(frame, hello(name, draw.getrandbits(62) + 1, 1))


def garbage(recorded: Recorded, draw: Draw) -> Iterator[bytes]:
    """Anything."""
    while True:
        size = draw.randrange(0, _MTU - 28)
        yield with_data(draw.choice(recorded), draw.randbytes(size))


def huge(recorded: Recorded, draw: Draw) -> Iterator[bytes]:
    """Datagrams of 64 KiB, in fragments; some are never complete."""
    ident = 0
    while True:
        ident += 1
        pieces = fragments(draw.choice(recorded), draw.randbytes(65_507), ident)
        yield from pieces if draw.random() < 0.8 else pieces[:-1]


def mixed(recorded: Recorded, draw: Draw) -> Iterator[bytes]:
    """A thousand different ones, made once: what a flood is made of."""
    kinds = (replayed, truncated, turned, spliced, forged, unknown, garbage)
    sources = [kind(recorded, draw) for kind in kinds]
    frames = [next(source) for source in sources for _ in range(150)]
    draw.shuffle(frames)
    while True:
        yield from frames


SOURCES: dict[str, Callable[[Recorded, Draw], Iterator[bytes]]] = {
    source.__name__: source
    for source in (
        *(replayed, truncated, turned, spliced, forged, unknown, garbage, huge),
        mixed,
    )
}


if __name__ == "__main__":
    main()
