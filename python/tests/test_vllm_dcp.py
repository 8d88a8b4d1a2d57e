"""MLA over several ranks: Sextant's part of vLLM's decode-context parallelism, with stand-ins for vLLM's classes. Ranks run one after another."""

import importlib
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

RANK, ROPE, HEADS, SCALE = 512, 64, 4, 0.05  # DeepSeek's latents: wider than any other head


class Common:
    """vLLM's CommonAttentionMetadata, of decodes (a token each, first) and prefills."""

    def __init__(self, query_lens, seq_lens, block_table):
        self.query_start_loc = torch.tensor(np.concatenate([[0], np.cumsum(query_lens)]), dtype=torch.int32)
        self.query_start_loc_cpu, self.seq_lens, self.block_table_tensor = self.query_start_loc, torch.tensor(seq_lens, dtype=torch.int32), block_table


@pytest.fixture
def dcp(monkeypatch):
    """sextant's module for a rank that the test may change."""
    group = types.SimpleNamespace(world_size=2, rank_in_group=0)

    class MLACommonImpl:
        can_return_lse_for_decode = False

        def __new__(cls, *args, **named):
            self = super().__new__(cls)
            self.need_to_return_lse_for_decode = group.world_size > 1 and cls.can_return_lse_for_decode
            self.pcp_world_size, self.total_cp_world_size = 1, group.world_size
            return self

        def __init__(self, num_heads, head_size, scale, *args, kv_lora_rank, **mla):
            self.num_heads, self.head_size, self.scale, self.kv_lora_rank = num_heads, head_size, scale, kv_lora_rank
            self.supports_quant_query_input = True

    class MLACommonMetadataBuilder:
        def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
            self.vllm_config = vllm_config

        def build(self, common_prefix_len, common, fast_build=False):
            lens = common.query_start_loc.diff()
            decodes = int((lens == 1).sum())
            local = sys.modules["sextant._vllm_dcp"].local_lens(common.seq_lens.numpy(), group.world_size, group.rank_in_group, self.interleave)
            decode = types.SimpleNamespace(seq_lens=torch.from_numpy(local), block_table=common.block_table_tensor)
            return types.SimpleNamespace(num_decodes=decodes, num_decode_tokens=decodes, decode=decode if decodes else None)

        def build_for_cudagraph_capture(self, common):
            return self.build(0, common)

    def get_dcp_group():
        assert group.world_size > 0, "not set up"
        return group

    class Enum:
        DECODER, UNIFORM_BATCH, UNIFORM_SINGLE_TOKEN_DECODE = "decoder", 2, 1

    backend = {name: type(name, (), {}) for name in ("AttentionBackend", "AttentionImpl", "AttentionMetadataBuilder", "MLAAttentionImpl")}
    modules = {
        "vllm": {"envs": types.SimpleNamespace()},
        "vllm.platforms": {"current_platform": types.SimpleNamespace(is_cpu=lambda: True)},
        "vllm.distributed.parallel_state": {"get_dcp_group": get_dcp_group},
        "vllm.model_executor.layers.attention.mla_attention": {"MLACommonImpl": MLACommonImpl, "MLACommonMetadataBuilder": MLACommonMetadataBuilder},
        "vllm.model_executor.layers.quantization.utils.quant_utils": {"get_and_maybe_dequant_weights": None},
        "vllm.v1.attention.backend": {**backend, "AttentionCGSupport": Enum, "AttentionType": Enum},
        "vllm.v1.kv_cache_interface": {},
    }  # fmt: skip
    for name in sorted({path.rsplit(".", n)[0] for path in modules for n in range(path.count(".") + 1)} | set(modules)):
        module = types.ModuleType(name)
        module.__dict__.update(modules.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    ours = ("sextant._vllm_attention", "sextant._vllm_mla", "sextant._vllm_dcp")
    for name in ours:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("sextant._vllm_dcp")
    module.group, module.mla = group, importlib.import_module("sextant._vllm_mla")
    yield module
    for name in ours:
        sys.modules.pop(name, None)


def make_impl(dcp, backend="ROCM_AITER_MLA", **changed):
    named = dict(alibi_slopes=None, sliding_window=None, kv_cache_dtype="auto", logits_soft_cap=None, attn_type="decoder", kv_sharing_target_layer_name=None)
    return dcp.make_impl(backend, "Sextant")(HEADS // 2, RANK + ROPE, SCALE, 1, **{**named, **changed}, kv_lora_rank=RANK)


def make_builder(dcp, interleave, max_model_len=4096):
    parallel, model = types.SimpleNamespace(cp_kv_cache_interleave_size=interleave), types.SimpleNamespace(max_model_len=max_model_len)
    return dcp.Builder(None, ["layer"], types.SimpleNamespace(parallel_config=parallel, model_config=model), torch.device("cpu"))


def caches_of(contexts, world, interleave, block_size):
    """Each rank's cache of its tokens of every context, and one block table, as vLLM has it: a block of a rank covers `world` blocks of tokens."""
    columns = max(-(-len(c) // (block_size * world)) + 1 for c in contexts)
    table = torch.randperm(len(contexts) * columns).view(len(contexts), columns).to(torch.int32)
    caches = torch.full((world, table.numel(), block_size, RANK + ROPE), 7.0)
    for request, context in enumerate(contexts):
        for position, latent in enumerate(context):
            turn, rest = divmod(position, world * interleave)
            rank, index = rest // interleave, turn * interleave + rest % interleave
            caches[rank, table[request, index // block_size], index % block_size] = latent
    return caches, table


def expected(q, contexts):
    """Attention of each request's one query over its whole context, in fp64."""
    made = []
    for query, context in zip(q.double(), contexts):
        latent = context.double()
        made.append(torch.softmax(SCALE * query @ latent.T, dim=-1) @ latent[:, :RANK])
    return torch.stack(made)


def merged(outs, lses):
    """What vLLM makes of the ranks' results."""
    weights = torch.softmax(torch.stack(lses).double(), dim=0)
    return (weights[..., None] * torch.stack(outs).double()).sum(0)


@pytest.mark.parametrize("backend", ["TRITON_MLA", "ROCM_AITER_MLA"])
@pytest.mark.parametrize("world, interleave", [(2, 1), (2, 16), (4, 1)])
def test_ranks_results_merge_to_the_whole_context(dcp, backend, world, interleave):
    torch.manual_seed(world + interleave)
    seq_lens = [1, 2, 5, 33, 200]  # the first leaves all ranks but one without a key
    contexts = [torch.randn(n, RANK + ROPE) for n in seq_lens]
    q = torch.randn(len(seq_lens), HEADS, RANK + ROPE)
    caches, table = caches_of(contexts, world, interleave, block_size=16)
    common = Common([1] * len(seq_lens), seq_lens, table)
    outs, lses = [], []
    for rank in range(world):
        dcp.group.world_size, dcp.group.rank_in_group = world, rank
        metadata = make_builder(dcp, interleave).build(0, common)
        impl = make_impl(dcp, backend)
        queries = q if rank else (q[..., :RANK], q[..., RANK:])
        out, lse = impl.forward_mqa(queries, caches[rank], metadata, types.SimpleNamespace())
        assert lse.shape == (len(seq_lens), HEADS) and lse.dtype == torch.float32 and lse.is_contiguous()
        outs.append(out), lses.append(lse)
    assert torch.isneginf(lses[-1][0]).all() and not outs[-1][0].any()
    assert not torch.isneginf(torch.stack(lses)).all(0).any()
    torch.testing.assert_close(merged(outs, lses), expected(q, contexts), atol=1e-5, rtol=1e-5)
    full = torch.logsumexp(torch.stack(lses), dim=0)  # natural logarithms: the sum over ranks is that of the whole context
    scores = torch.stack([torch.logsumexp(SCALE * x @ c.T, dim=-1) for x, c in zip(q, contexts)])
    torch.testing.assert_close(full, scores, atol=1e-5, rtol=1e-5)


def test_layers_of_a_step_share_the_plan_and_prefills_are_vllms(dcp):
    contexts = [torch.randn(n, RANK + ROPE) for n in (9, 40, 64)]
    caches, table = caches_of(contexts, 2, 1, block_size=16)
    metadata = make_builder(dcp, 1).build(0, Common([1, 1, 30], [9, 40, 64], table))
    q = torch.randn(2, HEADS, RANK + ROPE)
    results = [make_impl(dcp).forward_mqa(q, caches[0], metadata, None)[0] for _ in range(2)]
    assert torch.equal(*results) and len(metadata.sextant_decode.plans) == 1
    assert metadata.sextant_decode.seq_lens.tolist() == [5, 20]
    assert not hasattr(dcp.Impl, "forward_mha")  # vLLM's own, which the stand-in lacks


def test_captured_plans_hold_for_the_longest_context(dcp):
    _, table = caches_of([torch.randn(4, RANK + ROPE)], 2, 1, block_size=16)
    builder = make_builder(dcp, 16, max_model_len=1000)
    metadata = builder.build_for_cudagraph_capture(Common([1], [1], table))
    assert metadata.sextant_decode.options == {"max_query_len": 1, "max_seq_len": 504}  # 31 turns of 16, and 8 of the last
    assert builder.captured == [metadata]


def test_local_lengths_sum_to_the_whole(dcp):
    lens = np.arange(300, dtype=np.int32)
    for world, interleave in ((1, 1), (2, 1), (2, 16), (3, 4)):
        local = np.stack([dcp.local_lens(lens, world, rank, interleave) for rank in range(world)])
        assert (local.sum(0) == lens).all() and (np.diff(local, axis=1) >= 0).all() and (local[0] >= local[-1]).all()


def test_classes_are_chosen_by_the_group_of_ranks(dcp):
    chosen = dcp.mla.make_class.__wrapped__("ROCM_AITER_MLA", "SextantRocmAiterMla")
    assert issubclass(chosen.get_impl_cls(), dcp.Impl) and chosen.get_builder_cls() is dcp.Builder
    impl = make_impl(dcp)
    assert impl.need_to_return_lse_for_decode and impl.can_return_lse_for_decode and impl.lse_base_on_e and impl.supports_dcp
    assert not impl.supports_quant_query_input
    for world in (1, 0):  # one rank; no group
        dcp.group.world_size = world
        assert issubclass(chosen.get_impl_cls(), dcp.mla.Impl) and chosen.get_builder_cls() is dcp.mla.Builder


def test_what_is_not_served_over_ranks_is_refused(dcp):
    for name, value in (("sliding_window", 128), ("logits_soft_cap", 30.0), ("alibi_slopes", [1.0])):
        with pytest.raises(NotImplementedError, match=name):
            make_impl(dcp, **{name: value})


def test_a_steps_workspace_grows_by_half():
    from sextant._vllm_step import Workspace

    workspace, beside = Workspace(), torch.empty(1)
    first = workspace.at_least(1000, beside)
    assert workspace.at_least(900, beside) is first and workspace.at_least(0, beside) is None
    assert workspace.at_least(1001, beside).numel() == 1500 and workspace.at_least(4000, beside).numel() == 4000
