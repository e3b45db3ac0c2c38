"""What `show` and `watch` print: messages come in, lines go out at once.

The words of --output are those of conntrack's -o, separated by commas, and each has an
option of its own. Nothing is kept, so a list may have any length. On a terminal the
lines are aligned and coloured, and a counter shows that something happens; into a file
or a pipe goes what conntrack prints, byte for byte.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from syncd import __version__
from syncd.cli.labels import FILE, read_labels
from syncd.cli.terminal import Counter, Paint
from syncd.errors import ControlError, RecordError
from syncd.flows import view

FORMATS: Final = ("text", "xml", "save", "json", "proc")
WORDS: Final = ("extended", "id", "timestamp", "ktimestamp", "labels", "userspace")
_LISTED: Final = {"flows": "flow entries", "expectations": "expectations"}
_EVENTS: Final = {"flows": "flow events", "expectations": "expectation events"}
_ROOTS: Final = {"flows": "conntrack", "expectations": "expect"}
_WITH_MOMENT: Final = ("text", "proc")
_CREATED: Final = 0x600  # NLM_F_CREATE | NLM_F_EXCL


class Output:
    """Prints the wanted messages, up to --count of them."""

    def __init__(self, arguments: argparse.Namespace, *, events: bool) -> None:
        self._form, words = read_output(arguments)
        self._what: str = arguments.what
        self._events = events
        # conntrack tells the moment with events, and with a list of expectations.
        dated = events or arguments.what == "expectations"
        self._dated = dated and "timestamp" in words
        self._limit: int | None = arguments.count
        self.shown = 0
        self.malformed = 0
        labels = _labels(arguments, words)
        self.filters = view.read_filters(_given(arguments, labels))
        wishes = view.Wishes(
            view.Clock(time.time_ns, time.localtime),
            events=events,
            extended="extended" in words,
            ident="id" in words,
            timestamp=self._dated,
            ktimestamp="ktimestamp" in words,
            labels=labels if "labels" in words or arguments.label else None,
        )
        self._printer = view.Printer(self._form, wishes, self.filters)
        plain = self._form != "text"
        self._paint = Paint.choose(arguments.color, sys.stdout, plain=plain)
        self._counter = Counter(sys.stdout, sys.stderr)

    def is_full(self) -> bool:
        """Has --count been reached?"""
        return self._limit is not None and self.shown >= self._limit

    def write(
        self, messages: Sequence[bytes], more: Mapping[str, object] | None = None
    ) -> None:
        """Print a batch; `more` is what is known of it besides, for JSON."""
        before = self._printer.malformed
        lines = self._printer.lines(messages)
        self.malformed += self._printer.malformed - before
        if more and self._form == "json":
            lines = [_with_members(line, more) for line in lines]
        if self._limit is not None:
            lines = lines[: self._limit - self.shown]
        if self._dated and self._form in _WITH_MOMENT:
            lines = [f"{self._moment()}\t{line}" for line in lines]
        if lines:
            self._print([f"{line}\n" for line in lines])
        self._counter.show(self.shown)

    def write_event(
        self, message: bytes, program: str | None = None, peer: str | None = None
    ) -> None:
        """Print one event, with who caused it if that was no packet; or whose it is."""
        portid = int.from_bytes(message[12:16], sys.byteorder)
        try:
            line = self._event_line(message, portid, program)
            if line is not None and peer and self._form == "json":
                line = _with_members(line, {"peer": peer})
        except RecordError:
            self.malformed += 1
            return
        if line is not None:
            self._print([f"{line}\n"])

    def flush(self) -> None:
        """What was printed can be read."""
        sys.stdout.flush()
        self._counter.show(self.shown)

    def end(self, what_failed: str = "") -> None:
        """The last words: the end of XML on standard output, the summary beside it."""
        if self._form == "xml" and self.shown:
            sys.stdout.write(f"</{_ROOTS[self._what]}>\n")
        sys.stdout.flush()
        self._counter.clear()
        if what_failed:
            print(f"syncd: {what_failed}", file=sys.stderr)
        if not what_failed or self.shown:
            name = (_EVENTS if self._events else _LISTED)[self._what]
            text = f"syncd v{__version__}: {self.shown} {name} have been shown."
            print(text, file=sys.stderr)
        if self.malformed:
            text = f"syncd: {self.malformed} records were not understood"
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """A line beside the output."""
        sys.stdout.flush()
        self._counter.clear()
        print(f"syncd: warning: {text}", file=sys.stderr)

    def _print(self, lines: list[str]) -> None:
        if self._paint is not None:
            self._counter.clear()
            lines = [self._paint.line(line) for line in lines]
        elif self._form == "xml" and not self.shown:
            root = _ROOTS[self._what]
            sys.stdout.write(f"{view.XML_HEADER}<{root}>\n")
        sys.stdout.write("".join(lines))
        self.shown += len(lines)

    def _event_line(
        self, message: bytes, portid: int, program: str | None
    ) -> str | None:
        line = self._printer.line(message)
        if line is None:
            return None
        if self._form == "json":
            event: dict[str, object] = {"event": _event(message)}
            if self._dated:
                event["time"] = time.time_ns() / 1e9
            if portid:
                event["portid"] = portid
            if portid and program:
                event["program"] = program
            return _with_members(line, event)
        if portid and self._what == "flows":
            line += f" [USERSPACE] portid={portid}"
            line += f" progname={program}" if program else ""
        if self._dated and self._form in _WITH_MOMENT:
            line = f"{self._moment()}\t{line}"
        return line

    def _moment(self) -> str:
        seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
        if self._what == "flows":
            return f"[{seconds:08d}.{microseconds:06d}]"
        return f"[{seconds:<8d}.{microseconds:<6d}]"  # conntrack forgets the zeros


def read_output(arguments: argparse.Namespace) -> tuple[str, frozenset[str]]:
    """The format, and the other words; --json and the flags count like words."""
    words = [word.strip() for word in arguments.output.split(",")]
    words += ["json"] if arguments.json else []
    words += [word for word in WORDS if getattr(arguments, word, False)]
    for word in words:
        if word not in FORMATS and word not in WORDS:
            allowed = ", ".join((*FORMATS, *WORDS))
            problem = f"--output {word!a} is not one of {allowed}"
            raise ControlError(problem, status=2)
    forms = {word for word in words if word in FORMATS}
    more = frozenset(words) - forms
    forms -= {"text"} if len(forms) > 1 else set()
    if len(forms) > 1:
        problem = f"--output {' and '.join(sorted(forms))} exclude each other"
        raise ControlError(problem, status=2)
    form = forms.pop() if forms else "text"
    if form == "save" and more:
        problem = f"--output save has no {', '.join(sorted(more))}: use save alone"
        raise ControlError(problem, status=2)
    return form, more


def _with_members(line: str, more: Mapping[str, object]) -> str:
    """The object of a line with more members."""
    return f"{line[:-1]},{json.dumps(more, separators=(',', ':'))[1:]}"


def _event(message: bytes) -> str:
    if message[4]:
        return "destroy"
    return "new" if int.from_bytes(message[6:8], "little") & _CREATED else "update"


def _labels(
    arguments: argparse.Namespace, words: frozenset[str]
) -> dict[int, str] | None:
    """The names of labels, where some are asked for."""
    if "labels" not in words and not arguments.label:
        return None
    try:
        return read_labels()
    except OSError as error:
        if "labels" in words:
            problem = f"labels have no names: {FILE}: {error.strerror}"
            print(f"syncd: warning: {problem}", file=sys.stderr)
        return None


def _given(
    arguments: argparse.Namespace, labels: Mapping[int, str] | None
) -> dict[str, object]:
    """The filters; labels by their bits."""
    given: dict[str, object] = {
        name: getattr(arguments, name.replace("-", "_")) for name in view.FILTERS
    }
    if labels and isinstance(given["label"], str):
        bits = {name: str(bit) for bit, name in labels.items()}
        given["label"] = ",".join(
            [bits.get(name, name) for name in given["label"].split(",")]
        )
    return given
