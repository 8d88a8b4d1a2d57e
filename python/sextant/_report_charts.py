"""The report's charts: inline SVG that Vega-Lite draws when the page is made, so that the page holds no script.

Each chart is drawn for a phone and for a screen; the page's style shows one. Texts and lines have fixed colours
that the style replaces in dark mode.
"""

from __future__ import annotations

import html
import math
import re
from typing import Any, Iterable, Optional

import vl_convert

# One colour a backend in every chart; told apart by people with colour blindness too (Okabe and Ito's palette).
COLORS = {
    "TRITON_ATTN": "#56B4E9",
    "ROCM_AITER_UNIFIED_ATTN": "#0072B2",
    "ROCM_ATTN": "#E69F00",
    "ROCM_AITER_FA": "#009E73",
    "TRITON_MLA": "#CC79A7",
    "ROCM_AITER_MLA": "#D55E00",
}
_PEER_COLORS = ("#8a97a6", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00", "#5d6b7a", "#b5651d")
INK, GRID, LINE = "#1c2430", "#e3e9ef", "#5d6b7b"  # the style's names for them are --ink, --grid and --line
PHONE, HALF, FULL = 270, 440, 760  # widths of a drawing's plot in pixels
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
_CONFIG = {
    "background": None,
    "font": _FONT,
    "view": {"stroke": None},
    "padding": 2,
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "gridColor": GRID,
        "domainColor": LINE,
        "tickColor": LINE,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "header": {"labelColor": INK, "labelFontSize": 12, "labelFontWeight": "bold"},
    "text": {"color": INK, "fontSize": 11},
}


def color_of(name: str, at: int = 0) -> str:
    if name.startswith("sextant"):
        return COLORS.get(name.rpartition(" ")[2], "#0072B2")
    return COLORS.get(name, _PEER_COLORS[at % len(_PEER_COLORS)])


def bars(
    title: str,
    unit: str,
    rows: "list[dict[str, Any]]",
    group: str,
    series: str,
    metric: str,
    ceiling: float = 0,
    wide: bool = False,
) -> str:
    """A bar a row, from 0; `ceiling`: a line, unless the bars are so low that it would flatten them."""
    points = _points(rows, group, series, metric)
    if not points:
        return ""
    most = max(point["value"] for point in points)
    line = ceiling if ceiling and most > ceiling / 20 else 0
    room = 1.25  # for the label at the end of the longest bar
    x = {
        "field": "value",
        "type": "quantitative",
        "scale": {"domain": [0, max(most * room, line * 1.05)], "nice": False},
        "axis": {"title": unit, "tickCount": 5},
    }
    layers: "list[dict[str, Any]]" = [
        {"mark": {"type": "bar", "height": {"band": 0.82}}, "encoding": {"x": x, "color": _colors(points)}}
    ]
    layers.append(
        {"mark": {"type": "text", "align": "left", "dx": 4}, "encoding": {"x": x, "text": {"field": "label"}}}
    )
    if line:
        layers.append(
            {
                "mark": {"type": "rule", "strokeDash": [5, 4], "color": LINE, "size": 1.5},
                "encoding": {
                    "x": {"datum": line, "type": "quantitative"},
                    "y": {"value": 0},
                    "y2": {"value": "height"},
                },
            }
        )
    note = ""
    past = sum(point["value"] > line for point in points) if line else 0
    if past:
        why = (
            "the machine ran faster than while the ceiling was measured"
            if unit.startswith("TFLOP")
            else "keys and values that a cache holds are read faster than memory"
        )
        end = "ends" if past == 1 else "end"
        note = f"{past} of {len(points)} bars {end} past the measured ceiling: {why}."
    return _figure(title, points, lambda width: _rows_of(points, layers, width), wide, line, unit, note)


def spots(
    title: str,
    unit: str,
    rows: "list[dict[str, Any]]",
    group: str,
    series: str,
    metric: str,
    low: str = "",
    high: str = "",
    wide: bool = False,
) -> str:
    """A spot a row on a logarithmic axis, which has no 0 for a bar to begin at, with a line from `low` to `high`."""
    points = _points(rows, group, series, metric, low, high)
    if not points:
        return ""
    ends = [end for point in points for end in (point["value"], point["low"], point["high"]) if end > 0]
    axis = _log_axis(unit, min(ends), max(ends) * 1.8)
    x = {"field": "value", "type": "quantitative", **axis}
    layers = [
        {
            "mark": {"type": "rule", "size": 2, "opacity": 0.6},
            "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": _colors(points)},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"x": x, "color": _colors(points)},
        },
        {
            "mark": {"type": "text", "align": "left", "dx": 9},
            "encoding": {"x": {**x, "field": "high"}, "text": {"field": "label"}},
        },
    ]
    note = "The line through a spot goes from the 10th to the 90th percentile." if low else ""
    return _figure(title, points, lambda width: _rows_of(points, layers, width), wide, note=note)


def lines(title: str, unit: str, rows: "list[dict[str, Any]]", group: str, series: str, metric: str) -> str:
    """A line a series over the groups, which have an order; logarithmic."""
    points = _points(rows, group, series, metric)
    if not points:
        return ""
    values = [point["value"] for point in points]
    encoding = {
        "x": {
            "field": "group",
            "type": "nominal",
            "sort": None,
            "axis": {"title": None, "labelAngle": 0},
            "scale": {"padding": 0.3},
        },
        "y": {"field": "value", "type": "quantitative", **_log_axis(unit, min(values), max(values))},
        "color": _colors(points),
    }
    layers = [
        {"mark": {"type": "line", "strokeWidth": 2}},
        {"mark": {"type": "point", "filled": True, "size": 50, "opacity": 1}},
    ]
    return _figure(
        title,
        points,
        lambda width: {
            "data": {"values": points},
            "width": width,
            "height": 260,
            "encoding": encoding,
            "layer": layers,
        },
        False,
    )


def roofline(title: str, rows: "list[dict[str, Any]]", peak: float, read: float) -> str:
    """rows: {series, name, intensity (flops a byte), tflops} under min(peak TFLOP/s, intensity * read GB/s)."""
    points = [
        {
            "group": row["name"],
            "series": row["series"],
            "value": row["tflops"],
            "x": row["intensity"],
            "color": color_of(row["series"], at),
        }
        for at, name in enumerate(dict.fromkeys(row["series"] for row in rows))
        for row in rows
        if row["series"] == name
    ]
    ridge = peak * 1000 / read  # flops a byte where the two ceilings meet
    low, high = (
        min(min(point["x"] for point in points), ridge) / 3,
        max(max(point["x"] for point in points), ridge) * 3,
    )
    ceiling = [{"x": x, "value": y} for x, y in ((low, low * read / 1000), (ridge, peak), (high, peak))]
    x = {"field": "x", "type": "quantitative", **_log_axis("FLOP a byte of KV cache", low, high)}
    y = {
        "field": "value",
        "type": "quantitative",
        **_log_axis("TFLOP/s", *_ends([low * read / 1000, peak, *(point["value"] for point in points)])),
    }
    layers = [
        {
            "data": {"values": ceiling},
            "mark": {"type": "line", "color": LINE, "strokeDash": [5, 4], "strokeWidth": 2},
            "encoding": {"x": x, "y": y},
        },
        {
            "data": {"values": points},
            "mark": {"type": "point", "filled": True, "size": 80, "opacity": 0.85},
            "encoding": {"x": x, "y": y, "color": _colors(points), "description": {"field": "group"}},
        },
    ]
    return _figure(
        title,
        points,
        lambda width: {"width": width, "height": min(420, width), "layer": layers},
        True,
        peak,
        "TFLOP/s",
    )


def _ends(values: "list[float]") -> "tuple[float, float]":
    return min(values), max(values) * 1.2


def log_ticks(low: float, high: float) -> "list[float]":
    """Labels of a logarithmic axis: powers of ten, and 2 and 5 between them where they span less than two decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if high < 100 * low else (1,)
    return [
        float(f"{step}e{power}")
        for power in range(first, last + 1)
        for step in steps
        if low <= float(f"{step}e{power}") <= high
    ]


def _log_axis(title: str, low: float, high: float) -> "dict[str, Any]":
    low, high = low / 1.3, high * 1.3
    while len(log_ticks(low, high)) < 2:  # values that are all about the same
        low, high = low / 1.5, high * 1.5
    return {
        "scale": {"type": "log", "domain": [low, high], "nice": False},
        "axis": {"title": f"{title}, logarithmic", "values": log_ticks(low, high), "format": ",~g"},
    }


def _points(
    rows: "Iterable[dict[str, Any]]", group: str, series: str, metric: str, low: str = "", high: str = ""
) -> "list[dict[str, Any]]":
    points = []
    colors: "dict[str, str]" = {}
    for row in rows:
        value = row.get(metric)
        if value is None or value < 0:
            continue
        name = str(row[series])
        color = colors.setdefault(name, color_of(name, len(colors)))
        points.append(
            {
                "group": str(row.get(group, "")),
                "series": name,
                "value": value,
                "label": text(value),
                "color": color,
                "low": row.get(low) or value,
                "high": row.get(high) or value,
            }
        )
    return points


def _colors(points: "list[dict[str, Any]]") -> "dict[str, Any]":
    known = {point["series"]: point["color"] for point in points}
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(known), "range": list(known.values())},
        "legend": None,
    }


def _rows_of(points: "list[dict[str, Any]]", layers: "list[dict[str, Any]]", width: int) -> "dict[str, Any]":
    """Rows under each other, the name of each group above its own."""
    y = {"field": "series", "type": "nominal", "sort": None, "axis": None}
    inner = {"width": width, "height": {"step": 17}, "encoding": {"y": y}, "layer": layers}
    groups = list(dict.fromkeys(point["group"] for point in points))
    if groups == [""]:
        return {"data": {"values": points}, **inner}
    header = {
        "title": None,
        "labelOrient": "top",
        "labelAnchor": "start",
        "labelAngle": 0,
        "labelPadding": 2,
        "labelLimit": width,
    }
    return {
        "data": {"values": points},
        "facet": {"row": {"field": "group", "type": "nominal", "sort": groups, "header": header}},
        "spacing": 6,
        "spec": inner,
        "resolve": {"scale": {"y": "independent"}},
    }


def _symbol(width: int, drawing: str) -> str:
    return f'<svg width="{width}" height="12" aria-hidden="true">{drawing}</svg>'


def _circle(color: str) -> str:
    return f'<circle cx="6" cy="6" r="5" fill="{color}"/>'


def _figure(
    title: str,
    points: "list[dict[str, Any]]",
    draw: Any,
    wide: bool,
    ceiling: float = 0,
    unit: str = "",
    note: str = "",
) -> str:
    chips = {point["series"]: point["color"] for point in points}
    legend = "".join(f"<span>{_symbol(12, _circle(color))}{html.escape(name)}</span>" for name, color in chips.items())
    if ceiling:
        dashes = f'<line x1="0" x2="22" y1="6" y2="6" stroke="{LINE}" stroke-width="2" stroke-dasharray="5 4"/>'
        legend += f"<span>{_symbol(22, dashes)}ceiling, measured: {text(ceiling)} {unit}</span>"
    drawings = {
        "phone": _svg(draw(PHONE), f"{title}, {unit}"),
        "screen": _svg(draw(FULL if wide else HALF), f"{title}, {unit}"),
    }
    body = "".join(f'<div class="{kind}">{svg}</div>' for kind, svg in drawings.items())
    caption = f"<p class=note>{html.escape(note)}</p>" if note else ""
    return f"<figure><figcaption>{html.escape(title)}</figcaption><p class=legend>{legend}</p>{body}{caption}</figure>"


_ids = 0


def _svg(spec: "dict[str, Any]", label: str) -> str:
    """The drawing, small: without what only screen readers of single marks would use, with a tip a mark."""
    global _ids
    _ids += 1
    svg = str(vl_convert.vegalite_to_svg({**spec, "config": _CONFIG}))
    svg = re.sub(r'<path [^>]*class="(?:background|foreground)"[^>]*/>', "", svg)
    svg = re.sub(r'(id="|url\(#|href="#)(\w+)', rf"\g<1>c{_ids}-\g<2>", svg)  # ids are the page's, not the drawing's
    svg = re.sub(r'<(path|line|rect)( [^>]*?)aria-label="([^"]*)" role="graphics-symbol" ([^>]*?)/>', _tip, svg)
    svg = re.sub(
        r' (?:class|role|aria-[a-z]+|pointer-events|font-family|stroke-miterlimit|xmlns|xmlns:xlink|version)="[^"]*"',
        "",
        svg,
    )
    svg = svg.replace(' opacity="1"', "")
    svg = re.sub(
        r'="[^"]*"', lambda attribute: re.sub(r"(\d\.\d)\d+", r"\1", attribute[0]), svg
    )  # of a pixel, a tenth
    while True:
        emptied = re.sub(r"<g[^>]*></g>", "", svg)
        if emptied == svg:
            break
        svg = emptied
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _tip(match: "re.Match[str]") -> str:
    parts = dict(part.partition(": ")[::2] for part in match[3].split("; "))
    shown = [parts[key] for key in ("group", "series") if parts.get(key)] + [
        parts.get("label") or parts.get("value", "")
    ]
    tip = match[3] if "group" not in parts and "series" not in parts else ", ".join(filter(None, shown))
    return f"<{match[1]}{match[2]}{match[4]}><title>{tip}</title></{match[1]}>"


def text(value: Any) -> str:
    """A number as people read it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def side_by_side(*figures: Optional[str]) -> str:
    drawn = [figure for figure in figures if figure]
    return f"<div class=pair>{''.join(drawn)}</div>" if drawn else ""
