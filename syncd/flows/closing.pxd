# C types of closing.py.
import cython

cdef int _DUE, _STATE

cdef class Closing:
    cdef dict _waiting
    cdef object _order

    cpdef bint wait(self, bytes key, int state, double now) except -1
    cpdef int end(self, bytes key) except -1
    @cython.locals(waiting=dict, keys=list, key=bytes, known=int)
    cpdef list due(self, double now)
