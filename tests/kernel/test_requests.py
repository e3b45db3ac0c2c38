"""Requests to a real kernel: refusals, replies, dumps, and what it takes to ask."""

import asyncio
import errno
import socket
import subprocess
import sys
from collections.abc import Iterable

import pytest
from syncd.errors import KernelError
from syncd.flows import restore
from syncd.flows.batch import Restorer, TimedRecord
from syncd.flows.reader import RecordReader
from syncd.flows.record import DUMP, NEW
from syncd.kernel.events import EventSocket
from syncd.kernel.requests import RequestSocket

from tests.lab import Lab, inside, sysctl
from tests.unit.flows.test_restore import VECTORS

pytestmark = pytest.mark.kernel

_UDP = next(vector for vector in VECTORS if vector.name.endswith("-udp4"))
_UDP6 = next(vector for vector in VECTORS if vector.name.endswith("-udp6"))


@pytest.fixture
def namespace(lab: Lab) -> str:
    """One that tracks, and tells of everything."""
    made = lab.namespace("requests", tracking=True)
    sysctl(made, "net.netfilter.nf_conntrack_events", 1)
    return made


@pytest.fixture
def requests(namespace: str) -> Iterable[RequestSocket]:
    """A socket in it."""
    with inside(namespace):
        made = RequestSocket()
    yield made
    made.close()


def _records(count: int) -> list[TimedRecord]:
    """UDP flows that differ in their port."""
    key, body = _UDP.key, _UDP.body
    ports = ((number + 1).to_bytes(2, "big") for number in range(count))
    return [
        (key[:44] + port + key[46:], body[:48] + port + body[50:], 0.0)
        for port in ports
    ]


def _creates(records: list[TimedRecord]) -> list[bytes]:
    return Restorer(600).creates(records, 1)


async def _dump(requests: RequestSocket, family: int = 0) -> list[list[bytes]]:
    return [part async for part in requests.dump("flows", family)]


def test_silence_means_that_all_was_done(requests: RequestSocket) -> None:
    assert requests.send(_creates(_records(1000))) == []
    assert requests.table_size()[0] == 1000


def test_refusals_say_which_message_and_why(requests: RequestSocket) -> None:
    messages = _creates(_records(10))
    assert requests.send([messages[3], messages[7]]) == []
    refusals = requests.send(messages)
    assert [(refusal.index, refusal.errno) for refusal in refusals] == [
        (3, errno.EEXIST),
        (7, errno.EEXIST),
    ]


def test_a_batch_of_refusals_larger_than_the_buffers_loses_none(
    requests: RequestSocket,
) -> None:
    messages = _creates(_records(30_000))
    assert requests.send(messages) == []
    refusals = requests.send(messages)
    assert [refusal.index for refusal in refusals] == list(range(30_000))
    assert {refusal.errno for refusal in refusals} == {errno.EEXIST}


def test_the_kernel_says_what_it_does_not_like(requests: RequestSocket) -> None:
    message = bytearray(restore.lookup(_UDP.key, 1))
    message[20:22] = (8).to_bytes(2, "little")  # A tuple too short for its parts.
    (refusal,) = requests.send([bytes(message)])
    assert refusal.errno == errno.EINVAL
    assert isinstance(refusal.text, str)


def test_gets_come_back_in_the_order_of_their_requests(requests: RequestSocket) -> None:
    records = _records(3000)
    requests.send(_creates(records[::2]))
    lookups = [restore.lookup(record[0], n) for n, record in enumerate(records, 1)]
    replies = requests.get(lookups)
    reader = RecordReader()
    for number, reply in enumerate(replies):
        if number % 2:
            assert reply is None
        else:
            assert reply is not None
            kind, key, _, _, _ = reader.read_one(reply)
            assert (kind, key) == (DUMP, records[number][0])


def test_deletes_free_the_table(requests: RequestSocket) -> None:
    records = _records(1000)
    requests.send(_creates(records))
    deletes = [restore.delete(record[0], n) for n, record in enumerate(records, 1)]
    assert requests.send(deletes) == []
    assert requests.table_size()[0] == 0


def test_a_delete_with_an_id_ends_that_life_of_a_flow_only(
    requests: RequestSocket,
) -> None:
    records = _records(1)
    key = records[0][0]
    requests.send(_creates(records))
    (reply,) = requests.get([restore.lookup(key, 1)])
    assert reply is not None
    ident = RecordReader().read_one(reply)[3]
    other = bytes(byte ^ 1 for byte in ident)
    assert requests.send([restore.delete(key, 1, other)])
    assert requests.table_size()[0] == 1
    assert not requests.send([restore.delete(key, 1, ident)])
    assert requests.table_size()[0] == 0


def test_a_dump_has_every_flow_in_parts(requests: RequestSocket) -> None:
    records = _records(2000)
    requests.send(_creates([*records, (_UDP6.key, _UDP6.body, 0.0)]))
    parts = asyncio.run(_dump(requests))
    assert len(parts) > 3
    reader = RecordReader()
    keys = {record[1] for part in parts for record in reader.read(part)}
    assert keys == {record[0] for record in records} | {_UDP6.key}


def test_a_dump_of_one_family_has_only_that(requests: RequestSocket) -> None:
    requests.send(_creates([(_UDP6.key, _UDP6.body, 0.0), *_records(5)]))
    parts = asyncio.run(_dump(requests, socket.AF_INET6))
    assert [message[16] for part in parts for message in part] == [socket.AF_INET6]


def test_others_are_served_during_a_dump(requests: RequestSocket) -> None:
    requests.send(_creates(_records(3000)))

    async def scenario() -> tuple[int, int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count())
        parts = await _dump(requests)
        other.cancel()
        return turns, len(parts)

    turns, parts = asyncio.run(scenario())
    assert turns >= parts


def test_requests_during_a_dump_do_not_disturb_it(requests: RequestSocket) -> None:
    records = _records(3000)
    requests.send(_creates(records))

    async def scenario() -> int:
        seen = 0
        async for part in requests.dump("flows"):
            seen += len(part)
            assert requests.get([restore.lookup(records[0][0], 1)])[0] is not None
        return seen

    assert asyncio.run(scenario()) == 3000


def test_a_dump_that_was_given_up_does_not_spoil_the_next(
    namespace: str, requests: RequestSocket
) -> None:
    requests.send(_creates(_records(3000)))

    async def scenario() -> int:
        parts = requests.dump("flows")
        await anext(parts)
        with inside(namespace):  # Where a new socket is made.
            await parts.aclose()
        return sum(map(len, await _dump(requests)))

    assert asyncio.run(scenario()) == 3000


def test_events_that_a_request_causes_carry_its_portid(
    namespace: str, requests: RequestSocket
) -> None:
    with inside(namespace):
        events = EventSocket(1 << 20, reliable=False)
    try:
        requests.send(_creates(_records(1)))
        (message,) = events.drain(10)
        assert RecordReader().read_one(message)[0] == NEW
        assert int.from_bytes(message[12:16], sys.byteorder) == requests.portid
        events.ignore_portids([requests.portid])
        requests.send([restore.delete(_records(1)[0][0], 1)])
        assert events.drain(10) == []
    finally:
        events.close()


def test_without_the_right_to_ask_the_error_names_the_capability(
    namespace: str,
) -> None:
    script = (
        "from syncd.kernel.requests import RequestSocket\n"
        "from syncd.errors import KernelError\n"
        "try:\n  RequestSocket()\n"
        "except KernelError as error:\n  print(error.errno, error)\n"
    )
    dropped = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    command = ("ip", "netns", "exec", namespace, *dropped, sys.executable, "-c", script)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{errno.EPERM} ")
    assert "CAP_NET_ADMIN" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_lookup_that_the_kernel_does_not_understand_is_an_error(
    requests: RequestSocket,
) -> None:
    garbage = _UDP.key[:8] + bytes(len(_UDP.key) - 8)
    with pytest.raises(KernelError) as caught:
        requests.get([restore.lookup(garbage, 1)])
    assert caught.value.errno == errno.EINVAL
