"""The report's sections: tables and Plotly charts of one result file each."""

from __future__ import annotations

import html
import json
import math

import plotly.graph_objects as go

MHA = ("TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA")
MLA = ("TRITON_MLA", "ROCM_AITER_MLA")
# One colour a backend in every chart; told apart by people with colour blindness too (Okabe and Ito's palette).
COLORS = {
    "TRITON_ATTN": "#56B4E9",
    "ROCM_AITER_UNIFIED_ATTN": "#0072B2",
    "ROCM_ATTN": "#E69F00",
    "ROCM_AITER_FA": "#009E73",
    "TRITON_MLA": "#CC79A7",
    "ROCM_AITER_MLA": "#D55E00",
}
_PEER_COLORS = ("#8a97a6", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#5d6b7a", "#b5651d")


def bench(data: dict) -> tuple[str, str]:
    """(title, HTML) of `sextant bench --json`."""
    rows = [row for row in data["results"] if row.get("ms_median")]
    machine = data["machine"] if isinstance(data["machine"], dict) else {"name": data["machine"]}
    ceilings = data.get("ceilings") or {}
    name = machine.get("device_name") or machine.get("cpu") or machine.get("name", "unknown machine")
    parts = [_facts(_machine_facts(machine, ceilings))]
    for title, names in (("MHA attention performance comparison", MHA), ("MLA attention performance comparison", MLA)):
        mine = [row for row in rows if row["backend"] in names]
        if not mine:
            continue
        parts.append(f"<h3>{title}</h3>")
        for model in _unique(mine, "model"):
            parts.append(_comparison([row for row in mine if row.get("model", "") == model], model, ceilings))
    parts.append(_roofline(rows, ceilings))
    parts.append(_advice(rows))
    if data.get("skipped"):
        parts.append("<h3>Not run</h3>" + _table(data["skipped"], ("backend", "model", "batch", "reason")))
    columns = ("model", "batch", "backend", "device", "ms_median", "ms_p10", "ms_p90", "tflops", "gbs", "fraction_of_ceiling", "error", "error_allowed")
    parts.append("<details><summary>All figures</summary>" + _table(rows, columns) + "</details>")
    return f"Benchmark: {name}", "\n".join(parts)


def replay(data: dict) -> tuple[str, str]:
    """(title, HTML) of `sextant replay --json`."""
    rows = data["results"]
    shares = data.get("share") or {}
    tiles = {"requests": data.get("requests"), "tokens computed": data.get("tokens"), "steps": data.get("steps")}
    tiles["KV block hit rate"] = _percent(data["block_hit_rate"])
    if "token_hit_rate" in data:
        tiles["prompt token hit rate"] = _percent(data["token_hit_rate"])
    for kind in ("decode", "extend", "prefill"):
        if kind in shares:
            tiles[f"of the tokens: {kind}"] = _percent(shares[kind]["token_share"])
    agreement = data.get("agreement")
    if agreement:
        tiles["all backends agree"] = "yes" if agreement["agrees"] else "NO"
    parts = ["<div class=tiles>" + "".join(f"<div class=tile><b>{html.escape(_text(v))}</b><span>{html.escape(k)}</span></div>" for k, v in tiles.items() if v is not None) + "</div>"]
    for model in _unique(rows, "model"):
        mine = [row for row in rows if row.get("model", "") == model]
        names = [row["backend"] for row in mine]
        speed = go.Figure(go.Bar(x=[_two_lines(name) for name in names], y=[row["tokens_per_s"] for row in mine], marker_color=[_color(n) for n in names],
                                 text=[_text(row["tokens_per_s"]) for row in mine], textposition="outside", cliponaxis=False))
        steps = go.Figure()
        for row in mine:
            points = [(p, row["step_ms"][p]) for p in ("p50", "p90", "p99", "max") if p in row["step_ms"]]
            steps.add_scatter(x=[p for p, _ in points], y=[y for _, y in points], mode="lines+markers", name=row["backend"], line_color=_color(row["backend"]))
        speed.update_xaxes(tickangle=0)
        _logarithmic(steps, [y for trace in steps.data for y in trace.y])
        left = _figure(speed, "Tokens a second through one layer", "tokens/s", legend=False)
        right = _figure(steps, "Time of a step", "ms, logarithmic")
        parts.append(f"<h3>{html.escape(model or 'Replay')}</h3>{_pair(left, right)}")
    flat = [{**row, **{f"step_{k}_ms": v for k, v in row["step_ms"].items()}} for row in rows]
    columns = ("model", "backend", "device", "tokens_per_s", "step_mean_ms", "step_p50_ms", "step_p90_ms", "step_p99_ms", "plan_ms_mean")
    parts.append("<details><summary>All figures</summary>" + _table(flat, columns) + "</details>")
    return f"Replay: {data.get('trace', 'trace')}", "\n".join(parts)


def peers(data: dict) -> tuple[str, str]:
    """(title, HTML) of bench/peers/run.py."""
    rows = [row for row in data["results"] if "us" in row]
    ceilings = data.get("ceilings") or {}
    peak, copy = _ceilings(ceilings)
    parts = [_facts({"device": data["device"], "torch": data.get("torch", ""), **_ceiling_facts(ceilings)})]
    for title, wanted in (("MHA attention performance comparison", False), ("MLA attention performance comparison", True)):
        mine = [row for row in rows if row["case"].startswith("mla") == wanted]
        figures = []
        for what, decode, metric, unit, level in (("Decode", True, "tbs", "TB/s of KV", copy / 1000), ("Prefill and extend", False, "tflops", "TFLOP/s", peak)):
            chosen = [row for row in mine if ("decode" in row["case"]) == decode]
            if chosen:
                bars = _bars(chosen, "case", "name", metric)
                _ceiling_line(bars, level)
                figures.append(_figure(bars, what, unit))
        if figures:
            parts.append(f"<h3>{title}, with peers</h3>" + "".join(figures))
    parts.append(_roofline([{**row, "backend": row["name"], "batch": row["case"], "gbs": row["tbs"] * 1000} for row in rows if row.get("tbs")], ceilings))
    advice = []
    for case in _unique(rows, "case"):
        mine = sorted((row for row in rows if row["case"] == case), key=lambda row: row["us"])
        ours = next((row for row in mine if row["name"].startswith("sextant")), None)
        theirs = next((row for row in mine if not row["name"].startswith("sextant")), None)
        if ours and theirs:
            advice.append({"case": case, "sextant": ours["name"], "us": ours["us"], "best peer": theirs["name"], "peer us": theirs["us"],
                           "peer / sextant": theirs["us"] / ours["us"]})
    if advice:
        parts.append("<h3>Against the best peer</h3>" + _table(advice, tuple(advice[0])))
    parts.append("<details><summary>All figures</summary>" + _table(rows, ("case", "name", "us", "tflops", "tbs", "error", "graph")) + "</details>")
    if data["missing"]:
        parts.append("<h3>Not compared</h3>" + _facts(data["missing"]))
    return f"Peers: {data['device']}", "\n".join(parts)


def _machine_facts(machine: dict, ceilings: dict) -> dict:
    facts: dict = {}
    for key, label in (("name", "machine"), ("cpu", "processor"), ("device_name", "device"), ("architecture", "kernels"), ("threads", "threads"), ("cores", "cores"), ("system", "system")):
        if machine.get(key) not in (None, "", *facts.values()):  # a CPU is its own device
            facts[label] = machine[key]
    if machine.get("memory_bytes"):
        facts["memory"] = f"{machine['memory_bytes'] / 2**30:.1f} GiB"
    caches = machine.get("caches_bytes")
    if isinstance(caches, dict):
        facts["caches"] = ", ".join(f"{name} {size / 1024:.0f} KiB" if size < 2**20 else f"{name} {size / 2**20:.0f} MiB" for name, size in caches.items())
    return {**facts, **_ceiling_facts(ceilings)}


def _ceiling_facts(ceilings: dict) -> dict:
    facts: dict = {}
    peak, read = _ceilings(ceilings)
    if peak:
        facts["compute ceiling, measured"] = f"{_text(peak)} TFLOP/s" + (f" ({ceilings['matrix_unit']})" if ceilings.get("matrix_unit") else "")
    if read:
        facts["memory ceiling, measured"] = f"{_text(read)} GB/s"
    if ceilings.get("note"):
        facts["note"] = ceilings["note"]
    return facts


def _comparison(rows: list[dict], model: str, ceilings: dict) -> str:
    peak, read = _ceilings(ceilings)
    time = _bars(rows, "batch", "backend", "ms_median")
    _logarithmic(time, [y for trace in time.data for y in trace.y])
    compute, memory = _bars(rows, "batch", "backend", "tflops"), _bars(rows, "batch", "backend", "gbs")
    _ceiling_line(compute, peak)
    _ceiling_line(memory, read)
    heading = f"<p class=note>{html.escape(model)}: one layer</p>" if model else ""
    pair = _pair(_figure(compute, "Attention arithmetic", "TFLOP/s"), _figure(memory, "KV cache read", "GB/s"))
    return heading + _figure(time, "Time of one layer (less is better)", "ms, logarithmic") + pair


def _roofline(rows: list[dict], ceilings: dict) -> str:
    """Achieved TFLOP/s over arithmetic intensity (flops a byte of KV), under the machine's two ceilings."""
    peak, read = _ceilings(ceilings)
    points = [(row["tflops"] * 1000 / row["gbs"], row) for row in rows if row.get("gbs") and row.get("tflops")]
    if not points or not peak or not read:
        return ""
    ridge = peak * 1000 / read  # flops a byte where the two ceilings meet
    low, high = min(min(i for i, _ in points), ridge) / 3, max(max(i for i, _ in points), ridge) * 3
    figure = go.Figure()
    figure.add_scatter(x=[low, ridge, high], y=[low * read / 1000, peak, peak], mode="lines", name="ceiling, measured", line={"color": "#1c2430", "width": 2})
    for at, backend in enumerate(_unique([row for _, row in points], "backend")):
        mine = [(i, row) for i, row in points if row["backend"] == backend]
        texts = [" ".join(filter(None, (row.get("model", ""), row["batch"]))) for _, row in mine]
        figure.add_scatter(x=[i for i, _ in mine], y=[row["tflops"] for _, row in mine], mode="markers", name=backend, text=texts,
                           hovertemplate="%{text}<br>%{y:.3g} TFLOP/s<extra>" + backend + "</extra>", marker={"size": 10, "color": _color(backend, at)})
    figure.update_xaxes(type="log", title="FLOP a byte of KV cache", dtick=1)
    _logarithmic(figure, [row["tflops"] for _, row in points] + [low * read / 1000, peak])
    note = "<p class=note>Left of the bend memory limits, right of it arithmetic. A point above the slope reads KV that a cache holds.</p>"
    return "<h3>Roofline</h3>" + note + _figure(figure, "Reached, under the measured ceilings", "TFLOP/s", height=480)


def _advice(rows: list[dict]) -> str:
    """The backend to take for each model and batch, and what the others cost."""
    advice = []
    for model in _unique(rows, "model"):
        for batch in _unique([row for row in rows if row.get("model", "") == model], "batch"):
            mine = sorted((row for row in rows if row.get("model", "") == model and row["batch"] == batch), key=lambda row: row["ms_median"])
            others = ", ".join(f"{row['backend']} {row['ms_median'] / mine[0]['ms_median']:.2f}x" for row in mine[1:])
            advice.append({"model": model, "batch": batch, "take": mine[0]["backend"], "ms a layer": mine[0]["ms_median"], "the others take": others})
    return "<h3>Selection advice</h3>" + _table(advice, ("model", "batch", "take", "ms a layer", "the others take"), "advice") if advice else ""


def _bars(rows: list[dict], group: str, series: str, metric: str) -> go.Figure:
    figure = go.Figure()
    for at, name in enumerate(_unique(rows, series)):
        mine = [row for row in rows if row[series] == name and row.get(metric) is not None]
        figure.add_bar(name=name, x=[row[group] for row in mine], y=[row[metric] for row in mine], marker_color=_color(name, at))
    figure.update_layout(barmode="group")
    figure.update_xaxes(type="category")
    return figure


def _logarithmic(figure: go.Figure, values: list[float]) -> None:
    """A logarithmic y axis with labels: powers of ten, and 2 and 5 between them where the values span less than two decades."""
    values = [value for value in values if value > 0]
    wide = bool(values) and max(values) >= 100 * min(values)
    figure.update_yaxes(type="log", dtick=1 if wide else "D2")
    if values and not wide:  # room for a label on each side of close values
        figure.update_yaxes(range=[math.log10(min(values) / 2.5), math.log10(max(values) * 2.5)])


def _ceiling_line(figure: go.Figure, level: float) -> None:
    """The measured ceiling, unless the bars are so low that it would flatten them."""
    if level and max((y for trace in figure.data for y in trace.y), default=0) > level / 20:
        figure.add_hline(y=level, line_dash="dash", line_color="#8a97a6", annotation_text="measured ceiling", annotation_font_size=11)


def _two_lines(name: str) -> str:
    """ROCM_AITER_UNIFIED_ATTN under its bar without being turned."""
    head, _, tail = name.rpartition("AITER_")
    return f"{head}AITER<br>{tail}" if head else name


def _color(name: str, at: int = 0) -> str:
    if name.startswith("sextant"):
        return COLORS.get(name.rpartition(" ")[2], "#0072B2")
    return COLORS.get(name, _PEER_COLORS[at % len(_PEER_COLORS)])


def _figure(figure: go.Figure, title: str, y: str, height: int = 380, legend: bool = True) -> str:
    figure.update_layout(title={"text": title, "font": {"size": 16}}, yaxis_title=y, template="plotly_white", height=height, showlegend=legend,
                         margin={"l": 60, "r": 20, "t": 50, "b": 50}, legend={"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0}, bargap=0.25)
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}, default_height=f"{height}px")


def _pair(left: str, right: str) -> str:
    return f"<div class=pair>{left}{right}</div>"


def _ceilings(ceilings: dict) -> tuple[float, float]:
    """(TFLOP/s, GB/s) as bench and the peers' comparison name them; 0 where not measured."""
    return float(ceilings.get("tflops") or ceilings.get("matrix_tflops") or 0), float(ceilings.get("gbs") or 1000 * ceilings.get("copy_tbs", 0))


def _unique(rows: list[dict], key: str) -> list:
    return list(dict.fromkeys(row.get(key, "") for row in rows))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _facts(pairs: dict) -> str:
    rows = "".join(f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(_text(v))}</td></tr>" for k, v in pairs.items())
    return f"<table class=facts>{rows}</table>"


def _table(rows: list[dict], columns: tuple, style: str = "rows") -> str:
    used = [c for c in columns if any(row.get(c) not in (None, "") for row in rows)]
    head = "".join(f"<th>{html.escape(c)}</th>" for c in used)
    body = ""
    for row in rows:
        cells = ((row.get(c, ""), " class=number" if isinstance(row.get(c), (int, float)) else "") for c in used)
        body += "<tr>" + "".join(f"<td{kind}>{html.escape(_text(value))}</td>" for value, kind in cells) + "</tr>"
    return f"<table class={style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value) -> str:
    if value is None:
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return str(value)
