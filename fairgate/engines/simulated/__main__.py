"""``python -m fairgate.engines.simulated``: serve one simulated engine."""

from __future__ import annotations

import argparse
from typing import get_args

import uvicorn

from fairgate.engines.simulated.scheduler import SchedulingPolicy
from fairgate.engines.simulated.server import create_app
from fairgate.engines.simulated.service import Settings
from fairgate.engines.simulated.timing import PROFILES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fairgate.engines.simulated",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
    add("--model", default="simulated", help="model name that it serves")
    add("--max-num-seqs", type=int, default=16, help="sequences that run at once")
    add("--max-num-batched-tokens", type=int, default=2048, help="tokens of one step")
    add("--kv-cache-tokens", type=int, default=65_536, help="tokens that the KV cache holds")
    add("--max-model-len", type=int, help="longest prompt + output; default: what the KV holds")
    add("--profile", choices=PROFILES, default="cpu-small", help="how long a step takes")
    add("--speed", type=float, default=1.0, help="2 runs twice as fast as the profile")
    add("--seed", type=int, default=0, help="of output lengths and texts")
    add("--scheduling-policy", choices=get_args(SchedulingPolicy), default="fcfs", help="as vLLM")
    add("--api-key", help="key that /v1 routes demand")
    add("--faults", action="store_true", help="obey the x-sim-fault header")
    return parser


def main() -> None:
    """Serve until SIGINT or SIGTERM; streams that still run then are cut after two seconds."""
    parser = _parser()
    options = vars(parser.parse_args())
    host, port = options.pop("host"), options.pop("port")
    try:
        app = create_app(Settings(**options))
    except ValueError as error:
        parser.error(str(error))
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
