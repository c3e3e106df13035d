"""`tilewright fidelity`: what pruning and few bits do to a model's answers."""

import csv
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.commands.points import Policies, assignments
from analysis.console import Json, guarded, put_json, put_table, put_text, say

app = typer.Typer(no_args_is_help=True, help="What pruning and few bits do to a model's answers; needs torch.")
Out = Annotated[Path | None, typer.Option(help="Also write the rows to this CSV file.")]
_DIGITS = 5


@app.command()
@guarded
def minilm(policies: Policies = None, out: Out = None, as_json: Json = False) -> None:
    """Sentence embeddings of a trained encoder, pruned in the loop, beside the dense ones.

    tilewright fidelity minilm

    tilewright fidelity minilm --policy token_keep=0.5 --policy value_keep=0.3
    """
    from workloads.fidelity import minilm_fidelity
    from workloads.minilm import one_thread

    with one_thread():
        rows = minilm_fidelity(_policies(policies), _progress)
    _put("MiniLM: embeddings against the dense ones (cosine with its 95 % interval over texts)", rows, out, as_json)


@app.command()
@guarded
def decoder(
    policies: Policies = None,
    windows: Annotated[int, typer.Option(min=2, help="How many pieces of the held-out text are scored.")] = 48,
    prompt: Annotated[int, typer.Option(min=1, help="Bytes of a piece that are read whole, without pruning.")] = 384,
    generate: Annotated[int, typer.Option(min=1, help="Bytes of a piece that are scored, one at a time.")] = 64,
    fine_tune: Annotated[int, typer.Option(min=0, help="Training steps with the pruning in the forward pass.")] = 0,
    weights: Annotated[Path | None, typer.Option(help="A decoder's file; default: the shipped one.")] = None,
    device: Annotated[str, typer.Option(help="Where torch runs it, e.g. cuda.")] = "cpu",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Bits per byte of the shipped decoder on held-out text, pruned while it generates, beside the dense ones.

    tilewright fidelity decoder

    tilewright fidelity decoder --policy token_keep=0.5 --fine-tune 100

    With --fine-tune the first half of the text is trained on and the second half scored; fine-tuned rows are compared
    with the dense model after the same training.
    """
    from workloads.decoder import heldout_text, load_decoder
    from workloads.fidelity import Windows, decoder_fidelity
    from workloads.minilm import one_thread

    chosen = _policies(policies)
    with one_thread():
        pieces = Windows(windows, prompt, generate)
        model = load_decoder(weights).to(_checked(device))
        rows = decoder_fidelity(model, heldout_text(), chosen, pieces, fine_tune, _progress)
    _put("Decoder: bits per byte against dense (95 % interval of a paired bootstrap over pieces)", rows, out, as_json)


def _policies(pairs: list[str] | None) -> Mapping[str, Any]:
    """The one that was asked for, or those of the report; raises Faults."""
    from analysis.api import policy_for
    from workloads.fidelity import POLICIES

    if not pairs:
        return POLICIES
    return {", ".join(pairs): policy_for({}, assignments(pairs), "--policy")}


def _checked(device: str) -> str:
    """The device if torch has it; raises ValueError."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: torch must have it, got {device!r}: {str(error).splitlines()[0]}") from None
    return device


def _progress(name: str) -> None:
    say(f"{name} ...")


def _put(title: str, rows: list[dict[str, Any]], out: Path | None, as_json: bool) -> None:
    columns = list({key: None for row in rows for key in row})
    if out:
        _write(out, columns, rows)
    if as_json:
        put_json({"rows": rows})
        return
    put_table(title, columns, [[_shown(row.get(key)) for key in columns] for row in rows])
    if out:
        put_text(f"wrote {out}")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if isnan(value) else f"{value:.{_DIGITS}g}"
    return {"True": "yes", "False": "no", "None": ""}.get(str(value), str(value))


def _write(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_shown(row.get(key)) for key in columns] for row in rows)
