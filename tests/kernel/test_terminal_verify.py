"""On a terminal: who waits for `syncd verify` sees that it works, and can go away."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.cluster import SYNCD, Cluster, Node
from tests.lab import Lab

pytestmark = pytest.mark.kernel

WARM = '[replication]\nstandby = "kernel"\n'
_CLEAR_LINE = b"\r\x1b[K"
_PATIENCE_S = 20.0


class Asked:
    """`syncd verify` on a pseudo terminal of its own, but for what it prints."""

    def __init__(self, node: Node) -> None:
        self.master, terminal = os.openpty()
        self.text = b""
        self.child = subprocess.Popen(
            # Whoever runs the tests in the background ignores SIGINT, and so would it.
            [
                *("env", "--default-signal=INT", "setsid", "--ctty"),
                *(str(SYNCD), "verify", "--socket", str(node.socket)),
            ],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            env=os.environ | {"TERM": "xterm"},
        )
        os.close(terminal)

    def read_until(self, word: bytes) -> None:
        end = time.monotonic() + _PATIENCE_S
        while word not in self.text:
            assert time.monotonic() < end, self.text
            self._read(0.1)

    def finish(self) -> tuple[int, str]:
        """Its status, and what it printed."""
        printed, _ = self.child.communicate(timeout=_PATIENCE_S)
        while self._read(0.2):
            pass
        os.close(self.master)
        return self.child.returncode, printed.decode()

    def _read(self, patience_s: float) -> bool:
        if not select.select([self.master], [], [], patience_s)[0]:
            return False
        data = b""
        with contextlib.suppress(OSError):  # EIO: nobody has it open any more
            data = os.read(self.master, 65536)
        self.text += data
        return bool(data)


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    made = Cluster(lab, tmp_path, more=WARM)
    try:
        made.start()
        yield made.nodes[0], made.nodes[1]
    finally:
        made.close()


@pytest.mark.parametrize("goes_away", [False, True])
def test_verify_says_that_it_works_and_obeys_an_interruption(
    pair: tuple[Node, Node], *, goes_away: bool
) -> None:
    first, second = pair
    first.send_signal(signal.SIGSTOP)  # so it takes as long as we like
    asked = Asked(second)
    asked.read_until(b"verify: working, 1 s")
    if goes_away:
        os.write(asked.master, b"\x03")
        asked.child.wait(_PATIENCE_S)
    first.send_signal(signal.SIGCONT)
    status, printed = asked.finish()
    assert status == (130 if goes_away else 0), (asked.text, printed)
    assert asked.text.replace(b"^C", b"").endswith(_CLEAR_LINE), asked.text
    assert b"Traceback" not in asked.text
    assert ("equal" in printed) is not goes_away
    assert second.command("verify").returncode == 0
