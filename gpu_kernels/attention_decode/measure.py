"""`python -m gpu_kernels.attention_decode.measure`: time torch's attention of one decode step on a GPU.

One layer shaped as Llama 3 8B (32 query heads on 8 K/V heads of 128, bfloat16), one new token a sequence. Every
variant is compared with float64 first, then captured in a CUDA graph that runs once over each of several operand
sets, more than the L2 holds, and timed by events. Left out: projections, RoPE, writing the new K and V, paging.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

HEADS, KV_HEADS, HEAD_SIZE, BYTES = 32, 8, 128, 2
BATCHES, CONTEXTS = (1, 16), (1024, 2048, 4096, 8192, 16384, 32768)
ROTATION = 4  # operand sets take at least so many times the L2
ROUNDS, WARM = 31, 3  # replays
WORST_ERROR = 3e-2  # of the norm, against float64; eager attention rounds scores of up to 15 to bfloat16 before exp
SEED = 2021
FORMAT = "attention_decode 1"
Kernel = Callable[[Any, Any, Any], Any]


def bytes_moved(batch: int, context: int) -> int:
    """K and V read once, query read, context written."""
    return BYTES * batch * HEAD_SIZE * (2 * KV_HEADS * context + 2 * HEADS)


def operand_sets(batch: int, context: int, l2_bytes: int) -> int:
    """How many sets of operands one graph walks through."""
    return max(2, -(-ROTATION * l2_bytes // bytes_moved(batch, context)))


def variants() -> dict[str, Kernel]:
    """By name: query [B, 32, 1, 128], key and value [B, 8, n, 128] -> context [B, 32, 1, 128].

    `_folded`: the 4 queries that share a K/V head are passed as 4 rows of one head, which a decode step allows.
    """
    from torch.nn.attention import SDPBackend

    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    found: dict[str, Kernel] = {name: _fused(backend) for name, backend in backends.items()}
    found |= {f"{name}_folded": _folded(kernel) for name, kernel in found.items() if name != "math"}
    return found | {"eager_repeat": _eager_repeat, "eager_folded": _folded(_eager)}


def _fused(backend: Any) -> Kernel:
    def run(query: Any, key: Any, value: Any) -> Any:
        from torch.nn.attention import sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        with sdpa_kernel(backend):
            return scaled_dot_product_attention(query, key, value, enable_gqa=query.shape[1] != key.shape[1])

    return run


def _folded(kernel: Kernel) -> Kernel:
    def run(query: Any, key: Any, value: Any) -> Any:
        rows = query.view(len(query), KV_HEADS, HEADS // KV_HEADS, HEAD_SIZE)
        return kernel(rows, key, value).reshape(query.shape)

    return run


def _eager(query: Any, key: Any, value: Any) -> Any:
    score = query @ key.transpose(2, 3) * HEAD_SIZE**-0.5
    return score.float().softmax(dim=3).to(query.dtype) @ value


def _eager_repeat(query: Any, key: Any, value: Any) -> Any:
    """As transformers' eager attention: K and V are written out once a query head."""
    group = HEADS // KV_HEADS
    return _eager(query, key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1))


def operands(batch: int, context: int, seed: int) -> tuple[Any, Any, Any]:
    """Fresh normal values; queries are tripled, so that some tokens matter far more than others."""
    import torch

    draw = torch.Generator("cuda").manual_seed(seed)
    settings = {"generator": draw, "device": "cuda", "dtype": torch.bfloat16}
    query = 3 * torch.randn(batch, HEADS, 1, HEAD_SIZE, **settings)
    return query, *(torch.randn(batch, KV_HEADS, context, HEAD_SIZE, **settings) for _ in range(2))


def error(kernel: Kernel, query: Any, key: Any, value: Any) -> float:
    """|out - reference| / |reference|, reference in float64; NaN counts as infinite."""
    out = kernel(query, key, value).double()
    score = query.double().unflatten(1, (KV_HEADS, -1))[:, :, :, 0] @ key.double().transpose(2, 3) * HEAD_SIZE**-0.5
    reference = (score.softmax(dim=3) @ value.double()).reshape(query.shape)
    found = float((out - reference).norm() / reference.norm())
    return found if found == found else float("inf")


def times_us(kernel: Kernel, sets: Sequence[tuple[Any, Any, Any]]) -> list[float]:
    """Microseconds of one call in each of ROUNDS replays of a graph that calls once a set."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            kernel(*sets[0])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for one in sets:
            kernel(*one)
    return [_replay(graph) * 1e3 / len(sets) for _ in range(WARM + ROUNDS)][WARM:]


def _replay(graph: Any) -> float:
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def rows(l2_bytes: int) -> Iterator[dict[str, Any]]:
    """A row for each batch, context and variant; `refused` tells why there are no times."""
    import torch

    kernels = variants()
    for batch in BATCHES:
        for context in CONTEXTS:
            count = operand_sets(batch, context, l2_bytes)
            sets = [operands(batch, context, SEED + index) for index in range(count)]
            for name, kernel in kernels.items():
                row = {"batch": batch, "context": context, "variant": name, "sets": count}
                yield row | {"bytes": bytes_moved(batch, context)} | _measured(kernel, sets)
            del sets
            torch.cuda.empty_cache()


def _measured(kernel: Kernel, sets: Sequence[tuple[Any, Any, Any]]) -> dict[str, Any]:
    try:
        wrong = error(kernel, *sets[0])
        if wrong > WORST_ERROR:
            return {"refused": f"wrong: relative error {wrong:.2e}"}
        times, again = times_us(kernel, sets), times_us(kernel, sets)
    except RuntimeError as refusal:
        return {"refused": str(refusal).splitlines()[0][:200]}
    middle = round(median(times), 3)
    moved = sum(part.numel() * BYTES for part in (*sets[0], sets[0][0]))
    return {
        "relative_error": round(wrong, 6),
        "median_us": middle,
        "second_median_us": round(median(again), 3),
        "least_us": round(min(times), 3),
        "most_us": round(max(times), 3),
        "bytes_per_s": round(moved / middle * 1e6),
    }


def surroundings(commit: str | None) -> dict[str, Any]:
    """Device, driver, versions, date, commit, clocks as found, hash of this file."""
    import torch

    card = torch.cuda.get_device_properties(0)
    return {
        "device": card.name,
        "multiprocessors": card.multi_processor_count,
        "l2_bytes": card.L2_cache_size,
        "driver": smi("driver_version"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "sources": {"measure.py": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()},
    }


def smi(fields: str) -> str:
    """What nvidia-smi says of the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def table(record: dict[str, Any]) -> str:
    """Markdown: microseconds (TB/s) a variant, batch and context."""
    names = list(dict.fromkeys(row["variant"] for row in record["rows"] if "median_us" in row))
    cells = {(row["batch"], row["context"], row["variant"]): row for row in record["rows"] if "median_us" in row}
    lines = ["| batch, context | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for batch, context in dict.fromkeys(key[:2] for key in cells):
        found = [cells.get((batch, context, name)) for name in names]
        shown = [f"{row['median_us']:.1f} ({row['bytes_per_s'] / 1e12:.2f})" if row else "" for row in found]
        lines.append(f"| {batch}, {context} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_kernels.attention_decode.measure", description=__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--out", type=Path, metavar="FILE", help="measure on the first GPU, write the record (JSON)")
    choice.add_argument("--show", type=Path, metavar="FILE", help="table of a record; needs no GPU")
    parser.add_argument("--commit", metavar="HASH", help="commit for the record")
    given = parser.parse_args(arguments)
    if given.show:
        print(table(json.loads(given.show.read_text(encoding="utf-8"))))
        return 0
    record: dict[str, Any] = {"format": FORMAT, "seed": SEED, "rounds": ROUNDS} | surroundings(given.commit)
    state = "clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    record["rows"] = list(rows(record["l2_bytes"]))
    record["state_after"] = dict(zip(state.split(","), smi(state).split(", "), strict=True))
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))
    for row in record["rows"]:
        if "refused" in row and row["context"] == CONTEXTS[0]:
            print(f"{row['variant']}, batch {row['batch']}: {row['refused']}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
