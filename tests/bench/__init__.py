"""Benchmarks: what things cost on this machine, on real parts. No tests; `make help` lists them."""
