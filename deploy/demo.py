"""Runs the demo gateway and says how to talk to it. ``make run`` prepares what it needs.

Standard library only. Ends when the gateway ends; SIGINT and SIGTERM end the gateway, which ends
every process that it started.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TENANTS = {"acme": 2, "globex": 1, "initech": 1}

CURL = """\
  curl -s {url}/v1/chat/completions \\
    -H 'Authorization: Bearer fg-demo-acme' -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "max_tokens": 50,
         "messages": [{{"role": "user", "content": "What is 17 + 25?"}}]}}'
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="vllm", help="vllm, sim, or addresses with commas")
    parser.add_argument("--port", default="8080")
    parser.add_argument("--policy", default="", help="fairserve, vtc, fcfs, rpm or overload-only")
    options = parser.parse_args()
    gateway = subprocess.Popen(_command(options), stdout=subprocess.PIPE, text=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda sig, _: gateway.send_signal(signal.SIGTERM))
    assert gateway.stdout is not None
    for line in gateway.stdout:
        print(line, end="", flush=True)
        if line.startswith("ready "):
            print(_how_to_talk(line.split()[1], options.engine), flush=True)
    return gateway.wait()


def _command(options: argparse.Namespace) -> list[str]:
    logs = os.environ.get("FAIRGATE_LOGS", ".cache/logs")
    command = [
        *(sys.executable, "-m", "fairgate.cli", "serve"),
        *("--config", str(HERE / "demo.yaml"), "--port", options.port, "--log-dir", logs),
    ]
    if options.engine != "vllm":
        for engine in options.engine.split(","):
            command += ["--engine", engine]
    if options.policy:
        command += ["--policy", options.policy]
    print(f"starting the gateway (engines log to {logs}/) ...", flush=True)
    return command


def _how_to_talk(url: str, engine: str) -> str:
    lines = ["", "tenants and their demo keys:"]
    lines += [f"  {t:8} weight {w}  fg-demo-{t}" for t, w in TENANTS.items()]
    model = "auto" if engine not in ("vllm", "sim") else "small"
    lines += ["", f"dashboard: {url}/fairgate/ (admin key: fg-demo-admin)"]
    return "\n".join([*lines, "", "try:", CURL.format(url=url, model=model)])


if __name__ == "__main__":
    sys.exit(main())
