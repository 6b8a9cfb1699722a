"""An engine that answers JSON for less than any Python: nginx, where Debian's is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.bench.parts.answers import ANSWER, MODELS

_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_max_body_size 0;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /v1/models {{ return 200 '{models}'; }}
    location = /v1/chat/completions {{ return 200 '{answer}'; }}
    location / {{ return 200 ''; }}
  }}
}}
"""


def nginx_command(folder: Path, port: int) -> tuple[str, ...] | None:
    """How to start it; ``None`` where it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        return None
    config = folder / "nginx.conf"
    texts = {"models": MODELS.decode(), "answer": ANSWER.decode()}
    config.write_text(_CONFIG.format(folder=folder, port=port, **texts))
    return (program, "-p", str(folder), "-e", "stderr", "-c", str(config))
