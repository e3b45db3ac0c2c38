"""What was put into this kernel a moment ago need not be put there again.

In: the records of each commit, as they were told. Out: of the records of the next one
those that the kernel has to hear of. The rule: a record is settled if within the last
minute it was committed just as it is told now, the kernel still has it and told nothing
of it since, and its timer, which has run down as the estimate has, is not one that the
estimate sets up again: of that stored, a minute and half are left (`remaining_s`).
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from operator import itemgetter

from syncd.flows.batch import TimedRecord
from syncd.flows.restore import REFRESH_FLOOR_S
from syncd.flows.selection import Selection

SETTLED_S = 60.0  # after which every record is looked at anew
_KEY_AND_BODY = itemgetter(0, 1)
Records = Selection | Sequence[TimedRecord]
_TIMEOUT_HEAD = b"\x08\x00\x07\x00"


class Committed:
    """The records of the latest commits; times are the caller's clock in seconds."""

    __slots__ = ("_bodies", "_since")

    def __init__(self) -> None:
        self._bodies: dict[bytes, bytes] = {}
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self._bodies)

    def note(self, records: Iterable[TimedRecord], now: float) -> None:
        """These records are in the kernel."""
        if self.expired(now):
            self._bodies = {}
            self._since = now
        self._bodies.update(map(_KEY_AND_BODY, records))

    def expired(self, now: float) -> bool:
        """Is the last commit too long ago?"""
        return now - self._since >= SETTLED_S

    def forget(self) -> None:
        """Nothing is known to be in the kernel."""
        self._bodies = {}

    def outstanding(
        self,
        records: Records,
        held: Mapping[bytes, bytes],
        disturbed: Container[bytes] | None,
        now: float,
    ) -> Records:
        """The records that are not settled; `held` is what the kernel has.

        `disturbed` are the keys of which the kernel told something since, None if
        that is not known.
        """
        if not self._bodies or disturbed is None or self.expired(now):
            return records
        committed, present = self._bodies.get, held.get
        outstanding = []
        for record in records:
            key, body, elapsed_s = record
            if committed(key) == body and key not in disturbed:
                there = present(key)
                # REPLY comes first, STATUS (8 bytes) next, then TIMEOUT.
                reply = body[0]
                if there is not None and there[:reply] == body[:reply]:
                    timeout = body[reply + 8 : reply + 16]
                    stored_s = int.from_bytes(timeout[4:])
                    left_s = stored_s - elapsed_s
                    if (
                        timeout[:4] == _TIMEOUT_HEAD
                        and left_s >= REFRESH_FLOOR_S
                        and left_s >= elapsed_s  # Not below the half.
                    ):
                        continue
            outstanding.append(record)
        return outstanding
