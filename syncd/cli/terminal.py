"""Lines for the eye: aligned, coloured by state, with a counter while one waits.

In: lines as conntrack prints them. Out: the same words, each kind in a column of its
own that grows with what it has to hold. NO_COLOR and TERM=dumb are honoured.
"""

import os
import re
import signal
import sys
import threading
import time
from typing import Final, Self, TextIO

_RESET: Final = "\x1b[0m"
_BOLD, _DIM = "\x1b[1m", "\x1b[2m"
_RED, _GREEN, _YELLOW, _CYAN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"
_CLEAR_LINE: Final = "\r\x1b[K"
_COUNT_INTERVAL_S: Final = 0.2
_SIGN_INTERVAL_S: Final = 0.5
_PATIENCE_S: Final = 2.0  # before a counter appears beside a pipe

_NEW: Final = ("SYN_SENT", "SYN_RECV", "SYN_SENT2", "COOKIE_WAIT", "COOKIE_ECHOED")
_COLOURS: Final = {
    "ESTABLISHED": _GREEN,
    "OPEN": _GREEN,
    **dict.fromkeys((*_NEW, "REQUEST", "RESPOND", "PARTOPEN"), _YELLOW),
    **dict.fromkeys(("CLOSE", "CLOSED", "TIME_WAIT", "TIMEWAIT", "NONE"), _RED),
    **dict.fromkeys(("FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "CLOSING"), _CYAN),
    "[UNREPLIED]": _YELLOW,
    "[ASSURED]": _GREEN,
    "[OFFLOAD]": _GREEN,
    "[HW_OFFLOAD]": _GREEN,
    "[NEW]": _GREEN,
    "[UPDATE]": _YELLOW,
    "[DESTROY]": _RED,
}
_STATE: Final = re.compile(r"[A-Z][A-Z_0-9]+")
_WORD: Final = re.compile(r"\S+")
_STATE_WIDTH: Final = 11
# Words that are aligned; the others follow each other.
_ALIGNED: Final = frozenset(("src", "dst", "sport", "dport", "type", "code", "id"))
_FIRST_WIDTHS: Final = {"src": 19, "dst": 19, "sport": 11, "dport": 11}


class Paint:
    """Aligns lines, and colours them if that is wanted."""

    def __init__(self, coloured: bool) -> None:
        self._coloured = coloured
        self._widths: dict[str, int] = dict(_FIRST_WIDTHS)

    @classmethod
    def choose(cls, wish: str, stream: TextIO, *, plain: bool) -> Self | None:
        """None where the lines go out as they are; `wish` is that of --color."""
        is_terminal = stream.isatty()
        if plain or (wish != "always" and not is_terminal):
            return None
        if wish == "auto":
            dumb = os.environ.get("TERM") == "dumb"
            return cls(not os.environ.get("NO_COLOR") and not dumb)
        return cls(wish == "always")

    def line(self, line: str) -> str:
        """One line, its end included."""
        words = _WORD.findall(line)
        padded: list[str] = []
        for at, word in enumerate(words):
            width = self._width(words, at, word)
            text = word.rjust(width) if word.isdigit() else word.ljust(width)
            if at and self._misses_state(words, at):
                padded.append(" " * _STATE_WIDTH)
            padded.append(self._coloured_word(word, text))
        return " ".join(padded).rstrip() + "\n"

    def _width(self, words: list[str], at: int, word: str) -> int:
        name, is_pair, _ = word.partition("=")
        if is_pair and name in _ALIGNED:
            width = max(len(word), self._widths.get(name, 0))
            if at + 1 < len(words):
                self._widths[name] = width
            return width
        if _STATE.fullmatch(word):
            return _STATE_WIDTH
        if word in ("[NEW]", "[UPDATE]", "[DESTROY]"):
            return 9
        if word.isdigit():
            return 3 if at and not words[at - 1].isdigit() else 7
        return 8 if word.isalpha() or word == "udplite" else 0

    def _misses_state(self, words: list[str], at: int) -> bool:
        """A flow without a state has a gap where others have one."""
        return (
            words[at].startswith("src=")
            and words[at - 1].isdigit()
            and not any("mask-src" in word for word in words)
        )

    def _coloured_word(self, word: str, text: str) -> str:
        if not self._coloured:
            return text
        colour = _COLOURS.get(word)
        if colour is None:
            name, is_pair, value = word.partition("=")
            if not is_pair:
                return text
            blank = text[len(word) :]
            return f"{_DIM}{name}={_RESET}{value}{blank}"
        return f"{colour}{text}{_RESET}"


class Counter:
    """A count on standard error that lives while the output is silent for the eye."""

    def __init__(self, output: TextIO, errors: TextIO) -> None:
        self._stream = errors
        self._alive = errors.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = False
        begin_s = time.monotonic()
        # A pager at the other end of a pipe shares the terminal: not at once then.
        beside = output.isatty() or _is_file(output)
        self._next_s = begin_s + (_COUNT_INTERVAL_S if beside else _PATIENCE_S)

    def show(self, count: int) -> None:
        """The newest count, now and then."""
        if not self._alive or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _COUNT_INTERVAL_S
        sys.stdout.flush()
        self._stream.write(f"{_CLEAR_LINE}{count:,} shown")
        self._stream.flush()
        self._shown = True

    def clear(self) -> None:
        """Give the line back."""
        if self._shown:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()
            self._shown = False


class Waiting:
    """A sign of life on standard error, if that is a terminal, while one waits."""

    def __init__(self, what: str, errors: TextIO) -> None:
        self._what = what
        self._stream = errors
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # An interruption is for the thread that waits: here it would wake nobody.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        began_s, shown = time.monotonic(), False
        while not self._over.wait(_SIGN_INTERVAL_S):
            seconds = time.monotonic() - began_s
            self._stream.write(f"{_CLEAR_LINE}{self._what}: working, {seconds:.0f} s")
            self._stream.flush()
            shown = True
        if shown:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()


def _is_file(stream: TextIO) -> bool:
    try:
        return os.path.isfile(f"/proc/self/fd/{stream.fileno()}")
    except (OSError, ValueError):
        return False
