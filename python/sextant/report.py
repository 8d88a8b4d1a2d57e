"""`sextant report RESULT.json... -o report.html`: one self-contained page from the JSON of bench, replay and the peers' comparison."""

from __future__ import annotations

import argparse
import html
import json
import sys
from pathlib import Path


class ReportError(ValueError):
    """A result file that cannot be used; the message names file, field and what is allowed."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="sextant report", description=__doc__)
    parser.add_argument("results", nargs="+", help="JSON files of `sextant bench --json`, `sextant replay --json` or bench/peers/run.py")
    parser.add_argument("-o", "--output", default="report.html")
    options = parser.parse_args(arguments)
    try:
        results = [load(path) for path in options.results]
        page = render(results)
        Path(options.output).write_text(page, encoding="utf-8")
    except ReportError as error:
        print(f"sextant report: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"sextant report: {options.output}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{options.output}: {len(page) // 1024} KiB from {len(results)} result file(s)")
    return 0


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
    """The whole page. Each result file is a section; the charts are drawings in it, so nothing is fetched and no script runs."""
    try:
        from sextant import _report_sections as sections
    except ImportError as error:
        raise ReportError(f"vl-convert is not installed ({error}); get it with `pip install vl-convert-python`") from None
    makers = {"bench": sections.bench, "replay": sections.replay, "peers": sections.peers}
    parts, links = [], []
    for number, result in enumerate(results):
        try:
            title, body = makers[result["kind"]](result["data"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ReportError(f"{result['path']}: not the JSON that {result['kind']} writes ({type(error).__name__}: {error})") from None
        name = html.escape(title)
        links.append(f'<a href="#s{number}">{name}</a>')
        parts.append(f'<section id="s{number}"><h2>{name}</h2><p class=source>{html.escape(Path(result["path"]).name)}</p>{body}</section>')
    return _PAGE.replace("{{links}}", "".join(links)).replace("{{body}}", "\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Sextant report</title>
<style>
 :root { color-scheme: light dark; --page: #f4f6f8; --card: #fff; --ink: #1c2430; --muted: #5d6b7a; --grid: #e3e9ef; --line: #5d6b7b; --soft: #eef3f7; --link: #1f6390; --head: #16324f;
  --warn: #fff4d6; --warn-line: #d9a100; }
 @media (prefers-color-scheme: dark) { :root { --page: #10151b; --card: #182028; --ink: #e4eaf0; --muted: #9fadbb; --grid: #2c3742; --line: #8a98a6; --soft: #222c36;
  --link: #7cc0ee; --head: #0b2238; --warn: #3a2f10; --warn-line: #d9a100; } }
 * { box-sizing: border-box; }
 body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; margin: 0; color: var(--ink); background: var(--page); }
 header { background: var(--head); color: #fff; padding: 1.2rem max(1rem, calc(50% - 580px)); } header h1 { margin: 0; font-size: 1.5rem; line-height: 1.25; }
 header p { margin: .3rem 0 .6rem; color: #c9d8e6; } nav { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; } nav a { color: #fff; font-size: 14px; }
 main { max-width: 1160px; margin: 0 auto; padding: 0 1rem 3rem; }
 section { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; padding: .6rem 1.6rem 1.2rem; margin-top: 1.4rem; }
 h2 { margin-bottom: 0; overflow-wrap: anywhere; } h3 { margin: 1.8rem 0 .2rem; border-bottom: 2px solid var(--grid); } a { color: var(--link); }
 .source, .note { color: var(--muted); font-size: 14px; margin: 0; } code { background: var(--soft); padding: 0 .25em; border-radius: 3px; }
 .warning { background: var(--warn); border-left: 4px solid var(--warn-line); padding: .5rem .8rem; margin: .8rem 0; }
 table { border-collapse: collapse; margin: .8rem 0; font-size: 14px; display: block; overflow-x: auto; }
 /* a shadow at the right edge while columns are hidden there */
 table { background: linear-gradient(to left, var(--card) 1.2rem, transparent) right / 2.4rem 100% no-repeat local,
  linear-gradient(to left, rgba(128, 128, 128, .5), transparent) right / .9rem 100% no-repeat scroll; }
 th, td { border-bottom: 1px solid var(--grid); padding: .3rem .8rem; text-align: left; white-space: nowrap; } thead th { background: var(--soft); }
 td.number { text-align: right; font-variant-numeric: tabular-nums; } table.facts th { font-weight: 500; color: var(--muted); vertical-align: top; white-space: normal; }
 table.facts td { white-space: normal; overflow-wrap: anywhere; } table.advice td.take { font-weight: 600; }
 .tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: .8rem 0; }
 .tile { background: var(--soft); border-radius: 6px; padding: .5rem 1rem; } .tile b { display: block; font-size: 1.25rem; } .tile span { font-size: 13px; color: var(--muted); }
 .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem 2rem; } .pair > * { min-width: 0; } @media (max-width: 1040px) { .pair { grid-template-columns: 1fr; } }
 figure { margin: 1rem 0 .4rem; } figcaption { font-weight: 600; }
 .legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .2rem 0 .5rem; font-size: 13px; color: var(--muted); } .legend svg { margin-right: .35em; }
 figure svg { max-width: 100%; height: auto; } figure text { font-family: "Liberation Sans", Arial, Helvetica, sans-serif; } .phone { display: none; }
 @media (max-width: 860px) { table { font-size: 13px; } th, td { padding: .3rem .45rem; } }
 @media (max-width: 640px) { .phone { display: block; } .screen { display: none; } section { padding: .4rem .8rem 1rem; } main { padding: 0 .5rem 2rem; }
  h2 { font-size: 1.3rem; } h3 { font-size: 1.05rem; } table { font-size: 13px; } th, td { padding: .3rem .4rem; } td:last-child { white-space: normal; min-width: 7.5rem; } }
 [fill="#1c2430"] { fill: var(--ink); } [stroke="#e3e9ef"] { stroke: var(--grid); } [stroke="#5d6b7b"] { stroke: var(--line); }
 @media (prefers-color-scheme: dark) { [fill="#0072B2"] { fill: #3d9fe0; } [stroke="#0072B2"] { stroke: #3d9fe0; } }
 details summary { cursor: pointer; color: var(--link); margin-top: 1rem; }
</style></head>
<body><header><h1>Sextant: attention backends compared</h1><p>Every figure was measured on the machine that its section names.</p><nav>{{links}}</nav></header>
<main>
{{body}}
</main></body></html>
"""
