"""The last step of a frame: into an envelope for each link that it leaves by.

In: numbered payloads of DATA, and HELLOs. Out: datagrams, each with the place of its
link. The rule of the room: DATA leaves by the places in use, every HELLO by every link
that can be used; each copy of it names its link, and fits it.
"""

from collections.abc import Sequence
from dataclasses import replace

from syncd.replication.frame import Coder, Numbered, envelope_bytes
from syncd.replication.hello import Hello
from syncd.replication.paths import Paths
from syncd.replication.seal import Sealer


class Departure:
    """Wraps what one node sends."""

    __slots__ = ("_coder", "_paths", "_sealer")

    def __init__(self, coder: Coder, sealer: Sealer, paths: Paths) -> None:
        self._coder = coder
        self._sealer = sealer
        self._paths = paths

    def room(self, node: str, places: Sequence[int]) -> int:
        """A payload so large fits each of these links, with all that is around it."""
        around = envelope_bytes(node) + self._sealer.overhead
        return self._paths.frame_bytes(places) - around

    def wrap(
        self,
        origin: tuple[str, int] | None,
        frames: Sequence[Numbered],
        hellos: Sequence[tuple[int, Hello]],
    ) -> list[tuple[int, bytes]]:
        """The datagrams; with an `origin` (node, epoch) they are not sealed."""
        leaving = [
            (place, number, payload)
            for number, payload in frames
            for place in self._paths.used
        ] + [
            (place, number, self._coder.pack_hello(self._named(hello, place)))
            for number, hello in hellos
            for place in self._paths.usable
        ]
        if origin is None:
            seal = self._sealer.seal
            return [(at, seal(at, number, payload)) for at, number, payload in leaving]
        wrap, (node, epoch) = self._coder.wrap, origin
        return [
            (at, wrap(node, epoch, number, payload)) for at, number, payload in leaving
        ]

    def _named(self, hello: Hello, place: int) -> Hello:
        return replace(hello, way=self._paths.way(place))
