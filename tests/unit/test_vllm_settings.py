"""What FairGate inside vLLM's server reads from its environment. Needs no vLLM."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairgate.config import Config
from fairgate.errors import ConfigError
from fairgate.integrations.vllm_settings import server_config

FILE = """
anonymous: acme
tenants: {acme: {}}
routes: [{path: /v1/messages, lane: chat, cost: {per_request: 5}}]
pools:
  shared:
    policy: vtc
    lanes:
      chat: {price: 2, engines: [{type: app, max_num_seqs: 7}]}
"""


def args(port: int = 8000, uds: str | None = None) -> Any:
    return SimpleNamespace(port=port, uds=uds)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "fairgate.yaml").write_text(FILE)
    return {"FAIRGATE_CONFIG": str(tmp_path / "fairgate.yaml")}


def lane_of(config: Config) -> str:
    ((name, _),) = next(iter(config.pools.values())).lanes.items()
    return name


def test_every_server_is_a_lane_of_its_own(environ: dict[str, str]) -> None:
    config = server_config(args(), environ)
    assert list(config.pools) == ["shared"]
    host = socket.gethostname()
    assert lane_of(config) == f"chat-{host}-8000"[:64]
    assert lane_of(server_config(args(8001), environ)) != lane_of(config)
    assert lane_of(server_config(args(uds="/run/v.sock"), environ)).endswith("-run-v.sock")
    lane = config.pools["shared"].lanes[lane_of(config)]
    assert (lane.price, lane.engines[0].max_num_seqs) == (2, 7)
    assert config.routes[0].lane == lane_of(config)


def test_the_lane_may_be_named(environ: dict[str, str]) -> None:
    assert lane_of(server_config(args(), {**environ, "FAIRGATE_LANE": "gpu-1"})) == "gpu-1"
    with pytest.raises(ConfigError, match=r"FAIRGATE_LANE: .* got 'gpu 1'"):
        server_config(args(), {**environ, "FAIRGATE_LANE": "gpu 1"})


def test_a_long_host_name_still_gives_a_name(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 60 + ".example")
    name = lane_of(server_config(args(), environ))
    assert len(name) <= 64
    assert name.endswith(".example-8000")


def test_without_a_file_everybody_is_one_tenant() -> None:
    config = server_config(args(), {})
    assert (config.anonymous, config.store.url) == ("default", "embedded")


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        (FILE.replace("type: app,", "type: simulated,"), "'simulated' is started by"),
        (FILE.replace("type: app,", "type: http, url: 'http://h',"), "which is this server"),
        (FILE.replace("price: 2,", "price: 0,"), "lanes.chat.price: expected a number > 0"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(
    environ: dict[str, str], text: str, trouble: str
) -> None:
    Path(environ["FAIRGATE_CONFIG"]).write_text(text)
    with pytest.raises(ConfigError) as caught:
        server_config(args(), environ)
    message = str(caught.value)
    assert message.startswith(f"FAIRGATE_CONFIG={environ['FAIRGATE_CONFIG']}: ")
    assert trouble in message


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="FAIRGATE_CONFIG=/no/such/file: cannot be read"):
        server_config(args(), {"FAIRGATE_CONFIG": "/no/such/file"})
