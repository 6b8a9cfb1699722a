"""What fairgate adds to a request, in CPU time of the process that serves it.

Every subject serves the same small chat request over keep-alive connections; they take turns within
each round, so a machine that gets slower gets slower for all. Medians over the rounds.
"""
