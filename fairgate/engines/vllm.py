"""How a vLLM server is started: its arguments, environment and command."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from fairgate import config
from fairgate.child import Command

_FEW_CORES = 4


def vllm_command(
    settings: config.VllmEngine,
    model_name: str,
    port: int,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Command:
    """Serve ``settings.model`` under ``model_name``; ``settings.args`` have the last word."""
    python = settings.python or sys.executable
    argv = (
        *(python, "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1", "--port", str(port)),
        "--disable-uvicorn-access-log",  # the gateway keeps one
        *vllm_arguments(settings, model_name),
    )
    inherited = {**vllm_defaults(settings.model), **environ}
    # vLLM compiles with tools of its own environment (ninja), which need not be an activated one.
    path = os.pathsep.join(filter(None, (os.path.dirname(python), inherited.get("PATH"))))
    return Command(argv, {**inherited, "PATH": path, **settings.env})


def vllm_arguments(
    settings: config.VllmEngine | config.InProcessEngine, model_name: str
) -> tuple[str, ...]:
    """What the settings are on vLLM's command line, its address aside."""
    return (
        *("--model", settings.model, "--served-model-name", model_name),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        *(("--scheduling-policy", "priority") if settings.priority else ()),
        *settings.args,
    )


def vllm_defaults(model: str) -> dict[str, str]:
    """For serving ``model``: environment that the operator's own, and the engine's, override."""
    env = {
        "VLLM_NO_USAGE_STATS": "1",
        # CPU build only, GiB: by default it takes nearly all memory, so a second engine fails.
        "VLLM_CPU_KVCACHE_SPACE": "4",
    }
    if Path(model).is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if cores <= _FEW_CORES:
        # CPU build only: by itself every engine binds its threads to the same first cores, and
        # more threads than free cores make them spin against each other.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        env["OMP_NUM_THREADS"] = str(max(1, cores // 2))
    return env
