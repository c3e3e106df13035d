"""Numerics of every kernel on the GPU, against its `model.py`; and the replay of what a run recorded, on a CPU.

A kernel's folder has a `check.py` (no torch at its top):

    SOURCES                          names for `runtime.source_hash`: what a record is made by
    CASES                            frozen dataclasses with `name` and `seed`: random, adversarial, tails
    expected(case) -> {name: array}  by `model.py`, from operands drawn with NumPy from the seed
    found(case) -> {name: array}     the same on the GPU, outputs poisoned before
    fault(case, expected, found)     "" if right: bytes equal, or within the bound that the kernel states
    ARCHITECTURES                    optional; else those of `runtime`

A record keeps the SHA-256 of outputs that equal the model's in every byte, and those that do not (attention within its
bound) whole, so that the replay judges them again. Such cases have to be small: KEPT_BYTES.
"""

import base64
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels import record, runtime

FORMAT = "kernels_check 1"
KEPT_BYTES = 1 << 20  # of one output, before compression
Outputs = Mapping[str, NDArray[Any]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Kernel:
    """A folder with a `check.py`."""

    name: str
    module: Any

    @property
    def architectures(self) -> tuple[str, ...]:
        """Those that it is written for."""
        return tuple(getattr(self.module, "ARCHITECTURES", runtime.ARCHITECTURES))

    @property
    def cases(self) -> dict[str, Any]:
        """By name."""
        return {case.name: case for case in self.module.CASES}


def kernels() -> dict[str, Kernel]:
    """By name of the folder."""
    names = sorted(file.parent.name for file in runtime.FOLDER.glob("*/check.py"))
    return {name: Kernel(name, import_module(f"gpu_kernels.{name}.check")) for name in names}


def chosen(names: Sequence[str] = ()) -> list[Kernel]:
    """Some kernels, all without names. Raises ValueError for a name that no kernel has."""
    known = kernels()
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"--kernel: must be one of {', '.join(known) or 'none'}, got {name!r}{hint}")
    return [known[name] for name in names or known]


def for_this_gpu(some: Sequence[Kernel]) -> list[Kernel]:
    """Those written for torch's current GPU. Raises ValueError without a GPU, or where none of them is."""
    try:
        here = runtime.architecture()
    except RuntimeError as fault:
        raise ValueError(str(fault)) from None
    fitting = [kernel for kernel in some if here in kernel.architectures]
    if not fitting:
        claimed = sorted({one for kernel in some for one in kernel.architectures})
        raise ValueError(f"this GPU is {here}: {', '.join(k.name for k in some)} are for {', '.join(claimed)}")
    return fitting


def run_checks(some: Sequence[Kernel], told: Callable[[Row, int, int], None] = lambda row, done, of: None) -> list[Row]:
    """A row a case, told as it comes with how many are done of all."""
    cases = [(kernel, case) for kernel in some for case in kernel.cases.values()]
    rows = []
    for kernel, case in cases:
        rows.append(check(kernel, case))
        told(rows[-1], len(rows), len(cases))
    return rows


def check(kernel: Kernel, case: Any) -> Row:
    """One case on the GPU: `fault` is "" where it is right; `outputs` are what the replay needs."""
    row: Row = {"kernel": kernel.name, "case": plain(case)}
    begin = time.perf_counter()
    expected = kernel.module.expected(case)
    between = time.perf_counter()
    try:
        found = kernel.module.found(case)
        fault = _names_differ(expected, found) or kernel.module.fault(case, expected, found)
        both = [name for name in expected if name in found]
        row |= {"fault": fault, "outputs": {name: _output(expected[name], found[name]) for name in both}}
    except Exception as error:
        row |= {"fault": f"{type(error).__name__}: {error}"[:500], "outputs": {}}
    return row | {"model_s": round(between - begin, 3), "gpu_s": round(time.perf_counter() - between, 3)}


def plain(case: Any) -> dict[str, Any]:
    """A case as JSON holds it."""
    return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(case).items()}


def _names_differ(expected: Outputs, found: Outputs) -> str:
    if list(expected) == list(found):
        return ""
    return f"outputs must be {', '.join(expected)}, got {', '.join(found)}"


def _output(expected: NDArray[Any], found: NDArray[Any]) -> Row:
    row: Row = {"dtype": found.dtype.str, "shape": list(found.shape), "sha256": record.digest(found)}
    if record.digest(expected) == row["sha256"]:
        return row
    if found.nbytes > KEPT_BYTES:
        return row | {"too_large": found.nbytes}
    return row | {"kept": base64.b85encode(zlib.compress(np.ascontiguousarray(found).tobytes(), 9)).decode()}


def kept(row: Row) -> NDArray[Any]:
    """An output that a record holds whole."""
    data = zlib.decompress(base64.b85decode(row["kept"]))
    return np.frombuffer(data, np.dtype(row["dtype"])).reshape(row["shape"])


def full_record(some: Sequence[Kernel], rows: Sequence[Row], commit: str | None = None) -> dict[str, Any]:
    """What is written: the run's surroundings, hashes of sources, rows."""
    sources = record.source_hashes(dict.fromkeys(name for kernel in some for name in kernel.module.SOURCES))
    by_kernel = {kernel.name: list(kernel.module.SOURCES) for kernel in some}
    return {"format": FORMAT, **record.surroundings(commit), "sources": sources, "kernels": by_kernel} | {"rows": rows}


# ---- replay -----------------------------------------------------------------------------------------------------


def rows_by_case(found: Mapping[str, Any]) -> Iterator[tuple[str, str, Row]]:
    """(kernel, case, row) of a record."""
    for row in found["rows"]:
        yield row["kernel"], row["case"]["name"], row


def replay(kernel: Kernel, case: Any, row: Row) -> str:
    """What is wrong with a recorded case by today's model, "" if nothing; the sources are compared elsewhere."""
    again = "run `tilewright kernels check --out` again on a GPU"
    if row["fault"]:
        return f"the run found a fault: {row['fault']}"
    if row["case"] != plain(case):
        return f"the case has changed from {row['case']} to {plain(case)}: {again}"
    expected = kernel.module.expected(case)
    if list(expected) != list(row["outputs"]):
        return f"outputs are {', '.join(expected)}, recorded were {', '.join(row['outputs'])}: {again}"
    found = {}
    for name, output in row["outputs"].items():
        if "too_large" in output:
            return f"{name}: outputs within a bound may have {KEPT_BYTES} bytes, got {output['too_large']}"
        if "kept" not in output and output["sha256"] != record.digest(expected[name]):
            return f"{name}: the model gives other bytes than the GPU gave"
        found[name] = kept(output) if "kept" in output else expected[name]
        if record.digest(found[name]) != output["sha256"]:
            return f"{name}: the record is damaged: what it kept has another digest"
    return str(kernel.module.fault(case, expected, found))
