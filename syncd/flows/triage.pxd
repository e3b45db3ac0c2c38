# C types of triage.py.
import cython

ctypedef const unsigned char *octets

cdef int _FLOW, _GRE, _IPV4, _ESTABLISHED, _EXPECTED, _LASTING, _NAT, _SHORTEST
cdef unsigned int _STATUS_HEAD, _TIMEOUT_HEAD, _PROTOINFO_HEAD, _TCP_TYPE

cdef class Sorted:
    cdef public list fresh_short, fresh_long, changed_short, changed_long, closing
    cdef public list ended, rest

@cython.locals(
    result=Sorted, rest=list, key=bytes, body=bytes, held=bytes, at=Py_ssize_t,
    size=Py_ssize_t, length=Py_ssize_t, protocol=Py_ssize_t, held_size=Py_ssize_t,
    seconds=cython.uint, name=octets, now=octets, was=octets, lost=int, state=int,
    record=tuple,
)
cpdef Sorted triage(list keys, dict told, dict planted, dict own, unsigned int long_s)

cdef unsigned int _word(octets data, Py_ssize_t at) noexcept
cdef int _state(octets data, Py_ssize_t at, Py_ssize_t size) noexcept
