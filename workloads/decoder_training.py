"""`python -m workloads.decoder_training`: build the corpus, train the shipped decoder, compare it with xz."""

import argparse
import hashlib
import json
import lzma
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workloads.decoder import DecoderShape, bits_per_byte, build_decoder, load_decoder, save_decoder

WINDOW, STRIDE = 2048, 1024  # of the evaluation, in bytes
SHIPPED = 400_000  # about: bytes of the held-out text that lie in workloads/data, whole documents
NOT_SHIPPED = re.compile(r"/lib/wx-")  # texts of wxWidgets inside Erlang's documentation, under a licence of their own
TRAINING, HELD_OUT = "train.txt.xz", "heldout.txt.xz"
EPILOG = """examples:
  python -m workloads.decoder_training corpus --packages debs --out corpus   fetch packages, write the texts (6 min)
  python -m workloads.decoder_training train --corpus corpus --out trained   train on the first GPU, as shipped
  python -m workloads.decoder_training compare --corpus corpus               bits per byte of xz -9e; needs no GPU

The corpus needs apt-get with the sources of Debian 12; training needs the extra `torch` and a CUDA GPU. The weights
and their record are written about every minute, so that a run that ends early has left something."""


@dataclass(frozen=True)
class Recipe:
    """How the weights are made. `rate` is the peak learning rate; batches count windows of `context` bytes."""

    steps: int = 1000
    batch: int = 128
    optimizer: str = "muon"
    rate: float = 4e-3
    warmup: int = 100
    decay: float = 0.1
    seed: int = 2021


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        {"corpus": _corpus, "train": _train, "compare": _compare}[given.command](given)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workloads.decoder_training",
        description=(__doc__ or "").partition(": ")[2],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    corpus = commands.add_parser("corpus", help="fetch the packages and write the training and the held-out text")
    corpus.add_argument("--packages", type=Path, required=True, metavar="DIR", help="where .deb files are or go")
    train = commands.add_parser("train", help="train and write weights with their record")
    for name, default in asdict(Recipe()).items():
        train.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")
    train.add_argument("--minutes", type=float, default=30.0, help="stop after so many, done or not (default 30)")
    train.add_argument("--commit", help="commit for the record, where git cannot tell")
    compare = commands.add_parser("compare", help="bits per byte of xz -9e on the held-out text")
    for command in (train, compare):
        command.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="folder that `corpus` wrote")
    for command in (corpus, train):
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    return parser


def _corpus(given: argparse.Namespace) -> None:
    from workloads.decoder_corpus import corpus, joined, leading

    training, held_out = corpus(given.packages)
    given.out.mkdir(parents=True, exist_ok=True)
    ours_to_ship = [page for page in held_out if not NOT_SHIPPED.search(page.name)]
    parts = {TRAINING: training, HELD_OUT: held_out, "shipped.txt.xz": leading(ours_to_ship, SHIPPED)}
    texts = {name: joined(pages) for name, pages in parts.items()}
    for name, text in texts.items():
        (given.out / name).write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
        print(f"{name}: {len(text)} bytes, SHA-256 {hashlib.sha256(text).hexdigest()}")


def _text(folder: Path, name: str) -> bytes:
    file = folder / name
    if not file.is_file():
        raise ValueError(f"{folder}: must hold {name}; `corpus` writes it")
    return lzma.decompress(file.read_bytes())


def _compare(given: argparse.Namespace) -> None:
    training, held_out = _text(given.corpus, TRAINING), _text(given.corpus, HELD_OUT)
    alone, before, both = (xz_bytes(text) for text in (held_out, training, training + held_out))
    print(f"xz -9e of the held-out text: {8 * alone / len(held_out):.4f} bits per byte")
    print(f"xz -9e of training + held-out, less training alone: {8 * (both - before) / len(held_out):.4f}")


def xz_bytes(text: bytes) -> int:
    """Size of `xz -9e`."""
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def _train(given: argparse.Namespace) -> None:
    recipe = Recipe(**{name: getattr(given, name) for name in asdict(Recipe())})
    training, held_out = _text(given.corpus, TRAINING), _text(given.corpus, HELD_OUT)
    given.out.mkdir(parents=True, exist_ok=True)
    record = _surroundings(given.commit) | {"recipe": asdict(recipe), "corpus": _hashes(training, held_out)}
    run = Run(DecoderShape(), recipe, training, held_out)
    deadline, saved = time.monotonic() + 60 * given.minutes, time.monotonic()
    for row in run.steps():
        print(json.dumps(row), flush=True)
        now = time.monotonic()
        if now > saved + 60 or now > deadline:
            saved = now
            run.save(given.out, record)
        if now > deadline:
            break
    run.save(given.out, record)
    record["held_out_bits_per_byte"] = _scores(given.out / "decoder.safetensors", held_out)
    run.save(given.out, record)
    print(json.dumps(record["held_out_bits_per_byte"]))


class Run:
    """A training run: model, optimizers and the curve so far."""

    def __init__(self, shape: DecoderShape, recipe: Recipe, training: bytes, held_out: bytes) -> None:
        import torch

        torch.manual_seed(recipe.seed)
        torch.set_float32_matmul_precision("high")
        self.recipe, self.shape = recipe, shape
        self.device = "cuda" if torch.cuda.is_available() else "cpu"  # the latter for tests
        self.text = torch.frombuffer(bytearray(training), dtype=torch.uint8).to(self.device)
        self.probe = torch.frombuffer(bytearray(held_out), dtype=torch.uint8).to(self.device)
        self.decoder = build_decoder(shape).to(self.device)
        self.loss = torch.compile(self._loss) if self.device == "cuda" else self._loss
        self.optimizers = _optimizers(self.decoder, recipe)
        self.draw = torch.Generator(self.device).manual_seed(recipe.seed)
        self.curve: list[dict[str, float]] = []
        self.start = time.monotonic()

    def _loss(self, windows: Any) -> Any:
        """Mean bits per byte of windows [B, context + 1]."""
        import torch

        with torch.autocast(self.device, torch.bfloat16):
            logits = self.decoder(windows[:, :-1])
        flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
        return flat / math.log(2)

    def _windows(self, text: Any, starts: Any) -> Any:
        import torch

        place = torch.arange(self.shape.context + 1, device=self.device)
        return text[starts[:, None] + place].to(torch.int64)

    def steps(self) -> Iterator[dict[str, float]]:
        """Train; a row of the curve every 50 steps and at the end."""
        import torch

        last = len(self.text) - self.shape.context - 1
        for step in range(self.recipe.steps):
            scale = _schedule(step, self.recipe)
            starts = torch.randint(last, (self.recipe.batch,), device=self.device, generator=self.draw)
            loss = self.loss(self._windows(self.text, starts))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = scale * group["peak"]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if (step + 1) % 50 == 0 or step + 1 == self.recipe.steps:
                yield self._row(step + 1, float(loss.detach()))

    def _row(self, step: int, loss: float) -> dict[str, float]:
        """Bits per byte of the last batch and of held-out windows, which start without context. Chooses nothing."""
        import torch

        count = min(self.recipe.batch, (len(self.probe) - 1) // self.shape.context)
        with torch.no_grad():
            starts = torch.arange(count, device=self.device) * self.shape.context
            held_out = float(self.loss(self._windows(self.probe, starts)))
        seconds = time.monotonic() - self.start
        tokens = step * self.recipe.batch * self.shape.context
        row = {"step": step, "seconds": round(seconds, 1), "tokens": tokens}
        self.curve.append(row | {"training": round(loss, 4), "held_out": round(held_out, 4)})
        return self.curve[-1]

    def save(self, folder: Path, record: dict[str, Any]) -> None:
        """Write weights and record; the weights' metadata holds the record too."""
        record["curve"] = self.curve
        text = json.dumps(record, indent=1)
        (folder / "record.json").write_text(text + "\n", encoding="utf-8")
        save_decoder(self.decoder, folder / "decoder.safetensors", record=json.dumps(record))


def _optimizers(decoder: Any, recipe: Recipe) -> list[Any]:
    """AdamW for all, or Muon (Jordan 2024) for the matrices of the layers and AdamW for the rest."""
    import torch

    if recipe.optimizer not in ("muon", "adamw"):
        raise ValueError(f"optimizer must be muon or adamw, got {recipe.optimizer!r}")
    named = list(decoder.named_parameters())
    inner = [p for name, p in named if p.dim() == 2 and ".layers." in name]
    outer = [p for name, p in named if p.dim() == 2 and ".layers." not in name]
    norms = {"params": [p for _, p in named if p.dim() == 1], "weight_decay": 0.0}
    settings = {"lr": recipe.rate, "weight_decay": recipe.decay}
    betas = (0.9, 0.95)
    if recipe.optimizer == "muon":
        made = [torch.optim.Muon(inner, adjust_lr_fn="match_rms_adamw", **settings)]
        made += [torch.optim.AdamW([{"params": outer}, norms], betas=betas, fused=True, **settings)]
    else:
        made = [torch.optim.AdamW([{"params": inner + outer}, norms], betas=betas, fused=True, **settings)]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = recipe.rate
    return made


def _schedule(step: int, recipe: Recipe) -> float:
    """Part of the peak rate: linear warm-up, then half a cosine to 0."""
    rising = min(1.0, (step + 1) / recipe.warmup)
    return rising * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def _scores(file: Path, held_out: bytes) -> dict[str, Any]:
    import torch

    decoder = load_decoder(file).cuda()
    torch.set_float32_matmul_precision("highest")
    scores: dict[str, Any] = {"window": WINDOW, "stride": STRIDE}
    scores["float32"] = bits_per_byte(decoder, held_out, WINDOW, STRIDE)
    scores["bfloat16"] = bits_per_byte(decoder.to(torch.bfloat16), held_out, WINDOW, STRIDE)
    return scores


def _hashes(training: bytes, held_out: bytes) -> dict[str, Any]:
    texts = {"training": training, "held_out": held_out}
    return {name: {"bytes": len(t), "sha256": hashlib.sha256(t).hexdigest()} for name, t in texts.items()}


def _surroundings(commit: str | None) -> dict[str, Any]:
    """Device, driver, versions, date, commit."""
    import platform

    import torch

    def told(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return {
        "device": torch.cuda.get_device_name(0),
        "driver": told("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or told("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
    }


if __name__ == "__main__":
    raise SystemExit(main())
