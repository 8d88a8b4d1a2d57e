#!/usr/bin/env python3
"""Draws the six strategies: docs/drawings/*.svg. With --check only says which files are out of date.

    python3 scripts/site/drawings.py [--check]
"""

from __future__ import annotations

import sys

from pictures import write_all
from svg import Picture


def cache_blocks(p: Picture, x: float, y: float, n: int, w: float = 26, h: float = 22) -> None:
    for i in range(n):
        p.rect(x + i * (w + 3), y, w, h, "cache", 3)


def write_first(p: Picture, layout: str, blocks: int = 11) -> None:
    """What all MHA backends begin with: the step's keys and values go into the paged cache."""
    p.box(20, 10, 150, 40, "k, v of new tokens", "new")
    p.arrow((170, 30), (215, 30))
    p.box(215, 10, 165, 40, "reshape_and_cache", "op", bold=True)
    p.arrow((297, 50), (297, 76))
    cache_blocks(p, 40, 78, blocks)
    p.text(200, 118, f"paged KV cache, {layout}", 12, colour="faint")


def triton_attn() -> Picture:
    p = Picture("TRITON_ATTN: cache write, then one attention call over everything", 420)
    write_first(p, "any layout; NHD preferred")
    p.arrow((200, 126), (200, 156))
    p.box(20, 158, 90, 44, "q\nall requests", "new")
    p.arrow((110, 180), (150, 180))
    p.box(150, 158, 230, 44, "unified_attention\none call: decode, extend, prefill", "op", bold=True)
    p.line((265, 202), (265, 222))
    p.line((100, 222), (300, 222))
    p.arrow((100, 222), (100, 250))
    p.arrow((300, 222), (300, 250))
    p.text(96, 240, "many tiles", 12, "end", "faint")
    p.text(306, 240, "few tiles", 12, "start", "faint")
    p.box(30, 252, 140, 44, "each tile reads\nall of its keys", "data")
    p.box(215, 252, 165, 44, "equal segments\npartial (out, lse)", "data")
    p.arrow((300, 296), (300, 322))
    p.box(215, 324, 165, 34, "reduce", "op", bold=True)
    p.arrow((100, 296), (100, 388), (148, 388))
    p.arrow((300, 358), (300, 388), (252, 388))
    p.box(150, 370, 100, 36, "out", "out", bold=True)
    return p


def unified() -> Picture:
    p = Picture("ROCM_AITER_UNIFIED_ATTN: requests are cut into items of equal cost, dealt to all compute units", 500)
    p.text(20, 22, "plan, on the host: requests of any length ...", 13, "start", bold=True)
    for row, (name, length, colour) in enumerate([("decode", 250, "a"), ("extend", 200, "b"), ("prefill", 150, "c")]):
        y = 34 + row * 24
        p.rect(130, y, length, 17, colour, 3, stroke=False)
        p.text(122, y + 13, name, 12, "end", "faint")
        for cut in range(50, length, 50):
            p.line((130 + cut, y), (130 + cut, y + 17), colour="paper", width=2.5)
    p.text(20, 132, "... become items of about equal cost,", 13, "start", bold=True)
    p.text(20, 150, "and every compute unit gets as many:", 13, "start", bold=True)
    deal = ["aab", "aac", "abc", "bbc"]
    for unit, items in enumerate(deal):
        y = 162 + unit * 24
        p.text(122, y + 13, f"unit {unit}", 12, "end", "faint")
        x = 130
        for item in items:
            p.rect(x, y, 53, 17, item, 3, stroke=False)
            x += 56
    p.box(20, 276, 150, 44, "k, v of new tokens\nreshape_and_cache", "op")
    p.arrow((170, 298), (206, 298))
    cache_blocks(p, 208, 287, 6)
    p.arrow((295, 309), (295, 340))
    p.box(20, 342, 90, 44, "q\nall requests", "new")
    p.arrow((110, 364), (140, 364))
    p.box(140, 342, 240, 44, "unified_attention\none launch over the item list", "op", bold=True)
    p.arrow((170, 386), (170, 446), (150, 446))
    p.text(164, 412, "all keys seen", 12, "end", "faint")
    p.arrow((310, 386), (310, 428))
    p.text(304, 412, "a part of the keys", 12, "end", "faint")
    p.box(230, 430, 150, 44, "reduce map\npartial (out, lse)", "op")
    p.arrow((230, 464), (150, 464))
    p.box(50, 432, 100, 42, "out", "out", bold=True)
    return p


def rocm_attn() -> Picture:
    p = Picture("ROCM_ATTN: prefix_prefill for prompts, paged_decode in partitions of 256 keys for decodes", 440)
    write_first(p, "split-K layout")
    p.line((200, 126), (200, 142))
    p.line((100, 142), (300, 142))
    p.arrow((100, 142), (100, 206))
    p.arrow((300, 142), (300, 206))
    p.text(92, 164, "prompts", 13, "end", bold=True)
    p.text(92, 180, "context", 12, "end", "faint")
    p.text(308, 164, "decodes", 13, "start", bold=True)
    p.text(308, 180, "all keys", 12, "start", "faint")
    p.box(10, 208, 180, 50, "prefix_prefill\ncontext, then new k, v, causal", "op", size=13, bold=True)
    p.box(210, 208, 180, 50, "paged_decode\npartitions of 256 keys", "op", bold=True)
    p.box(10, 290, 86, 36, "new k, v", "new")
    p.arrow((50, 290), (50, 258))
    p.box(104, 290, 86, 36, "q", "new")
    p.arrow((147, 290), (147, 258))
    for i in range(5):
        p.rect(216 + i * 35, 282, 28, 18, "data", 3)
        p.arrow((230 + i * 35, 258), (230 + i * 35, 282))
    p.text(300, 316, "partial (out, lse)", 12, colour="faint")
    p.arrow((300, 322), (300, 340))
    p.box(240, 342, 120, 32, "reduce", "op", bold=True)
    p.line((100, 258), (100, 405))
    p.arrow((100, 405), (148, 405))
    p.arrow((300, 374), (300, 405), (252, 405))
    p.box(150, 388, 100, 36, "out", "out", bold=True)
    return p


def rocm_aiter_fa() -> Picture:
    p = Picture("ROCM_AITER_FA: three paths; extends go over their context in chunks and merge the states", 560)
    write_first(p, "any layout")
    p.text(20, 150, "decode: one new token", 13, "start", bold=True)
    p.box(20, 160, 250, 32, "paged_decode over the cache", "op")
    p.arrow((270, 176), (308, 176))
    p.box(310, 160, 70, 32, "out", "out", bold=True)
    p.text(20, 220, "prefill: no context", 13, "start", bold=True)
    p.box(20, 230, 250, 32, "varlen_attention on the raw k, v", "op")
    p.arrow((270, 246), (308, 246))
    p.box(310, 230, 70, 32, "out", "out", bold=True)
    p.text(20, 290, "extend: new tokens after a context", 13, "start", bold=True)
    for i, name in enumerate(("chunk 1", "chunk 2", "chunk 3")):
        p.box(20 + i * 82, 300, 78, 28, name, "cache", 12)
    p.box(268, 300, 112, 28, "new tokens", "new", 12)
    p.text(20, 346, "the context's keys, in the cache", 12, "start", "faint")
    p.arrow((324, 328), (324, 446))
    p.text(318, 384, "causal", 12, "end", "faint")
    p.rect(14, 366, 236, 140, "paper", 8, dashed=True)
    p.arrow((50, 352), (50, 366))
    p.text(132, 384, "for each chunk", 12, colour="faint")
    p.box(26, 392, 212, 28, "gather_cache: packed rows", "op", 12.5)
    p.arrow((132, 420), (132, 432))
    p.box(26, 434, 212, 28, "varlen_attention: state", "op", 12.5)
    p.arrow((132, 462), (132, 472))
    p.box(26, 474, 212, 26, "merge_attn_states", "op", 12.5, bold=True)
    p.box(268, 448, 112, 44, "varlen_attention\nfirst state", "op", 12.5)
    p.arrow((268, 486), (238, 486))
    p.arrow((132, 500), (132, 534), (308, 534))
    p.text(220, 528, "after the last chunk", 12, colour="faint")
    p.box(310, 516, 70, 34, "out", "out", bold=True)
    return p


def mla(padded: bool) -> Picture:
    name = "TRITON_MLA" if padded else "ROCM_AITER_MLA"
    words = "V is padded to 192 in prefill, decode has equal splits" if padded else "V keeps its own size, decode follows a balanced work list"
    p = Picture(f"{name}: {words}", 590)
    p.box(20, 10, 150, 44, "kv_c 512, k_pe 64\nof new tokens", "new")
    p.arrow((170, 32), (200, 32))
    p.box(200, 10, 180, 44, "concat_and_cache_mla", "op", bold=True)
    p.arrow((290, 54), (290, 76))
    cache_blocks(p, 40, 78, 11)
    p.text(200, 118, "latent cache: 576 numbers a token, for all heads", 12, colour="faint")

    p.text(20, 150, "prefill: attention with N heads of 192 / 128", 13, "start", bold=True)
    p.box(20, 162, 100, 36, "kv_c", "new")
    p.arrow((120, 180), (150, 180))
    p.box(150, 162, 110, 36, "kv_b_proj", "op", bold=True)
    p.arrow((260, 180), (284, 180))
    p.text(290, 174, "k_nope 128", 12, "start")
    p.text(290, 192, "v 128", 12, "start")
    p.text(20, 225, "k", 13, "start", bold=True)
    p.rect(40, 212, 160, 18, "data", 3)
    p.text(120, 225, "k_nope 128", 12)
    p.rect(200, 212, 80, 18, "new", 3)
    p.text(240, 225, "k_pe 64", 12)
    p.text(20, 251, "v", 13, "start", bold=True)
    p.rect(40, 238, 160, 18, "data", 3)
    p.text(120, 251, "v 128", 12)
    if padded:
        p.rect(200, 238, 80, 18, "paper", 3, dashed=True)
        p.text(240, 251, "zeros 64", 12, colour="faint")
        p.text(290, 251, "192 wide, as k", 12, "start", "faint")
    else:
        p.text(210, 251, "its own size: a fifth less work", 12, "start", "faint")
    p.arrow((120, 256), (120, 280))
    p.box(20, 282, 260, 44, "varlen_attention\ncontext in chunks, states merged", "op", bold=True)
    p.arrow((280, 304), (308, 304))
    p.box(310, 286, 70, 36, "out", "out", bold=True)

    p.text(20, 360, "decode: one key head of 576, in the latent space", 13, "start", bold=True)
    p.box(20, 372, 80, 36, "q_nope", "new")
    p.arrow((100, 390), (122, 390))
    p.box(122, 372, 70, 36, "W_UK", "op", bold=True)
    p.arrow((192, 390), (214, 390))
    p.box(214, 372, 166, 36, "q_latent 512 | q_pe 64", "data", 12.5)
    p.arrow((297, 408), (297, 436))
    p.box(20, 438, 360, 68, "", "op")
    p.text(200, 456, "mla_decode over the latent cache", 13, bold=True)
    if padded:
        for row in range(2):
            for i in range(4):
                p.rect(120 + i * 42, 464 + row * 18, 38, 13, "a" if row == 0 else "b", 2, stroke=False)
        p.text(112, 475, "9k keys", 11.5, "end", "ink")
        p.text(112, 493, "2k keys", 11.5, "end", "ink")
        p.text(296, 484, "as many", 11.5, "start", "ink")
        p.text(296, 498, "splits each", 11.5, "start", "ink")
    else:
        for i in range(9):
            p.rect(40 + i * 28, 466, 25, 13, "a", 2, stroke=False)
        for i in range(2):
            p.rect(40 + i * 28, 484, 25, 13, "b", 2, stroke=False)
        p.text(104, 495, "2k keys: 2 items of equal cost", 11.5, "start", "ink")
        p.text(300, 477, "9k keys: 9", 11.5, "start", "ink")
    p.arrow((80, 506), (80, 536))
    p.text(88, 526, "o_latent 512", 12, "start", "faint")
    p.box(20, 538, 120, 36, "W_UV", "op", bold=True)
    p.arrow((140, 556), (308, 556))
    p.text(224, 549, "N heads of 128", 12, colour="faint")
    p.box(310, 538, 70, 36, "out", "out", bold=True)
    return p


DRAWINGS = {
    "triton_attn": triton_attn,
    "rocm_aiter_unified_attn": unified,
    "rocm_attn": rocm_attn,
    "rocm_aiter_fa": rocm_aiter_fa,
    "triton_mla": lambda: mla(True),
    "rocm_aiter_mla": lambda: mla(False),
}

if __name__ == "__main__":
    sys.exit(write_all("drawings", {f"{name}.svg": draw().svg() for name, draw in DRAWINGS.items()}))
