"""Command line of the demo; scripts/demo calls it in namespaces of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from . import namespaces, verdict
from .daemons import SyncdPair
from .namespaces import StageError
from .plan import BACKUP
from .story import Options, Story

DIED, FAILED, STOPPED = 1, 2, 130

DESCRIPTION = """\
Two firewalls, a client and a server in network namespaces; five live connections; the
primary firewall dies, the backup takes over, and each connection is judged: did it live
on, and how long was it silent?  Exit status: 0 all lived; 1 one died; 2 the demo could
not run; 4 not permitted."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=DESCRIPTION)
    parser.add_argument(
        "--without-syncd",
        action="store_true",
        help="the same run with nothing replicated: the connections die, status 1",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="tcp_be_liberal=0 and tcp_loose=0 on both firewalls",
    )
    parser.add_argument(
        "--warm",
        action="store_true",
        help='standby = "kernel": the addresses move and nobody calls syncd promote',
    )
    parser.add_argument(
        "--detection-ms",
        type=int,
        default=0,
        metavar="MS",
        help="time until the death is noticed, as by VRRP (default: %(default)s)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="the verdict as one JSON object on stdout, the story on stderr",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show logs and firewall counters"
    )
    return parser.parse_args(arguments)


async def play(options: argparse.Namespace) -> int:
    """Play the story once and show the verdict."""
    out = sys.stderr if options.json else sys.stdout

    def tell(text: str) -> None:
        print(text, file=out, flush=True)

    with tempfile.TemporaryDirectory(prefix="syncd-demo-") as directory:
        pair = (
            None
            if options.without_syncd
            else SyncdPair(Path(directory), warm=options.warm)
        )
        chosen = Options(options.strict, options.detection_ms, options.warm)
        story = Story(pair, chosen, tell)
        try:
            verdicts = await story.play()
        finally:
            if options.verbose and pair is not None:
                for name in ("fw1", "fw2"):
                    tell(f"\nlog of {name}:\n{pair.log(name)}")
        if options.verbose:
            tell(namespaces.dropped_packets(BACKUP))
    tell("\n" + verdict.table(verdicts))
    lived = sum(v.lived for v in verdicts)
    if lived:
        tell(
            "gap: the longest silence in what a connection received. A TCP sender tries"
            " again\nafter 200 ms, 600 ms, 1.4 s ..., whatever the firewalls do."
        )
    tell(f"\n{lived} of {len(verdicts)} connections lived on.")
    if options.json:
        print(json.dumps(verdict.as_object(verdicts, strict=options.strict)))
    return 0 if lived == len(verdicts) else DIED


async def main() -> int:
    """Run the demo; SIGTERM ends it as Ctrl-C does."""
    options = parse(sys.argv[1:])
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await play(options)
    except StageError as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    try:
        # A child may end in the very moment in which it is killed: not worth a line.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        sys.exit(asyncio.run(main()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nscripts/demo: stopped, everything is cleaned up", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # the reader went away, and with it our audience
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(STOPPED)
