"""Expectations that anybody may meet: their source address is masked out.

In: an expectation, and its master as this kernel has it. Out: an objection, or none. A
helper that reads what a browser was made to send opens a port to the whole world this
way (NAT slipstreaming); docs/security.md says which helpers have a use for it.

The rule: "accept" objects to none, "refuse" to all. "restrict" wants all of these:

- the master is there and goes both ways: TCP ESTABLISHED, others answered;
- what is expected leads to an end of the master, before and behind its translation:
  nobody names a third host;
- its port is 1024 or more, before and behind the translation;
- it is granted no longer than `LONGEST_S`, whatever was left of it.
"""

from typing import Final

from syncd.errors import RecordError
from syncd.flows import nla
from syncd.flows.record import (
    CTA_EXPECT_NAT,
    CTA_EXPECT_NAT_TUPLE,
    CTA_IP_V4_DST,
    CTA_IP_V4_SRC,
    CTA_IP_V6_DST,
    CTA_IP_V6_SRC,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_SRC_PORT,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_STATE,
    CTA_TUPLE_IP,
    CTA_TUPLE_PROTO,
    status_of,
)

ACCEPT, RESTRICT, REFUSE = "accept", "restrict", "refuse"
WORDS: Final = (RESTRICT, ACCEPT, REFUSE)
LONGEST_S = 300
LOWEST_PORT = 1024

BY_POLICY = "any source"
MASTER_GONE = "master not established"
THIRD_HOST = "not an end of its master"
LOW_PORT = "port below 1024"

_SEEN_REPLY, _ESTABLISHED = 0x2, 3


class Wildcards:
    """What is done with them, and how often something was refused and why."""

    __slots__ = ("_news", "not_committed", "not_told", "word")

    def __init__(self, word: str = RESTRICT) -> None:
        self.word = word
        self.not_told = 0
        self.not_committed: dict[str, int] = {}
        self._news: list[str] = []

    def untold(self) -> None:
        """One was not told to the peers."""
        if not self.not_told:
            self._news.append(
                "wildcard expectations (any source) are not told to peers"
            )
        self.not_told += 1

    def uncommitted(self, reason: str) -> None:
        """One was not put into this kernel."""
        if reason not in self.not_committed:
            self._news.append(
                f"a wildcard expectation (any source) was not committed: {reason}"
            )
        self.not_committed[reason] = self.not_committed.get(reason, 0) + 1

    def take_news(self) -> list[str]:
        """What was refused for the first time since the last call, a sentence each."""
        news, self._news = self._news, []
        return [
            f'{text}; [replication] wildcard_expectations = "{self.word}"'
            for text in news
        ]


def is_wildcard(key: bytes) -> bool:
    """May the source be any address? `key` is that of an expectation."""
    at = 4 + int.from_bytes(key[4:6], "little") + 12
    size = 4 if key[0] == 2 else 16
    mask = key[at : at + size]
    return len(mask) == size and not any(mask)


def objection(key: bytes, body: bytes, master: tuple[bytes, bytes] | None) -> str:
    """Why "restrict" refuses a wildcard expectation, "" if it does not.

    `master` is key and body of the flow as this kernel has it, None if it has not.
    """
    try:
        if master is None or not _is_alive(master[1]):
            return MASTER_GONE
        ends = _addresses(master[0], 4) | _addresses(master[1], 0)
        targets = [_end(key, 4, CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)]
        nat = nla.values(nla.values(body).get(CTA_EXPECT_NAT, b""))
        if CTA_EXPECT_NAT_TUPLE in nat:
            saved = nla.tlv(CTA_EXPECT_NAT_TUPLE, nat[CTA_EXPECT_NAT_TUPLE])
            target = _end(saved, 0, CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)
            # What was not saved follows the master.
            address = target[0] if any(target[0]) else targets[0][0]
            targets.append((address, target[1] or targets[0][1]))
    except RecordError:
        return THIRD_HOST
    if any(address not in ends for address, _ in targets):
        return THIRD_HOST
    return LOW_PORT if any(port < LOWEST_PORT for _, port in targets) else ""


def _is_alive(body: bytes) -> bool:
    """Does the flow go both ways, and is it not about to end?"""
    protoinfo = nla.values(nla.values(body).get(CTA_PROTOINFO, b""))
    if CTA_PROTOINFO_TCP not in protoinfo:
        return bool(status_of(body) & _SEEN_REPLY)
    state = nla.values(protoinfo[CTA_PROTOINFO_TCP]).get(CTA_PROTOINFO_TCP_STATE, b"")
    return state == bytes((_ESTABLISHED,))


def _addresses(data: bytes, start: int) -> set[bytes]:
    """Both addresses of the tuple that begins there."""
    return set(nla.values(_parts(data, start).get(CTA_TUPLE_IP, b"")).values())


def _end(data: bytes, start: int, four: int, six: int, port: int) -> tuple[bytes, int]:
    """Address and port of one end of the tuple that begins there."""
    parts = _parts(data, start)
    addresses = nla.values(parts.get(CTA_TUPLE_IP, b""))
    ends = nla.values(parts.get(CTA_TUPLE_PROTO, b""))
    address = addresses.get(four) or addresses.get(six) or b""
    return address, int.from_bytes(ends.get(port, b""), "big")


def _parts(data: bytes, start: int) -> dict[int, bytes]:
    end = start + int.from_bytes(data[start : start + 2], "little")
    return nla.values(data, start + 4, end)
