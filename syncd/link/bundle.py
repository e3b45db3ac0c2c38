"""The links of a node, in order of preference.

In: the configured links, facts about interfaces, datagrams to send, each for the place
of a link in the list. Out: the datagrams of all links, each with its place. The rule: a
datagram that its link does not take is not sent over another one, since the replication
marks its flows again anyway; a link that is slow delays no other one.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import partial

from syncd.config_link import LinkConfig
from syncd.link.facts import Batch, LinkState, LinkStatus
from syncd.link.tcp import TcpLink
from syncd.link.udp import UdpLink


class LinkBundle:
    """The links of a node; the replication says which of them are used."""

    def __init__(
        self,
        configs: Iterable[LinkConfig],
        on_datagrams: Callable[[int, Batch], bool],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_datagrams` is given the link's place in the list, and what it heard, and
        says whether some of it was genuine; `on_change` is called when a link has
        changed by itself."""
        self.links = tuple(
            TcpLink(config, partial(on_datagrams, place), on_change)
            if config.type == "tcp"
            else UdpLink(config, partial(on_datagrams, place))
            for place, config in enumerate(configs)
        )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The interfaces to watch, each by its name or by an address that it has."""
        return tuple(dict.fromkeys(link.name for link in self.links))

    @property
    def active(self) -> bool:
        """Can anything leave?"""
        return any(link.state is LinkState.ACTIVE for link in self.links)

    def interface_changed(
        self, name: str, index: int | None, mtu: int, addresses: Collection[str]
    ) -> None:
        """Pass the facts on to the links that want this name (see `wanted`)."""
        for link in self.links:
            if link.name == name:
                link.interface_changed(index, mtu, addresses)

    async def send(self, datagrams: Iterable[tuple[int, bytes]]) -> int:
        """Send each over the link at its place, return how many left."""
        shares: dict[int, list[bytes]] = {}
        for place, datagram in datagrams:
            shares.setdefault(place, []).append(datagram)
        if len(shares) == 1:
            ((place, share),) = shares.items()
            return await self.links[place].send(share)
        sending = (self.links[place].send(share) for place, share in shares.items())
        return sum(await asyncio.gather(*sending))

    def status(self) -> list[LinkStatus]:
        return [link.status() for link in self.links]

    def close(self) -> None:
        for link in self.links:
            link.close()
