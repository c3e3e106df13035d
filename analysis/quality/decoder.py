"""QoQ on the Llama-type decoder: bits per byte of each scheme and of each step, with paired intervals.

Scored are windows of the second half of the held-out text; calibration takes windows of the first half. Whole windows
run at once, teacher forced, all bytes but the first of each are scored. Only the layers of the blocks are quantized;
embedding, head, norms and attention stay in float32, and so does the dense model (its weights are bfloat16).
Intervals: the windows are drawn again with replacement, each with both its results (95 %).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.fidelity import Windows, bits_fidelity, bootstrap

Floats = NDArray[np.float64]
Progress = Callable[[str], None]
LAYERS, DENSE, BATCH = "model.layers.*", "16-bit", 8
SWITCHES = ("rotation", "smooth_attention", "output_smoothing", "reorder", "clipping", "gptq")
OFF: dict[str, Any] = dict.fromkeys(SWITCHES, False) | {"kv_bits": 16}
STEPS: dict[str, dict[str, Any]] = {  # in the order of the paper's ablation (QServe, arXiv 2405.04532, Fig. 16)
    "rotation": {"rotation": True},
    "clipping": {"clipping": True},
    "KV4": {"kv_bits": 4},
    "SmoothAttention": {"smooth_attention": True},
    "output smoothing": {"output_smoothing": True},
    "reorder": {"reorder": True},
    "GPTQ": {"gptq": True},
}
CHANNEL, GROUP = {"kind": "w4a8_channel"}, {"kind": "w4a8_group"}
POINTS = {"clipping_points": 10}
ROWS, GROUPS = "QoQ per channel", "QoQ g128"
ORDER = ((GROUPS, ROWS), (ROWS, "naive W4A8KV4"), (ROWS, "naive W4A8"), (GROUPS, "naive W4A8"))


@dataclass(frozen=True)
class Row:
    """One row: a method with options, against which row its step is measured; kernel: in the kernels' arithmetic."""

    part: str
    name: str
    method: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    against: str = DENSE
    kernel: bool = False


@dataclass(frozen=True)
class Setup:
    """windows and length (bytes) that are scored; calibration windows of the same length; seed of the bootstrap."""

    windows: int = 24
    length: int = 512
    calibration: int = 16
    seed: int = 0

    def cut(self, text: bytes) -> tuple[Any, Any]:
        """(calibration, scored): int64 [n, length + 1], from the first and the second half of the text."""
        middle = len(text) // 2
        first, second = Windows(self.calibration, 0, self.length), Windows(self.windows, 0, self.length)
        return first.cut(text[:middle]), second.cut(text[middle:])


def all_rows() -> list[Row]:
    """The study: caches alone, baselines, QoQ step by step in both variants, each step left out, W4A4."""
    return [*_caches(), *_baselines(), *_chain(), *_without(), *_kernels(), *_four_bits()]


def _caches() -> Iterator[Row]:
    kept = {**OFF, "kind": "unquantized"}
    yield Row("cache", "KV8", "cache", kept | {"kv_bits": 8})
    yield Row("cache", "KV4", "cache", kept | {"kv_bits": 4})
    yield Row("cache", "KV4 with SmoothAttention", "cache", kept | {"kv_bits": 4, "smooth_attention": True}, "KV4")


def _baselines() -> Iterator[Row]:
    yield Row("baseline", "W8A8", "rtn", {"kind": "w8a8"})
    yield Row("baseline", "W4A16 g128", "rtn", {"kind": "w4a16", "group": 128})
    yield Row("baseline", "W4A16 g128, AWQ scales", "awq", {"kind": "w4a16", "group": 128}, "W4A16 g128")
    yield Row("baseline", "W4A16 g128, GPTQ", "gptq", {"kind": "w4a16", "group": 128}, "W4A16 g128")
    yield Row("baseline", "naive W4A8", "rtn", CHANNEL)
    yield Row("baseline", "naive W4A8 g128", "rtn", GROUP, "naive W4A8")
    yield Row("baseline", "naive W4A8KV4", "qoq", {**OFF, **CHANNEL, "kv_bits": 4}, "naive W4A8")


def _chain() -> Iterator[Row]:
    """Per channel step by step; then groups instead of rows, and the steps that only groups have."""
    options, before = {**OFF, **CHANNEL, **POINTS}, "naive W4A8"
    for step in ("rotation", "clipping", "KV4", "SmoothAttention", "output smoothing"):
        options = options | STEPS[step]
        yield Row("steps", f"+ {step}", "qoq", options, before)
        before = f"+ {step}"
    yield Row("steps", ROWS, "qoq", options | STEPS["GPTQ"], before)
    yield Row("steps", "+ progressive groups", "qoq", options | GROUP, before)
    yield Row("steps", "+ reorder", "qoq", options | GROUP | STEPS["reorder"], "+ progressive groups")
    yield Row("steps", GROUPS, "qoq", {**GROUP, **POINTS}, "+ reorder")


def _without() -> Iterator[Row]:
    """Against the whole recipe: what is more without a step."""
    for kind, whole in ((CHANNEL, ROWS), (GROUP, GROUPS)):
        for step, switch in STEPS.items():
            if step != "reorder" or kind is GROUP:
                off = {name: OFF[name] for name in switch}
                yield Row("left out", f"{whole} without {step}", "qoq", {**kind, **POINTS, **off}, whole)


def _kernels() -> Iterator[Row]:
    for kind, whole in ((CHANNEL, ROWS), (GROUP, GROUPS)):
        yield Row("kernel", f"{whole}, kernel's arithmetic", "qoq", {**kind, **POINTS}, whole, kernel=True)


def _four_bits() -> Iterator[Row]:
    yield Row("W4A4", "naive W4A4 g64", "rtn", {"kind": "w4a4"})
    yield Row("W4A4", "QuaRot type W4A4 g64", "quarot", {}, "naive W4A4 g64")
    yield Row("W4A4", "QuaRot type W4A4 g64, GPTQ", "quarot", {"gptq": True}, "QuaRot type W4A4 g64")
    yield Row("W4A4", "QuaRot type W4A4 g64, GPTQ, KV4", "quarot", {"gptq": True, "kv_bits": 4}, DENSE)


def chosen_rows(patterns: Sequence[str] | None) -> list[Row]:
    """Rows whose name or part matches one of the patterns (`*`), and those that they are measured against.

    Raises ValueError for a pattern that matches none.
    """
    rows = all_rows()
    if patterns is None:
        return rows
    for pattern in patterns:
        if not any(_is(row, pattern) for row in rows):
            raise ValueError(f"rows: none is called {pattern!r}; parts: {', '.join({row.part: 0 for row in rows})}")
    wanted = {row.name for row in rows if any(_is(row, pattern) for pattern in patterns)}
    wanted |= {row.against for row in rows if row.name in wanted}
    return [row for row in rows if row.name in wanted]


def _is(row: Row, pattern: str) -> bool:
    return fnmatch(row.name, pattern) or row.part == pattern


def decoder_quality(
    decoder: Any,
    text: bytes,
    setup: Setup | None = None,
    rows: Sequence[Row] | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """The dense model's row, then each row as it is done.

    bits_per_byte, perplexity (of a byte); more_bits: than dense, with its interval; step: bits against the row named
    `against`, negative is better, with its interval; effect: "better", "worse", or "unclear" if the interval holds 0.
    At the end come the pairs of ORDER whose rows were both run.
    """
    setup = setup or Setup()
    device = next(decoder.parameters()).device
    calibration, scored = (windows.to(device) for windows in setup.cut(text))
    progress(DENSE)
    known = {DENSE: window_bits(decoder, scored)}
    yield {"part": "dense", "name": DENSE, **_scores(known, DENSE, DENSE, setup.seed)}
    for row in chosen_rows(None) if rows is None else rows:
        progress(row.name)
        known[row.name] = window_bits(quantized(decoder, row, calibration), scored)
        yield {"part": row.part, "name": row.name, **_scores(known, row.name, row.against, setup.seed)}
    for name, against in ORDER:
        if name in known and against in known:
            yield {"part": "order", "name": name, **_scores(known, name, against, setup.seed)}


def quantized(decoder: Any, row: Row, calibration: Any) -> Any:
    """The decoder of a row, calibrated on windows [n, length + 1]."""
    from gpu_kernels.models import kernel_model
    from workloads.quantization.layers import use_kernel
    from workloads.quantization.methods import method_named
    from workloads.quantization.quantize import quantize

    def run(model: Any) -> None:
        for batch in calibration[:, :-1].split(BATCH):
            model(batch)

    if row.method == "cache":
        return _cached(decoder, row, run)
    method = method_named(row.method, **row.options)
    found = quantize(decoder, method, run, layers=[LAYERS], form="float16", rows=None).model
    return use_kernel(found, kernel_model) if row.kernel else found


def _cached(decoder: Any, row: Row, run: Callable[[Any], None]) -> Any:
    """The dense decoder with a quantized cache."""
    import copy

    from workloads.quantization.methods import method_named

    found = copy.deepcopy(decoder)
    method_named("qoq", **row.options).transform(found, run, {})
    return found


def window_bits(decoder: Any, windows: Any) -> Floats:
    """Bits per byte of each window: all bytes but its first."""
    import torch

    found = []
    with torch.inference_mode():
        for batch in windows.split(BATCH):
            logits = decoder(batch[:, :-1]).double().transpose(1, 2)
            found.append(torch.nn.functional.cross_entropy(logits, batch[:, 1:], reduction="none").mean(1))
    bits: Floats = torch.cat(found).cpu().numpy() / np.log(2)
    return bits


def _scores(known: dict[str, Floats], name: str, against: str, seed: int) -> dict[str, Any]:
    found = bits_fidelity(known[DENSE], known[name])
    found["perplexity"] = 2 ** found["bits_per_byte"]
    if against == DENSE or against not in known:
        return {**found, "against": None, "step": nan, "step_low": nan, "step_high": nan, "effect": None}
    apart = known[name] - known[against]
    low, high = bootstrap(apart, seed=seed)
    effect = "better" if high < 0 else "worse" if low > 0 else "unclear"
    return {
        **found,
        "against": against,
        "step": float(apart.mean()),
        "step_low": low,
        "step_high": high,
        "effect": effect,
    }
