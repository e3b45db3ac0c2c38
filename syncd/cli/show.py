"""`syncd show`: the records of a table, one line for each.

The own and the peers' table are the daemon's: it sends bytes, this side decodes,
filters and prints them, so that a long list costs it little. The kernel's table is read
by this side itself, with or without a daemon; only where the daemon lives in another
network namespace it is asked for the table of its kernel.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from syncd.cli import client
from syncd.cli.output import Output
from syncd.errors import ControlError, RecordError
from syncd.flows import view
from syncd.kernel.listing import list_table

_BATCH = 256
Row = Mapping[str, object]


def run(arguments: argparse.Namespace) -> int:
    """List, give the exit status."""
    output = Output(arguments, events=False)
    table = arguments.table or ("own" if arguments.peer is None else "peer")
    if arguments.peer is not None and table != "peer":
        problem = f"--peer {arguments.peer} goes with --table peer, not with {table}"
        raise ControlError(problem, status=2)
    if table == "kernel" and client.is_here(arguments.socket):
        family = 0 if output.filters is None else output.filters.family or 0
        for messages in list_table(arguments.what, family):
            output.write(messages)
            if output.is_full():
                break
        output.end()
        return int(output.malformed > 0)
    options = {
        "what": arguments.what,
        "table": table,
        "peer": arguments.peer,
        "timeout": arguments.timeout,
        "raw": True,
    }
    answer = _show(client.ask(arguments.socket, "show", options), output)
    output.end(str(answer.get("error") or ""))
    return client.outcome(answer) or int(output.malformed > 0)


def read_row(row: Row) -> bytes:
    """The message of one row of the daemon's."""
    try:
        if "message" in row:
            return bytes.fromhex(str(row["message"]))
        key, body = str(row["key"]), str(row["body"])
        return view.message_of(bytes.fromhex(key), bytes.fromhex(body))
    except (KeyError, ValueError) as error:
        raise RecordError("a row that is not a record") from error


def _show(rows: Iterator[Row], output: Output) -> Row:
    """Print the rows; the last answer."""
    last: Row = {"ok": True}
    while not output.is_full():
        batch = list(islice(rows, _BATCH))
        if not batch:
            break
        if "ok" in batch[-1]:
            last = batch.pop()
        for peer, messages in _by_peer(batch, output):
            output.write(messages, {} if peer is None else {"peer": peer})
    return last


def _by_peer(
    batch: Sequence[Row], output: Output
) -> Iterator[tuple[object, list[bytes]]]:
    """The messages of a batch, those of each peer together."""
    peer: object = None
    messages: list[bytes] = []
    for row in batch:
        if row.get("peer") != peer and messages:
            yield peer, messages
            messages = []
        peer = row.get("peer")
        try:
            messages.append(read_row(row))
        except RecordError:
            output.malformed += 1
    if messages:
        yield peer, messages
