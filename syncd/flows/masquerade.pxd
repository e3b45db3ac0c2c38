# C types of masquerade.py.
import cython

@cython.locals(status=cython.uint, start=Py_ssize_t)
cpdef bint dies_with_address(bytes body) except -1
