# C types of zones.py.
import cython

@cython.locals(tuple_end=Py_ssize_t, protocol=Py_ssize_t)
cpdef bytes plain_key(bytes key)

cdef class ZonedKeys:
    cdef dict _keys
    cdef Py_ssize_t _count

    @cython.locals(plain=bytes, keys=set)
    cpdef object note(self, bytes key, present)
