"""Messages become lines: netlink messages come in, what a person reads goes out.

Rows of a table (key and body) are messages too: see `message_of`. Each message is
looked up among the templates of its length; the first one of a shape leaves a new one.
The rule: what templates say is what a reading of each message says (see `shape.py`),
and they are few: beyond a bound they begin anew.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from syncd.errors import RecordError
from syncd.flows.objects import account_json, expectation_json, flow_json
from syncd.flows.proc import expectation_proc, flow_proc
from syncd.flows.record import without_timeout
from syncd.flows.save import flow_save
from syncd.flows.shape import (
    EXPECTATION_MESSAGE,
    FLOW_MESSAGE,
    Shape,
    Template,
    fill,
    passes,
)
from syncd.flows.text import Wishes, expectation_text, flow_text
from syncd.flows.wanted import Filters, tests_of
from syncd.flows.xml import expectation_xml, flow_xml

_Text = Callable[[Shape, Wishes], None]
_Known = list[tuple[int, dict[int, Template]]]

# Output -> the text of a flow, of an expectation. conntrack has no `save` for the
# latter and prints its text.
_TEXTS: Final[Mapping[str, tuple[_Text, _Text]]] = {
    "text": (flow_text, expectation_text),
    "xml": (flow_xml, expectation_xml),
    "save": (flow_save, expectation_text),
    "proc": (flow_proc, expectation_proc),
    "json": (flow_json, expectation_json),
    "account": (account_json, expectation_json),
}
_TEMPLATES: Final = 4096
_MULTI: Final = 2  # NLM_F_MULTI
_CREATED: Final = 0x600  # NLM_F_CREATE | NLM_F_EXCL
_DELETED: Final = 2  # IPCTNL_MSG_CT_DELETE, IPCTNL_MSG_EXP_DELETE


class Sieve:
    """Which messages are wanted."""

    __slots__ = ("_by_length", "_filters", "_learned")

    def __init__(self, filters: Filters | None) -> None:
        self._filters = filters
        self._by_length: dict[int, _Known] = {}
        self._learned = 0

    @property
    def templates(self) -> int:
        """How many shapes have been seen since the last beginning."""
        return self._learned

    def passes(self, message: bytes) -> bool:
        """Do all filters pass? RecordError if it is not a message."""
        template = self._template(message)
        if template.format is None:
            return False
        return not template.tests or passes(template.tests, message)

    def _write(self, shape: Shape) -> None:
        """Give the shape its text; a sieve prints nothing."""

    def _template(self, message: bytes) -> Template:
        for mask, templates in self._by_length.get(len(message), ()):
            found = templates.get(int.from_bytes(message, "little") & mask)
            if found is not None:
                return found
        return self._learn(message)

    def _learn(self, message: bytes) -> Template:
        shape = Shape(message)
        if shape.subsystem not in (FLOW_MESSAGE, EXPECTATION_MESSAGE):
            raise RecordError(f"a message of subsystem {shape.subsystem}")
        tests = () if self._filters is None else tests_of(shape, self._filters)
        if tests is not None:
            self._write(shape)
        template = shape.template(wanted=tests is not None, tests=tests or ())
        if self._learned == _TEMPLATES:
            self._by_length.clear()
            self._learned = 0
        known = self._by_length.setdefault(len(message), [])
        templates = dict(known).get(template.mask)
        if templates is None:
            templates = {}
            known.append((template.mask, templates))
        templates[int.from_bytes(message, "little") & template.mask] = template
        self._learned += 1
        return template


class Printer(Sieve):
    """Prints the wanted messages in one of the outputs."""

    __slots__ = ("_texts", "_wishes", "malformed")

    def __init__(
        self, output: str, wishes: Wishes, filters: Filters | None = None
    ) -> None:
        super().__init__(filters)
        self._texts = _TEXTS[output]
        self._wishes = wishes
        self.malformed = 0  # counts messages that were none

    def line(self, message: bytes) -> str | None:
        """Its line, None if it is not wanted; RecordError if it is no message."""
        template = self._template(message)
        if template.format is None:
            return None
        if template.tests and not passes(template.tests, message):
            return None
        return fill(template, message)

    def lines(self, messages: Iterable[bytes]) -> list[str]:
        """The lines of those that are wanted; what is no message is counted."""
        lines: list[str] = []
        append = lines.append
        by_length = self._by_length
        for message in messages:
            number = int.from_bytes(message, "little")
            for mask, templates in by_length.get(len(message), ()):
                template = templates.get(number & mask)
                if template is not None:
                    break
            else:
                try:
                    template = self._learn(message)
                except RecordError:
                    self.malformed += 1
                    continue
            _, form, unpack, pick, converted, numbers, computed, tests = template
            if form is None or (tests and not passes(tests, message)):
                continue
            if converted or numbers or computed:
                append(fill(template, message))
            else:
                append(form % pick(unpack(message)))
        return lines

    def _write(self, shape: Shape) -> None:
        self._texts[shape.subsystem - 1](shape, self._wishes)


def message_of(key: bytes, body: bytes) -> bytes:
    """The message that a table's entry came from, as far as the table keeps it."""
    return _message(key, body, 0, _MULTI)


def event_of(event: str, key: bytes, body: bytes) -> bytes:
    """The kernel's event of what happened to a table's entry.

    What ends has no time left to tell, though the table still says what it had.
    """
    if event == "destroy":
        body = without_timeout(body) if key[6:7] == b"\1" else body
        return _message(key, body, _DELETED, 0)
    return _message(key, body, 0, _CREATED if event == "new" else 0)


def _message(key: bytes, body: bytes, kind: int, flags: int) -> bytes:
    # nlmsghdr: length, type, flags, no sequence, no portid.
    subsystem = FLOW_MESSAGE if key[6:7] == b"\1" else EXPECTATION_MESSAGE
    length = 16 + len(key) + len(body)
    head = length.to_bytes(4, "little") + bytes((kind, subsystem))
    return head + flags.to_bytes(2, "little") + bytes(8) + key + body
