"""Several links as one, in order of preference.

In: the configured links, facts about interfaces, datagrams to send, each for the place
of a link in the list. Out: the datagrams of all links, each with its place. The rule: a
datagram that its link does not take is not sent over another one, since the replication
marks its flows again anyway.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial

from syncd.config_link import LinkConfig
from syncd.link.udp import Batch, LinkState, LinkStatus, UdpLink

_LOG = logging.getLogger("syncd.link")


class LinkBundle:
    """The links of a node; one of them is used for sending."""

    def __init__(
        self, configs: Iterable[LinkConfig], on_datagrams: Callable[[int, Batch], None]
    ) -> None:
        """`on_datagrams` is given the link's place in the list, and what it heard."""
        self.links = tuple(
            UdpLink(config, partial(on_datagrams, place))
            for place, config in enumerate(configs)
        )
        self._used: UdpLink | None = None

    @property
    def wanted(self) -> tuple[str, ...]:
        """The interfaces to watch, each by its name or by an address that it has."""
        return tuple(dict.fromkeys(link.name for link in self.links))

    @property
    def sender(self) -> UdpLink | None:
        """The link that datagrams leave by now."""
        for link in self.links:
            if link.state is LinkState.ACTIVE:
                return link
        return None

    @property
    def frame_bytes(self) -> int:
        """What fits into a frame on every active link, or else on every link."""
        active = [link for link in self.links if link.state is LinkState.ACTIVE]
        return min(link.frame_bytes for link in active or self.links)

    def interface_changed(
        self, name: str, index: int | None, mtu: int, addresses: Collection[str]
    ) -> None:
        """Pass the facts on to the links that want this name (see `wanted`)."""
        for link in self.links:
            if link.name == name:
                link.interface_changed(index, mtu, addresses)
        self._note_switch()

    async def send(self, datagrams: Iterable[tuple[int, bytes]]) -> int:
        """Send each over the link at its place, return how many left."""
        self._note_switch()
        shares: dict[int, list[bytes]] = {}
        for place, datagram in datagrams:
            shares.setdefault(place, []).append(datagram)
        return sum([await self.links[at].send(share) for at, share in shares.items()])

    def status(self) -> list[LinkStatus]:
        return [link.status() for link in self.links]

    def close(self) -> None:
        for link in self.links:
            link.close()

    def _note_switch(self) -> None:
        """One line in the log when another link takes over."""
        sender = self.sender
        if sender is self._used:
            return
        before = self._used
        self._used = sender
        if sender is None:
            _LOG.warning("no link is active: nothing can be sent")
        elif before is not None:
            _LOG.warning("sending over %s, no longer over %s", sender.name, before.name)
        elif len(self.links) > 1:
            _LOG.info("sending over %s", sender.name)
