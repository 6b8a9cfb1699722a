"""What a request costs on its way through fairgate, through others like it, and through neither.

All subjects take turns within each round, so a machine that gets slower gets slower for all; ratios
are those of the same round. Read ``cases`` (what is sent), ``subjects`` and ``peers`` (through
what), ``measure`` (one turn), ``figures`` (medians and ratios), ``report``.
"""
