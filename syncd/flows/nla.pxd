# C types of nla.py.
import cython

@cython.locals(
    limit=Py_ssize_t, length=Py_ssize_t, following=Py_ssize_t, kind=Py_ssize_t,
    found=dict,
)
cpdef dict attributes(bytes data, Py_ssize_t start=*, end=*)

@cython.locals(limit=Py_ssize_t, length=Py_ssize_t, start=Py_ssize_t)
cpdef Py_ssize_t find(bytes data, int wanted) except -2
