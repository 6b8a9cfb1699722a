"""The simulated engine: continuous batching with vLLM's HTTP face, for tests, laptops and scale.

``timing`` and ``scheduler`` are the pure core, without clock or I/O: the HTTP server runs them in
real time, the virtual-time simulator runs the very same code. Start the server with
``python -m fairgate.engines.simulated``.
"""
