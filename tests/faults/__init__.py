"""What becomes of every single request when something fails: real processes, faults from outside.

``python -m tests.faults`` prints one row per fault, ``python -m tests.faults.soak`` runs all of
them at random under load. Parts: ``programs`` (processes), ``store``, ``replicated``, ``proxy``,
``engine`` and ``gate`` (what runs), ``site`` (all of it together), ``answers`` and ``load``
(clients that account for every request), ``ledger`` and ``reader`` (the store seen from outside),
``faults`` and ``rows/`` (what fails), ``promises`` (what each row shows), ``measure`` and
``report``; for the soak ``books`` (tokens charged and settled) and ``sockets`` (descriptors left
open).
"""
