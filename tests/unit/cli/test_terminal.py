"""Lines for the eye: the same words, in columns, coloured."""

import io
import re

import pytest
from syncd.cli.terminal import Counter, Paint

FLOWS = (
    "tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=192.168.100.200 sport=1 dport=443"
    " src=192.168.100.200 dst=10.0.0.1 sport=443 dport=1 [ASSURED] mark=0 use=1",
    "udp      17 9 src=10.0.0.1 dst=10.0.0.2 sport=40000 dport=53 [UNREPLIED]"
    " src=10.0.0.2 dst=10.0.0.1 sport=53 dport=40000 mark=0 use=1",
    "unknown  50 599 src=10.0.0.1 dst=10.0.0.2 src=10.0.0.2 dst=10.0.0.1 use=1",
)
EXPECTATION = (
    "297 proto=6 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=47929 mask-src=255.255.255.255"
    " mask-dst=255.255.255.255 sport=0 dport=65535 master-src=10.0.0.1"
    " master-dst=10.0.0.2 sport=43418 dport=21 class=0 helper=ftp"
)
ESCAPE = re.compile(r"\x1b\[\d+m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def paint(monkeypatch: pytest.MonkeyPatch, wish: str = "auto") -> Paint:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    made = Paint.choose(wish, Terminal(), plain=False)
    assert made is not None
    return made


@pytest.mark.parametrize("line", [*FLOWS, EXPECTATION, f"[DESTROY] {FLOWS[0]}"])
def test_no_word_is_lost_or_added(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = paint(monkeypatch).line(f"{line}\n")
    assert shown.endswith("\n")
    assert ESCAPE.sub("", shown).split() == line.split()


def test_columns_stand_below_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made = paint(monkeypatch, "never")
    shown = [made.line(line) for line in FLOWS[:2]]
    for word in ("src=", "dst=", "sport=", "dport="):
        assert shown[0].index(word) == shown[1].index(word)


def test_states_have_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    made = paint(monkeypatch)
    assert "\x1b[32mESTABLISHED" in made.line(FLOWS[0])
    assert "\x1b[33m[UNREPLIED]" in made.line(FLOWS[1])
    assert "\x1b[31m[DESTROY]" in made.line(f"[DESTROY] {FLOWS[0]}")


def test_who_wants_no_colour_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in paint(monkeypatch, "never").line(FLOWS[0])
    monkeypatch.setenv("NO_COLOR", "1")
    made = Paint.choose("auto", Terminal(), plain=False)
    assert made is not None
    assert "\x1b" not in made.line(FLOWS[0])
    always = Paint.choose("always", io.StringIO(), plain=False)
    assert always is not None
    assert "\x1b" in always.line(FLOWS[0])


def test_what_is_piped_and_what_is_not_text_stays_as_it_is() -> None:
    assert Paint.choose("auto", io.StringIO(), plain=False) is None
    assert Paint.choose("auto", Terminal(), plain=True) is None


def test_a_counter_lives_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    now = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    errors = Terminal()
    counter = Counter(Terminal(), errors)
    counter.show(1234567)
    assert errors.getvalue().endswith("1,234,567 shown")
    counter.clear()
    assert errors.getvalue().endswith("\r\x1b[K")
    silent = io.StringIO()
    Counter(Terminal(), silent).show(5)
    assert not silent.getvalue()
