#!/usr/bin/env python3
"""Fails if a page of the built site would load anything from another host.

    python3 scripts/site/check_offline.py build/site

Links that a reader may follow are no loads. Material's own bundle names one host, from which it would fetch Mermaid for
pages that have a Mermaid diagram; so such diagrams are refused as well.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

FOREIGN = re.compile(r"^\s*(https?:)?//", re.I)
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "object": "data", "embed": "src", "link": "href"}
NO_LOAD = {"canonical", "prev", "next", "alternate", "author", "license"}


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        url = values.get(LOADS.get(tag, ""), "") or ""
        if FOREIGN.match(url) and not (tag == "link" and (values.get("rel") or "").split()[:1] and values["rel"].split()[0] in NO_LOAD):
            self.found.append(f"<{tag}> loads {url}")
        if FOREIGN.match(values.get("srcset") or ""):
            self.found.append(f"<{tag}> loads {values['srcset']}")
        if "mermaid" in (values.get("class") or "").split():
            self.found.append("a Mermaid diagram, whose script is not part of the site")


def faults(site: Path) -> list[str]:
    found = []
    pages = sorted(site.rglob("*.html"))
    for path in pages:
        page = Page()
        page.feed(path.read_text())
        found += [f"{path.relative_to(site)}: {fault}" for fault in page.found]
    for path in sorted(site.rglob("*.css")):
        for url in re.findall(r"""(?:url\(|@import\s+)\s*["']?((?:https?:)?//[^"')\s]+)""", path.read_text()):
            found.append(f"{path.relative_to(site)}: loads {url}")
    for path in sorted((site / "assets").glob("*.js")):  # ours
        for url in re.findall(r"https?://[^\s\"'`]+", path.read_text()):
            found.append(f"{path.relative_to(site)}: names {url}")
    return found if pages else [f"{site} has no pages"]


if __name__ == "__main__":
    problems = faults(Path(sys.argv[1]))
    print("\n".join(problems) or f"{sys.argv[1]}: no page loads anything from another host")
    sys.exit(1 if problems else 0)
