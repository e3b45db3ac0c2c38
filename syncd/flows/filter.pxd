# C types of filter.py.
import cython

cdef int _ACCEPTED, _PROTOCOL, _OWN, _ADDRESS, _ZONE, _NAT, _MARK, _STATE
cdef int _AF_INET, _LAST4, _FIRST4, _LAST6, _FIRST6
cdef Py_ssize_t _KEY4, _KEY6, _REPLY4, _REPLY6

cdef class _Addresses:
    cdef bint _any
    cdef tuple _accept4, _accept6, _ignore4, _ignore6

    @cython.locals(shift=cython.uint, prefixes=frozenset, pair=tuple)
    cpdef bint pass4(
        self, unsigned long long source, unsigned long long reply_source
    ) except -1
    cpdef bint pass6(self, source, reply_source) except -1

cdef class _Zones:
    cdef object _choice
    cdef dict _known

    @cython.locals(zones=tuple)
    cpdef bint passes(self, bytes key, bytes body) except -1

cdef class RecordFilter:
    cdef _Addresses _addresses
    cdef _Zones _zones
    cdef object _expectations, _marks
    cdef bytes _hints
    cdef tuple _nat
    cdef frozenset _own, _protocols, _states
    cdef bint _simple
    cdef public bint empty, ignores_own, partial, restricts_flows
    cdef public double min_age_s

    @cython.locals(
        is_ipv4=cython.bint, passes=cython.bint, source=cython.uint,
        reply_source=cython.uint,
    )
    cpdef int verdict(self, bytes key, bytes body, bytes stored) except -1
    @cython.locals(hints=bytes)
    cdef bint _is_own(self, bytes key, bytes body, bint is_ipv4) except -1
    @cython.locals(mark=cython.longlong, state=bytes)
    cdef int _verdict_of_state(self, bytes key, bytes body, bytes stored) except -1

@cython.locals(end=Py_ssize_t, zone=cython.uint)
cpdef tuple zones_of(bytes key, bytes body)

@cython.locals(end=Py_ssize_t, at=Py_ssize_t, length=Py_ssize_t)
cdef int _zone_of_tuple(bytes data, Py_ssize_t start) except -1

cdef bint _stays_on_link(int first, int second)

cdef long long _mark_of(bytes body) except -2

@cython.locals(start=Py_ssize_t)
cdef bytes _tcp_state(bytes body)
