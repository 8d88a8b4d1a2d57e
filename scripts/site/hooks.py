"""MkDocs hooks: what makes docs/ a site that reads as well as the same pages in the repository.

- Links to files of the repository (../include/sextant/ops.h) become links to a copy in the site.
- Drawings and plots go into the page itself, so that they follow its light and dark colours.
- The search index is written as a script too, which a page that was opened from a folder can load.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import svg  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\((?P<path>\.\.?/[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
IMAGE = re.compile(r'(?:<p>)?<img alt="(?P<alt>[^"]*)" src="[^"]*?(?P<name>(?:drawings|plots)/[\w-]+\.svg)"[^>]*/?>(?:</p>)?')


def on_files(files, config):
    colours = "\n".join(f'[data-md-color-scheme="{scheme}"] svg.sextant{{{svg.variables(values)}}}' for scheme, values in (("default", svg.LIGHT), ("slate", svg.DARK)))
    files.append(File.generated(config, "assets/pictures.css", content=colours))
    return files


def on_page_markdown(markdown, page, config, files):
    folder = posixpath.dirname("docs/" + page.file.src_uri)

    def replace(match):
        target = posixpath.normpath(posixpath.join(folder, match["path"]))
        if target.startswith("docs/") or target.startswith("..") or not (ROOT / target).is_file():
            return match[0]  # MkDocs checks it
        uri = f"source/{target}.txt"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
        return f"]({posixpath.relpath('docs/' + uri, folder)})"

    return LINK.sub(replace, markdown)


def on_page_content(html, page, config, files):
    def replace(match):
        text = (Path(config.docs_dir) / match["name"]).read_text()
        text = re.sub(r"<style>.*?</style>\n", "", text).replace("<svg ", f'<svg aria-label="{match["alt"]}" ', 1)
        kind = match["name"].split("/")[0]
        return f'<figure class="sx-figure sx-{kind}">{text}</figure>'

    return IMAGE.sub(replace, html)


def on_post_build(config):
    index = Path(config.site_dir, "search", "search_index.json")
    if index.exists():
        index.with_suffix(".js").write_text(f"var __index = {index.read_text()}")
    for folder, _, names in os.walk(config.site_dir):  # maps of scripts that nobody debugs here
        for name in names:
            if name.endswith(".map"):
                os.unlink(os.path.join(folder, name))
