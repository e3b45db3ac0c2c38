"""The programs that play in the namespaces, as the conductor sees them.

Words go in on their stdin, event lines come out of their stdout.  The rule: a program
that ends before its time ends the demo with what it wrote to stderr.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable

from .namespaces import StageError, inside

Samples = dict[str, int]
OPEN_TIMEOUT_S = 10.0
REPORT_TIMEOUT_S = 8.0


class Player:
    """One program in one namespace."""

    def __init__(self, name: str, on_sample: Callable[[Samples], None]) -> None:
        self.name = name
        self.open: set[str] = set()
        self.listening = asyncio.Event()
        self.reports: asyncio.Future[dict[str, dict[str, object]]]
        self.reports = asyncio.get_running_loop().create_future()
        self._on_sample = on_sample
        self._running: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self, module: str, *arguments: str) -> None:
        """Start a module of this package in the namespace."""
        self._running = await asyncio.create_subprocess_exec(
            *inside(self.name, sys.executable, "-m", f"demo_lab.{module}", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read())

    async def tell(self, word: str) -> None:
        """Send one word."""
        assert self._running is not None
        assert self._running.stdin is not None
        try:
            self._running.stdin.write(word.encode() + b"\n")
            await self._running.stdin.drain()
        except ConnectionError as gone:
            raise StageError(f"the program in {self.name} has ended") from gone

    async def finish(self) -> dict[str, dict[str, object]]:
        """Stop it and return its report."""
        await self.tell("stop")
        async with asyncio.timeout(REPORT_TIMEOUT_S):
            return await self.reports

    async def end(self) -> None:
        """End it at once if it still runs."""
        if self._reading is not None:
            self._reading.cancel()
        if self._running is not None and self._running.returncode is None:
            self._running.kill()
            await self._running.wait()

    async def _read(self) -> None:
        assert self._running is not None
        assert self._running.stdout is not None
        while line := await self._running.stdout.readline():
            event = json.loads(line)
            match event["event"]:
                case "open":
                    self.open.add(event["name"])
                case "listening":
                    self.listening.set()
                case "sample":
                    self._on_sample(event["received"])
                case "report":
                    self.reports.set_result(event["reports"])
        if not self.reports.done():
            self.reports.set_exception(
                StageError(f"the program in {self.name} ended before its report")
            )
            self.reports.exception()  # it may be that nobody asks any more


class Mover:
    """The stand-by that moves the virtual addresses to its firewall."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; return when it is ready."""
        self._running = await asyncio.create_subprocess_exec(
            *inside(self._name, sys.executable, "-m", "demo_lab.announce"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        await self._expect(b"ready")

    async def move(self) -> None:
        """Give the word; return when addresses and announcements are out."""
        assert self._running is not None
        assert self._running.stdin is not None
        self._running.stdin.write(b"move\n")
        await self._running.stdin.drain()
        await self._expect(b"moved")

    async def end(self) -> None:
        """End it if it still runs."""
        if self._running is not None and self._running.returncode is None:
            self._running.kill()
            await self._running.wait()

    async def _expect(self, word: bytes) -> None:
        assert self._running is not None
        assert self._running.stdout is not None
        line = (await self._running.stdout.readline()).strip()
        if line != word:
            raise StageError(f"the program in {self._name} said {line!r}, not {word!r}")
