"""The command that starts the simulated engine as a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from fairgate import config
from fairgate.child import Command


def simulated_command(
    settings: config.SimulatedEngine,
    model_name: str,
    port: int,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Command:
    """Serve ``model_name`` on ``127.0.0.1:port`` with the interpreter that runs fairgate."""
    argv = (
        *(sys.executable, "-m", "fairgate.engines.simulated"),
        *("--host", "127.0.0.1", "--port", str(port), "--model", model_name),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        *("--kv-cache-tokens", str(settings.kv_cache_tokens)),
        *("--profile", settings.profile, "--speed", f"{settings.speed:g}"),
        *("--seed", str(settings.seed), "--scheduling-policy", "priority"),
    )
    return Command(argv, dict(environ))
