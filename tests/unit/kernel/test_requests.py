"""Reading what a dump brings; the rest of the room needs a kernel."""

import errno
import struct

import pytest
from syncd.errors import KernelError
from syncd.kernel.requests import split

_NLMSG_ERROR, _NLMSG_DONE, _NLMSG_FLOW = 2, 3, 0x100


def _message(kind: int, payload: bytes = b"", flags: int = 2) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 7, 9) + payload


def _code(code: int) -> bytes:
    return struct.pack("=i", -code)


def test_one_read_holds_many_messages() -> None:
    messages = [_message(_NLMSG_FLOW, bytes(size)) for size in (4, 196, 212)]
    assert split(b"".join(messages)) == (messages, False)


def test_the_end_of_a_dump_is_told_and_is_no_message() -> None:
    flow = _message(_NLMSG_FLOW, bytes(8))
    assert split(flow + _message(_NLMSG_DONE, _code(0))) == ([flow], True)
    assert split(_message(_NLMSG_DONE, _code(0))) == ([], True)


@pytest.mark.parametrize("kind", [_NLMSG_ERROR, _NLMSG_DONE])
def test_a_refused_dump_is_an_error_with_its_number(kind: int) -> None:
    with pytest.raises(KernelError) as caught:
        split(_message(kind, _code(errno.EOPNOTSUPP)))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert "\n" not in str(caught.value)


def test_a_refusal_of_rights_names_the_capability() -> None:
    with pytest.raises(KernelError, match="CAP_NET_ADMIN"):
        split(_message(_NLMSG_ERROR, _code(errno.EPERM)))


def test_the_text_that_the_kernel_gave_is_in_the_error() -> None:
    attribute = struct.pack("=HH", 4 + 4, 1) + b"bad\0"
    payload = _code(errno.EINVAL) + _message(_NLMSG_FLOW) + attribute
    with pytest.raises(KernelError, match="bad"):
        split(_message(_NLMSG_ERROR, payload, flags=0x200))


@pytest.mark.parametrize("length", [0, 8, 15, 400])
def test_a_length_that_does_not_fit_is_an_error(length: int) -> None:
    with pytest.raises(KernelError):
        split(struct.pack("=I", length) + _message(_NLMSG_FLOW)[4:])
