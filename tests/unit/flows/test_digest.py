"""The digest of a table depends on what is in it, not on how that came about."""

import ctypes

from hypothesis import given
from hypothesis import strategies as st
from syncd.flows import digest
from syncd.flows.digest import BUCKETS, Digest
from syncd.flows.hashing import ADDRESS
from syncd.flows.table import Table
from xxhash import xxh3_64_intdigest

from tests.digests import sum_of
from tests.unit.replication.talk import flow_body, flow_key

KEYS = st.integers(0, 20).map(flow_key)
BODIES = st.integers(0, 3).map(lambda seconds: flow_body(1, seconds))
CHANGES = st.lists(st.tuples(KEYS, st.none() | BODIES), max_size=60)


@given(CHANGES, CHANGES)
def test_the_sums_are_those_of_the_bodies_that_are_left(
    flows: list[tuple[bytes, bytes | None]],
    expectations: list[tuple[bytes, bytes | None]],
) -> None:
    shared = Digest()
    tables = Table(shared), Table(shared)
    for table, changes in zip(tables, (flows, expectations), strict=True):
        for key, body in changes:
            if body is None:
                table.drop([key])
            else:
                table.put([key, body], 1.0)
    records = [record for table in tables for record in table.bodies.items()]
    assert shared.values == sum_of(records)
    for table in tables:
        table.clear()
    assert shared.values == [0] * BUCKETS


def test_a_key_that_a_frame_names_twice_counts_once() -> None:
    table = Table()
    table.put([flow_key(1), flow_body(1), flow_key(1), flow_body(1, 30)], 1.0)
    assert table.bodies == {flow_key(1): flow_body(1, 30)}
    assert table.digest.values == sum_of(table.bodies.items())


def test_a_body_under_another_key_and_a_changed_bit_are_seen() -> None:
    sums = [
        sum_of([(flow_key(1), flow_body(1)), (flow_key(2), flow_body(2))]),
        sum_of([(flow_key(1), flow_body(2)), (flow_key(2), flow_body(1))]),
        sum_of([(flow_key(1), flow_body(1)), (flow_key(2), flow_body(2, 61))]),
    ]
    assert sums[0] != sums[1] != sums[2] != sums[0]


def test_the_short_names_of_a_bucket_are_its_span() -> None:
    for number in range(500):
        name = digest.short_name(flow_key(number))
        bucket = digest.bucket_of(name)
        sums = sum_of([(flow_key(number), flow_body(1))])
        assert sums[bucket] != 0
        assert sums.count(0) == BUCKETS - 1
        [(first, last)] = digest.spans_of(1 << bucket)
        assert first <= name <= last
    assert digest.spans_of(digest.ALL_BUCKETS) == [(0, (1 << 32) - 1)]
    assert len(digest.spans_of(0b1011)) == 2


def test_what_differs_is_told_by_bucket() -> None:
    ours, theirs = Table(), Table()
    for table in (ours, theirs):
        table.put([flow_key(1), flow_body(1), flow_key(2), flow_body(2)], 1.0)
    assert ours.digest.differing(theirs.digest.packed) == 0
    ours.put([flow_key(2), flow_body(2, 61)], 1.0)
    bucket = digest.bucket_of(digest.short_name(flow_key(2)))
    assert ours.digest.differing(theirs.digest.packed) == 1 << bucket
    assert len(theirs.digest.packed) == digest.PACKED_BYTES


def test_a_body_that_changed_in_silence_is_found_when_its_bucket_is_recounted() -> None:
    table = Table()
    table.put([flow_key(1), flow_body(1), flow_key(2), flow_body(2)], 1.0)
    everything = digest.choose(table.bodies.items(), digest.ALL_BUCKETS)
    assert table.digest.recount(everything, digest.ALL_BUCKETS) == 0
    table.bodies[flow_key(2)] = flow_body(2, 61)
    bucket = 1 << digest.bucket_of(digest.short_name(flow_key(2)))
    chosen = digest.choose(table.bodies.items(), bucket)
    assert table.digest.recount(chosen, bucket) == bucket
    assert table.digest.values == sum_of(table.bodies.items())


LENGTHS = (0, 1, 3, 4, 8, 9, 16, 17, 56, 128, 129, 240, 241, 1024, 5000)


def test_sums_are_those_of_the_library() -> None:
    for length in LENGTHS:
        key, body = flow_key(length), bytes(range(256)) * 20
        body = body[:length]
        name = xxh3_64_intdigest(key)
        sums = sum_of([(key, body)])
        assert sums[name >> 58] == xxh3_64_intdigest(body, name)
        digest_of_all = Digest()
        digest_of_all.recount_all(({key: body}, {}))
        assert digest_of_all.values == sums


def test_the_library_says_where_its_function_is() -> None:
    kinds = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)
    function = ctypes.CFUNCTYPE(ctypes.c_uint64, *kinds)(ADDRESS)
    for length in LENGTHS:
        body = b"x" * length
        assert function(body, length, 7 << 60) == xxh3_64_intdigest(body, 7 << 60)
