"""Sessions that conntrack helpers follow: FTP, TFTP, IRC, SANE, Amanda.

In: a `Talk`. Out: a generator that plays both ends, says which stage of which round it
has reached, and goes on when it is asked to; an exception is what went wrong. The rule:
each end believes only what reached it through the firewall, translated or not.
"""

import re
import socket
import struct
from collections.abc import Callable
from functools import partial

from tests.kernel.helper_lab import AFTER, ANNOUNCED, CONTROL, DATA, Session, Talk

ROUNDS = (1, 2, 3)
_BYTES = bytes(range(256)) * 40
Ends = tuple[socket.socket, socket.socket]


def line(end: socket.socket) -> str:
    """One line, up to its newline."""
    read = b""
    while not read.endswith(b"\n"):
        part = end.recv(1)
        if not part:
            raise ConnectionError(f"closed after {read!r}")
        read += part
    return read.decode().strip()


def say(speaker: socket.socket, hearer: socket.socket, text: str) -> str:
    """A line as it reaches the other end."""
    speaker.sendall(f"{text}\r\n".encode())
    return line(hearer)


def carry(ends: Ends) -> None:
    """Bytes both ways."""
    for speaker, hearer in (ends, ends[::-1]):
        speaker.sendall(_BYTES)
        left = len(_BYTES)
        while left:
            part = hearer.recv(left)
            if not part:
                raise ConnectionError("data connection closed")
            left -= len(part)


def _transfer(number: int, open_data: Callable[[], Ends]) -> Session:
    """A data connection in two halves."""
    ends = open_data()
    carry(ends)
    yield number, DATA
    carry(ends)
    for end in ends:
        end.close()


def _login(ours: socket.socket, theirs: socket.socket) -> None:
    say(theirs, ours, "220 ready")
    say(ours, theirs, "USER anonymous")
    say(theirs, ours, "331 who")
    say(ours, theirs, "PASS x")
    say(theirs, ours, "230 welcome")


def _announced(text: str) -> tuple[str, int]:
    """The address in a PORT, a 227 or an EPRT."""
    if "|" in text:
        _, _, address, port = text.split("|")[:4]
        return address, int(port)
    found = re.findall(r"\d+", text.partition("(")[2] or text)
    numbers = [int(number) for number in found[:6]]
    return ".".join(map(str, numbers[:4])), numbers[4] << 8 | numbers[5]


def ftp_active(talk: Talk) -> Session:
    """PORT or EPRT; with source NAT each one changes the length of the line anew."""
    ours, theirs = talk.open_control(21)
    _login(ours, theirs)
    yield 1, CONTROL
    for number in ROUNDS:
        listener = talk.inner.listen(talk.client)
        address, port = listener.getsockname()[:2]
        if ":" in address:
            text = f"EPRT |2|{address}|{port}|"
        else:
            text = f"PORT {address.replace('.', ',')},{port >> 8},{port & 255}"
        seen = _announced(say(ours, theirs, text))
        say(theirs, ours, "200 active")
        yield number, ANNOUNCED
        yield from _transfer(
            number,
            partial(talk.data_to_client, listener, seen, (talk.server, 20)),
        )
        say(theirs, ours, "226 complete")
        yield number, AFTER
    say(ours, theirs, "QUIT")


def ftp_passive(talk: Talk) -> Session:
    """PASV or EPSV; with destination NAT the answer is changed."""
    ours, theirs = talk.open_control(21)
    _login(ours, theirs)
    yield 1, CONTROL
    for number in ROUNDS:
        listener = talk.outer.listen(talk.server)
        port = listener.getsockname()[1]
        if ":" in talk.server:
            say(ours, theirs, "EPSV")
            told = say(theirs, ours, f"229 passive (|||{port}|)")
            seen = (talk.target, _announced(told)[1])
        else:
            say(ours, theirs, "PASV")
            numbers = f"{talk.server.replace('.', ',')},{port >> 8},{port & 255}"
            seen = _announced(say(theirs, ours, f"227 passive ({numbers})"))
        yield number, ANNOUNCED
        yield from _transfer(
            number,
            partial(talk.data_to_server, listener, seen),
        )
        say(theirs, ours, "226 complete")
        yield number, AFTER
    say(ours, theirs, "QUIT")


def tftp(talk: Talk) -> Session:
    """The server answers from another port; the first packet expects it."""
    client = talk.inner.udp(talk.client)
    service = talk.outer.shared_udp(talk.server, 69)
    for number in ROUNDS:
        client.sendto(b"\0\1file\0octet\0", (talk.target, 69))
        _, seen = service.recvfrom(100)
        yield number, ANNOUNCED
        answering = talk.outer.udp(talk.server)
        for block in (1, 2):
            answering.sendto(struct.pack(">HH", 3, block) + bytes(512), seen)
            data, origin = client.recvfrom(600)
            assert len(data) == 516
            client.sendto(struct.pack(">HH", 4, block), origin)
            assert answering.recv(100) == struct.pack(">HH", 4, block)
            if block == 1:
                yield number, DATA
        answering.close()
        yield number, AFTER


def irc(talk: Talk) -> Session:
    """DCC: anybody may connect to the client's port."""
    ours, theirs = talk.open_control(6667)
    say(ours, theirs, "NICK alice")
    say(theirs, ours, ":server 001 alice :welcome")
    yield 1, CONTROL
    for number in ROUNDS:
        say(ours, theirs, "PING x")
        say(theirs, ours, "PONG x")
        listener = talk.inner.listen(talk.client)
        address, port = listener.getsockname()[:2]
        whole = int.from_bytes(socket.inet_aton(address))
        told = say(
            ours, theirs, f"PRIVMSG bob :\x01DCC SEND file {whole} {port} 99\x01"
        )
        words = told.split()
        seen = socket.inet_ntoa(int(words[5]).to_bytes(4)), int(words[6])
        yield number, ANNOUNCED
        yield from _transfer(
            number,
            partial(talk.data_to_client, listener, seen, (talk.other, 0)),
        )
        yield number, AFTER
    say(ours, theirs, "QUIT")


def sane(talk: Talk) -> Session:
    """A scanner names the port of its data connection in the answer to START."""
    ours, theirs = talk.open_control(6566)
    yield 1, CONTROL
    for number in ROUNDS:
        ours.sendall(struct.pack(">II", 7, 0))
        theirs.recv(8)
        listener = talk.outer.listen(talk.server)
        port = listener.getsockname()[1]
        theirs.sendall(struct.pack(">IHHI", 0, 0, port, 0x1234))
        _, _, told, _ = struct.unpack(">IHHI", ours.recv(12))
        yield number, ANNOUNCED
        yield from _transfer(
            number,
            partial(talk.data_to_server, listener, (talk.target, told)),
        )
        yield number, AFTER


def amanda(talk: Talk) -> Session:
    """The answer to a request names ports for TCP connections."""
    client = talk.inner.udp(talk.client, 1000 + talk.number)
    service = talk.outer.shared_udp(talk.server, 10080)
    for number in ROUNDS:
        client.sendto(
            f"Amanda 2.3 REQ HANDLE 0 SEQ {number}\n".encode(), (talk.target, 10080)
        )
        _, seen = service.recvfrom(200)
        listener = talk.outer.listen(talk.server)
        port = listener.getsockname()[1]
        reply = (
            f"Amanda 2.3 REP\nCONNECT DATA {port} MESG {port + 1} INDEX {port + 2}\n"
        )
        service.sendto(reply.encode(), seen)
        there = int(client.recv(200).decode().split("DATA ")[1].split()[0])
        yield number, ANNOUNCED
        yield from _transfer(
            number,
            partial(talk.data_to_server, listener, (talk.target, there)),
        )
        yield number, AFTER
