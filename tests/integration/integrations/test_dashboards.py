"""The dashboards for Grafana: their structure, their names, and their answers by a Prometheus."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, CollectorRegistry

import carbontrack
from carbontrack.integrations import opentelemetry
from carbontrack.integrations.prometheus import CarbontrackCollector, PrometheusSink
from carbontrack.testing import FakeClock, FakeMeter, Powercap, build_powercap

GRAFANA = Path(__file__).parents[3] / "docs" / "examples" / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))}
SOURCE = {"const": {"type": "prometheus", "uid": "${datasource}"}}
NUMBER = {"type": "integer", "minimum": 0}
TARGET = {
    "type": "object",
    "required": ["refId", "datasource", "expr", "legendFormat"],
    "properties": {"datasource": SOURCE, "expr": {"type": "string", "minLength": 1}},
}
PANEL = {
    "type": "object",
    "required": ["id", "type", "title", "description", "datasource", "gridPos", "targets"],
    "properties": {
        "type": {"enum": ["stat", "timeseries", "bargauge", "piechart"]},
        "description": {"type": "string", "minLength": 10},
        "datasource": SOURCE,
        "gridPos": {
            "required": ["x", "y", "w", "h"],
            "properties": {
                "x": {**NUMBER, "maximum": 23},
                "y": NUMBER,
                "w": {**NUMBER, "maximum": 24},
                "h": NUMBER,
            },
        },
        "targets": {"type": "array", "minItems": 1, "items": TARGET},
        "fieldConfig": {
            "properties": {
                "defaults": {
                    "required": ["unit"],
                    "properties": {"unit": {"enum": ["joule", "watt", "massg", "none"]}},
                }
            }
        },
    },
}
SCHEMA = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time", "__requires"],
    "not": {"required": ["id"]},  # an id is given where it is imported
    "properties": {
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {"type": "array", "minItems": 1, "items": PANEL},
    },
}
WORDS = {"sum", "by", "rate", "increase", "max"}
"""What is no metric in an expression."""


def expressions(dashboard: Any) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_can_be_imported(name: str) -> None:
    """It has what Grafana asks of one; panels have ids of their own, and none lies on another."""
    dashboard = DASHBOARDS[name]
    jsonschema.validate(dashboard, SCHEMA)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    variables = {one["name"] for one in dashboard["templating"]["list"]} | {
        "__range",
        "__rate_interval",
    }
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"__all"} <= variables


def exported() -> dict[str, dict[str, set[str]]]:
    """The names of all samples with their labels, as each of both ways exports them."""
    clock, registry = FakeClock(), CollectorRegistry()
    meters = [FakeMeter(component=one, id=one) for one in ("cpu", "gpu", "ram", "other")]
    tracker = carbontrack.Tracker(
        meters=meters, grid=100.0, sinks=[PrometheusSink(registry)], clock=clock
    )
    registry.register(CarbontrackCollector(tracker))
    provider = MeterProvider([PrometheusMetricReader()])
    opentelemetry.instrument(provider, tracker)
    found: dict[str, dict[str, set[str]]] = {"prometheus": {}, "opentelemetry": {}}
    with tracker:
        for name in ("ended", "open"):
            with tracker.span(name):
                clock.advance(1.0)
                if name == "open":
                    for way, source in (("prometheus", registry), ("opentelemetry", REGISTRY)):
                        for sample in (one for many in source.collect() for one in many.samples):
                            found[way].setdefault(sample.name, set()).update(sample.labels)
    provider.shutdown()
    opentelemetry.uninstrument()
    return found


def test_expressions_name_what_is_exported() -> None:
    """Each metric, and each label that is grouped by or shown, is one that we export."""
    names = exported()
    for way, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expr = target["expr"]
                grouped = set(re.findall(r"by \((\w+)\)", expr))
                bare = re.sub(r"by \(\w+\)|\{[^}]*\}|\[[^\]]*\]", "", expr)
                metrics = set(re.findall(r"[a-zA-Z_]\w*", bare)) - WORDS
                assert metrics, expr
                assert metrics <= names[way].keys(), expr
                shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                assert shown == grouped, expr
                assert all(grouped <= names[way][metric] for metric in metrics), expr


# -- by a Prometheus ---------------------------------------------------------------------------

PROMETHEUS = shutil.which("prometheus")
RANGE_S, PACKAGE_W, DRAM_W = 6, 40.0, 5.0


def free_ports() -> tuple[int, int, int]:
    """Three ports, of which the first two follow each other."""
    for port in range(20_000 + os.getpid() % 20_000, 60_000, 7):
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            for number in range(3):
                taken = opened.enter_context(socket.socket())
                taken.bind(("127.0.0.1", port + number))
            return port, port + 1, port + 2
    raise OSError("no three free ports")


@contextmanager
def powered(tree: Powercap) -> Iterator[None]:
    """The simulated machine draws constant power."""
    over = threading.Event()

    def draw() -> None:
        last_s = time.monotonic()
        while not over.wait(0.02):
            now_s = time.monotonic()
            tree.add_joules("package-0", PACKAGE_W * (now_s - last_s))
            tree.add_joules("dram", DRAM_W * (now_s - last_s))
            last_s = now_s

    thread = threading.Thread(target=draw)
    thread.start()
    yield
    over.set()
    thread.join()


@contextmanager
def running(*command: str, folder: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{Path(command[0]).name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **more}, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def asked(port: int, expr: str) -> list[dict[str, Any]]:
    """The answer of the Prometheus to a query."""
    query = urllib.parse.urlencode({"query": expr})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=60) as got:
        answer = json.load(got)
    assert answer["status"] == "success"
    return answer["data"]["result"]


def filled(expr: str, job: str) -> str:
    """An expression as Grafana sends it."""
    for variable, text in (("__rate_interval", f"{RANGE_S}s"), ("__range", f"{RANGE_S}s")):
        expr = expr.replace(f"${variable}", text)
    return expr.replace("$job", job)


CONFIG = """
global: {{scrape_interval: 500ms}}
scrape_configs:
  - {{job_name: prometheus, static_configs: [{{targets: ["127.0.0.1:{0}"]}}]}}
  - {{job_name: opentelemetry, static_configs: [{{targets: ["127.0.0.1:{1}"]}}]}}
"""


@pytest.mark.skipif(PROMETHEUS is None, reason="there is no prometheus on the PATH")
@pytest.mark.xdist_group("servers")
def test_a_prometheus_answers_every_query(tmp_path: Path) -> None:
    """It scrapes the example program: no query is refused or empty, and the meters' increase is by
    what the simulated machine draws, as far as no clock of a busy machine is in it."""
    port, second, own = free_ports()
    (tmp_path / "prometheus.yml").write_text(CONFIG.format(port, second))
    tree = build_powercap(tmp_path / "sys")
    settings = {"CARBONTRACK_SYSFS_PATH": str(tree.sysfs), "CARBONTRACK_REGION": "FR"}
    settings["CARBONTRACK_STATE_DIR"] = str(tmp_path / "state")
    app = running(sys.executable, str(GRAFANA / "app.py"), str(port), folder=tmp_path, **settings)
    server = running(
        str(PROMETHEUS),
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{own}",
        folder=tmp_path,
    )
    queries = {
        (job, expr): filled(expr, job)
        for job, dashboard in DASHBOARDS.items()
        for expr in expressions(dashboard)
    }
    with powered(tree), app as program, server:
        answers: dict[tuple[str, str], list[dict[str, Any]]] = {}
        deadline_s = time.monotonic() + 120.0
        enough = f"count_over_time(carbontrack_calls_total[{RANGE_S}s]) > {RANGE_S * 2 - 3}"
        while time.monotonic() < deadline_s:
            time.sleep(0.5)
            assert program.poll() is None, "\n".join(p.read_text() for p in tmp_path.glob("*.log"))
            with contextlib.suppress(OSError):  # it is not up yet
                if len(asked(own, f'{enough} and {{name="train"}}')) < 1:
                    continue
                answers = {key: asked(own, query) for key, query in queries.items()}
                if all(answers.values()):
                    break
        assert answers, (tmp_path / "prometheus.log").read_text()
        assert [key for key, answer in answers.items() if not answer] == []
        for metric, cpu, ram in (
            ("carbontrack_meter_energy_joules_total", 'component="cpu"', 'component="ram"'),
            ("hw_energy_joules_total", 'hw_type="cpu"', 'hw_type="memory"'),
        ):
            of_cpu, of_ram = (f"sum(increase({metric}{{{one}}}[{RANGE_S}s]))" for one in (cpu, ram))
            (ratio,) = asked(own, f"{of_cpu} / {of_ram}")
            assert float(ratio["value"][1]) == pytest.approx(PACKAGE_W / DRAM_W, rel=0.05)
    values = [float(one["value"][1]) for answer in answers.values() for one in answer]
    assert all(value >= 0.0 for value in values)
