"""What fits through the network, which may be narrower in the middle than at its ends.

In: which frames left and how large they were, what peers have lost of them. Out: probes
of several sizes, and a limit for the places that DATA leaves by. The rule of the room:
a peer that loses all large frames in a row and hears small ones raises a suspicion and
nothing else; what then decides are probes, a few of each size, slow enough for any
receiver. Now and then a limit is probed again: the network may have become wider.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from syncd.replication.frame import Numbered
from syncd.replication.outbox import Outbox
from syncd.replication.paths import Paths

# Of a datagram: jumbo frames, tunnels, PPPoE, the least of IPv6, the least of IPv4.
_SIZES = (8900, 4400, 2200, 1440, 1372, 1232, 1000, 750, 548)
_SUSPICIOUS_FRAMES = 16  # large ones that were lost in a row
_SMALL_FRAMES = 2  # that were heard meanwhile
_ROUNDS = 4
_ROUND_S = 0.1
_ANSWER_S = 0.6  # after the last round
_REST_S = 10.0  # after a suspicion that was wrong
_AGAIN_S = (30.0, 600.0)  # after which a limit is probed again, first and longest
_REMEMBERED = 1024  # numbers of large frames

Say = Callable[[str, str], None]


class Narrow:
    """Watches whether full frames arrive, and finds out what does."""

    __slots__ = (
        "_again_s",
        "_due_at",
        "_large",
        "_passed",
        "_paths",
        "_places",
        "_probes",
        "_rounds",
        "_say",
        "_small",
        "_streaks",
    )

    def __init__(self, paths: Paths, say: Say) -> None:
        self._paths = paths
        self._say = say
        self._large: deque[int] = deque(maxlen=_REMEMBERED)
        self._streaks: dict[str, int] = {}  # large frames that a peer lost in a row
        self._small: dict[str, int] = {}  # frames that it heard meanwhile
        self._due_at = math.inf
        self._rounds = 0  # that are left
        self._again_s = _AGAIN_S[0]
        self._places: tuple[int, ...] = ()  # that are probed
        self._probes: dict[int, int] = {}  # number -> size
        self._passed: dict[str, int] = {}  # peer -> largest size that it heard

    def left(self, frames: Iterable[Numbered], payload_bytes: int) -> None:
        """These frames leave, of at most so many bytes each."""
        self._large.extend(
            number for number, payload in frames if 2 * len(payload) > payload_bytes
        )

    def acked(
        self,
        peer: str,
        before: int,
        highest: int,
        lost: Sequence[tuple[int, int]],
        now: float,
    ) -> None:
        """A peer has heard all up to `highest` but what is lost; `before` is known."""
        if highest <= before:
            return
        if self._probes:
            self._probed(peer, before, highest, lost)
        if not lost:
            self._streaks.pop(peer, None)
            self._small.pop(peer, None)
            return
        large = [number for number in self._large if before < number <= highest]
        gone = sum(_within(number, lost) for number in large)
        heard = (
            highest
            - before
            - sum(
                min(last, highest) - max(first, before + 1) + 1
                for first, last in lost
                if last > before
            )
        )
        if gone < len(large):
            self._streaks[peer], self._small[peer] = 0, 0
            return
        self._streaks[peer] = self._streaks.get(peer, 0) + gone
        self._small[peer] = self._small.get(peer, 0) + heard
        if (
            self._streaks[peer] >= _SUSPICIOUS_FRAMES
            and self._small[peer] >= _SMALL_FRAMES
            and not self._places
        ):
            self._due_at = now

    def _probed(
        self, peer: str, before: int, highest: int, lost: Sequence[tuple[int, int]]
    ) -> None:
        sizes = [
            size
            for number, size in self._probes.items()
            if before < number <= highest and not _within(number, lost)
        ]
        self._passed[peer] = max((self._passed.get(peer, 0), *sizes))

    def deadline(self, outbox: Outbox) -> float:
        """When something is to be sent or to be judged."""
        return self._due_at if outbox.acked and outbox.window_open else math.inf

    def frames(self, outbox: Outbox, around: int, now: float) -> list[Numbered]:
        """The probes that are due; `around` is what a payload grows by on its way."""
        if now < self._due_at:
            return []
        if self._places != self._paths.used:  # none yet, or others are used now
            self._begin()
        if not self._rounds:
            self._judge(now)
            return []
        self._rounds -= 1
        self._due_at = now + (_ROUND_S if self._rounds else _ANSWER_S)
        frames = []
        for size in self._sizes():
            if outbox.window_open:
                frames.append(outbox.pack_probe(size - around))
                self._probes[outbox.number] = size
        return frames

    def _begin(self) -> None:
        self._places = self._paths.used
        self._rounds = _ROUNDS
        self._probes, self._passed = {}, {}

    def _sizes(self) -> list[int]:
        """The largest first: a smaller one reveals that it was lost."""
        wide = self._paths.wide(self._places)
        return [wide, *(size for size in _SIZES if size < wide)]

    def _judge(self, now: float) -> None:
        """What passed to everybody who has answered?"""
        paths, places = self._paths, self._places
        before, wide = paths.frame_bytes(places), paths.wide(places)
        passed = {peer: size for peer, size in self._passed.items() if size}
        fits = min(passed.values(), default=before)
        self._places, self._probes = (), {}
        self._streaks.clear()
        self._small.clear()
        if fits != before and places:
            paths.narrow(places, fits if fits < wide else 0)
            self._tell(min(passed, key=lambda peer: passed[peer]), fits, wide)
        if paths.frame_bytes(places) < wide:
            grown = min(2 * self._again_s, _AGAIN_S[1])
            self._again_s = grown if fits == before else _AGAIN_S[0]
            self._due_at = now + self._again_s
        else:
            self._again_s = _AGAIN_S[0]
            self._due_at = math.inf if fits != before else now + _REST_S

    def _tell(self, peer: str, fits: int, wide: int) -> None:
        if fits >= wide:
            self._say("info", f"frames of {wide} bytes pass the network again")
            return
        self._say(
            "warning",
            f"frames of {wide} bytes do not reach {peer}, those of {fits} do: the "
            "network between is narrower than the MTU here; frames are smaller from "
            "now on",
        )


def _within(number: int, ranges: Sequence[tuple[int, int]]) -> bool:
    at = bisect_right(ranges, number, key=lambda pair: pair[0]) - 1
    return at >= 0 and number <= ranges[at][1]
