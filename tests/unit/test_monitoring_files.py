"""The dashboard and the alerts in deploy/ ask for metrics that there are, in a language that Prometheus understands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest
from ruamel.yaml import YAML

from nodelaunch.monitoring.metrics import _Counts, _Facts, _Standing

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
RULES = YAML(typ="safe").load(DEPLOY / "prometheus-rules.yaml")["groups"][0]["rules"]
PROMTOOL = shutil.which("promtool")


def expressions() -> Iterator[str]:
    for rule in RULES:
        yield rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def there_are() -> set[str]:
    registry = prometheus_client.CollectorRegistry()
    _Counts(registry)
    standing = _Standing()
    standing.facts = _Facts(0.0, 0.0, True, True, True, {})
    registry.register(standing)
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {family.name + suffix for family in registry.collect() for suffix in suffixes[family.type]}


def test_metrics_exist() -> None:
    asked = {name for expression in expressions() for name in re.findall(r"nodelaunch_\w+", expression)}
    assert asked <= there_are()
    assert len(asked) > 15


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_alert_is_on_the_page() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert {rule["alert"] for rule in RULES} == set(re.findall(r"`(Nodelaunch\w+)`", page))


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian package prometheus)")
def test_prometheus_understands_all_of_it(tmp_path: Path) -> None:
    def promtool(*arguments: str | Path) -> None:
        done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    promtool("check", "rules", DEPLOY / "prometheus-rules.yaml")
    promtool("test", "rules", DEPLOY / "prometheus-rules-test.yaml")
    filled = [re.sub(r"\$(instance|job)", "x", each) for each in expressions()]
    rules = [{"record": f"r:{number}", "expr": each} for number, each in enumerate(filled)]
    made = tmp_path / "rules.yaml"
    made.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", made)
