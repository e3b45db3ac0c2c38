# C types of digest.py.
import cython

from syncd.flows.hashing cimport xxh3

cdef unsigned long long _BUCKET_SHIFT

cdef class Digest:
    cdef public list sums
    cdef public list watch

    @cython.locals(
        changed=list, sums=list, at=Py_ssize_t, key=bytes, body=bytes, old=bytes,
        name=cython.ulonglong, change=cython.ulonglong, before=cython.ulonglong,
    )
    cpdef list store(self, dict bodies, list flat)
    @cython.locals(
        sums=list, key=bytes, new=bytes, old=bytes, name=cython.ulonglong,
        change=cython.ulonglong, before=cython.ulonglong,
    )
    cpdef object settle(self, keys, dict marks, dict bodies)
    @cython.locals(sums=list, key=bytes, body=bytes, name=cython.ulonglong)
    cpdef object remove(self, records)

@cython.locals(sums=list, table=dict, key=bytes, body=bytes, name=cython.ulonglong)
cpdef list _sums(tables)
