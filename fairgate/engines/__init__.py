"""Engines: what runs the models, however it comes to be."""

from fairgate.engines.build import build_engine

__all__ = ["build_engine"]
