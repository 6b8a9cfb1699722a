#!/usr/bin/env bash
# Builds the wheel, installs it into an empty environment and serves from another directory: shows
# that the Lua files and all else that it needs travel in the wheel. Takes about half a minute.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" || true; done
  rm -rf "$work"
}
trap finish EXIT

until_says() { # FILE TEXT
  for _ in $(seq 150); do grep -q "$2" "$1" && return; sleep 0.2; done
  echo "wheel: no '$2' within 30 s:" >&2; cat "$1" >&2; exit 1
}

echo "wheel: building"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q --disable-pip-version-check wheel --no-deps --wheel-dir "$work" "$top"
"$work/venv/bin/pip" -q --disable-pip-version-check install "$work"/fairgate-*.whl
cd /
export PATH="$work/venv/bin:$PATH"

echo "wheel: serving from $PWD"
engine=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$work/venv/bin/python" -m fairgate.engines.simulated --port "$engine" --model sim/tiny --profile instant \
  >"$work/engine.log" 2>&1 &
pids+=($!)
fairgate serve --engine "http://127.0.0.1:$engine" --port 0 >"$work/gateway.out" 2>"$work/gateway.log" &
pids+=($!)
until_says "$work/gateway.out" "^ready "
url=$(sed -n 's/^ready //p' "$work/gateway.out")
answer=$(curl -sS --fail "$url/v1/chat/completions" -H 'content-type: application/json' \
  -d '{"model": "sim/tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}')
grep -q '"completion_tokens":4' <<<"$answer" || { echo "wheel: unexpected answer: $answer" >&2; exit 1; }
fairgate config schema >/dev/null
loadgen replay synthetic:rate=5,duration=2 --target "$url" --tenants default=none >/dev/null
echo "wheel: ok"
