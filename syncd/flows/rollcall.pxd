# C types of rollcall.py.
import cython

cdef class RollCall:
    cdef public set unseen
    cdef list _waiting

    cpdef object begin(self, keys)
    cpdef bint note(self, Py_ssize_t limit) except -1
    cpdef object saw(self, bytes key)
    @cython.locals(unseen=set)
    cpdef list take(self, Py_ssize_t limit)
