"""Draw docs/screenshots/metrics.png: python -m tests.e2e.dashboard (it takes three minutes).

A mailing with failures and an outage runs through the real processes, which a real Prometheus
scrapes. Each panel of the Grafana dashboard is drawn in its place from Prometheus' responses. The
layout, queries, units and values are the dashboard's; only the drawing is not Grafana's.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.e2e.browser_user import CHROMIUM_ARGUMENTS
from tests.support.prometheus import Prometheus
from tests.support.system import ROOT, System

PICTURE_PATH = ROOT / "docs" / "screenshots" / "metrics.png"
SECONDS, STEP = 130, 1
COLUMN, ROW = 58, 30
COLOURS = ("#3274d9", "#e0752d", "#37872d", "#c4162a", "#8f3bb8", "#b98a00", "#00838f", "#6d4c41")
STYLE = """
body { margin: 0; background: #f4f5f5; font: 11px 'DejaVu Sans', sans-serif; color: #24292e }
section { position: absolute; box-sizing: border-box; padding: 3px }
section > div { background: #fff; border: 1px solid #dcdfe3; height: 100%; overflow: hidden;
    box-sizing: border-box; padding: 5px 7px; display: flex; flex-direction: column }
h2 { font-size: 12px; margin: 0 0 2px } h1 { font-size: 14px; margin: 6px 4px }
svg { flex: 1; min-height: 0; width: 100% } p { margin: 1px 0; max-height: 32px; overflow: hidden }
i { display: inline-block; width: 9px; height: 3px; margin: 0 3px 2px 8px }
.stat { flex: 1; display: flex; gap: 20px; align-items: center; justify-content: center }
.stat b { font-size: 24px; display: block; text-align: center }
"""

Series = tuple[str, list[tuple[float, float]]]


def run_mailings(system: System) -> None:
    """Run for SECONDS: a steady mailing, an outage of the provider, a second limited mailing."""
    system.add_clients(16_000, tag="dashboard", zones=("Europe/Moscow", "Asia/Omsk"))
    system.provider.set(latency={"min": 0.02, "max": 0.3}, faults={"error_500": 0.03})
    began = time.monotonic()
    system.create_mailing(filter={"tags": ["dashboard"]}, rate_limit=120, name="steady")
    for at, change in ((45, {"down": True}), (60, {"down": False}), (SECONDS, {})):
        while time.monotonic() - began < at:
            system.call("GET", "/mailings")
            system.call("GET", "/clients?limit=50")
            time.sleep(0.5)
        if change:
            system.provider.set(**change)
        if at == 60:
            system.create_mailing(filter={"tags": ["dashboard"]}, rate_limit=60, name="second")


def query_series(prometheus: Prometheus, target: dict[str, Any], until: float) -> Iterator[Series]:
    expression = target["expr"].replace("$__rate_interval", "10s")
    span = {"start": until - SECONDS, "end": until, "step": STEP}
    response = prometheus.http.get(
        f"{prometheus.url}/query_range", params={"query": expression, **span}, timeout=10
    )
    for row in response.json()["data"]["result"]:
        name = target.get("legendFormat") or expression
        for label, value in row["metric"].items():
            name = name.replace("{{" + label + "}}", value)
        values = [(at, float(value)) for at, value in row["values"] if value != "NaN"]
        if values:
            yield name, values


def format_value(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1000:.0f} ms" if 0 < abs(value) < 1 else f"{value:.3g} s"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def draw_lines(series: Sequence[Series], unit: str, until: float) -> str:
    """Return an SVG of the series as lines over one time axis, with a legend."""
    most = max((v for _, values in series for _, v in values), default=0) or 1
    parts = [
        f'<text x="0" y="{10 + 88 * k / 2:.0f}" font-size="7">'
        f"{format_value(most * (2 - k) / 2, unit)}"
        f'</text><path d="M40 {8 + 88 * k / 2}H400" stroke="#e4e7ea" fill="none"/>'
        for k in range(3)
    ]
    for n, (_, values) in enumerate(series):
        points = " ".join(
            f"{40 + 360 * (at - until + SECONDS) / SECONDS:.1f},{96 - 88 * v / most:.1f}"
            for at, v in values
        )
        colour = COLOURS[n % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    legend = "".join(
        f'<i style="background:{COLOURS[n % len(COLOURS)]}"></i>{escape(name)}'
        for n, (name, _) in enumerate(series)
    )
    drawn = "".join(parts)
    return f'<svg viewBox="0 0 400 100" preserveAspectRatio="none">{drawn}</svg><p>{legend}</p>'


def draw_heatmap(series: Sequence[Series], until: float) -> str:
    """Return an SVG of histogram buckets over time: darker means more.

    Prometheus' buckets are cumulative, so that of the next lower one is subtracted.
    """
    ordered = sorted(series, key=lambda row: float(row[0].replace("+Inf", "inf")))
    below: dict[float, float] = {}
    cells, most, height = [], 1e-9, 96 / max(1, len(ordered))
    for n, (_, values) in enumerate(ordered):
        for at, v in values:
            cells.append((at, n, v - below.get(at, 0.0)))
            most, below[at] = max(most, cells[-1][2]), v
    width = 360 * STEP / SECONDS
    parts = [
        f'<rect x="{40 + 360 * (at - until + SECONDS) / SECONDS:.1f}" width="{width + 0.3:.1f}"'
        f' y="{96 - height * (n + 1):.1f}" height="{height:.1f}" fill="#e0752d"'
        f' fill-opacity="{(v / most) ** 0.5:.2f}"/>'
        for at, n, v in cells
        if v > 0
    ]
    parts += [
        f'<text x="0" y="{96 - height * n - 2:.1f}" font-size="6">{escape(name)} s</text>'
        for n, (name, _) in enumerate(ordered)
    ]
    return f'<svg viewBox="0 0 400 100" preserveAspectRatio="none">{"".join(parts)}</svg>'


def draw_panel(panel: dict[str, Any], prometheus: Prometheus, until: float) -> str:
    place = panel["gridPos"]
    style = (
        f"left:{place['x'] * COLUMN}px;top:{place['y'] * ROW}px;"
        f"width:{place['w'] * COLUMN}px;height:{place['h'] * ROW}px"
    )
    title = escape(panel["title"])
    if panel["type"] == "row":
        return f'<section style="{style}"><h1>{title}</h1></section>'
    unit = panel["fieldConfig"]["defaults"].get("unit", "")
    series = [row for target in panel["targets"] for row in query_series(prometheus, target, until)]
    if panel["type"] == "stat":
        stats = (
            f"<span><b>{format_value(values[-1][1], unit)}</b>{escape(name)}</span>"
            for name, values in series
        )
        body = f'<div class="stat">{"".join(stats)}</div>'
    else:
        is_heatmap = panel["type"] == "heatmap"
        body = draw_heatmap(series, until) if is_heatmap else draw_lines(series, unit, until)
    return f'<section style="{style}"><div><h2>{title}</h2>{body}</div></section>'


def main() -> None:
    panels = json.loads((ROOT / "deploy/grafana/notifications.json").read_text())["panels"]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels) * ROW
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        system = System(Path(directory) / "system", BATCH_SIZE=100)
        try:
            system.start()
            target = f"127.0.0.1:{system.api_port}"
            prometheus = Prometheus(Path(directory) / "prometheus", target)
            try:
                run_mailings(system)
                until = time.time()
                drawn = "".join(draw_panel(panel, prometheus, until) for panel in panels)
            finally:
                prometheus.stop()
        finally:
            system.stop()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM_ARGUMENTS
        )
        page = browser.new_page(viewport={"width": 24 * COLUMN, "height": height})
        page.set_content(f"<style>{STYLE}</style>{drawn}")
        page.screenshot(path=PICTURE_PATH)
        browser.close()


if __name__ == "__main__":
    main()
