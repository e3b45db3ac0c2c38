"""Accounts at work: flows that ended become records, each of them on one node.

In: the messages of the kernel's events, after the engine took them. Out: lines in files
and messages to a collector. The rule: whoever owns a flow at its end records it. An
end that is held back (see `flows/table.py`) waits here too; a planted copy, a copy of
what a peer owns, and what a peer took over are none of ours.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from syncd.config_account import AccountingConfig, collector_of
from syncd.daemon.listener import Listener
from syncd.daemon.sinks import CollectorSink, FileSink, Sink
from syncd.flows.account import JsonAccounts, TextAccounts
from syncd.flows.ending import REASONS, Ending, ending_of, ends_of, lost_ending
from syncd.flows.filter import RecordFilter
from syncd.flows.ipfix import IpfixExporter
from syncd.flows.own import End
from syncd.flows.text import Clock
from syncd.replication.engine import ReplicationEngine

_LOG = logging.getLogger("syncd.accounting")
_BEAT_S = 0.5  # in which a datagram is filled, and after which held ends are looked at
_HELD_LIMIT = 1 << 18
# A dump does not show what has expired, the event may come so much later: until then
# nobody knows that it was lost (nf_conntrack_core.c collects garbage in 60 s).
_LATE_S = 90.0


class Accounting:
    """Keeps the accounts of one node."""

    def __init__(
        self,
        config: AccountingConfig,
        engine: ReplicationEngine,
        record_filter: Callable[[], RecordFilter],
    ) -> None:
        self._config = config
        self._engine = engine
        self._filter = record_filter
        clock = Clock(time.time_ns, time.localtime)
        self._json = JsonAccounts(engine.node, clock)
        self._text = TextAccounts(clock)
        self._exporter = IpfixExporter(config.ipfix_domain, engine.node, 0)
        self._json_file = FileSink(config.json, config.buffer) if config.json else None
        self._text_file = FileSink(config.text, config.buffer) if config.text else None
        self._collector: CollectorSink | None = None
        if target := collector_of(config.ipfix):
            self._collector = CollectorSink(*target, config.buffer)
        self._announce_at = 0.0
        self._held: dict[bytes, Ending] = {}
        self._missed: dict[bytes, tuple[float, bytes, bool]] = {}  # due, taken over
        self._records = dict.fromkeys(REASONS, 0)
        self._elsewhere = self._overflow = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def _sinks(self) -> list[Sink]:
        sinks = (self._json_file, self._text_file, self._collector)
        return [sink for sink in sinks if sink is not None]

    def start(self) -> None:
        """From now on the own tables note what ends."""
        own = self._engine.own
        own.ended, own.flows.missed, own.flows.adopted = [], [], set()
        for sink in self._sinks:
            sink.start()
        self._beat()

    def close(self, listener: Listener) -> None:
        """Write what is known; ends that somebody else may take over are left out."""
        if self._timer is not None:
            self._timer.cancel()
            listener.drain()
            if not self._engine.own.flows.holding and not self._overtaken():
                self._write(list(self._held.values()))
            self._export(rest=True)
        for sink in self._sinks:
            sink.close()

    def reopen(self) -> None:
        """The files may have been moved away."""
        for file in (self._json_file, self._text_file):
            if file is not None:
                file.reopen()

    def take(self, messages: Sequence[bytes]) -> None:
        """Events that the engine has just taken."""
        own = self._engine.own
        ended, missed = own.ended, own.flows.missed
        if not ended and not missed:
            return
        own.ended, own.flows.missed = [], []
        endings: list[Ending] = []
        adopted = own.flows.adopted or set()
        due = time.monotonic() + _LATE_S
        for message, end in ends_of(messages, ended or ()):
            if end[1] is None and (late := self._missed.pop(end[0][1], None)):
                end = (end[0], late[1], end[2], late[2])
            if self._ours(end):
                self._sort(end[0][1], ending_of(message, end), endings)
        for key, body in missed or ():
            if len(self._missed) < _HELD_LIMIT:
                self._missed[key] = (due, body, key in adopted)
                adopted.discard(key)
            else:
                self._overflow += 1
        self._write(endings)

    def _ours(self, end: End) -> bool:
        """Is this node the one that records it?"""
        (_, key, body, _, _), known, planted, _ = end
        if planted:
            self._elsewhere += 1
            return False
        return self._mine(key, body, known=known is not None)

    def _mine(self, key: bytes, body: bytes, *, known: bool) -> bool:
        if self._config.filter and not self._filter().accepts(key, body):
            return False
        claim = self._engine.roles.claim + (1 if known else 0)
        for peer in self._engine.peers.values():
            if peer.claim >= claim and key in peer.flows.bodies:
                self._elsewhere += 1
                return False
        if not known and self._overtaken():
            self._elsewhere += 1
            return False
        return True

    def _overtaken(self) -> bool:
        return self._engine.roles.overtaken(self._engine.peers.values())

    def _sort(self, key: bytes, ending: Ending, endings: list[Ending]) -> None:
        """What is held back is written when it has come true."""
        if key not in self._engine.own.flows.held:
            endings.append(ending)
        elif len(self._held) < _HELD_LIMIT:
            self._held[key] = ending
        else:
            self._overflow += 1

    def _release(self) -> None:
        """Ends that are held back no longer: true, or is the flow alive elsewhere?"""
        flows, overtaken = self._engine.own.flows, self._overtaken()
        adopted = flows.adopted or set()
        endings: list[Ending] = []
        for key in [key for key in self._held if key not in flows.held]:
            ending = self._held.pop(key)
            if overtaken or key in adopted:
                self._elsewhere += 1
            else:
                endings.append(ending)
        self._write(endings)

    def _give_up(self) -> None:
        """Whose events do not come any more: they are lost."""
        flows, now = self._engine.own.flows, time.monotonic()
        endings: list[Ending] = []
        while self._missed:
            key = next(iter(self._missed))
            due, body, taken_over = self._missed[key]
            if due > now:
                break
            del self._missed[key]
            if key not in flows.bodies and self._mine(key, body, known=True):
                endings.append(lost_ending(key, body, taken_over=taken_over))
        self._write(endings)

    def _write(self, endings: list[Ending]) -> None:
        if not endings:
            return
        for ending in endings:
            self._records[ending.reason] += 1
        if self._json_file is not None:
            self._json_file.put_lines(self._json.lines(endings))
        if self._text_file is not None:
            self._text_file.put_lines(self._text.lines(endings))
        if self._collector is not None:
            self._exporter.message_bytes = self._collector.message_bytes
            self._exporter.add(endings, time.time_ns())
            self._export(rest=False)

    def _export(self, *, rest: bool) -> None:
        if self._collector is not None:
            self._collector.put(self._exporter.take(time.time_ns(), rest=rest))

    def _beat(self) -> None:
        """What time alone brings."""
        self._timer = asyncio.get_running_loop().call_later(_BEAT_S, self._beat)
        self.take(())
        if self._held:
            self._release()
        self._give_up()
        collector, now = self._collector, time.monotonic()
        if collector is None:
            return
        # Nobody acknowledges templates: who comes late, or again, has to hear them.
        if now >= self._announce_at or collector.refused:
            self._announce_at = now + self._config.ipfix_templates_s
            collector.refused = False
            self._exporter.message_bytes = collector.message_bytes
            self._exporter.announce(collector.dropped, time.time_ns())
        self._export(rest=True)

    def status(self) -> dict[str, object]:
        """What status shows of it."""
        makers = (self._json, self._text, self._exporter)
        return {
            "records": self._records,
            "held": len(self._held) + len(self._missed),
            "elsewhere": self._elsewhere,
            "overflow": self._overflow,
            "malformed": sum(maker.malformed for maker in makers),
            "outputs": [
                {
                    "name": sink.name,
                    "written": sink.written,
                    "waiting": sink.waiting,
                    "dropped": sink.dropped,
                    "failures": sink.failures,
                    "failing": sink.failing or None,
                }
                for sink in self._sinks
            ],
        }
