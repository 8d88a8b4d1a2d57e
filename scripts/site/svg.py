"""Writes small SVG pictures for light and dark pages: one width, one set of colours.

Colours are CSS variables: alone (GitHub, an image) a picture follows the reader's system, in the site's pages, where
hooks.py puts it inline, it follows the site's switch (docs/assets/site.css).
"""

from __future__ import annotations

from html import escape

WIDTH = 400  # narrow, so that its letters can be read on a phone

LIGHT = {"ink": "#1c2430", "faint": "#5b6675", "line": "#7a8696", "paper": "#ffffff", "data": "#e8edf5",
         "op": "#cfe3ff", "cache": "#ffe2b3", "new": "#c9efd3", "out": "#e9d9fb",
         "a": "#2563c9", "b": "#c2410c", "c": "#15803d", "d": "#7c3aed", "e": "#64748b"}  # fmt: skip
DARK = {"ink": "#e8ecf2", "faint": "#a9b4c2", "line": "#8b97a8", "paper": "#1b1f27", "data": "#2c3441",
        "op": "#1f4272", "cache": "#66440f", "new": "#1d5530", "out": "#4b3170",
        "a": "#7fb0ff", "b": "#fb923c", "c": "#5fd38d", "d": "#c4a3ff", "e": "#94a3b8"}  # fmt: skip


def variables(colours: dict) -> str:
    return "".join(f"--sx-{name}:{value};" for name, value in colours.items())


STYLE = (
    f"svg.sextant{{{variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{svg.sextant{{{variables(DARK)}}}}}"
    "svg.sextant text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
)


class Picture:
    def __init__(self, title: str, height: float):
        self.title, self.height, self.parts = title, height, []

    def add(self, text: str) -> None:
        self.parts.append(text)

    def rect(self, x: float, y: float, w: float, h: float, fill: str = "data", round: float = 5, stroke: bool = True, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        line = f' stroke="var(--sx-line)"{dash}' if stroke else ""
        self.add(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{round:g}" fill="var(--sx-{fill})"{line}/>')

    def text(self, x: float, y: float, words: str, size: float = 13, anchor: str = "middle", colour: str = "ink", bold: bool = False) -> None:
        weight = ' font-weight="600"' if bold else ""
        self.add(f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="var(--sx-{colour})"{weight}>{escape(words)}</text>')

    def box(self, x: float, y: float, w: float, h: float, words: str, fill: str = "data", size: float = 13, bold: bool = False) -> None:
        """A rectangle with lines of text in its middle; the lines after the first are smaller."""
        self.rect(x, y, w, h, fill)
        lines = words.split("\n")
        top = y + h / 2 - (len(lines) - 1) * 8 + size * 0.35
        for i, line in enumerate(lines):
            self.text(x + w / 2, top + 16 * i, line, size if i == 0 else size - 1.5, bold=bold and i == 0, colour="ink" if i == 0 else "faint")

    def line(self, *points: tuple, colour: str = "line", width: float = 1.5, dashed: bool = False) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.add(f'<polyline points="{path}" fill="none" stroke="var(--sx-{colour})" stroke-width="{width:g}"{dash}/>')

    def arrow(self, *points: tuple, dashed: bool = False) -> None:
        """A line that ends in a point, along straight pieces."""
        (x0, y0), (x1, y1) = points[-2:]
        if x0 == x1:
            back = 6 if y1 > y0 else -6
            head, end = f"{x1 - 4:g},{y1 - back:g} {x1 + 4:g},{y1 - back:g} {x1:g},{y1:g}", (x1, y1 - back)
        else:
            back = 6 if x1 > x0 else -6
            head, end = f"{x1 - back:g},{y1 - 4:g} {x1 - back:g},{y1 + 4:g} {x1:g},{y1:g}", (x1 - back, y1)
        self.line(*points[:-1], end, dashed=dashed)
        self.add(f'<polygon points="{head}" fill="var(--sx-line)"/>')

    def svg(self) -> str:
        body = "\n".join(self.parts)
        return (
            f'<svg class="sextant" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:g}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
        )
