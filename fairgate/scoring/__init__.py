"""Tells how good an answer is, so that the best of several can be chosen, or a better one asked."""
