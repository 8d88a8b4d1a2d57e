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
    """The whole page. Each result file is a section; the charts' library is inside, so nothing is fetched."""
    try:
        from plotly.offline import get_plotlyjs

        from sextant import _report_sections as sections
    except ImportError as error:
        raise ReportError(f"plotly is not installed ({error}); get it with `pip install plotly`") from None
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
    page = _PAGE.replace("{{links}}", "".join(links)).replace("{{body}}", "\n".join(parts))
    return page.replace("{{plotly}}", get_plotlyjs())


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sextant report</title>
<style>
 body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; margin: 0; color: #1c2430; background: #f4f6f8; }
 header { background: #16324f; color: #fff; padding: 1.4rem 2rem; } header h1 { margin: 0; font-size: 1.6rem; }
 header p { margin: .2rem 0 .6rem; color: #c9d8e6; } nav a { color: #fff; margin-right: 1.4rem; font-size: 14px; }
 main { max-width: 1160px; margin: 0 auto; padding: 0 1rem 3rem; }
 section { background: #fff; border: 1px solid #dde4ea; border-radius: 8px; padding: .6rem 1.6rem 1.2rem; margin-top: 1.4rem; }
 h2 { margin-bottom: 0; } h3 { margin: 1.8rem 0 .2rem; border-bottom: 2px solid #e3e9ef; } .source, .note { color: #5d6b7a; font-size: 14px; margin: 0; }
 table { border-collapse: collapse; margin: .8rem 0; font-size: 14px; display: block; overflow-x: auto; }
 th, td { border-bottom: 1px solid #e3e9ef; padding: .3rem .8rem; text-align: left; white-space: nowrap; } thead th { background: #eef3f7; }
 td.number { text-align: right; font-variant-numeric: tabular-nums; } table.facts th { font-weight: 500; color: #5d6b7a; }
 table.advice td:nth-child(3) { font-weight: 600; } table.advice td:last-child { white-space: normal; } .tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: .8rem 0; }
 .tile { background: #eef3f7; border-radius: 6px; padding: .5rem 1rem; } .tile b { display: block; font-size: 1.25rem; } .tile span { font-size: 13px; color: #5d6b7a; }
 .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; } .pair > div { min-width: 0; } @media (max-width: 900px) { .pair { grid-template-columns: 1fr; } }
 details summary { cursor: pointer; color: #2a6f97; margin-top: 1rem; }
</style>
<script>{{plotly}}</script></head>
<body><header><h1>Sextant: attention backends compared</h1><p>Every figure was measured on the machine that its section names.</p><nav>{{links}}</nav></header>
<main>
{{body}}
</main></body></html>
"""
