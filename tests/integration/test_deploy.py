"""What ``deploy/`` holds is valid, by each format's own tool or schema, and fits together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from fairgate.config import Config
from fairgate.config.reading import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("simulated", "vllm")
VERSION = "1.37"
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    "STORE_URL": "redis://valkey:6379/0",
    "ENGINE_URL": "http://engine:8000",
    "ENGINE_KEY": "key",
}
CONFIGS = (
    "compose/fairgate.yaml",
    "kubernetes/base/fairgate.yaml",
    *(f"kubernetes/overlays/{name}/fairgate.yaml" for name in OVERLAYS),
)


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def loaded(file: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return load(file)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_right(name, monkeypatch):
    config = loaded(DEPLOY / name, monkeypatch)
    assert config.server.host == "0.0.0.0"
    assert config.store.url == ENVIRONMENT["STORE_URL"]


class TestImage:
    FILE = DEPLOY / "Dockerfile"

    def test_hadolint_finds_nothing(self):
        assert run(BIN / "hadolint", self.FILE) == ""

    def test_it_runs_as_nobody_in_particular_and_tells_its_health(self):
        stages = self.FILE.read_text().split("\nFROM ")
        assert len(stages) == 3
        last = stages[-1]
        assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
        assert "HEALTHCHECK" in last
        assert "pip install" not in last

    def test_what_it_copies_is_there_and_not_ignored(self):
        copied = re.findall(r"^COPY (?!--)(.+) \S+$", self.FILE.read_text(), re.MULTILINE)
        names = {name.removeprefix("./") for line in copied for name in line.split()}
        assert all((ROOT / name).exists() for name in names)
        let_in = set(re.findall(r"^!(\S+)$", Path(f"{self.FILE}.dockerignore").read_text(), re.M))
        assert names <= let_in


class TestCompose:
    FILE = DEPLOY / "compose" / "compose.yaml"

    def test_it_follows_the_specification(self):
        merged = yaml.safe_dump(yaml.safe_load(self.FILE.read_text()))
        wanted = {"gateway-1", "gateway-2", "valkey", "engine", "prometheus", "grafana"}
        assert set(PyCompose.from_yaml(merged).services or {}) == wanted
        with pytest.raises(ValueError, match="restrat"):
            PyCompose.from_yaml(merged.replace("restart:", "restrat:", 1))

    def test_every_file_that_it_mounts_is_there(self):
        services = yaml.safe_load(self.FILE.read_text())["services"]
        mounted = [
            volume.partition(":")[0]
            for service in services.values()
            for volume in service.get("volumes", ())
            if volume.startswith(".")
        ]
        assert len(mounted) > 5
        for name in mounted:
            assert (self.FILE.parent / name).is_file(), name

    def test_gateways_have_time_to_drain(self, monkeypatch):
        config = loaded(self.FILE.parent / "fairgate.yaml", monkeypatch)
        gateway = yaml.safe_load(self.FILE.read_text())["services"]["gateway-1"]
        assert int(gateway["stop_grace_period"].removesuffix("s")) >= config.timeouts.drain_s + 10

    def test_prometheus_scrapes_its_gateways(self):
        prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
        (job,) = prometheus["scrape_configs"]
        assert job["static_configs"][0]["targets"] == ["gateway-1:8080", "gateway-2:8080"]


def kustomized(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(run(BIN / "kubectl", "kustomize", KUBERNETES / name)))


@pytest.fixture(scope="module", params=[f"overlays/{name}" for name in OVERLAYS])
def objects(request) -> list[dict[str, Any]]:
    return kustomized(request.param)


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {it["metadata"]["name"]: it for it in objects if it["kind"] == kind}


class TestKubernetes:
    def test_every_object_follows_its_schema(self, objects):
        for it in objects:
            if it["apiVersion"] != "monitoring.coreos.com/v1":
                kubernetes_validate.validate(it, VERSION, strict=True)

    def test_the_base_and_its_secret_follow_theirs(self):
        secret = yaml.safe_load((KUBERNETES / "base" / "secret.example.yaml").read_text())
        for it in (*kustomized("base"), secret):
            kubernetes_validate.validate(it, VERSION, strict=True)

    def test_what_is_wrong_is_found(self):
        (deployment,) = of_kind(kustomized("base"), "Deployment").values()
        deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(deployment, VERSION, strict=True)

    def test_objects_of_the_prometheus_operator_follow_their_schemas(self):
        from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

        objects = kustomized("overlays/vllm")
        (monitor,) = of_kind(objects, "ServiceMonitor").values()
        (rule,) = of_kind(objects, "PrometheusRule").values()
        assert ServiceMonitor.model_validate(monitor).spec.endpoints
        assert len(PrometheusRule.model_validate(rule).spec.groups) == 2
        (service,) = (s for n, s in of_kind(objects, "Service").items() if n == "fairgate")
        assert (
            monitor["spec"]["selector"]["matchLabels"].items()
            <= service["metadata"]["labels"].items()
        )

    def test_the_rules_are_those_of_prometheus(self):
        folder = KUBERNETES / "components" / "monitoring"
        made = yaml.safe_load((folder / "prometheusrule.yaml").read_text())["spec"]["groups"]
        rules = [
            yaml.safe_load((DEPLOY / "prometheus" / f"{name}.yaml").read_text())["groups"][0]
            for name in ("recording", "alerts")
        ]
        assert [group["rules"] for group in made] == [group["rules"] for group in rules]

    def test_a_gateway_has_time_to_drain(self, objects, tmp_path, monkeypatch):
        (deployment,) = of_kind(objects, "Deployment").values()
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        waits_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        config = self.config_of(objects, tmp_path, monkeypatch)
        needed_s = waits_s + config.timeouts.drain_s + 10
        assert pod["terminationGracePeriodSeconds"] >= needed_s

    def test_its_configuration_is_mounted_and_names_engines_that_exist(
        self, objects, tmp_path, monkeypatch
    ):
        config = self.config_of(objects, tmp_path, monkeypatch)
        (engine,) = (s for n, s in of_kind(objects, "StatefulSet").items() if n == "engine")
        hpa = of_kind(objects, "HorizontalPodAutoscaler").get("engine")
        most = hpa["spec"]["maxReplicas"] if hpa else engine["spec"]["replicas"]
        named = [e.url for e in config.pools["main"].lanes["chat"].engines]
        assert named == [f"http://engine-{n}.engine:8000" for n in range(most)]
        if hpa:
            metric = hpa["spec"]["metrics"][0]["external"]["metric"]
            assert metric["selector"]["matchLabels"] == {"pool": "main", "lane": "chat"}

    def test_selectors_select(self, objects):
        pods = [
            it["spec"]["template"] for it in objects if it["kind"] in ("Deployment", "StatefulSet")
        ]
        chosen = [it["spec"]["selector"] for it in objects if it["kind"] == "Service"]
        chosen += [
            it["spec"]["podSelector"]["matchLabels"]
            for it in objects
            if it["kind"] == "NetworkPolicy"
        ]
        chosen += [
            it["spec"]["selector"]["matchLabels"]
            for it in objects
            if it["kind"] == "PodDisruptionBudget"
        ]
        assert len(chosen) >= 6
        for labels in chosen:
            assert any(labels.items() <= pod["metadata"]["labels"].items() for pod in pods), labels

    def config_of(self, objects, folder, monkeypatch) -> Config:
        (found,) = of_kind(objects, "ConfigMap").values()
        (deployment,) = of_kind(objects, "Deployment").values()
        volumes = deployment["spec"]["template"]["spec"]["volumes"]
        assert {"name": "config", "configMap": {"name": found["metadata"]["name"]}} in volumes
        file = folder / "fairgate.yaml"
        file.write_text(found["data"]["fairgate.yaml"])
        return loaded(file, monkeypatch)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
class TestSystemd:
    def unit(self, folder: Path) -> Path:
        text = (DEPLOY / "systemd" / "fairgate.service").read_text()
        unit = folder / "fairgate.service"
        unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
        return unit

    def test_systemd_reads_it(self, tmp_path):
        run("systemd-analyze", "verify", self.unit(tmp_path))

    def test_it_is_hardened(self, tmp_path):
        """Exposure from 0 to 10, by systemd's own measure; a unit without any settings has 9.6."""
        run("systemd-analyze", "security", "--offline=true", "--threshold=20", self.unit(tmp_path))

    def test_it_has_time_to_drain(self):
        text = (DEPLOY / "systemd" / "fairgate.service").read_text()
        (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
        assert int(stop_s) >= Config(pools={}).timeouts.drain_s + 10


def test_grafana_knows_every_field_of_the_dashboard():
    """Through its own model and back, nothing is lost."""
    told = json.loads((DEPLOY / "grafana" / "fairgate.json").read_text())
    register_default_plugins()
    known = json.loads(json.dumps(Dashboard.from_json(told), cls=JSONEncoder))
    assert missing(told, known) == []
    told["panels"][0]["gridpos"] = {}
    assert missing(told, json.loads(json.dumps(Dashboard.from_json(told), cls=JSONEncoder)))


def missing(told: Any, known: Any, path: str = "") -> list[str]:
    if isinstance(told, dict) and isinstance(known, dict):
        parts = [(name, told[name], known.get(name)) for name in told]
    elif isinstance(told, list) and isinstance(known, list) and len(told) == len(known):
        parts = [(str(n), *pair) for n, pair in enumerate(zip(told, known, strict=True))]
    else:
        return [] if told == known else [path]
    return [found for name, a, b in parts for found in missing(a, b, f"{path}/{name}")]
