"""Peers' records into this kernel, and into the own tables.

In: the peers whose tables count, and own records that the kernel has forgotten. Out:
what became of each record. The rule: somebody waits for the answer before he moves an
address, so only what the answer needs is done before it. The own tables follow right
after, and a dump then shows what the kernel really made of it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice

from syncd.config import CommitConfig
from syncd.daemon.failure import watched
from syncd.daemon.listener import Listener
from syncd.daemon.warm import Warm
from syncd.flows.batch import TimedRecord
from syncd.flows.commit import CommitPlan, Result
from syncd.flows.committed import SETTLED_S, Committed, Records
from syncd.flows.masks import Masks
from syncd.flows.selection import Wanted, select
from syncd.flows.timers import Timers
from syncd.kernel import host
from syncd.kernel.requests import RequestSocket, carry_out
from syncd.replication.engine import ReplicationEngine
from syncd.replication.peer import Peer
from syncd.replication.roles import ranked_flows

_LOG = logging.getLogger("syncd")
_ADOPT_AT_ONCE = 8192  # records, some milliseconds
_ANSWER_S = 0.01  # for the answer to go out


class Takeover:
    """Carries out commits, one at a time."""

    def __init__(
        self,
        engine: ReplicationEngine,
        requests: RequestSocket,
        listener: Listener,
        config: Callable[[], CommitConfig],
        warm: Warm | None = None,
    ) -> None:
        """`warm` has written most of it before, if there is one."""
        self.last: dict[str, object] | None = None
        self._engine = engine
        self._requests = requests
        self._listener = listener
        self._config = config
        self._warm = warm
        self._committed = Committed()
        self._committed_by: CommitConfig | None = None
        self._adopting: asyncio.Task[None] | None = None
        self._forgetting: asyncio.TimerHandle | None = None

    async def commit(self, peers: list[Peer], *, take_held: bool = False) -> Result:
        """Commit these peers' tables; of one key the highest claim, the newest counts.

        `peers` are in that order. Their records that this kernel has of a higher claim
        are left alone. `take_held` adds the own records whose end is held back.
        """
        if self._warm is not None:
            began = time.monotonic()
            result = await self._warm.commit(peers)
            own = self._engine.own
            held = own.flows.held or own.expectations.held
            if not (take_held and held) and not any(p.departed.bodies for p in peers):
                self._note(result, time.monotonic() - began)
                return result
        return await self._commit(peers, take_held=take_held)

    async def _commit(self, peers: list[Peer], *, take_held: bool) -> Result:
        """The same, record by record."""
        await self.settle()
        if self._forgetting is not None:
            self._forgetting.cancel()
        began = time.monotonic()
        await self._listener.catch_up()
        own, roles = self._engine.own, self._engine.roles
        releasing = take_held and bool(own.flows.held or own.expectations.held)
        told, ranks = ranked_flows(peers, roles)
        judge = Wanted(self._engine.admission.filter)
        flows = select(
            *(told, own.flows, began),
            take_held=take_held,
            ranks=ranks,
            wanted=None if judge.any_flow else judge.flow,
        )
        told = [(peer.expectations, roles.above(peer)) for peer in peers]
        expectations = select(
            *(told, own.expectations, began),
            take_held=take_held,
            ranks=[peer.claim for peer in peers],
            wanted=judge.expectation,
        )
        held: Mapping[bytes, bytes] = own.flows.bodies
        if own.flows.held:  # our kernel has forgotten these
            held = {key: held[key] for key in held.keys() - own.flows.held.keys()}
        timeout_s = (config := self._config()).timeout
        if config != self._committed_by:  # other bits are wanted now
            self._committed.forget()
            self._committed_by = config
        wanted: Records = flows
        if timeout_s is None:
            disturbed = own.flows.disturbed
            wanted = self._committed.outstanding(flows, held, disturbed, began)
        own.flows.disturbed = set()
        self._check_space(wanted, held)
        plan = CommitPlan(
            *(chain(wanted, expectations), held, timeout_s, Masks.of(config)),
            Timers.read(host.read_setting),
            wildcards=own.wildcards,
        )
        try:
            await carry_out(plan, self._requests)
        except BaseException:
            self._forget()
            raise
        result = plan.result
        result.unchanged += len(flows) - len(wanted)
        self._note(result, time.monotonic() - began)
        if result.failures:  # the dump will show what is there and what is not
            self._committed.forget()
            adopting = self._adopt((), (), began)
        else:
            adopting = self._adopt(wanted, expectations, began)
        if releasing:  # the ends of those that were held are about to be carried out
            await adopting
        else:
            self._adopting = watched(adopting, "adopting what was committed")
        return result

    @property
    def adopting(self) -> bool:
        """Do the own tables not know all of the last commit yet?"""
        warm = self._warm is not None and self._warm.adopting
        return warm or (self._adopting is not None and not self._adopting.done())

    async def settle(self) -> None:
        """Return when the own tables know of the last commit."""
        if self._warm is not None:
            await self._warm.settle()
        if self._adopting is not None:
            await self._adopting

    def _check_space(self, flows: Records, held: Mapping[bytes, bytes]) -> None:
        limit, count = host.table_limit(), host.table_count()
        if not limit or count + len(flows) <= limit:
            return
        missing = sum(key not in held for key, _, _ in flows)
        if count + missing > limit:
            _LOG.warning(
                "commit: %d flows are to be created, the table has room for %d: raise "
                "net.netfilter.nf_conntrack_max (now %d)",
                *(missing, max(limit - count, 0), limit),
            )

    def _note(self, result: Result, seconds: float) -> None:
        self.last = {
            "created": result.created,
            "updated": result.updated,
            "unchanged": result.unchanged,
            "failed": result.failures,
            "failed_by_reason": dict(result.failed),
            "seconds": round(seconds, 6),
        }
        _LOG.info(
            "commit: %d created, %d updated, %d unchanged, %d failed in %.3f s",
            *(result.created, result.updated, result.unchanged, result.failures),
            seconds,
        )
        for example in result.examples:
            _LOG.warning("commit: %s", example)

    async def _adopt(
        self, flows: Records, expectations: Iterable[TimedRecord], began: float
    ) -> None:
        """What was committed is in this kernel: take it for own, then look."""
        await asyncio.sleep(_ANSWER_S)
        own = self._engine.own
        own.adopt(list(expectations))
        left = iter(flows)
        while part := list(islice(left, _ADOPT_AT_ONCE)):
            self._committed.note(part, began)
            own.adopt(part)
            await asyncio.sleep(0)
        self._engine.dump_wanted = True
        self._listener.heal()
        if self._committed:
            loop = asyncio.get_running_loop()
            self._forgetting = loop.call_later(SETTLED_S, self._forget)
        else:
            self._forget()

    def _forget(self) -> None:
        """Nothing is settled any more: free the memory."""
        self._committed.forget()
        self._engine.own.flows.disturbed = None
