"""Flows in zones, found by what the kernel says of them elsewhere.

In: keys of flows. Out: for a tuple without its zone, the keys of the flows with it.
Expectations and CTA_TUPLE_MASTER name a master by its tuple alone (ctnetlink.md,
sections 2 and 8); several flows of one tuple can live in several zones.
"""

from collections.abc import Container, Iterator

_ZONE_BYTES = 8  # CTA_ZONE behind the tuple, or CTA_TUPLE_ZONE as its last part
_SLACK = 64


def plain_key(key: bytes) -> bytes:
    """The key of the same tuple in zone 0."""
    tuple_end = 4 + (key[4] | key[5] << 8)
    if tuple_end < len(key):
        return key[:-_ZONE_BYTES]
    # Addresses, protocol part, and in a zone of this direction only CTA_TUPLE_ZONE.
    protocol = 8 + (key[8] | key[9] << 8)
    if protocol + (key[protocol] | key[protocol + 1] << 8) < tuple_end:
        length = (tuple_end - 4 - _ZONE_BYTES).to_bytes(2, "little")
        return key[:4] + length + key[6:-_ZONE_BYTES]
    return key


def zone_of_original(key: bytes) -> bytes | None:
    """The 2 bytes of the zone in which the original direction of a flow is.

    They find the flow, whether the other direction is in the same zone or in none.
    """
    plain = plain_key(key)
    if plain == key:
        return None
    end = len(key) - _ZONE_BYTES
    return key[end + 4 : end + 6]


class ZonedKeys:
    """The flows that are in a zone, by their plain keys; forgets them by the way."""

    __slots__ = ("_count", "_keys")

    def __init__(self) -> None:
        self._keys: dict[bytes, set[bytes]] = {}
        self._count = 0

    def note(self, key: bytes, present: Container[bytes]) -> None:
        """A flow was told; what is no longer `present` is forgotten now and then."""
        plain = plain_key(key)
        if plain == key:
            return
        keys = self._keys.setdefault(plain, set())
        if key not in keys:
            keys.add(key)
            self._count += 1
            if self._count > _SLACK:
                self._sweep(present)

    def __bool__(self) -> bool:
        """Was any flow in a zone noted?"""
        return bool(self._keys)

    def masters(self, plain: bytes, present: Container[bytes]) -> Iterator[bytes]:
        """The keys of the flows with this tuple, that of zone 0 first."""
        if plain in present:
            yield plain
        for key in self._keys.get(plain, ()):
            if key in present:
                yield key

    def _sweep(self, present: Container[bytes]) -> None:
        """Forget flows that have ended; the next sweep comes after as many again."""
        kept = {
            plain: alive
            for plain, keys in self._keys.items()
            if (alive := {key for key in keys if key in present})
        }
        self._keys = kept
        self._count = -sum(map(len, kept.values()))
