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
    pytest.importorskip("plotly", reason="needs Plotly: pip install plotly")
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
    assert page.count("600 TFLOP/s") == 1 and page.count("2,600 GB/s") == 1
    assert 'src="http' not in page  # self-contained
    advice = re.search(r"<table class=advice>.*?</table>", page)[0]
    assert "<td>q3616s20000</td><td>ROCM_AITER_FA</td><td class=number>1</td><td>TRITON_ATTN 2.00x</td>" in advice


def test_text_is_escaped(tmp_path):
    pytest.importorskip("plotly", reason="needs Plotly: pip install plotly")
    data = {**BENCH, "machine": {"cpu": "<script>alert(1)</script>"}}
    assert main([write(tmp_path, "bench.json", data), "-o", str(tmp_path / "r.html")]) == 0
    assert "<script>alert" not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "content, message",
    [("{", "not JSON"), ("[]", 'no list "results"'), ('{"results": []}', "neither of"), ('{"block_hit_rate": 1, "results": [{}]}', "not the JSON that replay writes")],
)
def test_bad_files(tmp_path, capsys, content, message):
    if "replay" in message:
        pytest.importorskip("plotly", reason="needs Plotly: pip install plotly")
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


def test_a_browser_draws_it(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("needs a browser: apt-get install chromium")
    common = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile",
              "--window-size=1280,5600", "--virtual-time-budget=8000"]  # fmt: skip
    address = report.as_uri()
    dom = subprocess.run([*common, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True).stdout
    figures = dom.count("Plotly.newPlot(")
    charts = len(re.findall(r'<svg[^>]*class="main-svg"[^>]*>', dom))
    assert figures >= 15
    for drawing in dom.split("Plotly.newPlot(")[:-1]:  # each drawing stands before the script that made it, the first one excepted
        labels = len(re.findall(r'class="ytick"', drawing))
        assert labels >= 2 or "cartesianlayer" not in drawing
    assert charts >= figures  # Plotly layers two or more drawings a figure
    picture = tmp_path / "report.png"
    subprocess.run([*common, "--hide-scrollbars", f"--screenshot={picture}", address], capture_output=True, timeout=120, check=True)
    width, height, lines = pixels(picture.read_bytes())
    assert (width, height) == (1280, 5600)
    assert len(set(lines)) > 100  # not a blank page
