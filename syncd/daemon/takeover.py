"""Peers' records into this kernel, and into the own tables.

In: the peers whose tables count, and own records that the kernel has forgotten. Out:
what became of each record. The rule: somebody waits for the answer before he moves an
address, so only what the answer needs is done before it. The own tables follow right
after, and a dump then shows what the kernel really made of it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from syncd.config import CommitConfig
from syncd.daemon.listener import Listener
from syncd.flows import restore
from syncd.flows.batch import TimedRecord
from syncd.flows.commit import CommitPlan, Result
from syncd.flows.committed import SETTLED_S, Committed
from syncd.kernel import host
from syncd.kernel.requests import RequestSocket, carry_out
from syncd.replication.engine import ReplicationEngine
from syncd.replication.peer import Peer

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
    ) -> None:
        self.last: dict[str, object] | None = None
        self._engine = engine
        self._requests = requests
        self._listener = listener
        self._config = config
        self._committed = Committed()
        self._adopting: asyncio.Task[None] | None = None

    async def commit(self, peers: list[Peer], *, take_held: bool = False) -> Result:
        """Commit these peers' tables; of one key the highest claim counts.

        `peers` are in that order. Their records that this kernel has of a higher claim
        are left alone. `take_held` adds the own records whose end is held back.
        """
        if self._adopting is not None:
            await self._adopting
        began = time.monotonic()
        await self._listener.catch_up()
        held_back = self._held_back() if take_held else {}
        flows, expectations = self._records(peers, held_back, began)
        own = self._engine.own.flows
        held: Mapping[bytes, bytes] = own.bodies
        if own.held:  # our kernel has forgotten these
            held = {key: held[key] for key in held.keys() - own.held.keys()}
        timeout_s = self._config().timeout
        wanted: Sequence[TimedRecord] = flows
        if timeout_s is None:
            disturbed = own.disturbed
            wanted = self._committed.outstanding(flows, held, disturbed, began)
        self._check_space(wanted, held)
        plan = CommitPlan([*wanted, *expectations], held, timeout_s)
        await carry_out(plan, self._requests)
        result = plan.result
        result.unchanged += len(flows) - len(wanted)
        self._note(result, time.monotonic() - began)
        if result.failures:  # the dump will show what is there and what is not
            self._committed.forget()
            wanted, expectations = [], []
        else:
            self._committed.note(wanted, began)
            own.disturbed = set()
        adopting = self._adopt(wanted, expectations)
        if held_back:  # their ends are about to be released
            await adopting
        else:
            self._adopting = asyncio.create_task(adopting)
        return result

    def _held_back(self) -> dict[bytes, bytes]:
        """Own records that the kernel has forgotten but that have not ended."""
        own = self._engine.own
        return {
            key: table.bodies[key]
            for table in (own.flows, own.expectations)
            for key in table.held
        }

    def _records(
        self, peers: list[Peer], held_back: dict[bytes, bytes], now: float
    ) -> tuple[list[TimedRecord], list[TimedRecord]]:
        """Flows and expectations to commit, each key once, with their age in s."""
        claim = self._engine.roles.claim
        own = self._engine.own
        gathered: tuple[list[TimedRecord], list[TimedRecord]] = ([], [])
        for records, ours, tables in (
            (
                gathered[0],
                own.flows,
                [(p.claim, table) for p in peers for table in (p.flows, p.departed)],
            ),
            (gathered[1], own.expectations, [(p.claim, p.expectations) for p in peers]),
        ):
            taken: set[bytes] = set()
            for peer_claim, table in tables:
                if peer_claim < claim:  # our own state is newer than that peer's
                    taken |= ours.bodies.keys() - ours.held.keys()
                ages = map(now.__sub__, map(table.told_s.__getitem__, table.bodies))
                timed = zip(table.bodies, table.bodies.values(), ages, strict=True)
                if taken:
                    records += [record for record in timed if record[0] not in taken]
                else:
                    records += timed
                if len(tables) > 1:
                    taken |= table.bodies.keys()
        told = (
            {record[0] for records in gathered for record in records}
            if held_back
            else ()
        )
        for key, body in held_back.items():
            if key not in told:
                gathered[restore.is_expectation(key)].append((key, body, 0.0))
        return gathered

    def _check_space(
        self, flows: Sequence[TimedRecord], held: Mapping[bytes, bytes]
    ) -> None:
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
        self, flows: Sequence[TimedRecord], expectations: Sequence[TimedRecord]
    ) -> None:
        """What was committed is in this kernel: take it for own, then look."""
        await asyncio.sleep(_ANSWER_S)
        own = self._engine.own
        own.expectations.adopt(expectations)
        for at in range(0, len(flows), _ADOPT_AT_ONCE):
            own.flows.adopt(flows[at : at + _ADOPT_AT_ONCE])
            await asyncio.sleep(0)
        self._engine.dump_wanted = True
        self._listener.heal()
        asyncio.get_running_loop().call_later(SETTLED_S, self._forget)

    def _forget(self) -> None:
        """Nothing is settled any more: free the memory."""
        if self._committed.expired(time.monotonic()):
            self._committed.forget()
            self._engine.own.flows.disturbed = None
