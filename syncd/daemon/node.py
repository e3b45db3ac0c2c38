"""Wiring: builds the rooms, joins their doors, starts and stops them in order.

In: a `Config`. Out: a running node. The rule: this module alone knows all rooms; it
moves bytes from one door to the next and decides nothing about them.

    events -> Listener -> engine.kernel_events          kernel side
    bundle -> engine.receive, engine.send -> bundle     peers' side
    control -> Operations -> engine, kernel requests    commands
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from syncd.config import Config, ReplicationConfig
from syncd.config_filter import FilterConfig
from syncd.daemon.accounting import Accounting
from syncd.daemon.auditor import Auditor
from syncd.daemon.control import ControlServer
from syncd.daemon.failure import end_on_failure, watched
from syncd.daemon.fate import FateBeat
from syncd.daemon.listener import Listener
from syncd.daemon.operations import Operations
from syncd.daemon.report import KernelReport, LinkReport, status_object
from syncd.daemon.secrecy import read_security, warning
from syncd.daemon.unspoken import Unspoken
from syncd.daemon.warm import Warm
from syncd.daemon.watching import Watching
from syncd.flows.filter import RecordFilter
from syncd.kernel import host
from syncd.kernel.events import EventSocket
from syncd.kernel.requests import RequestSocket
from syncd.link.bundle import LinkBundle
from syncd.link.facts import Batch, LinkState
from syncd.replication.engine import ReplicationEngine
from syncd.replication.seal import OFF, Security
from syncd.replication.settings import Settings

_LOG = logging.getLogger("syncd")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING}


class Node:
    """One daemon; `run` returns when it was stopped."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.started_at = time.monotonic()
        self.stopped = asyncio.Event()
        replication = config.replication
        self.engine = ReplicationEngine(
            config.node.name,
            secrets.randbits(62) or 1,
            _settings(replication),
            _filter(config),
            self.started_at,
            read_security(config.security) if config.links else Security(),
        )
        self.events = EventSocket(
            config.kernel.receive_buffer, config.kernel.reliable_events
        )
        self.requests = RequestSocket()
        self.events.ignore_portids([self.requests.portid])
        self.reader = RequestSocket()
        self.accounting: Accounting | None = None
        if config.accounting.wanted:
            self.accounting = Accounting(
                config.accounting, self.engine, lambda: self.engine.admission.filter
            )
        self.listener = Listener(
            *(self.events, self.reader, self.engine, replication.beat_s, self.pump),
            None if self.accounting is None else self.accounting.take,
        )
        self.engine.own.wildcards.word = replication.wildcard_expectations
        self.unspoken = Unspoken(self.listener, self.reader, self.engine)
        self.rejected: list[dict[str, int]] = [{} for _ in config.links]
        self.bundle = LinkBundle(config.links, self._received, self.pump)
        self.warm: Warm | None = None
        if replication.standby == "kernel":
            self.warm = Warm(
                *(self.engine, self.listener),
                lambda: self.config.commit,
                replication.warm_timeout_s,
            )
            ours = (self.requests.portid, self.warm.errands.portid)
            self.events.ignore_portids(ours)
        self.watching = Watching(self.engine)
        self.operations = Operations(self)
        self.control = ControlServer(
            config.control.socket, self.operations, self._failed
        )
        self.auditor = self._auditor()
        self.fate = FateBeat(self.engine)
        self._failure: Exception | None = None
        self._watchers: list[asyncio.Task[None]] = []
        self._looked_at: float | None = None  # when every interface was seen once
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    def _auditor(self) -> Auditor:
        return Auditor(
            RequestSocket(),
            self.listener,
            self.engine,
            lambda: self.operations.busy,
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Start everything, say so, wait for the end, stop everything."""
        end_on_failure(asyncio.get_running_loop(), self._failed)
        try:
            host.check_rights()
            for warning in host.prepare_events():
                _LOG.warning(warning)
            await self.control.start()
            if self.accounting is not None:
                allowed = self.config.accounting.enable_kernel_accounting
                for warning in host.prepare_accounting(change=allowed):
                    _LOG.warning(warning)
                self.accounting.start()
            self._watchers = [
                asyncio.create_task(self._watch()),
                asyncio.create_task(self._watch_addresses()),
            ]
            for watcher in self._watchers:
                watcher.add_done_callback(self._watch_ended)
            if self.warm is not None:
                self.warm.start()
            self.unspoken.start()
            self.auditor.start(self.config.kernel.audit_interval_s)
            self.fate.start()
            _LOG.info("node %s is running", self.config.node.name)
            ready()
            await self.stopped.wait()
        finally:
            await self._close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End `run` when peers know what a promotion made ours; called again: now."""
        if self._stopping is None:
            self._stopping = watched(self._wind_up(), "stopping")
        else:
            self.stopped.set()

    async def _wind_up(self) -> None:
        await self.operations.wind_up({})
        self.stopped.set()

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.watching.close()
        await self.control.close()
        for task in (*self._watchers, self._sending, self._stopping):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self.warm is not None:
            await self.warm.close()
        self.unspoken.close()
        self.auditor.close()
        if self.accounting is not None:
            self.accounting.close(self.listener)
        self.fate.close()
        self.listener.close()
        self.events.close()
        self.reader.close()
        self.requests.close()
        self.bundle.close()

    def reload(self, config: Config) -> None:
        """Take a new configuration as far as a running node can."""
        self.read_keys(config)
        fixed = ("node", "control", "links", "replication", "kernel", "accounting")
        changed = [
            name
            for name in fixed
            if getattr(config, name) != getattr(self.config, name)
        ]
        if changed:
            _LOG.warning("reload: %s: a restart is needed", ", ".join(changed))
        self.config = replace(
            self.config,
            commit=config.commit,
            filter=config.filter,
            security=config.security,
            fingerprint=config.fingerprint,
        )
        self.engine.change_filter(_filter(self.config))
        self.listener.heal()
        self.fate.hurry()
        _LOG.info("reload: [commit], [filter], [security] and keys are in force")

    def read_keys(self, config: Config) -> None:
        """The key file anew; a `ConfigError` changes nothing."""
        if not self.config.links:
            return
        security = read_security(config.security)
        before = self.engine.sealer.security
        if security != before:
            self.engine.change_security(security, time.monotonic())
            if security.mode != before.mode and (text := warning(security)):
                _LOG.warning(text)
            if security.sending != before.sending and security.mode != OFF:
                _LOG.info("frames are sealed with key %s", security.sending.hex())
            self.pump()

    def _failed(self, error: Exception) -> None:
        """A lost invariant ends the process: a crashed node is replaced."""
        self._failure = self._failure or error
        self.stopped.set()

    async def _watch(self) -> None:
        """Tell the links what becomes of their interfaces."""
        bundle = self.bundle
        unseen = set(bundle.wanted)
        async with contextlib.aclosing(host.watch_interfaces(bundle.wanted)) as changes:
            async for name, found in changes:
                if found is None or not found.usable:
                    bundle.interface_changed(name, None, 0, ())
                else:
                    bundle.interface_changed(
                        name, found.index, found.mtu, found.addresses
                    )
                unseen.discard(name)
                if not unseen and self._looked_at is None:
                    self._looked_at = time.monotonic()
                self.pump()

    async def _watch_addresses(self) -> None:
        """Tell the engine this node's addresses; it listens when it knows them."""
        listening = False
        async with contextlib.aclosing(host.watch_addresses()) as changes:
            async for addresses in changes:
                self.engine.use_addresses(addresses, time.monotonic())
                if listening:
                    self.pump()
                else:
                    self.listener.start()
                    listening = True

    def _watch_ended(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled() and (error := watch.exception()) is not None:
            self._failed(error if isinstance(error, Exception) else RuntimeError())

    def _received(self, link: int, batch: Batch) -> bool:
        """Datagrams of one link; was one from a peer that is there now?"""
        now = time.monotonic()
        genuine = False
        for datagram, source in batch:
            reason = self.engine.receive(datagram, link, source, now)
            genuine |= self.engine.proven
            if reason is not None:
                rejected = self.rejected[link]
                rejected[reason] = rejected.get(reason, 0) + 1
        self._follow(now)
        if self.warm is not None:
            self.warm.follow()
        return genuine

    def pump(self) -> None:
        """Let leave what is due, and come back when the engine wants it."""
        if self._sending is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.listener.behind:
            return  # it pumps when it is through
        now = time.monotonic()
        known = self._tell_links(now)
        self.engine.tick(now)
        if self.engine.own.lookups:
            self.listener.look_up()
        if self.engine.agreement.ended_elsewhere:
            self.operations.delete_ended()
        if not self.bundle.links:
            self._forget_marks()
        datagrams = self.engine.send(now) if known and self.bundle.active else []
        for level, text in self.engine.take_messages():
            _LOG.log(_LEVELS[level], text)
        if datagrams:
            self._sending = watched(self._send(datagrams), "sending")
            return
        self._rest(now)

    def _forget_marks(self) -> None:
        """There will never be anybody to tell."""
        own = self.engine.own
        while own.flows.marks or own.expectations.marks:
            self.engine.outbox.forget_marks(own)

    def _tell_links(self, now: float) -> bool:
        """Facts about the links, once they are known; a link also changes by itself.

        A tcp link begins without a connection: that is no failure for a moment.
        """
        moment_s = self.config.replication.hello_interval_s
        if self._looked_at is None or not (
            self.bundle.active or now >= self._looked_at + moment_s
        ):
            return False
        for place, link in enumerate(self.bundle.links):
            usable = link.state is LinkState.ACTIVE
            self.engine.link_changed(place, usable=usable, frame_bytes=link.frame_bytes)
        return True

    def _follow(self, now: float) -> None:
        """After input: pump if something is due, else see that the timer is early."""
        deadline = self.engine.deadline()
        if self._sending is not None or deadline is None:
            return
        if deadline <= now:
            self.pump()
        elif self._timer is None or self._timer.when() > deadline:
            self._rest(now)

    async def _send(self, datagrams: list[tuple[int, bytes]]) -> None:
        try:
            await self.bundle.send(datagrams)
        finally:
            self._sending = None
        self._rest(time.monotonic())

    def _rest(self, now: float) -> None:
        deadline = self.engine.deadline()
        if deadline is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(deadline - now, 0.0)
        if not self.bundle.active:
            wait_s = max(wait_s, self.config.replication.hello_interval_s)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.pump()

    def status(self) -> dict[str, object]:
        """The status object, without the closing `ok`."""
        kernel = KernelReport(
            events=self.events.events,
            overruns=self.events.overruns,
            lost_events=self.events.lost,
            resyncs=self.listener.resyncs,
            entries=host.table_count(),
            limit=host.table_limit(),
            receive_buffer=self.events.receive_buffer,
            audits=self.auditor.audits,
            audit_differences=self.auditor.differences,
            last_audit=self.auditor.last,
        )
        now, paths = time.monotonic(), self.engine.paths
        links = [
            LinkReport(link.status(), self.rejected[at], paths.status(at, now))
            for at, link in enumerate(self.bundle.links)
        ]
        status = status_object(
            self.engine,
            links,
            kernel,
            self.operations.last_commit,
            self.started_at,
            now,
        )
        status["accounting"] = None
        if self.accounting is not None:
            status["accounting"] = self.accounting.status()
        status["watchers"] = self.watching.status()
        status["warm"] = None if self.warm is None else self.warm.status()
        return status


def _filter(config: Config) -> RecordFilter:
    """What the tables hold; nothing is left out where only accounts are kept of all."""
    chosen = config.filter
    if not config.links and not config.accounting.filter:
        chosen = FilterConfig(own_addresses="accept")
    return RecordFilter(chosen, config.replication.expectations)


def _settings(replication: ReplicationConfig) -> Settings:
    return Settings(
        hello_interval_s=replication.hello_interval_s,
        silence_s=replication.silence_s,
        ready_timeout_s=replication.ready_timeout_s,
        window_frames=replication.window_frames,
        peer_limit=replication.peer_limit,
        peer_flows_limit=replication.peer_flows_limit,
        mode=replication.mode,
        refresh_interval_s=replication.refresh_interval_s,
        expire_s=replication.expire_s,
        slow_peer_s=replication.slow_peer_s,
        forget_after_s=replication.forget_after_s,
        link_hellos=replication.link_hellos,
        link_hold_s=replication.link_hold_s,
    )
