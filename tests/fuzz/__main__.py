"""Many inputs for every parser, in parallel.

    python -m tests.fuzz --fuzz 10000000 --from 1 --jobs 3

In: how many inputs in all, the first seed, how many processes. Out: for each crash the
input as hex and the way to see it again, and a summary. Inputs that find a new way
through a parser become parents of others; `--keep` writes them to tests/data/fuzz, and
so does every crash that was mended.

    python -m tests.fuzz --only frame --input 95...     one input again
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections.abc import Iterator
from typing import NamedTuple

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import Target, targets

_BATCH = 5000  # inputs of one seed
_GROWTH_LIMIT = 2000  # inputs that a batch remembers
_KEPT_BYTES = 1500  # of an input in the corpus
_CRASHES_SHOWN = 10


class Batch(NamedTuple):
    """What came of one seed."""

    target: str
    seed: int
    inputs: int
    crashes: list[tuple[bytes, str]]
    found: dict[str, bytes]  # what was said for the first time, and of what


_TARGETS = targets()


def fresh_seed() -> int:
    """A first seed that no run had before."""
    return time.time_ns() // 1_000_000


def crash_of(target: Target, data: bytes) -> str:
    """How the parser broke its word, or nothing."""
    try:
        target.check(data)
    except Exception:  # noqa: BLE001 - this is what is looked for
        return traceback.format_exc()
    return ""


def run_batch(task: tuple[str, int, int]) -> Batch:
    """So many inputs of one target from one seed."""
    name, seed, count = task
    target, rng = _TARGETS[name], random.Random(f"{name} {seed}")
    corpus = target.corpus()
    known = set[str]()
    found: dict[str, bytes] = {}
    crashes: list[tuple[bytes, str]] = []
    for data in corpus:
        try:
            known.add(target.check(data))
        except Exception:  # noqa: BLE001 - this is what is looked for
            crashes.append((data, traceback.format_exc()))
    for _ in range(count):
        data = mutated(rng, corpus, target.tokens)
        try:
            word = target.check(data)
        except Exception:  # noqa: BLE001 - this is what is looked for
            crashes.append((data, traceback.format_exc()))
            if len(crashes) >= _CRASHES_SHOWN:
                break
            continue
        if word not in known and len(found) < _GROWTH_LIMIT:
            known.add(word)
            found[word] = data
            corpus.append(data)
    return Batch(name, seed, count, crashes, found)


def tasks(count: int, first: int, only: str) -> Iterator[tuple[str, int, int]]:
    """The inputs, shared out by the weights of the targets."""
    chosen = [t for t in _TARGETS.values() if not only or t.name == only]
    whole = sum(target.share for target in chosen)
    left = {target.name: count * target.share // whole for target in chosen}
    seed = first
    while any(left.values()):
        for name, rest in left.items():
            if rest:
                yield name, seed, min(rest, _BATCH)
                left[name] = max(rest - _BATCH, 0)
        seed += 1


def keep(found: dict[str, dict[str, bytes]]) -> int:
    """Add to the corpus what nothing in it does yet; return how many."""
    added = 0
    for name, words in found.items():
        target = _TARGETS[name]
        known = {target.check(data) for data in target.corpus()}
        fresh = sorted(
            data.hex()
            for word, data in words.items()
            if word not in known and len(data) <= _KEPT_BYTES
        )
        if fresh:
            with target.corpus_file.open("a") as file:
                file.writelines(f"{line}\n" for line in fresh)
        added += len(fresh)
    return added


def again(target: Target, data: bytes) -> int:
    """One input, told in full."""
    crash = crash_of(target, data)
    print(crash or target.check(data))
    return 1 if crash else 0


def fuzz(count: int, first: int, jobs: int, only: str, *, keeping: bool) -> int:
    """All of it; 1 if anything crashed."""
    began = time.monotonic()
    done: dict[str, int] = {}
    found: dict[str, dict[str, bytes]] = {}
    crashes: set[str] = set()
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for batch in pool.imap_unordered(run_batch, tasks(count, first, only)):
            done[batch.target] = done.get(batch.target, 0) + batch.inputs
            found.setdefault(batch.target, {}).update(batch.found)
            for data, story in batch.crashes:
                what = batch.target + story.splitlines()[-1]
                if what in crashes or len(crashes) >= _CRASHES_SHOWN:
                    continue
                crashes.add(what)
                print(f"{batch.target}: {story}", flush=True)
                print(
                    f"replay: python -m tests.fuzz --only {batch.target} "
                    f"--input {data.hex()}\n  (or, if it takes more than one input: "
                    f"--fuzz {_BATCH} --from {batch.seed})",
                    flush=True,
                )
    spent_s = time.monotonic() - began
    total = sum(done.values())
    print(f"{total} inputs from {first} in {spent_s:.0f} s: {done}")
    print(f"ways that were new to a batch: { {k: len(v) for k, v in found.items()} }")
    if keeping:
        print(f"added to the corpus: {keep(found)}")
    print(f"crashes: {len(crashes)}")
    return 1 if crashes else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/test", description=__doc__)
    parser.add_argument("--fuzz", type=int, default=100_000, metavar="N")
    parser.add_argument("--from", type=int, dest="first", metavar="S")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J")
    parser.add_argument("--only", choices=sorted(_TARGETS), default="")
    parser.add_argument("--input", type=bytes.fromhex, metavar="HEX")
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    if asked.input is not None:
        if not asked.only:
            parser.error("--input wants --only: the name of its target")
        return again(_TARGETS[asked.only], asked.input)
    first = fresh_seed() if asked.first is None else asked.first
    return fuzz(asked.fuzz, first, asked.jobs, asked.only, keeping=asked.keep)


if __name__ == "__main__":
    sys.exit(main())
