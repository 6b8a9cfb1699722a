"""How soon capacity that came free is used again while a thousand requests wait.

Seen from the engine, so it holds for any gateway: the time from the end of an answer until the
request that takes its place is there, and the share of capacity that idles meanwhile.
"""
