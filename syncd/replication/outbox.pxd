# C types of outbox.py.
import cython

from syncd.flows.table cimport OwnTable

@cython.locals(bodies=dict, key=bytes, body=bytes)
cdef object _collect(OwnTable table, keys, list flat, list ends)
