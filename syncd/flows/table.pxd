# C types of table.py.
import cython

from syncd.flows.digest cimport Digest

cdef class Table:
    cdef public dict bodies, told_s
    cdef public set stale
    cdef public Digest digest

cdef class OwnTable:
    cdef public dict bodies, facts, marks, held
    cdef public Py_ssize_t owed
    cdef public bint holding
    cdef public set touched, disturbed, seen

    cpdef object put(self, bytes key, bytes body, bytes ident, unsigned long long mask)
    @cython.locals(body=bytes)
    cpdef object end(self, bytes key)
    cpdef object end_later(self, bytes key, double due)
    @cython.locals(fact=tuple)
    cpdef object ended(self, bytes key, bytes ident, double due=*)
    @cython.locals(key=bytes, body=bytes, ident=bytes, old=bytes, mask=cython.ulonglong)
    cpdef object refresh(self, tuple record)
    @cython.locals(key=bytes, old=bytes)
    cpdef bint fill(self, tuple record) except -1
