# C types of planted.py.
import cython

from syncd.flows.own cimport Own

cdef int _FLOW, _EXPECTATION, _GRE, _IPV4, _SHIFT
cdef long long _DUE

cdef class Planted:
    cdef public Py_ssize_t long_s, late_s
    cdef Own _own
    cdef public dict ends
    cdef dict _zoned, _wheel
    cdef Py_ssize_t _at, _count

    @cython.locals(planted=dict)
    cpdef bytes get(self, bytes key)
    cpdef Py_ssize_t timer_s(self, bytes key, bytes body) except -1
    cpdef object note(self, records, Py_ssize_t timer_s, double now)
    @cython.locals(
        second=cython.longlong, ends=dict, wheel=dict, span=Py_ssize_t, end=cython.longlong,
        looked_s=Py_ssize_t, latest=Py_ssize_t, count=Py_ssize_t, key=bytes, plain=bytes,
        due=cython.longlong,
    )
    cpdef object wrote(self, list keys, Py_ssize_t timer_s, double now)
    cpdef object postpone(self, bytes key)
    @cython.locals(plain=bytes)
    cpdef object forget(self, bytes key)
    @cython.locals(due=cython.longlong)
    cdef object _put(self, bytes key, long long end, Py_ssize_t second)
