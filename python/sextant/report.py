"""`sextant report RESULT.json... -o report.html`: one self-contained page from the JSON of bench, replay and the peers' comparison."""

from __future__ import annotations

import argparse
import html
import json
import sys
from pathlib import Path

MHA = ("TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA")
MLA = ("TRITON_MLA", "ROCM_AITER_MLA")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="sextant report", description=__doc__)
    parser.add_argument("results", nargs="+", help="JSON files of `sextant bench --json`, `sextant replay --json` or bench/peers/run.py")
    parser.add_argument("-o", "--output", default="report.html")
    options = parser.parse_args(arguments)
    try:
        results = [load(path) for path in options.results]
        page = render(results)
    except ReportError as error:
        print(f"sextant report: {error}", file=sys.stderr)
        return 2
    Path(options.output).write_text(page, encoding="utf-8")
    print(f"{options.output}: {len(page) // 1024} KiB from {len(results)} result file(s)")
    return 0


class ReportError(ValueError):
    """A result file that cannot be used; the message names file, field and what is allowed."""


def load(path: str) -> dict:
    """{kind: bench | replay | peers, path, data}"""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ReportError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict) or not isinstance(data.get("results"), list):
        raise ReportError(f'{path}: no list "results"; allowed: the JSON of bench, replay or peers')
    if "block_hit_rate" in data:
        return {"kind": "replay", "path": path, "data": data}
    if "missing" in data and "device" in data:
        return {"kind": "peers", "path": path, "data": data}
    if "machine" in data:
        return {"kind": "bench", "path": path, "data": data}
    raise ReportError(f"{path}: neither of bench, replay nor peers (no machine, block_hit_rate or missing)")


def render(results: list[dict]) -> str:
    try:
        import plotly.graph_objects as go
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ReportError("plotly is not installed; get it with `pip install plotly`") from None
    sections = []
    for result in results:
        sections.append({"bench": _bench, "replay": _replay, "peers": _peers}[result["kind"]](result, go))
    body = "\n".join(sections)
    return _PAGE.replace("{{plotly}}", get_plotlyjs()).replace("{{body}}", body)


def _figure(figure, title: str, y: str) -> str:
    figure.update_layout(title=title, yaxis_title=y, template="plotly_white", margin={"l": 60, "r": 20, "t": 50, "b": 80}, height=420,
                         legend={"orientation": "h", "y": -0.25})
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})


def _facts(pairs: dict) -> str:
    rows = "".join(f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(_text(v))}</td></tr>" for k, v in pairs.items())
    return f"<table class=facts>{rows}</table>"


def _text(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return str(value)


def _grouped_bars(rows: list[dict], go, metric: str):
    figure = go.Figure()
    for backend in dict.fromkeys(row["backend"] for row in rows):
        mine = [row for row in rows if row["backend"] == backend]
        figure.add_bar(name=backend, x=[row["batch"] for row in mine], y=[row[metric] for row in mine])
    figure.update_layout(barmode="group")
    return figure


def _bench(result: dict, go) -> str:
    data = result["data"]
    rows = [row for row in data["results"] if row.get("ms_median")]
    machine = data["machine"] if isinstance(data["machine"], dict) else {"name": data["machine"]}
    parts = [f"<h2>Benchmark: {html.escape(_text(machine.get('name', '')))}</h2>", _facts({**machine, **data.get("ceilings", {})})]
    for title, names in (("MHA attention performance comparison", MHA), ("MLA attention performance comparison", MLA)):
        mine = [row for row in rows if row["backend"] in names]
        if not mine:
            continue
        parts.append(f"<h3>{title}</h3>")
        parts.append(_figure(_grouped_bars(mine, go, "tflops"), title, "TFLOP/s"))
        parts.append(_figure(_grouped_bars(mine, go, "gbs"), "KV read", "GB/s"))
        parts.append(_advice(mine))
    parts.append(_roofline(rows, data.get("ceilings", {}), go))
    parts.append(_table(rows, ("backend", "device", "model", "batch", "ms_median", "tflops", "gbs", "fraction_of_ceiling", "error")))
    return "\n".join(parts)


def _ceiling(ceilings: dict, *names: str) -> float:
    for name in names:
        if ceilings.get(name):
            return float(ceilings[name])
    return 0.0


def _roofline(rows: list[dict], ceilings: dict, go) -> str:
    """Achieved TFLOP/s over arithmetic intensity (flops a byte of KV), under the machine's two ceilings."""
    peak, read = _ceiling(ceilings, "matrix_tflops", "tflops"), _ceiling(ceilings, "read_gbs", "gbs")
    points = [row for row in rows if row.get("gbs") and row.get("tflops")]
    if not points or not peak or not read:
        return ""
    intensity = [row["tflops"] * 1000 / row["gbs"] for row in points]
    low, high = min(intensity) / 3, max(max(intensity) * 3, peak * 3000 / read)
    xs = [low * (high / low) ** (i / 60) for i in range(61)]
    figure = go.Figure()
    figure.add_scatter(x=xs, y=[min(peak, x * read / 1000) for x in xs], mode="lines", name="ceiling (measured here)")
    for backend in dict.fromkeys(row["backend"] for row in points):
        mine = [(i, row) for i, row in zip(intensity, points) if row["backend"] == backend]
        figure.add_scatter(x=[i for i, _ in mine], y=[row["tflops"] for _, row in mine], mode="markers", name=backend, text=[row["batch"] for _, row in mine])
    figure.update_xaxes(type="log", title="FLOP a byte of KV")
    figure.update_yaxes(type="log")
    return "<h3>Roofline</h3>" + _figure(figure, "Roofline", "TFLOP/s")


def _advice(rows: list[dict]) -> str:
    lines = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        mine = sorted((row for row in rows if row["batch"] == batch), key=lambda row: row["ms_median"])
        best = mine[0]
        rest = ", ".join(f"{row['backend']} {row['ms_median'] / best['ms_median']:.2f}x" for row in mine[1:])
        lines.append(f"<li><b>{html.escape(batch)}</b>: {html.escape(best['backend'])} ({best['ms_median']:.3g} ms){'; ' + html.escape(rest) if rest else ''}</li>")
    return "<h4>Selection advice</h4><ul>" + "".join(lines) + "</ul>"


def _replay(result: dict, go) -> str:
    data = result["data"]
    rows = data["results"]
    facts = {k: v for k, v in data.items() if not isinstance(v, (list, dict))}
    parts = [f"<h2>Replay: {html.escape(Path(result['path']).name)}</h2>", _facts(facts)]
    names = [" ".join(filter(None, (row.get("model", ""), row["backend"]))) for row in rows]
    speed = go.Figure(go.Bar(x=names, y=[row["tokens_per_s"] for row in rows]))
    parts.append(_figure(speed, "Tokens a second through attention", "tokens/s"))
    steps = go.Figure()
    for percentile in ("p50", "p90", "p99"):
        values = [row["step_ms"].get(percentile) if isinstance(row.get("step_ms"), dict) else row.get("step_ms") for row in rows]
        if any(value is not None for value in values):
            steps.add_scatter(x=names, y=values, mode="lines+markers", name=percentile)
    parts.append(_figure(steps, "Step time", "ms"))
    return "\n".join(parts)


def _peers(result: dict, go) -> str:
    data = result["data"]
    parts = [f"<h2>Peers: {html.escape(data['device'])}</h2>", _facts({"torch": data.get("torch", ""), **data.get("ceilings", {})})]
    rows = [row for row in data["results"] if "us" in row]
    groups = {"MLA": [r for r in rows if r["case"].startswith("mla")], "MHA": [r for r in rows if not r["case"].startswith("mla")]}
    for title, mine in groups.items():
        for metric, unit, keep in (("tbs", "TB/s", "decode"), ("tflops", "TFLOP/s", None)):
            chosen = [r for r in mine if ("decode" in r["case"]) == (keep is not None)]
            if not chosen:
                continue
            figure = go.Figure()
            for name in dict.fromkeys(r["name"] for r in chosen):
                own = [r for r in chosen if r["name"] == name]
                figure.add_bar(name=name, x=[r["case"] for r in own], y=[r[metric] for r in own])
            figure.update_layout(barmode="group")
            parts.append(f"<h3>{title} attention performance comparison</h3>")
            parts.append(_figure(figure, f"{title}: {'decode' if keep else 'prefill'}", unit))
    parts.append(_table(rows, ("case", "name", "us", "tflops", "tbs", "error", "graph")))
    if data["missing"]:
        parts.append("<h4>Not compared</h4>" + _facts(data["missing"]))
    return "\n".join(parts)


def _table(rows: list[dict], columns: tuple) -> str:
    used = [c for c in columns if any(c in row for row in rows)]
    head = "".join(f"<th>{c}</th>" for c in used)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_text(row.get(c, '')))}</td>" for c in used) + "</tr>" for row in rows)
    return f"<table class=rows><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sextant report</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
 h1 { border-bottom: 3px solid #2a6f97; padding-bottom: .3rem; } h2 { margin-top: 2.5rem; }
 table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; display: block; overflow-x: auto; }
 th, td { border: 1px solid #d5dde5; padding: .25rem .6rem; text-align: left; } thead th { background: #eef3f7; }
 table.facts th { background: #f7f9fb; font-weight: 500; }
</style>
<script>{{plotly}}</script></head>
<body><h1>Sextant: attention backends compared</h1>
{{body}}
</body></html>
"""
