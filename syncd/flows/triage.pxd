# C types of triage.py.
import cython

from syncd.flows.closing cimport Closing

ctypedef const unsigned char *octets

cdef int _FLOW, _GRE, _IPV4, _ESTABLISHED, _LAST_ACK, _EXPECTED, _LASTING, _NAT
cdef int _SHORTEST
cdef unsigned int _STATUS_HEAD, _TIMEOUT_HEAD, _PROTOINFO_HEAD, _TCP_TYPE

cdef class Sorted:
    cdef public list fresh_short, fresh_long, changed_short, changed_long, deletes
    cdef public list ended, rest

@cython.locals(
    result=Sorted, rest=list, key=bytes, body=bytes, held=bytes, at=Py_ssize_t,
    size=Py_ssize_t, length=Py_ssize_t, protocol=Py_ssize_t, held_size=Py_ssize_t,
    seconds=cython.uint, name=octets, data=octets, was=octets, before=int, after=int,
    state=int, record=tuple, fresh=list,
)
cpdef Sorted triage(
    list keys, dict told, dict planted, dict own, Closing closing, unsigned int long_s,
    double now,
)

cdef bint _is_over(int state, octets held, Py_ssize_t size) noexcept
cdef unsigned int _word(octets data, Py_ssize_t at) noexcept
cdef int _state(octets data, Py_ssize_t at, Py_ssize_t size) noexcept
