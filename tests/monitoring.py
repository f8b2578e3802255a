"""Prometheus and node_exporter as Debian ships them, on ports of their own; and the queries of the dashboards."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RULES = ROOT / "site-configs" / "prometheus" / "perun.rules.yml"
DASHBOARDS = sorted((ROOT / "site-configs" / "grafana").glob("*.json"))
LABEL_VALUES = "label_values("


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def node_exporter(directory: Path) -> Iterator[int]:
    """One that serves the text files of a directory and nothing else; yields its port."""
    port = free_port()
    command = ["prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile", "--log.level=error"]
    command += [f"--collector.textfile.directory={directory}", f"--web.listen-address=127.0.0.1:{port}"]
    with _running(command, port, "/metrics"):
        yield port


class Prometheus:
    """One that runs: what it answers."""

    def __init__(self, port: int) -> None:
        self.port = port

    def api(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples that an expression has now, by their labels."""
        result = self.api("query", query=expression)["result"]
        return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in result}

    def one(self, expression: str) -> float:
        (value,) = self.query(expression).values()
        return value

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression has a sample."""
        until_s = time.monotonic() + seconds
        while not self.query(expression):
            assert time.monotonic() < until_s, f"waited {seconds} s in vain for {expression}: {self.api('targets')}"
            time.sleep(0.2)


@contextlib.contextmanager
def prometheus(base: Path, targets: dict[str, int]) -> Iterator[Prometheus]:
    """One that scrapes these ports of the loopback every second, with the alert rules that perun ships."""
    base.mkdir()
    scraped = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in targets.items()
    ]
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": scraped}
    (base / "prometheus.yml").write_text(json.dumps({**config, "rule_files": [str(RULES)]}))  # JSON is YAML
    port = free_port()
    command = ["prometheus", f"--config.file={base}/prometheus.yml", f"--storage.tsdb.path={base}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with _running(command, port, "/-/ready"):
        yield Prometheus(port)


@contextlib.contextmanager
def _running(command: list[str], port: int, ready: str) -> Iterator[None]:
    with subprocess.Popen(command) as process:
        try:
            until_s = time.monotonic() + 60
            while True:
                assert process.poll() is None and time.monotonic() < until_s, f"{command[0]} does not serve"
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5):
                    break
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def queries(dashboard: Path, **variables: str) -> dict[str, str]:
    """Title and letter of each target, or name of a variable -> its query, as Grafana sends it."""
    found = {}
    content = json.loads(dashboard.read_text())
    for panel in content["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']}/{target['refId']}"] = target["expr"]
    for variable in content["templating"]["list"]:
        query = variable["query"]
        if query.startswith(LABEL_VALUES):
            metric, label = query.removeprefix(LABEL_VALUES).rstrip(")").rsplit(", ", 1)
            found[f"${variable['name']}"] = f"group by ({label}) ({metric})"
    values = {"__rate_interval": "5m", **variables}
    for name, value in values.items():
        found = {title: query.replace(f"${name}", value) for title, query in found.items()}
    assert not any("$" in query for query in found.values()), found
    return found
