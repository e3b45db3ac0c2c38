"""The commands: what each one does, when it is done, and what it answers.

In: a command with checked options, from the control socket. Out: answers, the last one
with "ok". The rule: a command answers with the outcome, never with "begun"; those that
change something run one after the other, and each has a bound on its time.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
)
from typing import TYPE_CHECKING

from syncd.daemon.commands import Answer, message_rows, table_rows
from syncd.daemon.metrics import metrics_text
from syncd.daemon.secrecy import keys_answer
from syncd.daemon.takeover import Takeover
from syncd.daemon.verification import verify
from syncd.errors import ControlError, KernelError
from syncd.flows import restore
from syncd.flows.commit import Result
from syncd.flows.reader import RecordReader
from syncd.kernel.requests import Dumped
from syncd.replication.inbox import SATISFIED
from syncd.replication.peer import Peer
from syncd.replication.roles import PRIMARY, sources

if TYPE_CHECKING:
    from syncd.daemon.node import Node

_LOG = logging.getLogger("syncd")
_WAIT_S = 10.0  # for peers, when a command names no timeout
_FLUSH_S = 3.0  # for the last changes to reach the peers, within demote and fault
_LOOK_S = 0.01
_ROWS = 256  # answers that are made before others get their turn
_DELETE_BATCH = 512


class Operations:
    """Answers the control socket's commands for one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._engine = node.engine
        self._turn = asyncio.Lock()
        self._takeover = Takeover(
            *(node.engine, node.requests, node.listener),
            lambda: node.config.commit,
            node.warm,
        )
        self._commands: dict[str, Callable[[dict[str, object]], Awaitable[Answer]]] = {
            "status": self._status,
            "metrics": self._metrics,
            "config": self._config,
            "verify": self._verify,
            "commit": self._commit,
            "flush": self._flush,
            "resync": self._resync,
            "promote": self._promote,
            "demote": self._demote,
            "fault": self._fault,
            "stop": self._stop,
            "keys": self._keys,
        }

    async def answer(
        self, command: str, options: dict[str, object]
    ) -> AsyncGenerator[Answer, None]:
        """See `commands.Commands`."""
        if command not in ("show", "watch"):
            yield await self._commands[command](options)
            return
        rows = self._show(options)
        if command == "watch":
            self._named_peers(options)
            rows = self._node.watching.watch(options)
        async with contextlib.aclosing(rows):
            async for row in rows:
                yield row

    @property
    def busy(self) -> bool:
        """Is a command at work, or what was committed not in the own tables yet?"""
        return self._turn.locked() or self._takeover.adopting

    @property
    def last_commit(self) -> dict[str, object] | None:
        """What the last commit did, as status shows it."""
        return self._takeover.last

    async def _status(self, _: dict[str, object]) -> Answer:
        return self._node.status() | {"ok": True}

    async def _metrics(self, _: dict[str, object]) -> Answer:
        return {"text": metrics_text(self._node.status()), "ok": True}

    async def _keys(self, options: dict[str, object]) -> Answer:
        if options.get("what") == "reload":
            self._node.read_keys(self._node.config)
        return keys_answer(self._engine)

    async def _config(self, options: dict[str, object]) -> Answer:
        """Is that file the one in force, so that a client need not check it?"""
        config = self._node.config
        in_force = options["fingerprint"] == config.fingerprint
        return {"ok": in_force, "path": config.path}

    async def _stop(self, options: dict[str, object]) -> Answer:
        await self.wind_up(options)
        asyncio.get_running_loop().call_soon(self._node.stopped.set)
        return {"ok": True}

    async def wind_up(self, options: dict[str, object]) -> None:
        """Return when the peers know what a promotion has made ours, or soon."""
        if self._takeover.adopting:
            await self._takeover.settle()
            await self._until(self._nothing_to_tell, options, _FLUSH_S)

    # Tables for the eye

    async def _show(self, options: dict[str, object]) -> AsyncGenerator[Answer, None]:
        what: Dumped = (
            "expectations" if options.get("what") == "expectations" else "flows"
        )
        table = options.get("table", "own")
        count = 0
        if table == "kernel":
            async for chunk in self._node.reader.dump(what):
                for row in message_rows(chunk, options):
                    count += 1
                    yield row
        else:
            for rows in self._tables(what, table, options):
                for row in rows:
                    count += 1
                    if count % _ROWS == 0:
                        await asyncio.sleep(0)
                    yield row
        yield {"ok": True, "count": count}

    def _tables(
        self, what: str, table: object, options: dict[str, object]
    ) -> Iterable[Iterable[Answer]]:
        if table == "own":
            own = self._engine.own
            bodies = own.flows.bodies if what == "flows" else own.expectations.bodies
            yield table_rows(bodies, None, options)
            return
        for peer in self._named_peers(options):
            told = peer.flows if what == "flows" else peer.expectations
            yield table_rows(told.bodies, peer.name, options)

    def _named_peers(self, options: dict[str, object]) -> list[Peer]:
        """All peers, or the one that was asked for."""
        name = options.get("peer")
        if name is None:
            return list(self._engine.peers.values())
        peer = self._engine.peers.get(str(name))
        if peer is None:
            known = ", ".join(self._engine.peers) or "none"
            raise ControlError(f"no peer is called {name}; known: {known}")
        return [peer]

    # Putting state into the kernel

    async def _commit(self, options: dict[str, object]) -> Answer:
        async with self._turn:
            peers = self._named_peers(options)
            peers.sort(key=lambda peer: (-peer.claim, peer.name))
            result = await self._takeover.commit(peers)
            _taken_over(peers, result)
            return self._commit_answer(result)

    def _commit_answer(self, result: Result) -> Answer:
        """What status shows of this commit, and why it is not `ok`."""
        answer: Answer = {
            **(self.last_commit or {}),
            "ok": not result.failures and not result.error,
        }
        if result.error:
            answer["error"] = result.error
        elif result.failures:
            reasons = ", ".join(f"{n} {why}" for why, n in result.failed.items())
            answer["error"] = f"{result.failures} records failed: {reasons}"
        return answer

    # Roles

    async def _promote(self, _: dict[str, object]) -> Answer:
        async with self._turn:
            engine = self._engine
            lacking = engine.lacking
            if lacking:
                _LOG.warning("promote before this node is ready: %s", lacking)
            peers = sources(engine.peers.values())
            result = await self._takeover.commit(peers, take_held=True)
            before = engine.roles.role
            engine.promote(time.monotonic())
            _say_role(before, engine.roles.role)
            _taken_over(peers, result)
            for peer in peers:
                if not result.failures:
                    peer.take()
            # The address may move now. The kernel is read anew (see `Takeover`) and the
            # peers are told in the background: a dead peer must not delay a takeover.
            self._node.pump()
            answer: Answer = {"role": PRIMARY, "was_ready": not lacking}
            if lacking:
                answer["warning"] = f"promoted before this node was ready: {lacking}"
            return answer | self._commit_answer(result)

    async def _demote(self, options: dict[str, object]) -> Answer:
        return await self._retire(self._engine.demote, options)

    async def _fault(self, options: dict[str, object]) -> Answer:
        return await self._retire(self._engine.fault, options)

    async def _retire(
        self, change: Callable[[float], None], options: dict[str, object]
    ) -> Answer:
        """Ends are held back from here on; then what happened before is told."""
        async with self._turn:
            await self._takeover.settle()
            self._node.listener.drain()
            before = self._engine.roles.role
            change(time.monotonic())
            _say_role(before, self._engine.roles.role)
            pushed = await self._until(self._nothing_to_tell, options, _FLUSH_S)
            return {"role": self._engine.roles.role, "pushed": pushed, "ok": True}

    def _nothing_to_tell(self) -> bool:
        """Have all live peers acknowledged everything?"""
        engine = self._engine
        if not (engine.own.flows.marks or engine.own.expectations.marks):
            engine.hurry(time.monotonic())
            self._node.pump()
        return not engine.outbox.acked or not (
            engine.outbox.unacked
            or engine.own.flows.marks
            or engine.own.expectations.marks
        )

    # Resync, flush, verify

    async def _resync(self, options: dict[str, object]) -> Answer:
        async with self._turn:
            await self._takeover.settle()
            what = options["what"]
            if what == "kernel":
                gone = await self._node.listener.read_kernel()
                return {"ok": True, "swept": gone, "flows": len(self._engine.own.flows)}
            live = [peer for peer in self._engine.peers.values() if peer.live]
            if not live:
                raise ControlError(f"resync {what}: no live peer")
            now = time.monotonic()
            if what == "pull":
                self._engine.pull(now)
                done = await self._until(
                    lambda: all(peer.inbox.wants == SATISFIED for peer in live), options
                )
            else:
                self._engine.push(now)
                done = await self._until(
                    lambda: all(peer.remote_wants == SATISFIED for peer in live),
                    options,
                )
            answer: Answer = {
                "ok": done,
                "peers": len(live),
                "flows": sum(len(peer.flows) for peer in live)
                if what == "pull"
                else len(self._engine.own.flows),
                "seconds": round(time.monotonic() - now, 6),
            }
            if not done:
                answer["error"] = f"resync {what}: not complete in time"
            return answer

    async def _flush(self, options: dict[str, object]) -> Answer:
        async with self._turn:
            await self._takeover.settle()
            table = options["table"]
            if table == "kernel":
                return await self._flush_kernel()
            if table == "own":
                own = self._engine.own
                count = own.flows.clear() + own.expectations.clear()
            else:
                count = self._engine.forget_peers()
            _LOG.info("flush %s: %d records forgotten", table, count)
            self._node.pump()
            return {"ok": True, "flushed": count}

    async def _flush_kernel(self) -> Answer:
        """Delete from the kernel what the filter admits."""
        own = self._engine.own
        reader = RecordReader()
        admits, now = self._engine.admission.admits, time.monotonic()
        count = 0
        kinds: tuple[Dumped, ...] = ("expectations", "flows")
        for what in kinds:
            keys = [
                record[1]
                async for chunk in self._node.reader.dump(what)
                for record in reader.read(chunk)
                if admits(record[1], record[2], now)
            ]
            for at in range(0, len(keys), _DELETE_BATCH):
                batch = [
                    restore.delete(key, number)
                    for number, key in enumerate(keys[at : at + _DELETE_BATCH], 1)
                ]
                if self._node.accounting is not None:  # it wants to hear of the ends
                    count += len(batch) - len(self._node.reader.send(batch))
                    await asyncio.sleep(0)
                    continue
                count += len(batch) - len(self._node.requests.send(batch))
                for key in keys[at : at + _DELETE_BATCH]:
                    own.flows.end(key)
                    own.expectations.end(key)
                await asyncio.sleep(0)
        _LOG.info("flush kernel: %d records deleted", count)
        await self._node.listener.read_kernel()
        return {"ok": True, "flushed": count}

    def delete_ended(self) -> None:
        """Delete this kernel's copies of what their owner has ended."""
        keys = self._engine.take_ended_elsewhere()
        own = self._engine.own
        for at in range(0, len(keys), _DELETE_BATCH):
            part = keys[at : at + _DELETE_BATCH]
            requests = [
                restore.delete(key, n, own.flows.ident(key))
                for n, key in enumerate(part, 1)
            ]
            try:
                self._node.requests.send(requests)
            except KernelError as error:
                _LOG.warning("deleting %d records that ended: %s", len(part), error)
                self._engine.dump_wanted = True  # it tells which ones are left
                self._node.listener.heal()
                continue
            for key in part:  # our own deletions raise no event here
                own.flows.end_for_all(key)
                own.expectations.end_for_all(key)

    async def _verify(self, options: dict[str, object]) -> Answer:
        return await verify(
            self._node, self._named_peers(options), _timeout_of(options)
        )

    async def _until(
        self,
        condition: Callable[[], bool],
        options: dict[str, object],
        default_s: float = _WAIT_S,
    ) -> bool:
        """Wait for the condition, within the command's timeout; did it come true?"""
        timeout_s = _timeout_of(options)
        end = time.monotonic() + (default_s if timeout_s is None else timeout_s)
        self._node.pump()
        while not condition():
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_LOOK_S)
        return True


def _timeout_of(options: dict[str, object]) -> float | None:
    timeout = options.get("timeout")
    return float(timeout) if isinstance(timeout, int | float) else None


def _say_role(before: str, role: str) -> None:
    if role != before:
        _LOG.info("role %s, was %s", role, before)


def _taken_over(peers: list[Peer], result: Result) -> None:
    """What lost peers had is in this kernel: they may be forgotten one day."""
    if not result.failures and not result.error:
        for peer in peers:
            peer.taken_over = not peer.live
