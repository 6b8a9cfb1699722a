"""Usage records: a line for each request that was charged.

The store's scripts write them (``lua/usage.lua``), with the gateway's ``note``; ``records`` is what
a line says, ``reader`` reads them back, ``files`` writes them to files, ``sums`` adds them up,
``export`` makes other formats of them.
"""
