"""The hash of the proof of equality: xxh3 with 64 bits, of the xxhash library.

In: bytes and a seed. Out: a number of 64 bits. Compiled modules take `xxh3` from
`hashing.pxd`: the same function of the same library, called where `ADDRESS` says that
it stands, without objects between. Where it is 0 they call the one that is here.
"""

import ctypes
import sys

from xxhash import xxh3_64_intdigest as xxh3

__all__ = ["ADDRESS", "xxh3"]


def _address() -> int:
    """Where the library's C function stands in this process; 0 if it does not say."""
    try:
        library = ctypes.CDLL(sys.modules[xxh3.__module__].__file__)
        function = library.XXH3_64bits_withSeed
    except (AttributeError, KeyError, OSError):  # it was built in another way
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


ADDRESS = _address()
