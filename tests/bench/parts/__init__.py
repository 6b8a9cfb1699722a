"""What the benchmarks share: processes and what they cost, a store, an upstream, a load."""
