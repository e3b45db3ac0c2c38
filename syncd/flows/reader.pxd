# C types of reader.py.
import cython

ctypedef const unsigned char *octets
ctypedef Py_ssize_t[32] places

cdef int _NEW, _UPDATE, _END, _DUMP, _EXP_NEW, _EXP_END, _EXP_DUMP
cdef int _ID, _EXPECT_ID, _TYPES, _HEAD
cdef unsigned long long _CANONICAL, _BY_PROGRAM
cdef unsigned int _NEEDS_OF_FLOW, _NEEDS_OF_EXPECTATION, _MAY_BE_ZEROS
cdef unsigned int _BITS_OF_FLOW, _BITS_OF_EXPECTATION
cdef bytes _SIZES_OF_FLOW, _SIZES_OF_EXPECTATION
cdef bytes _ORDER_OF_FLOW, _ORDER_OF_EXPECTATION, _KEY_OF_FLOW, _KEY_OF_EXPECTATION

cdef class RecordReader:
    cdef public set own_portids
    cdef public Py_ssize_t echoes, malformed, ignored
    cdef bint _by_layouts
    cdef dict _layouts, _layouts_of_programs
    cdef Py_ssize_t _learned

    cpdef list read(self, messages)
    cpdef tuple read_one(self, bytes message)
    @cython.locals(message=bytes, records=list)
    cdef list _read_by_walks(self, messages)
    @cython.locals(kind=int)
    cdef tuple _read_unknown(self, bytes message)
    cdef object _of_program(self, bytes message)
    cdef object _learn(self, bytes message, object kind)

@cython.locals(data=octets, number=cython.uint)
cdef int _kind_of(bytes message) except -2

@cython.locals(
    data=octets, sizes=octets, starts=places, ends=places, order=bytes,
    size=Py_ssize_t, at=Py_ssize_t, following=Py_ssize_t, length=Py_ssize_t,
    seen=cython.uint, needs=cython.uint, attribute=cython.uint, is_flow=cython.bint,
    mask=cython.ulonglong, key=bytes, body=bytes, ident=bytes,
)
cdef tuple _walked(bytes message, int kind)

@cython.locals(attribute=cython.uchar, gathered=bytes)
cdef bytes _gathered(
    octets data, bytes order, unsigned int seen, Py_ssize_t *starts, Py_ssize_t *ends,
    Py_ssize_t begin, Py_ssize_t end,
)
