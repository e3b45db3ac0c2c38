# C types of triage.py.
import cython

cdef int _FLOW, _GRE, _IPV4, _ESTABLISHED, _EXPECTED, _LASTING, _NAT
cdef bytes _STATUS_HEAD, _TIMEOUT_HEAD, _PROTOINFO_HEAD, _TCP_TYPE

cdef class Sorted:
    cdef public list fresh_short, fresh_long, changed_short, changed_long, closing, rest

@cython.locals(
    result=Sorted, rest=list, key=bytes, body=bytes, held=bytes, at=Py_ssize_t,
    size=Py_ssize_t, seconds=cython.uint, was=cython.uint, now=cython.uint, state=int,
    record=tuple,
)
cpdef Sorted triage(list keys, dict told, dict planted, dict own, unsigned int long_s)

cdef int _state(bytes body, Py_ssize_t at) except -1
