# C types of own.py.
import cython

from syncd.flows.rollcall cimport RollCall
from syncd.flows.table cimport OwnTable
from syncd.flows.zones cimport ZonedKeys

cdef int _UPDATE, _NEW, _END, _DUMP, _SEQ_ADJUST, _NAT_CLASH
cdef unsigned long long _HELPED, _SEQ_ADJ_BIT, _ADJUSTING_BITS, _TIMEOUT_BIT, _EARLY_END
cdef unsigned long long _LABELS_BIT, _STATUS_BIT

cdef class Own:
    cdef public OwnTable flows, expectations
    cdef public dict lookups, planted, uprooted
    cdef public list ended, met
    cdef public RollCall roll
    cdef public set sown
    cdef public Py_ssize_t ignored
    cdef ZonedKeys _zoned
    cdef set _announcing, _doubted, _told_expectations
    cdef public object wildcards
    cdef object _helped, _timers

    @cython.locals(key=bytes, body=bytes, ident=bytes, mask=cython.ulonglong)
    cdef object _end(self, tuple record, double now)
    cdef object _note(self, bytes key, bytes body, unsigned long long mask)

    @cython.locals(
        flows=OwnTable, planted=dict, uprooted=dict, bodies=dict, facts=dict,
        held=dict, marks=dict, later=list,
        record=tuple, fact=tuple, key=bytes, body=bytes, ident=bytes, kind=int,
        mask=cython.ulonglong, known=cython.ulonglong,
    )
    cpdef object apply(self, records, double now)
