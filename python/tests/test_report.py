"""The report from result files."""

import json

import pytest

from sextant.report import main

BENCH = {
    "machine": {"name": "Example CPU", "cores": 2},
    "ceilings": {"matrix_tflops": 3.0, "read_gbs": 20.0},
    "results": [
        {"backend": b, "device": "cpu", "batch": batch, "ms_median": ms, "tflops": 1.0 / ms, "gbs": 10.0 / ms, "fraction_of_ceiling": 0.5, "error": 1e-3}
        for b, ms in (("TRITON_ATTN", 2.0), ("ROCM_AITER_FA", 1.0), ("TRITON_MLA", 4.0), ("ROCM_AITER_MLA", 3.0))
        for batch in ("q3616s20000", "32q1s4k")
    ],
}


def write(tmp_path, name, data):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


def test_page_holds_the_articles_sections(tmp_path):
    pytest.importorskip("plotly", reason="needs Plotly: pip install plotly")
    out = tmp_path / "report.html"
    assert main([write(tmp_path, "bench.json", BENCH), "-o", str(out)]) == 0
    page = out.read_text()
    for text in ("MHA attention performance comparison", "MLA attention performance comparison", "Roofline", "Selection advice", "Example CPU"):
        assert text in page
    assert "<b>q3616s20000</b>: ROCM_AITER_FA (1 ms)" in page
    assert 'src="http' not in page  # self-contained


@pytest.mark.parametrize("content, message", [("{", "not JSON"), ("[]", 'no list "results"'), ('{"results": []}', "neither of")])
def test_bad_files(tmp_path, capsys, content, message):
    assert main([write(tmp_path, "bad.json", content)]) == 2
    assert message in capsys.readouterr().err
    assert main([str(tmp_path / "missing.json")]) == 2
