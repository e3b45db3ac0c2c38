"""Copies of expectations that packets have met: their peer has not heard of it.

In: expectations that the kernel ended, what the peers tell. Out: is this one over? The
rules: an expectation that no program has ended, while its master lives on, was met,
gave way to the next one of its master, or ran out. It stays away as long as its peer
says nothing new: put there again it would drive out the one that the helper has just
announced (FTP has room for one). If its master went too, both are planted again.
"""

from collections.abc import Callable

from syncd.flows.own import Own
from syncd.flows.planted import Planted
from syncd.flows.record import master_of
from syncd.replication.told import Told


class Met:
    """Of one warm standby."""

    __slots__ = ("_bodies", "_own", "_register", "_told")

    def __init__(
        self, own: Own, told: Callable[[bytes], Told | None], register: Planted
    ) -> None:
        self._own = own
        self._told = told
        self._register = register
        self._bodies: dict[bytes, bytes] = {}  # what was told of it then

    def note(self) -> None:
        """What the kernel has ended since is planted no more."""
        own, register = self._own, self._register
        if not own.met:
            return
        ended, own.met = own.met, []
        self._bodies = {key: b for key, b in self._bodies.items() if self._same(key)}
        for key in map(register.name, ended):
            told = self._told(key)
            if told is not None and not self._is_uprooted(master_of(told[1])):
                self._bodies[key] = told[1]
                register.forget(key)

    def over(self, key: bytes, body: bytes) -> bool:
        """Was it met, and nothing was told of it since?"""
        return bool(self._bodies) and self._bodies.get(key) is body

    def master_went(self, master: bytes) -> list[bytes]:
        """The copy of a flow has gone, and these expectations of it had to."""
        if not self._bodies:
            return []
        gone = [
            key
            for key, body in self._bodies.items()
            if master.startswith(master_of(body))
        ]
        for key in gone:
            del self._bodies[key]
        return gone

    def _same(self, key: bytes) -> bool:
        told = self._told(key)
        return told is not None and self._bodies[key] is told[1]

    def _is_uprooted(self, master: bytes) -> bool:
        return any(key.startswith(master) for key in self._own.uprooted)
