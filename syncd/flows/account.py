"""Flows that ended as lines: endings come in, JSON or conntrackd's lines go out.

A JSON line is the object of the flow (docs/records.schema.json) with `start`, `end`,
`reason` and, where that is so, `taken_over` and `portid`. The text line is what
conntrackd writes in its statistics mode: the date, a tab, and the flow as `conntrack
-L` prints it, without the time that was left. The rule: what was not told is absent.
"""

import json
from collections.abc import Iterable

from syncd.errors import RecordError
from syncd.flows.ending import Ending, whole, without_timeout
from syncd.flows.printer import Printer
from syncd.flows.text import SECOND_NS, Clock, Wishes, date_text


class JsonAccounts:
    """Endings as JSON lines."""

    __slots__ = ("_node", "_printer", "malformed")

    def __init__(self, node: str, clock: Clock) -> None:
        self.malformed = 0  # endings that are no flow's message
        self._node = json.dumps(node)
        self._printer = Printer("account", Wishes(clock))

    def lines(self, endings: Iterable[Ending]) -> list[str]:
        """A line of each."""
        lines: list[str] = []
        line_of, node = self._printer.line, self._node
        for ending in endings:
            try:
                line = line_of(whole(ending))
            except RecordError:
                line = None
            if line is None:
                self.malformed += 1
                continue
            more = f',"reason":"{ending.reason}","node":{node}'
            if ending.taken_over:
                more += ',"taken_over":true'
            if ending.portid:
                more += f',"portid":{ending.portid}'
            lines.append(f"{line[:-1]}{more}}}")
        return lines


class TextAccounts:
    """Endings as the lines of conntrackd's statistics mode."""

    __slots__ = ("_clock", "_date", "_printer", "_second", "malformed")

    def __init__(self, clock: Clock) -> None:
        self.malformed = 0
        self._clock = clock
        self._printer = Printer("text", Wishes(clock))
        self._second, self._date = -1, ""

    def lines(self, endings: Iterable[Ending]) -> list[str]:
        """A line of each, with the time of now."""
        second = self._clock.now_ns() // SECOND_NS
        if second != self._second:
            self._second = second
            self._date = date_text(self._clock.localtime(second))
        messages = [without_timeout(ending.message) for ending in endings]
        before = self._printer.malformed
        lines = [f"{self._date}\t{line}" for line in self._printer.lines(messages)]
        self.malformed += self._printer.malformed - before
        return lines
