# C types of young.py.
import cython

from syncd.flows.rollcall cimport RollCall

cdef class Young:
    cdef public dict flows
    cdef public double min_age_s
    cdef public Py_ssize_t never_told
    cdef object _slots
    cdef RollCall _roll

    @cython.locals(key=bytes, slot=dict)
    cpdef object wait(self, tuple record, double now)
    @cython.locals(key=bytes, slot=dict, ident=bytes, body=bytes, known=tuple)
    cpdef bint update(self, tuple record) except -1
    @cython.locals(known=tuple)
    cpdef object end(self, bytes key, bytes ident)
    @cython.locals(known=tuple)
    cpdef object forget(self, bytes key)
    cpdef object seen(self, bytes key)
