"""What conntrack helpers change without an event, and when to look at it again.

In: flows that have a helper, expectations as the kernel shows them. Out: keys of flows
to look up now, and which expectations have really changed. The rule: no event tells
that a helper rewrote what is said on a translated TCP connection and so shifted its
sequence numbers (`nf_ct_seqadj_set`), nor that an expectation got other flags or
another timer (a SIP registration); so both are read again on a beat, by few at a time.
"""

from syncd.flows import nla
from syncd.flows.record import (
    CTA_EXPECT_TIMEOUT,
    CTA_HELP,
    status_of,
)

AT_ONCE = 256  # flows that are looked up in one beat
_HELP_BIT = 1 << CTA_HELP
_NAT_BITS = 0x30  # IPS_SRC_NAT, IPS_DST_NAT
_AF_INET, _IPPROTO_TCP = 2, 6


def is_rewritten(key: bytes, body: bytes, mask: int) -> bool:
    """May a helper shift the sequence numbers of this flow?"""
    if not mask & _HELP_BIT or not status_of(body) & _NAT_BITS:
        return False
    at = 36 if key[0] == _AF_INET else 60  # the protocol behind the addresses
    if key[8] > (20 if key[0] == _AF_INET else 44):
        return False
    return key[at : at + 1] == bytes((_IPPROTO_TCP,))


class Helped:
    """Flows whose sequence numbers a helper may shift at any time, in turn."""

    __slots__ = ("_keys", "_soon")

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}
        self._soon: dict[bytes, None] = {}

    def __bool__(self) -> bool:
        return bool(self._keys or self._soon)

    def note(self, key: bytes, body: bytes, mask: int) -> None:
        """A flow was told."""
        if is_rewritten(key, body, mask):
            self._keys[key] = None

    def ask_soon(self, master: bytes) -> None:
        """It is about to change: the event came before it was done."""
        self._soon[master] = None

    def take_masters(self) -> list[bytes]:
        """Those of `ask_soon`, as they were given."""
        masters = list(self._soon)[:AT_ONCE]
        for key in masters:
            del self._soon[key]
        return masters

    def take_turn(self, present: dict[bytes, bytes]) -> list[bytes]:
        """The flows whose turn it is; those that have ended are forgotten."""
        turn = list(self._keys)[:AT_ONCE]
        for key in turn:
            del self._keys[key]
            if key in present:
                self._keys[key] = None
        return [key for key in turn if key in present]


class Timers:
    """How long expectations had when they were looked at last, in seconds."""

    __slots__ = ("_left_s",)

    def __init__(self) -> None:
        self._left_s: dict[bytes, int] = {}

    def moved(self, key: bytes, told: bytes, shown: bytes) -> bool:
        """Does the timer that the kernel shows have to be told?

        That it runs down is no change, unless less than half of what was told is left:
        who hears of it late would grant too much. That it was set anew is one.
        """
        now_s, told_s = _seconds(shown), _seconds(told)
        seen_s = self._left_s.get(key, told_s)
        self._left_s[key] = now_s
        return now_s > seen_s or 2 * now_s < told_s

    def forget_all_but(self, present: dict[bytes, bytes]) -> None:
        """Those that are no more need no memory."""
        if len(self._left_s) > len(present):
            self._left_s = {k: s for k, s in self._left_s.items() if k in present}


def _seconds(body: bytes) -> int:
    start = nla.find(body, CTA_EXPECT_TIMEOUT)
    return int.from_bytes(body[start + 4 : start + 8], "big") if start >= 0 else 0
