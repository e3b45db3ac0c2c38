"""conntrack's own library, libnetfilter_conntrack, as the judge of our lines.

In: a message. Out: the line that `conntrack` would print, for it prints by this
library; so messages that no kernel here would send can be compared too.
"""

import ctypes

EXTENDED, TIME, IDENT, KTIMESTAMP = 1, 2, 4, 8  # NFCT_OF_*
_BYTES = 8192


class Library:
    """The library, with the labels of a file."""

    def __init__(self, labels: str | None = None) -> None:
        self._library = ctypes.CDLL("libnetfilter_conntrack.so.3")
        for name in ("nfct_new", "nfexp_new", "nfct_labelmap_new"):
            getattr(self._library, name).restype = ctypes.c_void_p
        path = None if labels is None else labels.encode()
        self._labels = None if path is None else self._library.nfct_labelmap_new(path)

    def line(self, message: bytes, event: str, flags: int, *, is_xml: bool) -> str:
        """What nfct_snprintf() or nfexp_snprintf() makes of it."""
        kind = {"": 0, "new": 1, "update": 2, "destroy": 4}[event]
        text = ctypes.create_string_buffer(_BYTES)
        library = self._library
        if message[5] == 1:
            made = ctypes.c_void_p(library.nfct_new())
            assert library.nfct_nlmsg_parse(message, made) >= 0
            labels = None if self._labels is None else ctypes.c_void_p(self._labels)
            library.nfct_snprintf_labels(
                text, _BYTES, made, kind, int(is_xml), flags, labels
            )
            library.nfct_destroy(made)
        else:
            made = ctypes.c_void_p(library.nfexp_new())
            assert library.nfexp_nlmsg_parse(message, made) >= 0
            library.nfexp_snprintf(text, _BYTES, made, kind, int(is_xml), flags)
            library.nfexp_destroy(made)
        return text.value.decode()
