"""Traces of requests: ``conventions`` has every name, ``setup`` starts it, ``request`` makes spans.

Nothing of OpenTelemetry is imported unless the configuration asks for it.
"""
