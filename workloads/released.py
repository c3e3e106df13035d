"""Reader of the workload files that SpAtten's authors released (github.com/mit-han-lab/spatten). No torch.

One line per generation step, layer and head, which is one query; the last line names a configuration.
Numbers may be written as whole floats ("64.0"); -1 means "none".  A pruned head is a missing line.
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.attention import AttentionWork
from workloads.trace import Trace

ON_CHIP_QUERY_BITS = 12  # SpAtten, Table I; the files say 16
UNQUANTIZED_BITS = 32  # the files say -1
MOST_FAULTS = 20

Ints = NDArray[np.int64]


def _whole(text: str, low: int) -> int:
    value = float(text)
    if value != int(value) or value < low:
        raise ValueError
    return int(value)


def _flag(text: str) -> bool:
    return {"True": True, "False": False}[text]


def _share(text: str) -> float:
    value = float(text)
    if value != -1 and not 0 <= value <= 1:
        raise ValueError
    return value


def _at_least(low: int) -> tuple[str, Callable[[str], Any]]:
    return f"must be a whole number >= {low}", lambda text: _whole(text, low)


def _bits() -> tuple[str, Callable[[str], Any]]:
    return "must be -1 or 1..32", lambda text: {b: b for b in (-1, *range(1, 33))}[_whole(text, -1)]


_IS_FLAG: tuple[str, Callable[[str], Any]] = ("must be True or False", _flag)

# column -> (rule, reader of one field)
COLUMNS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "iteration_id": _at_least(0),
    "layer_id": _at_least(0),
    "head_id": _at_least(0),
    "embedding_length_D": _at_least(1),
    "sentence_length_L": _at_least(1),
    "key_fetch_num": _at_least(1),
    "quant_key_bit": _bits(),
    "quant_query_bit": _bits(),
    "auto_requant_thres": ("must be -1 or a share 0..1", _share),
    "if_requant": _IS_FLAG,
    "auto_requant_incre": _at_least(-1),
    "value_fetch_num": _at_least(1),
    "quant_value_bit": _bits(),
    "if_accumulate_importance": _IS_FLAG,
    "if_rescale_previous_importance": _IS_FLAG,
    "if_topk": _IS_FLAG,
    "topk": _at_least(-1),
}
# AttentionWork has one of each for the whole work
CONSTANT = ("embedding_length_D", "quant_key_bit", "quant_query_bit", "auto_requant_incre", "quant_value_bit")
Row = dict[str, Any]


def read_released(path: str | Path) -> Trace:
    """The file as a recorded trace; facts hold its columns by name, int64, float64 or bool [rows].

    The eager operators of the unpruned model (attention only) are added for the baselines, with the
    numbers of layers and heads taken from the largest that occur and a prompt of one token less than the
    first length. Raises ValueError listing at most 20 faults as file:line:column: column: rule, value.
    """
    path = Path(path)
    rows = _read_rows(path)
    facts = {name: np.array([row[name] for row in rows]) for name in COLUMNS}
    model = _model(path.stem, facts)
    made = {
        "kind": "recorded",
        "source": path.name,
        "query_bits": f"{rows[0]['quant_query_bit']} in the file, {ON_CHIP_QUERY_BITS} on chip",
        "positions": "not recorded",
    }
    return Trace(path.stem, model, made, _operators(model, facts), facts)


def _model(name: str, facts: dict[str, NDArray[Any]]) -> dict[str, Any]:
    heads, size = int(facts["head_id"].max()) + 1, int(facts["embedding_length_D"][0])
    layers = int(facts["layer_id"].max()) + 1
    return {"name": name, "layers": layers, "heads": heads, "head_size": size, "hidden": heads * size}


def _operators(model: dict[str, Any], facts: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Attention of the generated tokens; the file holds no prompt, so that step is dropped."""
    from workloads.gpt2 import operators

    steps = int(facts["iteration_id"].max()) + 1
    prompt = max(1, int(facts["sentence_length_L"].min()) - 1)
    layers, heads, hidden = model["layers"], model["heads"], model["hidden"]
    table = operators(layers, heads, hidden, prompt, steps, parts=("attention",))
    generated = table["step"] > 0
    table = {name: values[generated] for name, values in table.items()}
    return table | {"step": table["step"] - 1}


def _read_rows(path: Path) -> list[Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:1:1: must be a text file (UTF-8), got byte {error.start}") from error
    rows: list[Row] = []
    faults: list[str] = []
    for row, found in _parse(lines):
        rows.append(row)
        faults += [f"{path}:{fault}" for fault in found]
    if not rows and not faults:
        faults = [f"{path}:2:1: must hold at least one row"]
    if faults:
        more = len(faults) - MOST_FAULTS
        tail = [f"{path}: and {more} more faults"] if more > 0 else []
        raise ValueError("\n".join(faults[:MOST_FAULTS] + tail))
    return rows


def _parse(lines: list[str]) -> Iterator[tuple[Row, list[str]]]:
    """Each row with its faults, the latter as 'line:column: name: rule, got value'."""
    names = lines[0].split(",") if lines else []
    if names != list(COLUMNS):
        got = lines[0][:80] if lines else "an empty file"
        yield {}, [f"1:1: header must be {','.join(COLUMNS)}, got {got}"]
        return
    first: Row = {}
    for number, fields in enumerate(csv.reader(lines[1:]), 2):
        if _is_config(fields) and number == len(lines):
            return
        row, faults = _parse_row(number, fields)
        faults += [] if faults else _check_row(number, fields, row, first)
        first = first or ({} if faults else row)
        yield row, faults


def _is_config(fields: list[str]) -> bool:
    return not any(fields[1:])


def _parse_row(number: int, fields: list[str]) -> tuple[Row, list[str]]:
    if len(fields) != len(COLUMNS):
        return {}, [f"{number}:1: must have {len(COLUMNS)} fields, got {len(fields)}"]
    row, faults = {}, []
    for name, text in zip(COLUMNS, fields, strict=True):
        rule, read = COLUMNS[name]
        try:
            row[name] = read(text)
        except (ValueError, KeyError, OverflowError):
            faults.append(_fault(number, fields, name, rule))
    return row, faults


def _fault(number: int, fields: list[str], name: str, rule: str) -> str:
    index = list(COLUMNS).index(name)
    column = 1 + sum(len(field) + 1 for field in fields[:index])
    return f"{number}:{column}: {name}: {rule}, got {fields[index]!r}"


def _check_row(number: int, fields: list[str], row: Row, first: Row) -> list[str]:
    """Rules between fields, and between this row and the first."""
    length, keys, topk = row["sentence_length_L"], row["key_fetch_num"], row["topk"]
    rules = [
        ("key_fetch_num", f"must be <= sentence_length_L ({length})", keys <= length),
        ("value_fetch_num", f"must be <= key_fetch_num ({keys})", row["value_fetch_num"] <= keys),
        ("topk", f"must be 1..{length} where if_topk, else -1", _topk_fits(row["if_topk"], topk, length)),
        ("auto_requant_incre", "must be > 0 where if_requant", _increment(row) > 0 or not row["if_requant"]),
    ]
    rules += [(name, f"must be the same in all rows ({first.get(name)})", _same(row, first, name)) for name in CONSTANT]
    return [_fault(number, fields, name, rule) for name, rule, holds in rules if not holds]


def _topk_fits(flagged: bool, topk: int, length: int) -> bool:
    return 1 <= topk <= length if flagged else topk == -1


def _increment(row: Row) -> int:
    return int(row["auto_requant_incre"])


def _same(row: Row, first: Row, name: str) -> bool:
    return not first or row[name] == first[name]


def released_work(trace: Trace) -> AttentionWork:
    """The rows in file order, one query each, as one sequence.

    Kept positions and scores are not recorded.  A token top-k competes among the keys of its row; one that
    keeps more than those (after the last layer, for the next step) competes among all tokens so far.
    Head pruning shows only as missing rows, so no head top-k is flagged.
    """
    facts = trace.facts
    rows = len(facts["layer_id"])
    keys, length = facts["key_fetch_num"], facts["sentence_length_L"]
    topk = np.where(facts["if_topk"], facts["topk"], 0)
    zeros = np.zeros(rows, np.int64)
    return AttentionWork(
        name=trace.name,
        head_size=trace.model["head_size"],
        query_bits=ON_CHIP_QUERY_BITS if facts["quant_query_bit"][0] > 0 else UNQUANTIZED_BITS,
        key_msb_bits=_bits_of(facts["quant_key_bit"]),
        key_lsb_bits=max(0, int(facts["auto_requant_incre"][0])),
        value_bits=_bits_of(facts["quant_value_bit"]),
        step=facts["iteration_id"],
        layer=facts["layer_id"],
        head=facts["head_id"],
        length=length,
        queries=np.ones(rows, np.int64),
        keys=keys,
        values=facts["value_fetch_num"],
        key_set=np.full(rows, -1),
        set_ptr=np.zeros(1, np.int64),
        set_index=np.zeros(0, np.int64),
        needs_lsb=facts["if_requant"].astype(np.uint8),
        token_topk=topk,
        token_candidates=np.where(topk > 0, np.where(topk > keys, length, keys), 0),
        head_topk=zeros,
        head_candidates=zeros,
        score_ptr=np.zeros(rows + 1, np.int64),
        score=np.zeros(0),
        dense_operations=_dense_operations(trace),
    )


def _bits_of(column: Ints) -> int:
    return UNQUANTIZED_BITS if column[0] == -1 else int(column[0])


def _dense_operations(trace: Trace) -> int:
    """Every layer and head over every length of the file's steps."""
    _, first = np.unique(trace.facts["iteration_id"], return_index=True)
    lengths = int(trace.facts["sentence_length_L"][first].sum())
    model = trace.model
    return 4 * lengths * model["layers"] * model["heads"] * model["head_size"]
