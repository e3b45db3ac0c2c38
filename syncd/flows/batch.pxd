# C types of batch.py.
import cython

ctypedef const unsigned char *octets

cdef int _TIMEOUT

cdef class Restorer:
    cdef object _fixed_timeout_s, _timers, _established_s, _long_s, _half_s
    cdef bytes _masks
    cdef dict _plain, _translated, _protoinfos, _doubted, _lenient, _scaled, _timeouts, _shapes

    cpdef object timeout_s(self, bytes key, bytes body, elapsed_s)
    @cython.locals(
        messages=list, key=bytes, body=bytes, reply=bytes, ranges=bytes, status=bytes,
        raw=bytes, tail=bytes, protoinfo=bytes, head=bytes, serial=bytes,
        at=Py_ssize_t, end=Py_ssize_t, size=Py_ssize_t, data=octets,
        bits=cython.uint, ports=cython.bint, elapsed_s=cython.double,
    )
    cpdef list creates(self, records, sequence)
    @cython.locals(
        messages=list, record=tuple, key=bytes, body=bytes, present=bytes,
        rest=bytes, there=bytes, more=bytes, head=bytes, serial=bytes, sent=bytes,
        kept=bytes, ours=octets, theirs=octets, at=Py_ssize_t, end=Py_ssize_t,
        size=Py_ssize_t, held_size=Py_ssize_t, alike=cython.bint, tcp=cython.bint,
        elapsed_s=cython.double,
    )
    cpdef list refreshes(self, records, held, sequence)
    @cython.locals(
        messages=list, key=bytes, body=bytes, present=bytes, rest=bytes, there=bytes,
        mark=bytes, kept_mark=bytes, protoinfo=bytes, head=bytes, serial=bytes,
        masks=bytes, parts=tuple, ours=octets, theirs=octets, at=Py_ssize_t,
        end=Py_ssize_t, size=Py_ssize_t, held_size=Py_ssize_t, elapsed_s=cython.double,
    )
    cpdef list updates(self, records, held, sequence)
    cdef bytes _create_rarely(self, bytes key, bytes body, elapsed_s, bytes serial)
    cdef bytes _refresh_rarely(self, tuple record, bytes present, bytes serial)
    cdef object _learn_timeout(self, bytes raw)

@cython.locals(
    head=bytes, real_source=bytes, inner=bytes, real_destination=bytes, ports=bytes,
    port=bytes, last=bytes, real_port=bytes, source=bytes, destination=bytes,
    source_port=bytes, destination_port=bytes, to_source=bytes, to_destination=bytes,
    maximum=bytes,
)
cdef tuple _untranslate_ports(bytes key, bytes body, unsigned int bits)
cdef tuple _split_mark(bytes rest)
