"""The SGLang plugin against SGLang's backend interface: SGLang's own base class where it can be imported, else a stand-in with the same calls.

SGLang 0.5.23 cannot be installed on a machine without a GPU from PyPI alone (its kernels are CUDA's), so no server runs here; the stand-in has what the
plugin touches of `base_attn_backend.py`, `attention_registry.py` and `choices.py` of that version.
"""

import enum
import importlib
import sys
import types

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
import sextant  # noqa: E402
from sextant.transformers import MHA_BACKENDS  # noqa: E402


class Mode(enum.Enum):
    """What the plugin asks of SGLang's ForwardMode."""

    EXTEND, DECODE, MIXED, IDLE, TARGET_VERIFY = range(5)

    def is_idle(self):
        return self is Mode.IDLE

    def is_decode(self):
        return self is Mode.DECODE

    def is_mixed(self):
        return self is Mode.MIXED

    def is_target_verify(self):
        return self is Mode.TARGET_VERIFY

    def is_draft_extend_v2(self):
        return False


class StandInBase:
    """SGLang's AttentionBackend.forward, as far as it goes without a GPU."""

    def init_forward_metadata(self, forward_batch):
        self.init_forward_metadata_out_graph(forward_batch)

    def forward(self, q, k, v, layer, forward_batch, save_kv_cache=True, **more):
        if forward_batch.forward_mode.is_idle():
            return q.new_empty(q.shape[0], layer.tp_q_head_num * layer.v_head_dim)
        run = self.forward_decode if forward_batch.forward_mode.is_decode() else self.forward_extend
        return run(q, k, v, layer, forward_batch, save_kv_cache=save_kv_cache, **more)


@pytest.fixture
def sglang(monkeypatch):
    """The registry and the choices after `register()`."""
    from sextant import _sglang_attention

    _sglang_attention.backend_class.cache_clear()
    names = ("sglang.srt.layers.attention.base_attn_backend", "sglang.srt.layers.attention.attention_registry", "sglang.srt.arg_groups.choices")
    try:
        base, registry, choices = map(importlib.import_module, names)
    except Exception:  # not installed, or not importable without a GPU's libraries
        for name in [n for n in sys.modules if n.split(".")[0] == "sglang"]:
            monkeypatch.delitem(sys.modules, name)
        base, registry, choices = map(types.ModuleType, names)
        base.AttentionBackend = StandInBase
        registry.ATTENTION_BACKENDS = {}
        registry.register_attention_backend = lambda name: lambda factory: registry.ATTENTION_BACKENDS.setdefault(name, factory)
        choices.ATTENTION_BACKEND_CHOICES = ["torch_native"]
        choices.add_attention_backend_choices = choices.ATTENTION_BACKEND_CHOICES.extend
        for name, module in zip(names, (base, registry, choices)):
            parts = name.split(".")
            for i in range(1, len(parts)):
                parent = ".".join(parts[:i])
                if parent not in sys.modules:
                    monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
            monkeypatch.setitem(sys.modules, name, module)
    from sextant.sglang import register

    register()
    register()  # SGLang may call it again
    yield types.SimpleNamespace(backends=registry.ATTENTION_BACKENDS, choices=choices.ATTENTION_BACKEND_CHOICES)
    _sglang_attention.backend_class.cache_clear()


class Pool:
    """One layer of SGLang's MHATokenToKVPool: slots [pages * page_size, heads, width], unwritten ones NaN."""

    def __init__(self, slots, page_size, heads, dim, dim_v, dtype):
        self.page_size = page_size
        self.k, self.v = (torch.full((slots, heads, d), torch.nan, dtype=dtype) for d in (dim, dim_v))

    def get_key_buffer(self, layer_id):
        return self.k

    def get_value_buffer(self, layer_id):
        return self.v


def layer_of(heads=4, kv_heads=2, dim=16, dim_v=16, window=-1, cap=0.0, kind="decoder"):
    return types.SimpleNamespace(
        tp_q_head_num=heads, tp_k_head_num=kv_heads, tp_v_head_num=kv_heads, qk_head_dim=dim, v_head_dim=dim_v, head_dim=dim, scaling=dim**-0.5, layer_id=0,
        logit_cap=cap, logit_capping_method="tanh", sliding_window_size=window, is_cross_attention=False, attn_type=kind, xai_temperature_len=-1,
    )  # fmt: skip


def expected(layer, q, k, v, context, sinks):
    """One request's attention: its newest len(q) tokens see what they may of all of k and v."""
    group = layer.tp_q_head_num // layer.tp_k_head_num
    k, v = k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) * layer.scaling
    if layer.logit_cap:
        scores = layer.logit_cap * torch.tanh(scores / layer.logit_cap)
    if layer.attn_type == "decoder":
        place, key = torch.arange(context, context + len(q))[:, None], torch.arange(len(k))
        hidden = key > place
        if layer.sliding_window_size >= 0:
            hidden |= key < place - layer.sliding_window_size
        scores = scores.masked_fill(hidden, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None, None].expand(-1, len(q), 1)], -1)
    weights = torch.softmax(scores, -1)[..., : len(k)]
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)


class Engine:
    """Requests in slots of a pool, forwarded step by step as SGLang's runner does."""

    def __init__(self, sglang, name, layer, page_size, requests):
        self.layer, self.page_size = layer, page_size
        pages = torch.randperm(15, generator=torch.Generator().manual_seed(1)) + 1  # slot 0 is SGLang's dummy
        slots = (pages[:, None] * page_size + torch.arange(page_size)).flatten()
        self.room = 5 * page_size
        self.pool = Pool(16 * page_size, page_size, layer.tp_k_head_num, layer.qk_head_dim, layer.v_head_dim, torch.float32)
        self.req_to_token = torch.zeros(4, self.room, dtype=torch.int32)
        self.rows = torch.tensor([2, 0, 3][:requests])
        for i, row in enumerate(self.rows):
            self.req_to_token[row] = slots[i * self.room : (i + 1) * self.room]
        runner = types.SimpleNamespace(device="cpu", token_to_kv_pool=self.pool, req_to_token_pool=types.SimpleNamespace(req_to_token=self.req_to_token))
        self.backend = sglang.backends[name](runner)
        self.k = [torch.empty(0, layer.tp_k_head_num, layer.qk_head_dim) for _ in range(requests)]
        self.v = [torch.empty(0, layer.tp_k_head_num, layer.v_head_dim) for _ in range(requests)]

    def forward(self, mode, query_lens, sinks=None):
        """Runs the step and compares it with the attention of each request alone."""
        contexts = [len(k) for k in self.k]
        lens = [c + n for c, n in zip(contexts, query_lens)]
        rows = sum(query_lens)
        q = torch.randn(rows, self.layer.tp_q_head_num * self.layer.qk_head_dim)
        k, v = torch.randn(rows, *self.k[0].shape[1:]), torch.randn(rows, *self.v[0].shape[1:])
        self.k = [torch.cat([old, new]) for old, new in zip(self.k, k.split(query_lens))]
        self.v = [torch.cat([old, new]) for old, new in zip(self.v, v.split(query_lens))]
        batch = types.SimpleNamespace(
            forward_mode=mode, batch_size=len(lens), seq_lens=torch.tensor(lens), seq_lens_cpu=torch.tensor(lens), req_pool_indices=self.rows,
            out_cache_loc=torch.cat([self.req_to_token[row, c:n] for row, c, n in zip(self.rows, contexts, lens)]).long(),
            extend_seq_lens=torch.tensor(query_lens), extend_seq_lens_cpu=query_lens, extend_prefix_lens=torch.tensor(contexts),
        )  # fmt: skip
        self.backend.init_forward_metadata(batch)
        more = {} if sinks is None else {"sinks": sinks}
        out = self.backend.forward(q, k, v, self.layer, batch, **more)
        alone = [expected(self.layer, *parts, sinks) for parts in zip(q.view(rows, -1, self.layer.qk_head_dim).split(query_lens), self.k, self.v, contexts)]
        torch.testing.assert_close(out.double(), torch.cat(alone), atol=1e-4, rtol=1e-4)
        again = self.backend.forward(q, None, None, self.layer, batch, save_kv_cache=False, **more)  # a layer that shares keys and values
        torch.testing.assert_close(again, out, atol=1e-4, rtol=1e-4)


def test_the_names_are_registered(sglang):
    for name in MHA_BACKENDS:
        assert name in sglang.backends and sglang.choices.count(name) == 1


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("name", MHA_BACKENDS)
def test_prefill_chunk_decode(sglang, name, page_size):
    torch.manual_seed(0)
    engine = Engine(sglang, name, layer_of(), page_size, requests=3)
    room = engine.room
    engine.forward(Mode.EXTEND, [1, room // 2, 3])
    engine.forward(Mode.MIXED, [2, 1, 1])
    engine.forward(Mode.DECODE, [1, 1, 1])
    if room > 20:
        engine.forward(Mode.EXTEND, [20, 1, 33])
        engine.forward(Mode.DECODE, [1, 1, 1])


@pytest.mark.parametrize("name", MHA_BACKENDS)
def test_features(sglang, name):
    torch.manual_seed(0)
    for layer, sinks in ((layer_of(window=5), None), (layer_of(cap=8.0, dim=24), None), (layer_of(heads=6, kv_heads=3), torch.randn(6)), (layer_of(kind="encoder_only"), None)):
        engine = Engine(sglang, name, layer, 16, requests=2)
        engine.forward(Mode.EXTEND, [20, 7], sinks)
        if layer.attn_type == "decoder":
            engine.forward(Mode.DECODE, [1, 1], sinks)


def test_an_idle_step_runs_nothing(sglang):
    engine = Engine(sglang, MHA_BACKENDS[0], layer_of(), 16, requests=1)
    batch = types.SimpleNamespace(forward_mode=Mode.IDLE)
    engine.backend.init_forward_metadata(batch)
    assert engine.backend.forward(torch.empty(0, 64), None, None, engine.layer, batch).shape == (0, 64)


def test_what_is_not_served_is_refused_by_name(sglang):
    engine = Engine(sglang, MHA_BACKENDS[0], layer_of(), 16, requests=1)
    backend = engine.backend

    def refused(text, call, *arguments, **named):
        with pytest.raises(sextant.SextantUnsupported, match=text):
            call(*arguments, **named)

    refused("--disable-cuda-graph", backend.init_cuda_graph_state, 8, 8)
    refused("--disable-cuda-graph", backend.init_forward_metadata_out_graph, None, in_capture=True)
    refused("without speculative decoding", backend.init_forward_metadata, types.SimpleNamespace(forward_mode=Mode.TARGET_VERIFY))
    engine.forward(Mode.EXTEND, [3])
    q = torch.randn(3, 64)
    for field, value, text in (("is_cross_attention", True, "is_cross_attention is True"), ("attn_type", "decoder_bidirectional", "attn_type is decoder_bidirectional")):
        layer = layer_of()
        setattr(layer, field, value)
        refused(text, backend.forward_extend, q, None, None, layer, None, False)
    refused("idx_q is given", backend.forward_extend, q, None, None, layer_of(), None, False, idx_q=q)
    engine.pool.k = engine.pool.k.to(torch.float8_e4m3fn)
    refused("--kv-cache-dtype auto", backend.forward_extend, q, None, None, layer_of(), None, False)
    hybrid = types.SimpleNamespace(device="cpu", token_to_kv_pool=types.SimpleNamespace(page_size=1, swa_layer_nums=3), req_to_token_pool=None)
    refused("--disable-hybrid-swa-memory", sglang.backends[MHA_BACKENDS[0]], hybrid)


def test_a_plugin_never_stops_a_server(monkeypatch, caplog):
    from sextant.sglang import register

    monkeypatch.setitem(sys.modules, "sglang.srt.arg_groups.choices", None)
    monkeypatch.setitem(sys.modules, "sglang", None)
    register()
    assert "not registered with SGLang" in caplog.text
