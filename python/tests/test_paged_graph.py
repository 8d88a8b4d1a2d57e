"""use_cuda_graphs: decode steps over a PagedCache are captured once and replayed. Here a capture is played by a
function that runs the model again over the same inputs; test_cuda_models.py has real graphs.
"""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import sextant  # noqa: E402
import sextant._paged_graph as graphs  # noqa: E402
import sextant.transformers as st  # noqa: E402
from test_paged_cache import MHA, check, gemma2, generate, llama, prompts  # noqa: E402, F401


class Played:
    """A graph's part: a replay writes to the tensors that the first one returned."""

    made = 0

    def __init__(self, function, device):
        Played.made += 1
        self.function, self.replays, self.result = function, 0, None

    def replay(self):
        got = self.function()
        if self.result is None:
            self.result = got
        else:
            assert self.result.logits.shape == got.logits.shape
            self.result.logits.copy_(got.logits)
        self.replays += 1
        return self.result


@pytest.fixture
def played(monkeypatch):
    monkeypatch.setattr(graphs, "_Captured", Played)
    monkeypatch.setattr(st.PagedCache, "captures_decode", property(lambda cache: cache.batch > 0))
    Played.made = 0


@pytest.fixture(params=["llama", "gemma2"])
def model(request):
    model = request.getfixturevalue(request.param)
    original = model.forward
    st.use_cuda_graphs(model)
    yield model
    model.forward = original


def replays(cache):
    return sum(graph.captured.replays for graph in cache.graphs.values() if isinstance(graph, graphs._Graph))


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize("padded", [0, 9])
def test_the_same_text(model, implementation, padded, played):
    cache = st.PagedCache(model.config, max_tokens=64, reuse_plans=True)
    check(model, implementation, cache, prompts(padded=padded))
    assert Played.made == 1 and replays(cache) == 30 - 2  # the prompt's step, and the first of the shape, run as they are


def test_memory_that_grows(model, played):
    cache = st.PagedCache(model.config, block_size=4, reuse_plans=True)
    check(model, MHA[3], cache, prompts(), max_new_tokens=300)
    assert Played.made == 2 and replays(cache) > 20  # the first graph went with the memory that it knew


def test_beams_and_a_second_call(model, played):
    cache = st.PagedCache(model.config, max_tokens=80, reuse_plans=True)
    check(model, MHA[0], cache, prompts(), num_beams=3)
    assert replays(cache) > 20
    cache.reset()
    check(model, MHA[0], cache, prompts(), num_beams=3)
    assert Played.made == 1


def test_logits_are_the_callers_own(model, played):
    model.set_attn_implementation(MHA[1])
    cache = st.PagedCache(model.config, max_tokens=64, reuse_plans=True)
    with torch.no_grad():
        model(**prompts(), past_key_values=cache, use_cache=True)
        token = torch.tensor([[5], [6]])
        steps = [model(token, past_key_values=cache, use_cache=True).logits for _ in range(4)]
    assert Played.made == 1 and not torch.equal(steps[2], steps[3])
    assert len({step.data_ptr() for step in steps}) == 4


def test_what_is_not_captured(model, played):
    model.set_attn_implementation(MHA[1])
    cache = st.PagedCache(model.config, max_tokens=64, reuse_plans=True)
    token = torch.tensor([[5], [6]])
    with torch.no_grad():
        model(**prompts(), past_key_values=cache, use_cache=True)
        for _ in range(3):
            assert model(token, past_key_values=cache, use_cache=True, output_hidden_states=True).hidden_states
            model(inputs_embeds=model.get_input_embeddings()(token), past_key_values=cache, use_cache=True)
    for _ in range(3):
        model(token, past_key_values=cache, use_cache=True)  # gradients may be wanted
    model.set_attn_implementation("eager")
    with torch.no_grad():
        model(**prompts(), use_cache=True)
    assert Played.made == 0 and not cache.graphs


def test_a_capture_that_fails(model, played, monkeypatch):
    class Failing:
        def __init__(self, function, device):
            function()
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "_Captured", Failing)
    cache = st.PagedCache(model.config, max_tokens=64, reuse_plans=True)
    with pytest.warns(UserWarning, match="decode steps are not captured: operation not permitted") as warned:
        check(model, MHA[2], cache, prompts())
    assert len([w for w in warned if "not captured" in str(w.message)]) == 1 and not replays(cache)


def test_copies_of_a_cache_have_graphs_of_their_own(model, played):
    import copy

    cache = st.PagedCache(model.config, max_tokens=64, reuse_plans=True)
    generate(model, MHA[0], cache, prompts())
    assert cache.graphs and not copy.deepcopy(cache).graphs


def test_no_model():
    with pytest.raises(sextant.SextantInvalidArgument, match="model is a str; allowed: a model of transformers"):
        st.use_cuda_graphs("llama")
