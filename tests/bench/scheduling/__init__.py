"""What a scheduling decision costs the store, and how that grows with who waits.

Read ``sweeps`` (who is there), ``pool`` (the closed loop that keeps them waiting), ``server`` (what
the store says it spent), ``measure`` (one point), ``report``; run ``python -m
tests.bench.scheduling``.
"""
