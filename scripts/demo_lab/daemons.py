"""The pair of syncd daemons of the demo, seen through their commands only.

Each firewall has a configuration, a control socket and a log in one temporary
directory.  The rule: what the demo does with syncd an operator can do with syncd.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .namespaces import StageError, inside
from .plan import FIREWALLS, GROUP, GROUP_PORT

CONFIGURATION = """\
[node]
name = "{name}"

[control]
socket = "{socket}"

[[link]]
type = "multicast"
interface = "sync"
group = "{group}"
port = {port}

[security]
key_file = "{keys}"
"""

WARM = """
[replication]
standby = "kernel"
"""

PATIENCE_S = 15.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Status:
    """What the demo wants to know of `syncd status --json`."""

    in_step: bool
    flows: int
    expectations: int

    @classmethod
    def read(cls, text: str) -> Status:
        """Read the status object."""
        status = json.loads(text)
        peers, held = status["peers"], status["tables"]["peer"]
        return cls(
            in_step=bool(peers) and all(p["state"] == "in-step" for p in peers),
            flows=int(held["flows"]),
            expectations=int(held["expectations"]),
        )


class Replicator(Protocol):
    """What carries the flows from one firewall to the other."""

    async def start(self) -> None:
        """Start on both firewalls; return when both know each other."""

    async def holdings(self, name: str) -> str:
        """Return one line on what the firewall `name` holds of its peer."""

    def kill(self, name: str) -> None:
        """End it on one firewall without a last word."""

    async def promote(self, name: str) -> str:
        """Make `name` the primary; return its summary line when that is done."""

    def stop(self) -> None:
        """End it everywhere."""


class SyncdPair:
    """syncd on both firewalls; `warm` standbys hold the state in their kernels."""

    def __init__(self, directory: Path, *, warm: bool = False) -> None:
        self._directory = directory
        self._more = WARM if warm else ""
        self._keys = directory / "keys"
        self._syncd = str(Path(sys.executable).with_name("syncd"))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self) -> None:
        """Start both, make the first one primary, wait until they are in step."""
        await self._run("keygen", "--key-file", str(self._keys))
        for name in FIREWALLS:
            self._start(name)
        for name in FIREWALLS:
            await self._wait(name, "answers", lambda _: True)
        await self._command(FIREWALLS[0], "promote")
        for name in FIREWALLS:
            await self._wait(name, "is in step", lambda status: status.in_step)

    async def holdings(self, name: str) -> str:
        """Wait for the expectation of the open PASV, then say what the peer told."""
        status = await self._wait(
            name, "holds an expectation", lambda status: status.expectations > 0
        )
        return (
            f"{name} holds {status.flows} flows and {status.expectations} expectation"
            " of its peer"
        )

    def kill(self, name: str) -> None:
        """SIGKILL."""
        running = self._running.pop(name)
        running.kill()
        running.wait()

    async def promote(self, name: str) -> str:
        """Run `syncd promote`."""
        return await self._command(name, "promote")

    def stop(self) -> None:
        """Stop what still runs."""
        for running in self._running.values():
            running.terminate()
        for running in self._running.values():
            try:
                running.wait(timeout=3)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
        self._running.clear()

    def log(self, name: str) -> str:
        """Return what a daemon wrote."""
        path = self._directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _start(self, name: str) -> None:
        path = self._directory / f"{name}.toml"
        path.write_text(
            CONFIGURATION.format(
                name=name,
                socket=self._socket(name),
                group=GROUP,
                port=GROUP_PORT,
                keys=self._keys,
            )
            + self._more
        )
        with (self._directory / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                inside(name, self._syncd, "run", "--config", str(path)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _socket(self, name: str) -> str:
        return str(self._directory / f"{name}.sock")

    async def _command(self, name: str, *words: str) -> str:
        return await self._run(*words, "--socket", self._socket(name))

    async def _run(self, *words: str) -> str:
        client = await asyncio.create_subprocess_exec(
            self._syncd,
            *words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await client.communicate()
        if client.returncode:
            words_said = (err or out).decode().strip()
            raise StageError(f"syncd {' '.join(words)}: {words_said}")
        return out.decode().strip()

    async def _wait(
        self, name: str, what: str, good: Callable[[Status], bool]
    ) -> Status:
        last = ""
        for _ in range(int(PATIENCE_S / POLL_S)):
            if self._running[name].poll() is not None:
                raise StageError(f"syncd on {name} has ended:\n{self.log(name)}")
            try:
                last = await self._command(name, "status", "--json")
            except StageError as refusal:
                last = str(refusal)
            else:
                status = Status.read(last)
                if good(status):
                    return status
            await asyncio.sleep(POLL_S)
        raise StageError(
            f"waited in vain until {name} {what}; last status: {last}\n{self.log(name)}"
        )
