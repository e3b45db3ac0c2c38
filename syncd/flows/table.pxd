# C types of table.py.
import cython

from syncd.flows.digest cimport Digest
from syncd.flows.likeness cimport alike, completed
from syncd.flows.rollcall cimport RollCall

cdef unsigned long long _TIMEOUT_BIT

cdef class Table:
    cdef public dict bodies, told_s
    cdef public set stale, touched
    cdef public Digest digest
    cdef public object changes

    @cython.locals(changed=list, told_s=dict, key=bytes)
    cpdef object put(self, list flat, double now)
    @cython.locals(gone=list, bodies=dict, told_s=dict, stale=set, key=bytes, body=bytes)
    cpdef object drop(self, keys)

cdef class OwnTable:
    cdef public dict bodies, facts, marks, held
    cdef public Py_ssize_t owed, gone
    cdef public bint holding
    cdef public set touched, disturbed, adopted
    cdef public list left, missed
    cdef public RollCall roll
    cdef public object changes

    cpdef object put(self, bytes key, bytes body, bytes ident, unsigned long long mask)
    cpdef object end(self, bytes key)
    @cython.locals(body=bytes)
    cpdef object disown(self, bytes key)
    cpdef object end_later(self, bytes key, double due)
    @cython.locals(fact=tuple)
    cpdef object ended(self, bytes key, bytes ident, double due=*)
    @cython.locals(key=bytes, body=bytes, ident=bytes, old=bytes, mask=cython.ulonglong)
    cpdef object refresh(self, tuple record)
    @cython.locals(key=bytes)
    cpdef bint fill(self, tuple record) except -1
    @cython.locals(key=bytes, old=bytes, body=bytes, mask=cython.ulonglong)
    cpdef bint agrees(self, tuple record, bint lenient=*) except -1
    @cython.locals(touched=set, held=dict, bodies=dict, keys=list, key=bytes)
    cpdef bint sweep(self, Py_ssize_t limit, double due=*) except -1
