# C types of likeness.py.
import cython

cdef int _STEADY_STATUS, _STEADY_FLAGS, _EVEN_STEADIER_FLAGS, _EXPECTATION

@cython.locals(size=Py_ssize_t, at=Py_ssize_t, kept=int)
cpdef bint alike(bytes key, bytes old, bytes new, bint lenient=*) except -1
cpdef bint lengthened(bytes key, bytes old, bytes new) except -1
@cython.locals(known=dict, present=dict)
cpdef bytes completed(bytes old, bytes new)
@cython.locals(parts=dict, status=bytes, protoinfo=bytes)
cdef dict _steady(bytes body, int kept)
cdef dict _steady_expectation(bytes body)
