# C types of planting.py.
import cython

cdef class Bed:
    cdef public list fresh, known, held, differing

    @cython.locals(
        known=list, held=list, differing=list, lost=list, record=tuple, pair=tuple,
    )
    cpdef object _create_lost(self, dict planted)

@cython.locals(made=list, record=tuple, key=bytes, body=bytes)
cpdef list _created(list records, dict refused, dict own, dict more)
@cython.locals(kept=list, record=tuple, key=bytes, body=bytes)
cpdef list _kept(list records, dict refused, dict planted)
