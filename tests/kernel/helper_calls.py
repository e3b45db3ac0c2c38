"""Calls that conntrack helpers follow: SIP over UDP and TCP, PPTP, H.323.

In: a `Talk`. Out: generators as in `helper_talks.py`, by the same rule.
"""

import re
import socket
import struct
from collections.abc import Callable

from tests.kernel.helper_lab import AFTER, ANNOUNCED, CONTROL, DATA, Session, Talk
from tests.kernel.helper_talks import ROUNDS

_SIP, _MEDIA = 5060, 20000
Send = Callable[[str], str]


# SIP: requests and answers as they reach the other end.


def _address(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _description(address: str, port: int, who: str) -> str:
    kind = "IP6" if ":" in address else "IP4"
    return (
        f"v=0\r\no={who} 1 1 IN {kind} {address}\r\ns=-\r\nc=IN {kind} {address}\r\n"
        f"t=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
    )


def _message(first: str, headers: list[str], body: str = "") -> str:
    more = ["Content-Type: application/sdp"] if body else []
    lines = [first, *headers, *more, f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines)


def _headers(talk: Talk, verb: str, number: int, transport: str) -> list[str]:
    here, there = _address(talk.client), _address(talk.target)
    return [
        f"Via: SIP/2.0/{transport} {here}:{_SIP};branch=z9hG4bK{number}{verb}",
        f"From: <sip:alice@{here}:{_SIP}>;tag=a{number}",
        f"To: <sip:bob@{there}>",
        f"Call-ID: {number}-{talk.number}@alice",
        f"CSeq: {number} {verb}",
        f"Contact: <sip:alice@{here}:{_SIP}>",
    ]


def _answered(message: str) -> list[str]:
    """The headers of a request that its answer repeats."""
    names = ("Via:", "From:", "To:", "Call-ID:", "CSeq:")
    return [text for text in message.split("\r\n") if text.startswith(names)]


def _media(message: str) -> tuple[str, int]:
    """Where a description says that media may be sent."""
    address = re.search(r"c=IN IP[46] (\S+)", message)
    port = re.search(r"m=audio (\d+)", message)
    assert address is not None, message
    assert port is not None, message
    return address[1], int(port[1])


def _contact(message: str) -> tuple[str, int]:
    found = re.search(r"Contact: <sip:alice@\[?([0-9a-f.:]+?)\]?:(\d+)>", message)
    assert found is not None, message
    return found[1], int(found[2])


def _media_both_ways(
    alice: socket.socket,
    bob: socket.socket,
    to_alice: tuple[str, int],
    to_bob: tuple[str, int],
) -> None:
    for speaker, hearer, where in ((bob, alice, to_alice), (alice, bob, to_bob)):
        for _ in range(3):
            speaker.sendto(b"\x80" * 40, where)
            assert len(hearer.recv(100)) == 40


def _calls(talk: Talk, ask: Send, answer: Send, transport: str) -> Session:
    """INVITE, media, BYE; `ask` and `answer` carry a message to the other end."""
    for number in ROUNDS:
        # A port that two clients have in common is one that the kernel's helper
        # cannot translate for both: it drops the message.
        ours = theirs = _MEDIA + 40 * talk.number + 10 * number
        alice = talk.inner.udp(talk.client, ours)
        bob = talk.outer.udp(talk.server, theirs)
        text = f"INVITE sip:bob@{_address(talk.target)} SIP/2.0"
        headers = _headers(talk, "INVITE", number, transport)
        told = ask(_message(text, headers, _description(talk.client, ours, "alice")))
        to_alice = _media(told)
        answer(_message("SIP/2.0 180 Ringing", _answered(told)))
        headers = [*_answered(told), f"Contact: <sip:bob@{_address(talk.server)}>"]
        body = _description(talk.server, theirs, "bob")
        to_bob = _media(answer(_message("SIP/2.0 200 OK", headers, body)))
        text = f"ACK sip:bob@{_address(talk.target)} SIP/2.0"
        ask(_message(text, _headers(talk, "ACK", number, transport)))
        yield number, ANNOUNCED
        _media_both_ways(alice, bob, to_alice, to_bob)
        yield number, DATA
        _media_both_ways(alice, bob, to_alice, to_bob)
        text = f"BYE sip:bob@{_address(talk.target)} SIP/2.0"
        told = ask(_message(text, _headers(talk, "BYE", number, transport)))
        answer(_message("SIP/2.0 200 OK", _answered(told)))
        yield number, AFTER


def sip_udp(talk: Talk) -> Session:
    """Calls over UDP: the first packet creates the flow and the expectations."""
    alice = talk.inner.udp(talk.client, _SIP)
    service = talk.outer.shared_udp(talk.server, _SIP)
    seen: list[tuple[str, int]] = [("", 0)]

    def ask(message: str) -> str:
        alice.sendto(message.encode(), (talk.target, _SIP))
        data, origin = service.recvfrom(4000)
        seen[0] = origin[:2]
        return data.decode()

    def answer(message: str) -> str:
        service.sendto(message.encode(), seen[0])
        return alice.recv(4000).decode()

    yield from _calls(talk, ask, answer, "UDP")


def sip_tcp(talk: Talk) -> Session:
    """Calls over TCP: with NAT each message shifts the sequence numbers."""
    ours, theirs = talk.open_control(_SIP)
    yield 1, CONTROL

    def carrier(speaker: socket.socket, hearer: socket.socket) -> Send:
        def send(message: str) -> str:
            speaker.sendall(message.encode())
            read = ""
            while "\r\n\r\n" not in read:
                read += hearer.recv(4000).decode()
            head, _, body = read.partition("\r\n\r\n")
            length = int(head.partition("Content-Length: ")[2].split()[0])
            while len(body) < length:
                body += hearer.recv(4000).decode()
            return f"{head}\r\n\r\n{body}"

        return send

    yield from _calls(talk, carrier(ours, theirs), carrier(theirs, ours), "TCP")


def sip_register(talk: Talk) -> Session:
    """A registration expects calls for as long as it lasts, any number of them."""
    alice = talk.inner.udp(talk.client, _SIP)
    service = talk.outer.shared_udp(talk.server, _SIP)
    for number in ROUNDS:
        text = f"REGISTER sip:{_address(talk.target)} SIP/2.0"
        headers = [*_headers(talk, "REGISTER", number, "UDP"), "Expires: 600"]
        alice.sendto(_message(text, headers).encode(), (talk.target, _SIP))
        data, origin = service.recvfrom(4000)
        told = data.decode()
        where = _contact(told)
        contact = re.search(r"Contact: .*", told)
        assert contact is not None
        headers = [
            *_answered(told),
            f"{contact[0].strip()};expires=600",
            "Expires: 600",
        ]
        service.sendto(_message("SIP/2.0 200 OK", headers).encode(), origin)
        alice.recv(4000)
        yield number, ANNOUNCED
        for step in (1, 2):
            calling = talk.outer.udp(talk.server)
            here = f"{_address(talk.server)}:{calling.getsockname()[1]}"
            text = f"OPTIONS sip:alice@{_address(where[0])}:{where[1]} SIP/2.0"
            headers = [
                f"Via: SIP/2.0/UDP {here};branch=z9hG4bKo{number}{step}",
                f"From: <sip:bob@{here}>;tag=b{number}{step}",
                f"To: <sip:alice@{_address(where[0])}>",
                f"Call-ID: o{number}{step}-{talk.number}@bob",
                f"CSeq: {number} OPTIONS",
            ]
            calling.sendto(_message(text, headers).encode(), where)
            data, origin = alice.recvfrom(4000)
            assert data.startswith(b"OPTIONS"), data
            reply = _message("SIP/2.0 200 OK", _answered(data.decode()))
            alice.sendto(reply.encode(), origin)
            assert calling.recv(4000).startswith(b"SIP/2.0 200")
            if step == 1:
                yield number, DATA
        yield number, AFTER


# PPTP: a control connection, and GRE with the keys that it has agreed on.


def _control(kind: int, body: bytes) -> bytes:
    return struct.pack(">HHIHH", 12 + len(body), 1, 0x1A2B3C4D, kind, 0) + body


def _gre(key: int, number: int) -> bytes:
    payload = b"\xff\x03\xc0\x21" + bytes(40)
    return struct.pack(">HHHHI", 0x3001, 0x880B, len(payload), key, number) + payload


def _sent(speaker: socket.socket, hearer: socket.socket, message: bytes) -> bytes:
    speaker.sendall(message)
    read = b""
    while len(read) < len(message):
        read += hearer.recv(len(message) - len(read))
    return read


def pptp(talk: Talk) -> Session:
    """One call after the other; the data is GRE version 1."""
    ours, theirs = talk.open_control(1723)
    names = bytes(128)
    _sent(ours, theirs, _control(1, struct.pack(">HHIIHH", 256, 0, 3, 3, 0, 1) + names))
    start = struct.pack(">HBBIIHH", 256, 1, 0, 3, 3, 0, 1)
    _sent(theirs, ours, _control(2, start + names))
    yield 1, CONTROL
    for number in ROUNDS:
        mine, his = 1000 + talk.number * 8 + number, 3000 + talk.number * 8 + number
        request = struct.pack(
            ">HHIIIIHHHH", mine, number, 300, 100000, 3, 3, 64, 0, 0, 0
        )
        told = _sent(ours, theirs, _control(7, request + bytes(128)))
        (seen,) = struct.unpack_from(">H", told, 12)
        reply = struct.pack(">HHBBHIHHI", his, seen, 1, 0, 0, 100000, 64, 0, 0)
        told = _sent(theirs, ours, _control(8, reply))
        (answered, back) = struct.unpack_from(">HH", told, 12)
        assert back == mine
        yield number, ANNOUNCED
        client = talk.inner.bind_raw(talk.client, socket.IPPROTO_GRE)
        server = talk.outer.bind_raw(talk.server, socket.IPPROTO_GRE)
        try:
            for step in (1, 2):
                client.sendto(_gre(answered, step), (talk.target, 0))
                origin = _heard(server, his)
                server.sendto(_gre(seen, step), (origin, 0))
                _heard(client, mine)
                if step == 1:
                    yield number, DATA
        finally:
            client.close()
            server.close()
        _sent(ours, theirs, _control(12, struct.pack(">HH", mine, 0)))
        hung_up = struct.pack(">HBBHH", his, 1, 0, 0, 0) + names
        _sent(theirs, ours, _control(13, hung_up))
        yield number, AFTER


def _heard(hearer: socket.socket, key: int) -> str:
    """Wait for a GRE packet with this key; who sent it."""
    while True:
        data, origin = hearer.recvfrom(2000)
        if struct.unpack_from(">H", data, 20 + 6)[0] == key:
            return str(origin[0])


# H.323: Q.931 names the address of H.245, which names those of the media.


def _q931(address: str, port: int) -> bytes:
    """SETUP with an h245Address (packed encoding rules, by hand)."""
    where = socket.inet_pton(
        socket.AF_INET6 if ":" in address else socket.AF_INET, address
    )
    kind = b"\x30" if ":" in address else b"\x00"
    body = (
        *(b"\x00\x40", b"\x06\x00\x08\x91\x4a\x00\x04", kind, where),
        *(struct.pack(">H", port), b"\x00\x00", bytes(16), b"\x00"),
    )
    content = b"\x05" + b"".join(body)
    message = b"\x08\x02\x00\x01\x05\x7e" + struct.pack(">H", len(content)) + content
    return struct.pack(">BBH", 3, 0, 4 + len(message)) + message


def h323(talk: Talk) -> Session:
    """SETUP in which the caller says where it listens for H.245."""
    ours, theirs = talk.open_control(1720)
    yield 1, CONTROL
    for number in ROUNDS:
        listener = talk.inner.listen(talk.client)
        port = listener.getsockname()[1]
        told = _sent(ours, theirs, _q931(talk.client, port))
        size = 16 if ":" in talk.client else 4
        at = 4 + 8 + 1 + 2 + 7 + 1
        where = told[at : at + size]
        family = socket.AF_INET6 if size == 16 else socket.AF_INET
        seen = (
            socket.inet_ntop(family, where),
            struct.unpack_from(">H", told, at + size)[0],
        )
        _sent(theirs, ours, struct.pack(">BBH", 3, 0, 9) + b"\x08\x02\x80\x01\x02")
        yield number, ANNOUNCED
        ends = talk.data_to_client(listener, seen, (talk.server, 0))
        keep = struct.pack(">BBH", 3, 0, 6) + b"\xff\xff"
        for end in ends:
            end.sendall(keep)
        for end in ends:
            assert end.recv(100) == keep
        yield number, DATA
        for end in ends:
            end.sendall(keep)
        for end in ends:
            assert end.recv(100) == keep
            end.close()
        yield number, AFTER
