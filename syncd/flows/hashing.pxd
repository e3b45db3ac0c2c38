# What compiled modules call in place of the function of hashing.py, which itself stays
# Python: the C function of the same library, where it can be had.

cdef extern from *:
    """
    typedef unsigned long long (*syncd_xxh3)(const void *, size_t, unsigned long long);
    static syncd_xxh3 syncd_function;  /* NULL until it is found */

    #define syncd_found(address) (syncd_function = (syncd_xxh3)(size_t)(address))
    #define syncd_hash(data, seed) \
        syncd_function(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), seed)
    """
    void *syncd_function
    void syncd_found(unsigned long long address)
    unsigned long long syncd_hash(bytes data, unsigned long long seed)

cpdef inline unsigned long long xxh3(bytes data, unsigned long long seed=0) except? 0:
    if syncd_function != NULL and data is not None:
        return syncd_hash(data, seed)
    from syncd.flows import hashing
    syncd_found(hashing.ADDRESS)
    return hashing.xxh3(data, seed)
