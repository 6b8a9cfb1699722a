"""The configurations in the pages on vLLM are ones that fairgate takes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from fairgate.config import InProcessEngine, reading
from fairgate.config.rules import all_engines
from fairgate.integrations.vllm_settings import server_config
from fairgate.placement import check_served

DOCS = Path(__file__).parents[2] / "docs"


def yaml_of(page: str) -> str:
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return str(block)


def test_inside_vllms_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    file = tmp_path / "fairgate.yaml"
    file.write_text(yaml_of("vllm-server.md"))
    args = SimpleNamespace(port=8000, uds=None)
    config = server_config(args, {"FAIRGATE_CONFIG": str(file), "FAIRGATE_LANE": "x"})
    assert list(config.tenants) == ["acme", "globex"]


def test_vllm_inside_the_gateway() -> None:
    config = reading.loads(yaml_of("inprocess.md"), source="inprocess.md")
    check_served(config)
    assert all(isinstance(engine, InProcessEngine) for _, engine in all_engines(config))
