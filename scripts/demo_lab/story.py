"""The story of the demo: connections are opened, a firewall dies, what becomes of them.

A replicator and the options come in; steps are told as they happen, and the verdicts
go out.  The rule: state first, addresses second - `promote` has returned before the
first address moves, unless the standby is warm: then nobody promotes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import namespaces, verdict
from .daemons import Replicator
from .namespaces import StageError
from .plan import BACKUP, CLIENT, CONNECTIONS, PRIMARY, SERVER
from .players import OPEN_TIMEOUT_S, Mover, Player, Samples

WARM_UP_S = 2.0
AFTERWARDS_S = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """How the story is to go."""

    strict: bool
    detection_ms: int
    warm: bool = False  # the backup's kernel has the state before anybody asks


class Story:
    """One run."""

    def __init__(
        self,
        replicator: Replicator | None,
        options: Options,
        tell: Callable[[str], None],
    ) -> None:
        self._replicator = replicator
        self._options = options
        self._tell = tell
        self._began = time.monotonic()
        self._last_sample: Samples = {}
        self._client = Player(CLIENT, self._sample)
        self._server = Player(SERVER, lambda _: None)
        self._mover = Mover(BACKUP)

    async def play(self) -> list[verdict.Verdict]:
        """Run the whole story and clean up, however it ends."""
        try:
            await self._set_stage()
            await self._open_connections()
            await self._fail_over()
            await asyncio.sleep(AFTERWARDS_S + 2 * self._options.detection_ms / 1000)
            self._step("all connections are ended and compared")
            client, server = await asyncio.gather(
                self._client.finish(), self._server.finish()
            )
            return verdict.judge(client, server)
        except TimeoutError as late:
            raise StageError("a program of the demo does not answer") from late
        finally:
            if self._replicator is not None:
                self._replicator.stop()
            for player in (self._client, self._server, self._mover):
                await player.end()

    async def _set_stage(self) -> None:
        namespaces.build(strict=self._options.strict)
        settings = " (tcp_be_liberal=0, tcp_loose=0)" if self._options.strict else ""
        self._step(
            "client - fw1 | fw2 - server, stateful rulesets with NAT"
            f"{settings}; fw1 has the addresses"
        )
        await self._mover.start()
        if self._replicator is not None:
            await self._replicator.start()
            self._step("syncd runs on fw1 and fw2, both are in step")
        else:
            self._step("no syncd: fw2 knows nothing of what fw1 tracks")

    async def _open_connections(self) -> None:
        await self._server.start("endpoint", SERVER)
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await self._server.listening.wait()
        await self._client.start("endpoint", CLIENT)
        wanted = {connection.name for connection in CONNECTIONS}
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while missing := wanted - self._client.open:
            if time.monotonic() > deadline:
                raise StageError(
                    f"not opened through fw1: {', '.join(sorted(missing))}"
                )
            await asyncio.sleep(0.05)
        self._step(f"{len(wanted)} connections run through fw1; received each second:")
        self._tell("          " + " ".join(f"{c.name:>10}" for c in CONNECTIONS))
        await asyncio.sleep(WARM_UP_S)
        if self._replicator is not None:
            self._step(await self._replicator.holdings(BACKUP))

    async def _fail_over(self) -> None:
        await asyncio.gather(self._client.tell("watch"), self._server.tell("watch"))
        died = time.monotonic()

        def since() -> str:
            return f"+{(time.monotonic() - died) * 1000:.0f} ms"

        if self._replicator is not None:
            self._replicator.kill(PRIMARY)
        namespaces.cut_cables(PRIMARY)
        what = "links cut" if self._replicator is None else "SIGKILL, links cut"
        self._step(f"{since()}: fw1 is dead ({what})")
        await asyncio.sleep(self._options.detection_ms / 1000)
        if self._replicator is not None and not self._options.warm:
            summary = await self._replicator.promote(BACKUP)
            self._step(f"{since()}: syncd promote on fw2: {summary}")
        await self._mover.move()
        self._step(f"{since()}: addresses are on fw2, announced by ARP and ND")
        await self._client.tell("moved")

    def _step(self, text: str) -> None:
        self._tell(f"{time.monotonic() - self._began:5.1f} s  {text}")

    def _sample(self, received: Samples) -> None:
        cells = []
        for connection in CONNECTIONS:
            new = received[connection.name] - self._last_sample.get(connection.name, 0)
            unit = (
                f"{new} answers" if connection.name == "ftp" else f"{new / 1e6:.2f} MB"
            )
            cells.append(f"{unit if new else '-':>10}")
        self._last_sample = received
        self._tell("          " + " ".join(cells))
