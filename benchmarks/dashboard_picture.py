"""Draws docs/pictures/dashboard.png: the chart's dashboard, panel by panel, over a server of ours under a minute and a half of mixed traffic.

    scripts/dashboard-picture PROMETHEUS      # a Prometheus binary: it scrapes the server and answers the panels' own expressions

Grafana is not needed: its panels' places, units, legends and expressions are read from the chart's JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from pilothouse.smoke.client import Client

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "charts/pilothouse/dashboards/pilothouse.json"
PICTURE = ROOT / "docs/pictures/dashboard.png"
SECONDS = 90
FILLED = {"$namespace": "models", "$service": "phi3-pilothouse", "$__rate_interval": "10s"}
SCRAPE = """
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: pilothouse
  static_configs: [{{targets: ["{target}"], labels: {{namespace: models, service: phi3-pilothouse, pod: phi3-pilothouse-7d4f}}}}]
"""


def ask(client: Client, model: str, turn: int) -> None:
    """One request of the mix: a chat, a raw prompt, a table; each tenth is refused, each seventh is left in mid-answer."""
    chat: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": f"{turn}: What is a rollout?"}], "max_tokens": 120}
    if turn % 7 == 3:
        events = client.events("/v1/chat/completions", {**chat, "stream": True})
        next(events)
        events.close()
    elif turn % 10 == 9:
        client.post("/v1/chat/completions", {**chat, "max_tokens": 0})
    elif turn % 3 == 0:
        client.post("/invocations", {"inputs": {"prompt": "What is MLflow?"}})
    elif turn % 3 == 1:
        client.post(f"/v2/models/{model}/generate", {"text_input": f"{turn} What is ONNX?", "parameters": {"max_tokens": 60}})
    else:
        client.post("/v1/chat/completions", chat)


def traffic(base: str, model: str, until: float) -> None:
    """Clients that come and go: few, many, few."""

    def work(index: int) -> None:
        time.sleep(abs(12 - index) * 2.5)
        turn = index
        while time.monotonic() < until - abs(12 - index) * 2.5:
            ask(Client(base), model, turn)
            turn += 24

    clients = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(24)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()


def asked(address: str, path: str, **parameters: Any) -> list[dict[str, Any]]:
    """Prometheus' answer."""
    with urllib.request.urlopen(f"{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def legend(pattern: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        pattern = pattern.replace("{{" + name + "}}", value)
    return pattern


def draw(address: str, begun: float, ended: float) -> None:
    """Every panel at its place."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(16, rows * 0.46), facecolor="#f4f5f5")
    grid = figure.add_gridspec(rows, 24, left=0.03, right=0.985, top=0.985, bottom=0.03, wspace=3.0, hspace=6.0)
    for panel in panels:
        at = panel["gridPos"]
        axes = figure.add_subplot(grid[at["y"] : at["y"] + at["h"], at["x"] : at["x"] + at["w"]])
        axes.set_title(panel["title"], loc="left", fontsize=10, fontweight="bold")
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in FILLED.items():
                expression = expression.replace(name, value)
            if panel["type"] == "stat":
                (one,) = asked(address, "query", query=expression, time=(begun + ended) / 2)
                told = legend(target["legendFormat"], one["metric"]) if "{{" in target["legendFormat"] else f"{float(one['value'][1]):g}"
                axes.text(0.5, 0.45, told, ha="center", va="center", fontsize=15 if len(told) < 8 else 13, color="#1f60c4")
                axes.set_axis_off()
                continue
            for series in asked(address, "query_range", query=expression, start=begun, end=ended, step=1):
                if len(panel["targets"]) == 1 and not any(float(value) > 0 for _, value in series["values"]):
                    continue  # one of many that stayed at zero
                points = [(float(at_) - begun, float(value)) for at_, value in series["values"] if value != "NaN"]
                axes.plot(*zip(*points, strict=True), linewidth=1.3, label=legend(target["legendFormat"], series["metric"]))
        if panel["type"] != "stat":
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
            axes.set_ylim(bottom=0)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7, loc="upper left", framealpha=0.6)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(prog="dashboard-picture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", help="its binary")
    prometheus = parser.parse_args().prometheus
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ready = home / "ready.json"
        ports = [word for name in ("rest", "grpc", "metrics") for word in (f"--{name}-port", "0")]
        serve = [sys.executable, "-m", "pilothouse.cli", "serve", *ports, "--rows", "8", "--ready-file", str(ready)]
        server = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(server.terminate)
        while not ready.exists() or not ready.read_text():
            time.sleep(0.2)
            assert server.poll() is None, "the server did not come up"
        told = json.loads(ready.read_text())
        target = urllib.parse.urlsplit(told["metrics"]).netloc
        (home / "prometheus.yml").write_text(SCRAPE.format(target=target))
        listen = "127.0.0.1:19090"
        command = [prometheus, f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data", f"--web.listen-address={listen}"]
        scraper = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(scraper.terminate)
        time.sleep(5)
        begun = time.time()
        traffic(told["rest"], told["model"], time.monotonic() + SECONDS)
        draw(f"http://{listen}", begun, time.time())
    print(PICTURE)


if __name__ == "__main__":
    main()
