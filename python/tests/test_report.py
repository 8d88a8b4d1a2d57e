"""The report from result files, and in a real browser."""

import json
import re
import shutil
import struct
import subprocess
import zlib

import pytest

from sextant.report import main

MACHINE = {"cpu": "Example CPU", "device_name": "Example CPU", "threads": 2, "memory_bytes": 2**34, "caches_bytes": {"L2": 2**20}}
BENCH = {
    "machine": MACHINE,
    "ceilings": {"tflops": 3.0, "gbs": 20.0, "matrix_unit": "bf16 products"},
    "skipped": [{"backend": "TRITON_MLA", "model": "A", "batch": "q1", "reason": "the model has no latent attention"}],
    "results": [
        {"backend": b, "device": "cpu", "model": model, "batch": batch, "ms_median": ms * at, "tflops": 1.0 / ms, "gbs": 10.0 / ms / at,
         "ms_p10": ms * at * 0.97, "ms_p90": ms * at * 1.04, "selected": b in ("TRITON_ATTN", "ROCM_AITER_MLA"), "others_busy": 0.02,
         "fraction_of_ceiling": 0.5, "error": 1e-3}
        for b, ms, model in (("TRITON_ATTN", 2.0, "A"), ("ROCM_AITER_FA", 1.0, "A"), ("TRITON_MLA", 4.0, "B"), ("ROCM_AITER_MLA", 3.0, "B"))
        for at, batch in enumerate(("q3616s20000", "32q1s4k"), 1)
    ],
}
REPLAY = {
    "trace": "built-in", "requests": 32, "tokens": 1000, "steps": 90, "block_hit_rate": 0.4, "token_hit_rate": 0.41,
    "share": {"decode": {"token_share": 0.1}, "extend": {"token_share": 0.9}, "prefill": {"token_share": 0.0}},
    "agreement": {"agrees": True},
    "results": [
        {"model": "A", "backend": b, "device": "cpu", "tokens_per_s": speed, "step_ms": {"mean": 2.0, "p50": 1.0, "p90": 4.0, "p99": 9.0, "max": 10.0}, "plan_ms_mean": 0.01}
        for b, speed in (("TRITON_ATTN", 100.0), ("ROCM_AITER_FA", 200.0))
    ] + [  # steps that all take about as long: a logarithmic axis needs labels there too
        {"model": "B", "backend": b, "device": "cpu", "tokens_per_s": 9.0, "step_ms": {"mean": ms, "p50": ms, "p90": ms, "p99": ms, "max": ms}, "plan_ms_mean": 0.01}
        for b, ms in (("TRITON_MLA", 46.0), ("ROCM_AITER_MLA", 31.0))
    ],
}
PEERS = {
    "device": "Example GPU", "torch": "2.0", "ceilings": {"matrix_tflops": 600.0, "copy_tbs": 2.6}, "missing": {"some peer": "needs a package"},
    "results": [
        {"name": n, "case": case, "us": us, "tflops": 1e4 / us, "tbs": 100 / us, "error": 1e-3, "graph": True}
        for case in ("decode_32x4k", "prefill_4k", "mla_decode_32x4k") for n, us in (("sextant ROCM_AITER_FA", 50.0), ("peer", 75.0))
    ],
}


def write(tmp_path, name, data):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


@pytest.fixture
def report(tmp_path):
    pytest.importorskip("vl_convert", reason="needs vl-convert: pip install vl-convert-python")
    out = tmp_path / "report.html"
    files = [write(tmp_path, f"{i}.json", data) for i, data in enumerate((BENCH, REPLAY, PEERS))]
    assert main([*files, "-o", str(out)]) == 0
    return out


def test_page_holds_the_articles_sections(report):
    page = report.read_text()
    for text in ("MHA attention performance comparison", "MLA attention performance comparison", "Roofline", "Selection advice", "Example CPU",
                 "Replay: built-in", "Peers: Example GPU", "the model has no latent attention", "Against the best peer"):
        assert text in page
    assert page.count("<h3>Roofline</h3>") == 2  # of the machine's bench and of the peers
    assert page.count("<td>600 TFLOP/s</td>") == 1 and page.count("<td>2,600 GB/s</td>") == 1
    assert 'src="http' not in page and "<script" not in page and len(page) < 1_000_000  # self-contained, small, and no program
    assert "The machine was not quiet" not in page
    advice = re.search(r"<table class=advice>.*?</table>", page)[0]
    assert "<td>q3616s20000</td><td>ROCM_AITER_FA</td><td class=number>1</td><td>TRITON_ATTN</td><td>TRITON_ATTN 2.00x</td>" in advice
    assert "serve mostly such batches before you overrule it" in page  # select chooses another backend here, and the page says what that means


def test_text_is_escaped(tmp_path):
    pytest.importorskip("vl_convert", reason="needs vl-convert: pip install vl-convert-python")
    data = {**BENCH, "machine": {"cpu": "<script>alert(1)</script>"}}
    assert main([write(tmp_path, "bench.json", data), "-o", str(tmp_path / "r.html")]) == 0
    assert "<script>alert" not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "content, message",
    [("{", "not JSON"), ("[]", 'no list "results"'), ('{"results": []}', "neither of"), ('{"block_hit_rate": 1, "results": [{}]}', "not the JSON that replay writes")],
)
def test_bad_files(tmp_path, capsys, content, message):
    if "replay" in message:
        pytest.importorskip("vl_convert", reason="needs vl-convert: pip install vl-convert-python")
    assert main([write(tmp_path, "bad.json", content), "-o", str(tmp_path / "r.html")]) == 2
    assert message in capsys.readouterr().err
    assert main([str(tmp_path / "missing.json")]) == 2


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """(width, height, filtered scan lines) of a PNG."""
    width, height = struct.unpack(">II", png[16:24])
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    return width, height, zlib.decompress(data)


def page_of(tmp_path, **changes) -> str:
    pytest.importorskip("vl_convert", reason="needs vl-convert: pip install vl-convert-python")
    assert main([write(tmp_path, "bench.json", {**BENCH, **changes}), "-o", str(tmp_path / "r.html")]) == 0
    return (tmp_path / "r.html").read_text()


def test_a_busy_machine_is_told(tmp_path):
    results = [{**row, "others_busy": 0.34 if at < 2 else 0.0} for at, row in enumerate(BENCH["results"])]
    page = page_of(tmp_path, results=results)
    assert "The machine was not quiet" in page and "34.0 %" in page and "during 2 of 8 measurements" in page


def test_bars_past_the_ceiling_are_told(tmp_path):
    page = page_of(tmp_path, ceilings={"tflops": 3.0, "gbs": 9.0})
    assert "1 of 4 bars ends past the measured ceiling: keys and values that a cache holds" in page


def test_advice_within_the_spread_is_selects(tmp_path):
    near = {"TRITON_ATTN": 1.02, "ROCM_AITER_FA": 1.0}
    results = [{**row, "ms_median": near[row["backend"]], "ms_p10": 0.99, "ms_p90": 1.05} for row in BENCH["results"] if row["backend"] in near]
    page = page_of(tmp_path, results=results)
    assert "<td>q3616s20000</td><td>TRITON_ATTN</td>" in re.search(r"<table class=advice>.*?</table>", page)[0]
    assert "overrule it" not in page


def test_wide_tables_say_that_they_scroll(tmp_path):
    """A shadow at the right edge while columns are hidden there, and scroll bars of the page's own colours."""
    page = page_of(tmp_path)
    assert "no-repeat local" in page and "no-repeat scroll" in page and "color-scheme: light dark" in page


def test_logarithmic_labels_are_numbers():
    pytest.importorskip("vl_convert", reason="needs vl-convert: pip install vl-convert-python")
    from sextant import _report_charts as charts

    assert charts.log_ticks(0.3, 7) == [0.5, 1, 2, 5] and charts.log_ticks(0.01, 100) == [0.01, 0.1, 1, 10, 100]
    svg = charts.spots("time", "ms", [{"batch": "a", "backend": "TRITON_ATTN", "ms": ms} for ms in (0.4, 3.0)], "batch", "backend", "ms")
    labels = re.findall(r">([0-9.,]+)</text>", svg)
    assert "0.5" in labels and "1" in labels


BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_a_browser_draws_it(report, tmp_path, width):
    """At a phone's, a tablet's and a screen's width: nothing is wider than the page, one drawing a chart is shown, dark and light differ."""
    dark = tmp_path / "dark.html"
    dark.write_text(report.read_text().replace("@media (prefers-color-scheme: dark)", "@media all"))
    common = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile",
              "--allow-file-access-from-files", f"--window-size={max(width, 500)},3000", "--virtual-time-budget=8000", "--hide-scrollbars"]  # fmt: skip
    frame = tmp_path / "frame.html"
    pictures = []
    for page in (report, dark):
        frame.write_text(f"""<body style="margin:0"><iframe id=f src="{page.name}" style="width:{width}px;height:3000px;border:0"></iframe><pre id=said></pre><script>
            window.onload = () => {{ const d = document.getElementById("f").contentDocument;
            const shown = [...d.querySelectorAll("figure")].map(f => [...f.querySelectorAll(".phone svg, .screen svg")].filter(s => s.getBoundingClientRect().width > 0).length);
            document.getElementById("said").textContent = JSON.stringify([d.documentElement.scrollWidth, shown, getComputedStyle(d.body).backgroundColor]); }}
            </script>""")
        dom = subprocess.run([*common, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
        widest, shown, background = json.loads(re.search(r"<pre id=\"said\">(.*?)</pre>", dom)[1])
        assert widest <= width
        assert len(shown) >= 15 and set(shown) == {1}
        picture = tmp_path / f"{page.stem}.png"
        subprocess.run([*common, f"--screenshot={picture}", frame.as_uri()], capture_output=True, timeout=120, check=True)
        _, _, lines = pixels(picture.read_bytes())
        assert len(set(lines)) > 100  # not a blank page
        pictures.append((background, lines))
    assert pictures[0][0] != pictures[1][0] and pictures[0][1] != pictures[1][1]
