# C types of doubts.py.
import cython

from syncd.flows.rollcall cimport RollCall

cdef int _SLACK_S, _PAIRS_LIMIT, _EXPECTATION, _SHIFT
cdef bytes _TIMEOUT_HEAD, _TCP_HEADS

cdef class Doubts:
    cdef public Py_ssize_t compared, untold
    cdef dict _planted, _ends, _pairs
    cdef object _differ
    cdef RollCall _roll

    cpdef bint note(self, Py_ssize_t limit) except -1
    @cython.locals(
        planted=dict, ends=dict, roll=RollCall, found=list, second=long, left=long, end=long,
        record=tuple, key=bytes, held=bytes, body=bytes, at=Py_ssize_t,
    )
    cpdef list look(self, list records, dict told, double now)
    cpdef list unseen(self, Py_ssize_t limit)
    @cython.locals(at=Py_ssize_t, pair=bytes)
    cdef bint _differs(self, bytes key, bytes told, bytes held) except -1
