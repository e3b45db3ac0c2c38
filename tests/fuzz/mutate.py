"""Inputs that are almost right.

In: a generator of random numbers and inputs that were taken, or refused in their own
way. Out: one of them, changed in a few places, cut, grown, or joined with another one.
"""

import random
from collections.abc import Sequence

_EDGES = (0, 1, 0x7F, 0x80, 0xC0, 0xC1, 0xDF, 0xFE, 0xFF)
# What msgpack, netlink and lengths in general are made of at their edges.
_WORDS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x04\x00",
    b"\xff\xff",
    b"\xc4\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\0\0\0\0\0\0\0",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x90",
    b"\x80",
    b"\xc0",
)
_LONGEST = 4096


def mutated(
    rng: random.Random, corpus: Sequence[bytes], tokens: Sequence[bytes]
) -> bytes:
    """A member of the corpus with one to eight changes."""
    random_ = rng.random
    data = bytearray(corpus[int(random_() * len(corpus))])
    changes = 1 if random_() < 0.5 else 1 + int(random_() * 8)
    for _ in range(changes):
        size = len(data)
        at = int(random_() * (size + 1))
        match int(random_() * 10):
            case 0 | 1 if at < size:
                data[at] ^= 1 << int(random_() * 8)
            case 2 if at < size:
                data[at] = _EDGES[int(random_() * len(_EDGES))]
            case 3:
                data[at : at + 1 + int(random_() * 8)] = b""
            case 4:
                del data[at:]
            case 5:
                word = _WORDS[int(random_() * len(_WORDS))]
                data[at : at + len(word)] = word
            case 6:
                data[at:at] = tokens[int(random_() * len(tokens))]
            case 7:
                end = at + 1 + int(random_() * 32)
                data[at:at] = data[at:end] * (1 + int(random_() * 3))
            case 8:
                other = corpus[int(random_() * len(corpus))]
                start = int(random_() * (len(other) + 1))
                data[at:] = other[start:]
            case _:
                at &= ~3
                data[at : at + 4] = rng.randbytes(4)
    return bytes(data[:_LONGEST])
