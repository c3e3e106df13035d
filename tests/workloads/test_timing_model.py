"""Measuring small modules on the CPU: rows are the exporter's, blocks are compiled once, failures are reasons."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from workloads.export.exporter import export_stages  # noqa: E402
from workloads.timing import clock, read_record, time_model, time_stages, timed_trace, write_record  # noqa: E402
from workloads.timing.compiled import compile_counts, compiled_blocks, repeated_blocks  # noqa: E402
from workloads.timing.model import EAGER, PARTS, label, missing  # noqa: E402
from workloads.timing.rows import named_pass  # noqa: E402
from workloads.zoo.cache import filled_cache  # noqa: E402
from workloads.zoo.registry import Place, Stage  # noqa: E402


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x):
        return x + self.norm(self.linear(x)).relu()


class Net(nn.Module):
    """Three blocks, and a question about a tensor between them that the exporter does not record."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Sequential(nn.Linear(8, 4), nn.Tanh())

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        if torch.equal(x, x):
            x = x.transpose(0, 1)
        return self.head(x.transpose(0, 1))


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.setattr(clock, "SECONDS", 0.0)
    return [
        Stage("net", Net().eval(), (torch.randn(4, 8),)),
        Stage("tail", nn.Linear(4, 4).eval(), (torch.randn(2, 4),)),
    ]


def test_all_parts_of_two_stages_and_their_trace(stages, tmp_path):
    saved = []
    record = time_stages(
        "toy",
        stages,
        {"name": "toy"},
        "cpu",
        commit="abc",
        save=lambda one: saved.append(set(one)),
        compile_options={"backend": "eager"},
    )
    assert missing(record, PARTS) == []
    assert set(record["failures"]) == {"graph", "compiled_graph"}
    assert "CUDA device" in record["failures"]["graph"]
    assert record["compiled"]["blocks"] == {"Block": 3}
    assert record["eager"]["pass_us"] > 0
    assert record["made"]["commit"] == "abc"
    assert record["weights_bytes"] == 4 * (3 * (72 + 16) + 36 + 20)
    assert len(saved) >= len(PARTS)  # what is done is kept if a later part never returns
    write_record(record, tmp_path / "toy.json.gz")
    trace = export_stages("toy", stages, {"name": "toy"})
    timed = timed_trace(trace, read_record(tmp_path / "toy.json.gz"))
    assert len(timed.facts["timed.eager_us"]) == len(trace.operators["op"]) > 12
    assert (timed.facts["timed.eager_us"] > 0).all()
    assert not [block for block in stages[0].module.blocks if "forward" in vars(block)]


def test_a_question_between_operators_has_a_range_but_no_row(stages):
    with torch.inference_mode():
        names = named_pass(stages[:1], 0)
    at = names.ops.index("aten.transpose.int")
    assert names.ranges[at] == at + 1  # the question had range `at`
    assert names.ranges[:at] == [*range(at)]
    assert len(names.ranges) == len(names.ops)


def test_a_part_that_fails_leaves_its_reason_and_a_later_run_goes_on(stages):
    broken = [Stage("net", stages[0].module, (torch.randn(4, 9),))]
    record = time_stages("toy", broken, {}, "cpu", compile_options={"backend": "eager"})
    assert set(record["failures"]) == set(PARTS)
    assert "mat1 and mat2" in record["failures"]["eager"]
    assert "needs the compiled pass" in record["failures"]["compiled_kernels"]
    again = time_stages("toy", stages, {}, "cpu", parts=EAGER, known={**record, "kept": 1})
    assert "eager" in again
    assert "eager" not in again["failures"]
    assert "compiled" in again["failures"]
    assert again["kept"] == 1


def test_no_repeated_blocks_is_a_reason(stages):
    record = time_stages("tail", stages[1:], {}, "cpu", parts=("compiled",))
    assert "repeated blocks" in record["failures"]["compiled"]


def test_an_unknown_part_is_refused(stages):
    with pytest.raises(ValueError, match=r"parts: must be among .*, got 'speed'"):
        time_stages("toy", stages, {}, "cpu", parts=("speed",))


def test_names_of_the_zoo_are_checked_before_anything_is_built():
    with pytest.raises(ValueError, match="did you mean 'bert_base'"):
        time_model("bert_bas", place=Place("cpu"))
    assert label("sana_1600m", {"size": 2048, "batch": 2}) == "sana_1600m_size2048_batch2"


def test_repeated_blocks_are_the_outermost():
    inner = nn.Sequential(Block(), Block())
    up = nn.ModuleList([nn.Sequential(Block(), inner), nn.Sequential(nn.Conv2d(3, 3, 1), Block(), Block())])
    assert repeated_blocks(up) == [inner[0], inner[1], up[1][1], up[1][2]]
    nested = nn.ModuleList([nn.ModuleDict({"in": inner}), nn.ModuleDict({"in": nn.Sequential(Block(), Block())})])
    assert repeated_blocks(nested) == list(nested)
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == []


def decoder(layers, past):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "sdpa"}
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, bos_token_id=1, eos_token_id=2))
    cache = filled_cache(layers, 1, 2, past, 4, Place("cpu", "float32"))
    kwargs = {"past_key_values": cache, "use_cache": True}
    return Stage("decode", module.eval().requires_grad_(False), (torch.ones(1, 1, dtype=torch.int64),), kwargs)


def test_layers_of_a_decoder_are_one_graph_and_compute_the_same():
    stage = decoder(layers=5, past=6)
    with torch.inference_mode():
        expected = stage.module(*stage.args, **stage.kwargs).logits
        with compiled_blocks([stage], backend="eager") as blocks:
            found = stage.module(*stage.args, **stage.kwargs).logits
            counts = compile_counts()
        after = stage.module(*stage.args, **stage.kwargs).logits
    assert blocks == {"LlamaDecoderLayer": 5}
    assert counts == {"graphs": 1, "graph_breaks": 0}
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(after, expected)
