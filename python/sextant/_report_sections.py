"""The report's sections: tables and charts of one result file each."""

from __future__ import annotations

import html
import json

from sextant import _report_charts as charts

MHA = ("TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA")
MLA = ("TRITON_MLA", "ROCM_AITER_MLA")
_QUIET = 0.1  # the share of the cores from which on others lengthen times: bench warns from there on


def bench(data: dict) -> tuple[str, str]:
    """(title, HTML) of `sextant bench --json`."""
    rows = [row for row in data["results"] if row.get("ms_median")]
    machine = data["machine"] if isinstance(data["machine"], dict) else {"name": data["machine"]}
    ceilings = data.get("ceilings") or {}
    name = machine.get("device_name") or machine.get("cpu") or machine.get("name", "unknown machine")
    parts = [_busy(data, rows), _facts(_machine_facts(machine, ceilings))]
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
    columns = ("model", "batch", "backend", "device", "ms_median", "ms_p10", "ms_p90", "tflops", "gbs", "fraction_of_ceiling", "others_busy", "selected", "error", "error_allowed")
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
        speed = charts.bars("Tokens a second through one layer", "tokens/s", mine, "", "backend", "tokens_per_s")
        steps = [{"backend": row["backend"], "percentile": p, "ms": row["step_ms"][p]} for row in mine for p in ("p50", "p90", "p99", "max") if p in row["step_ms"]]
        pair = charts.side_by_side(speed, charts.lines("Time of a step", "ms", steps, "percentile", "backend", "ms"))
        parts.append(f"<h3>{html.escape(model or 'Replay')}</h3>{pair}")
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
                figures.append(charts.bars(what, unit, chosen, "case", "name", metric, level, wide=True))
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


def _busy(data: dict, rows: list[dict]) -> str:
    """A warning where others used the machine: times are too long then, and not all by the same factor."""
    most = max([data.get("others_busy") or 0, *(row.get("others_busy") or 0 for row in rows)])
    if most <= _QUIET:
        return ""
    hit = sum((row.get("others_busy") or 0) > _QUIET for row in rows)
    return (f"<p class=warning><b>The machine was not quiet.</b> Others used up to {_percent(most)} of its cores, during {hit} of {len(rows)} measurements: those "
            "times are too long. Measure again when nothing else runs; <code>bench --wait SECONDS</code> waits for that.</p>")  # fmt: skip


def _comparison(rows: list[dict], model: str, ceilings: dict) -> str:
    peak, read = _ceilings(ceilings)
    heading = f"<p class=note>{html.escape(model)}: one layer</p>" if model else ""
    time = charts.spots("Time of one layer (less is better)", "ms", rows, "batch", "backend", "ms_median", "ms_p10", "ms_p90", wide=True)
    compute = charts.bars("Attention arithmetic", "TFLOP/s", rows, "batch", "backend", "tflops", peak)
    return heading + time + charts.side_by_side(compute, charts.bars("KV cache read", "GB/s", rows, "batch", "backend", "gbs", read))


def _roofline(rows: list[dict], ceilings: dict) -> str:
    """Achieved TFLOP/s over arithmetic intensity (flops a byte of KV), under the machine's two ceilings."""
    peak, read = _ceilings(ceilings)
    points = [
        {"series": row["backend"], "name": " ".join(filter(None, (row.get("model", ""), row["batch"]))), "tflops": row["tflops"],
         "intensity": row["tflops"] * 1000 / row["gbs"]}
        for row in rows if row.get("gbs") and row.get("tflops")
    ]  # fmt: skip
    if not points or not peak or not read:
        return ""
    note = "<p class=note>Left of the bend memory limits, right of it arithmetic. A point above the slope reads KV that a cache holds.</p>"
    return "<h3>Roofline</h3>" + note + charts.roofline("Reached, under the measured ceilings", points, peak, read)


def _advice(rows: list[dict]) -> str:
    """The backend to take for each model and batch, what the others cost, and where `sextant select` chooses another."""
    advice, differs = [], False
    for model in _unique(rows, "model"):
        for batch in _unique([row for row in rows if row.get("model", "") == model], "batch"):
            mine = sorted((row for row in rows if row.get("model", "") == model and row["batch"] == batch), key=lambda row: row["ms_median"])
            best = _best(mine)
            others = ", ".join(f"{row['backend']} {row['ms_median'] / best['ms_median']:.2f}x" for row in mine if row is not best)
            selected = next((row["backend"] for row in mine if row.get("selected")), "")
            differs |= bool(selected) and selected != best["backend"]
            advice.append({"model": model, "batch": batch, "take": best["backend"], "ms a layer": best["ms_median"], "select chooses": selected,
                           "the others take": others})  # fmt: skip
    if not advice:
        return ""
    note = "<p class=note>The fastest of each batch as measured here; the choice of <code>sextant select</code> where it is as fast within the spread of its times."
    if differs:
        note += " <code>select</code> chooses for a general mix of traffic: where it names another backend, serve mostly such batches before you overrule it "
        note += "(<code>VLLM_ATTENTION_BACKEND</code>), or tell it the traffic (<code>--typical-query-len</code>, <code>--typical-context-len</code>)."
    columns = ("model", "batch", "take", "ms a layer", "select chooses", "the others take")
    return "<h3>Selection advice</h3>" + note + "</p>" + _table(advice, columns, "advice")


def _best(rows: list[dict]) -> dict:
    """The fastest; of those that the spread of the times does not tell apart, the one that `select` chooses."""
    fastest = rows[0]
    for row in rows:
        if row.get("selected") and (row.get("ms_p10") or row["ms_median"]) <= (fastest.get("ms_p90") or fastest["ms_median"]):
            return row
    return fastest


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
        cells = ((row.get(c, ""), " class=number" if isinstance(row.get(c), (int, float)) and not isinstance(row.get(c), bool) else "") for c in used)
        body += "<tr>" + "".join(f"<td{kind}>{html.escape(_text(value))}</td>" for value, kind in cells) + "</tr>"
    return f"<table class={style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return str(value)
