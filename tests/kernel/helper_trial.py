"""Sessions of all helpers cross a failover and the way back: what became of each.

In: which sessions, which NAT, the stage at which the first firewall loses its traffic.
Out: a word for each session, and how the kernels' tables differed. The first switch is
at the stage in the first round, the second one in the second round when its data
connection is announced; the third round is played after both. The rule: the switch
does not wait for the sessions, only for the time that an operator's does.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.kernel import helper_calls, helper_talks, reader
from tests.kernel.cluster import Cluster, Node
from tests.kernel.helper_lab import ANNOUNCED, V4, V6, Crossing, Play, Session
from tests.lab import Lab, run_in

PLAYS: dict[str, tuple[Play, tuple[int, ...]]] = {
    "ftp-active": (helper_talks.ftp_active, (V4, V6)),
    "ftp-passive": (helper_talks.ftp_passive, (V4, V6)),
    "tftp": (helper_talks.tftp, (V4, V6)),
    "irc": (helper_talks.irc, (V4,)),
    "sip-udp": (helper_calls.sip_udp, (V4, V6)),
    "sip-tcp": (helper_calls.sip_tcp, (V4, V6)),
    "sip-register": (helper_calls.sip_register, (V4, V6)),
    "h323": (helper_calls.h323, (V4, V6)),
    "amanda": (helper_talks.amanda, (V4, V6)),
    "sane": (helper_talks.sane, (V4, V6)),
    "pptp": (helper_calls.pptp, (V4,)),
}
OK, ABSENT = "ok", "-"
SETTLE_S = 0.7  # what changes without an event is read every half second
_PATIENCE_S = 10.0  # on a busy machine

Case = tuple[str, int, str]  # session, family, NAT


@dataclass(slots=True)
class Outcome:
    """What became of the sessions, and what the kernels did not agree about."""

    words: dict[Case, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


class Trial:
    """Two firewalls, and sessions that go on while the traffic moves."""

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        zones: str = "",
        more: str = "",
        standby: str = "table",
    ) -> None:
        self._made = Cluster(lab, directory, more=more, standby=standby)
        self.crossing = Crossing(lab, [n.namespace for n in self._made.nodes], zones)
        self.outcome = Outcome()
        self._sessions: dict[Case, Session] = {}

    @property
    def nodes(self) -> list[Node]:
        return self._made.nodes

    def start(self) -> None:
        """Daemons in step, the first one has the traffic."""
        self._made.start()
        self._made.nodes[0].ask("promote")

    def close(self) -> None:
        self._made.close()
        self.crossing.close()

    def begin(self, plays: Iterable[str], nats: Iterable[str]) -> None:
        """One session for each kind, family and NAT."""
        for name in plays:
            play, families = PLAYS[name]
            for family in families:
                for nat in nats:
                    session = play(self.crossing.talk(family, nat))
                    self._sessions[name, family, nat] = session

    def advance(self, number: int, stage: str, when: str) -> None:
        """Play every session up to the stage, or to its end (`number` 0)."""
        for case, session in self._sessions.items():
            if case in self.outcome.words:
                continue
            try:
                while next(session) != (number, stage):
                    pass
            except StopIteration:
                self.outcome.words[case] = ABSENT if number else OK
            except (OSError, AssertionError) as error:
                self.outcome.words[case] = f"{when}: {error or type(error).__name__}"

    def switch(self, to: int, *, cut: bool) -> None:
        """The traffic moves; with `cut` the other firewall loses its power before."""
        heir, other = self._made.nodes[to], self._made.nodes[1 - to]
        self._settle(other, heir)
        wanted = other.kernel(reader.EXPECTATIONS)
        if cut:
            self.crossing.switch(None)
            other.kill()
            run_in(other.namespace, "conntrack", "-F")
        else:
            assert other.ask("demote")["ok"]
            self.crossing.switch(None)
        answer = heir.ask("promote")
        if not answer["ok"]:
            self.outcome.differences.append(f"promote: {answer['error']}")
        self._differ(wanted, heir.kernel(reader.EXPECTATIONS), "committed")
        self.crossing.switch(to)
        if cut:
            other.start()
            other.wait_in_step(1)

    def _settle(self, owner: Node, heir: Node) -> None:
        """The heir knows what the owner's kernel has, what no event tells too."""
        time.sleep(SETTLE_S)
        end = time.monotonic() + _PATIENCE_S
        while wrong := _untold(owner, heir):
            if time.monotonic() > end:
                self.outcome.differences += [f"told: {text}" for text in wrong]
                return
            time.sleep(0.1)

    def _differ(self, wanted: reader.Rows, found: reader.Rows, word: str) -> None:
        wrong = reader.differences(wanted, found, reader.as_expected)
        self.outcome.differences += [f"{word}: {text}" for text in wrong]


def _untold(owner: Node, heir: Node) -> list[str]:
    """Expectations and sequence adjustments in which a copy differs."""
    expected = owner.kernel(reader.EXPECTATIONS)
    told = heir.table("peer", "expectations")
    return [
        *reader.differences(expected, told, reader.as_expected),
        *reader.differences(owner.kernel(), heir.table("peer"), _adjustment),
    ]


def _adjustment(row: reader.Row) -> reader.Row:
    return {"adjust": row.get("adjust")}


def cross(
    lab: Lab,
    directory: Path,
    stage: str,
    plays: Iterable[str] = tuple(PLAYS),
    nats: Iterable[str] = ("none", "masquerade", "snat", "dnat"),
    *,
    cut: bool = False,
    zones: str = "",
    standby: str = "table",
) -> Outcome:
    """All of it; without a `stage` nothing is switched."""
    trial = Trial(lab, directory, zones, standby=standby)
    try:
        trial.start()
        trial.begin(plays, nats)
        if stage:
            trial.advance(1, stage, "before")
            trial.switch(1, cut=cut)
            trial.advance(2, ANNOUNCED, "after failover")
            trial.switch(0, cut=cut)
        trial.advance(0, "", "after the way back" if stage else "without a failover")
    finally:
        trial.close()
    return trial.outcome
