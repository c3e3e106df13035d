"""`tilewright predict`: what one kernel costs on a GPU, how far to trust that, and what limits it."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from analysis.commands.predict_errors import add_to as add_errors
from analysis.console import Json, guarded, put_json, put_table, put_text, say

app = typer.Typer(
    no_args_is_help=True,
    help="Time, traffic and energy of one kernel on a GPU, with the error band of its class. Every number may be a "
    "list: 1,16,64 or 1..4096 (powers of two); combinations make a table.",
)
Machines = Annotated[
    str, typer.Option(help="GPUs (a list may be given): a shipped one or a YAML file; `tilewright machine list`.")
]
Count = str  # whole numbers as text: "64", "1,16,64", "1..4096"


@app.command()
@guarded
def gemm(
    m: Annotated[Count, typer.Option(help="Rows of x: tokens.")],
    n: Annotated[Count, typer.Option(help="Rows of W: outputs.")],
    k: Annotated[Count, typer.Option(help="Inputs.")],
    format: Annotated[
        str,
        typer.Option(
            help="bf16, fp16, int8, fp8, w8a8, w4a16, w4a8, w4a8_group, w4a4_int4, w4a4_nvfp4; kernels of others: "
            "qserve_w4a8_channel, qserve_w4a8_group, qserve_w8a8, marlin_w4a16. A list."
        ),
    ] = "bf16",
    machine: Machines = "h200",
    rank: Annotated[int, typer.Option(min=0, help="Low-rank branch of the W4A4 formats.")] = 32,
    fused: Annotated[bool, typer.Option("--fused/--unfused", help="The branch in the kernels, or beside them.")] = True,
    as_json: Json = False,
) -> None:
    """y [M, N] = x [M, K] W^T: weights cold (read from DRAM), activations warm (in the L2), in a CUDA graph.

    tilewright predict gemm --m 64 --n 4096 --k 4096 --format w4a8 --machine l40s

    tilewright predict gemm --m 1..4096 --n 28672 --k 4096 --format bf16,fp8,w4a8_group

    A format whose tensor cores a GPU lacks (INT4 on Hopper and the RTX 5090, FP8 on A100) is answered by the fallback
    that the machine file names, with a warning.
    """
    from analysis.gpu import ask

    _put(ask.gemms(machine, format, {"m": m, "n": n, "k": k}, rank, fused), as_json)


@app.command()
@guarded
def attention(
    context: Annotated[Count | None, typer.Option(help="Decode: cached tokens of each sequence.")] = None,
    batch: Annotated[Count, typer.Option(help="Sequences.")] = "1",
    heads: Annotated[Count, typer.Option(help="Query heads.")] = "32",
    kv_heads: Annotated[Count | None, typer.Option(help="Key/value heads; default: as many as query heads.")] = None,
    head_size: Annotated[Count, typer.Option(help="Elements of a head.")] = "128",
    kv_bits: Annotated[Count, typer.Option(help="Decode: bits of a cached element, 16, 8 or 4.")] = "16",
    prefill: Annotated[bool, typer.Option("--prefill", help="Flash attention of whole prompts.")] = False,
    length: Annotated[Count | None, typer.Option(help="Prefill: tokens of each sequence.")] = None,
    causal: Annotated[bool, typer.Option("--causal/--full", help="Prefill: no token sees a later one.")] = True,
    kept: Annotated[Count | None, typer.Option(help="Decode: tokens that pruning keeps, read by a list.")] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            help="Decode: ours, flash, cudnn, qserve; prefill: flash, cudnn, fa3. Default: ours, or PyTorch's."
        ),
    ] = None,
    machine: Machines = "h200",
    as_json: Json = False,
) -> None:
    """One decode step of one layer over a KV cache; with --prefill, whole prompts.

    tilewright predict attention --batch 64 --context 1024..8192 --heads 32 --kv-heads 8 --kv-bits 4

    tilewright predict attention --prefill --length 4096 --heads 24 --full --kernel flash,cudnn --machine rtx_4090
    """
    from analysis.gpu import ask

    shape = {"batch": batch, "heads": heads, "kv_heads": kv_heads or heads, "head_size": head_size}
    if prefill:
        shape["length"] = _one("--prefill", "length", length, context or kept)
        _put(ask.prefills(machine, shape, causal, kernel), as_json)
    else:
        shape["context"] = _one("decode", "context", context, length)
        shape |= {} if kept is None else {"kept": kept}
        _put(ask.decodes(machine, shape, kv_bits, kernel or "ours"), as_json)


def _one(what: str, name: str, given: str | None, other: str | None) -> str:
    """The option that must be there, where the other must not. Raises ValueError."""
    if given is None:
        raise ValueError(f"--{name}: {what} needs it")
    if other is not None:
        raise ValueError(f"{what} takes --{name}; --context and --kept are decode's, --length is prefill's")
    return given


@app.command("linear-attention")
@guarded
def linear_attention(
    tokens: Annotated[Count, typer.Option(help="Tokens of each image or sequence.")],
    batch: Annotated[Count, typer.Option(help="Images or sequences.")] = "1",
    heads: Annotated[Count, typer.Option(help="Heads.")] = "70",
    head_size: Annotated[Count, typer.Option(help="Elements of a head.")] = "32",
    fused: Annotated[bool, typer.Option("--fused", help="In two kernels that nobody has written: a bound.")] = False,
    machine: Machines = "h200",
    as_json: Json = False,
) -> None:
    """ReLU linear attention of Sana: V ReLU(K)^T summed over tokens, then times ReLU(Q), and the normaliser.

    tilewright predict linear-attention --tokens 1024,4096 --heads 70 --batch 2
    """
    from analysis.gpu import ask

    asked = {"batch": batch, "tokens": tokens, "heads": heads, "head_size": head_size}
    _put(ask.linear_attentions(machine, asked, fused), as_json)


@app.command()
@guarded
def elementwise(
    elements: Annotated[Count, typer.Option(help="Of the input (of one of two).")],
    operator: Annotated[str, typer.Option(help="add, mul, copy, silu, gelu, silu_mul, modulate, ...; a list.")] = "add",
    machine: Machines = "h200",
    as_json: Json = False,
) -> None:
    """An elementwise operator of PyTorch on 16-bit numbers, as many kernels as the framework launches.

    tilewright predict elementwise --operator silu_mul,gelu --elements 4096..16777216
    """
    from analysis.gpu import ask

    _put(ask.elementwise(machine, operator, elements), as_json)


@app.command()
@guarded
def rows(
    rows: Annotated[Count, typer.Option(help="Tokens.")],
    width: Annotated[Count, typer.Option(help="Elements of a row.")],
    operator: Annotated[
        str, typer.Option(help="layer_norm, rms_norm, rms_norm_eager, softmax, quantize, quantize_norm, ...")
    ] = "layer_norm",
    machine: Machines = "h200",
    as_json: Json = False,
) -> None:
    """An operator that works on rows: norms, softmax, quantizers.

    tilewright predict rows --operator rms_norm,quantize_norm --rows 1..4096 --width 4096
    """
    from analysis.gpu import ask

    _put(ask.by_rows(machine, operator, rows, width), as_json)


@app.command()
@guarded
def convolution(
    channels: Annotated[Count, typer.Option(help="Of the input.")],
    side: Annotated[Count, typer.Option(help="Pixels of a side of the input.")],
    out: Annotated[Count | None, typer.Option(help="Channels of the output; default: as the input.")] = None,
    batch: Annotated[Count, typer.Option(help="Images.")] = "1",
    kernel: Annotated[Count, typer.Option(help="Pixels of a side of the kernel.")] = "3",
    stride: Annotated[Count, typer.Option(help="Pixels.")] = "1",
    depthwise: Annotated[bool, typer.Option("--depthwise", help="Each channel by itself.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Layout of input and output.")] = False,
    bias: Annotated[bool, typer.Option("--bias", help="With a bias.")] = False,
    machine: Machines = "h200",
    as_json: Json = False,
) -> None:
    """A 16-bit convolution with "same" padding, dense or depthwise.

    tilewright predict convolution --channels 5600 --side 32 --depthwise

    tilewright predict convolution --channels 128..512 --side 128 --channels-last --machine h200,a100_80g_sxm
    """
    from analysis.gpu import ask

    shape = {"batch": batch, "channels": channels, "out": out or channels, "side": side}
    shape |= {"kernel": kernel, "stride": stride}
    _put(ask.convolutions(machine, shape, depthwise, channels_last, bias), as_json)


@app.command()
@guarded
def copy(
    size: Annotated[Count, typer.Option("--bytes", help="How many.")],
    way: Annotated[str, typer.Option(help="d2d, h2d_pinned, d2h_pinned, h2d_pageable, d2h_pageable; a list.")] = "d2d",
    machine: Machines = "h200",
    as_json: Json = False,
) -> None:
    """A copy within a GPU, or between it and its host over PCIe.

    tilewright predict copy --bytes 1e9 --way d2d,h2d_pinned,h2d_pageable --machine rtx_4090
    """
    from analysis.gpu import ask

    _put(ask.copies(machine, way, size), as_json)


@app.command()
@guarded
def anchors(
    machine: Annotated[
        str | None, typer.Option(help="Only these GPUs. Default: all that have published times.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How far published times of GPUs that nobody here owns are from their predictions, one left out at a time.

    tilewright predict anchors --machine rtx_4090,l40s

    blind: by data sheet and carried fit alone. left out: times the scale that the other published times of its device
    and class give; a time that is alone stays blind. Scales in machine files are those of all of them.
    """
    from analysis.gpu import anchored, ask

    rows = anchored.scored(None if machine is None else [one.name for one in ask.machines(machine)])
    if as_json:
        put_json(anchored.to_json(rows))
        return
    for table in anchored.tables(rows):
        put_table(*table)


def _put(found: Sequence[Any], as_json: bool) -> None:
    from analysis.gpu import predict

    found = predict.doubted(found)
    for text in predict.warnings(found):
        say(f"warning: {text}")
    if as_json:
        put_json(predict.to_json(found))
        return
    for table in predict.tables(found):
        put_table(*table)
    put_text("\n".join(predict.notes(found)))


add_errors(app)
