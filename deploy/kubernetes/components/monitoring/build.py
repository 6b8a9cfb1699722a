"""Write prometheusrule.yaml, the rules of deploy/prometheus as the operator wants them."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
RULES = HERE.parents[2] / "prometheus"

_HEAD = """\
# Made by build.py from deploy/prometheus: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: fairgate
spec:
  groups:
"""


def rule() -> str:
    """Both files' groups, under other names: they may not be called alike."""
    return _HEAD + "".join(_groups(name) for name in ("recording", "alerts"))


def _groups(name: str) -> str:
    _, _, groups = (RULES / f"{name}.yaml").read_text().partition("groups:\n")
    named = groups.replace("- name: fairgate\n", f"- name: fairgate-{name}\n")
    return "".join(
        f"  {line}" if line.strip() else line for line in named.splitlines(keepends=True)
    )


if __name__ == "__main__":
    (HERE / "prometheusrule.yaml").write_text(rule())
