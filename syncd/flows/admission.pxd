# C types of admission.py.
import cython

from syncd.flows.filter cimport RecordFilter
from syncd.flows.own cimport Own
from syncd.flows.young cimport Young

cdef int _UPDATE, _NEW, _END, _DUMP, _ACCEPTED, _OWN

cdef class Admission:
    cdef public list ignored
    cdef public bint reread
    cdef public frozenset addresses
    cdef public Young young
    cdef Own _own
    cdef public RecordFilter filter
    cdef bint _ages
    cdef dict _departed, _awaited
    cdef set _left_behind
    cdef double _dump_at
    cdef list _review, _withdrawn

    @cython.locals(
        flows=dict, young=Young, planted=dict, waiting=dict, judge=RecordFilter,
        partial=cython.bint, ages=cython.bint, departed=cython.bint, admitted=list,
        record=tuple, kind=int, key=bytes, body=bytes, stored=bytes, reason=int,
    )
    cdef list _admitted(self, records, list expectations, double now)
    @cython.locals(kind=int, key=bytes, body=bytes, ident=bytes, young=Young, own=Own)
    cdef bint _is_old(self, tuple record, double now) except -1
    @cython.locals(key=bytes, own=Own)
    cdef object _refuse(self, tuple record, int reason)
    cdef object _withdraw(self, bytes key)
    cdef bint _is_left(self, tuple record, double now) except -1
    cdef int _judge(self, tuple record, double now) except -1
    @cython.locals(key=bytes, body=bytes, own=Own, young=Young, known=cython.bint)
    cdef bint _admits_dumped(self, tuple record, double now) except -1
