"""The exported traces that are shipped (`workloads/data/exported`), and how to make them again:

python -m workloads.zoo.shipped
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from workloads.trace import DATA, SUFFIX

FOLDER = DATA / "exported"
Options = Mapping[str, Any]
_SIZES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("flux_dev", "sana_600m", "sana_1600m", "dc_ae_f32c32_decode"), (512, 1024, 2048, 4096)),
    "dc_ae_f32c32_encode": (512, 1024, 2048, 4096),
    "flux_schnell": (1024,),
    "pixart_sigma": (512, 1024, 2048),
    "sdxl": (1024,),
    "sdxl_turbo": (512,),
    "autoencoder_kl_decode": (1024,),
    "autoencoder_kl_flux_decode": (1024,),
}
_LADDER = ("full_ffn_f8c4p2", "linear_ffn_f8c4p2", "linear_mixffn_f8c4p2", "linear_mixffn_f32c32p1")
_ENCODERS = ("clip_l", "clip_bigg", "gemma2_2b", "t5_xxl", "bert_base", "bert_large", "minilm_l6")
_LANGUAGE = ("llama2_7b", "llama2_13b", "llama2_70b", "llama_30b", "mistral_7b", "yi_34b", "qwen15_72b")
_GENERATIONS = ("flux_dev", "flux_schnell", "sdxl", "sdxl_turbo", "pixart_sigma", "sana_600m", "sana_1600m")


def shipped() -> Iterator[tuple[str, Options]]:
    """(model, options other than the defaults) of every shipped trace."""
    yield from ((name, {"size": size}) for name, sizes in _SIZES.items() for size in sizes)
    yield "sana_1600m", {"batch": 2}  # one step under classifier-free guidance
    yield from ((f"sana_ladder_{rung}", {}) for rung in _LADDER)
    yield from ((name, {}) for name in _ENCODERS)
    yield "gemma2_2b", {"instruction": False}
    for name in _LANGUAGE:
        yield name, {}
        yield name, {"tokens": 1, "past": 1024, "batch": 64}
    yield "llama3_8b", {}
    yield "llama3_8b", {"logits": "last"}
    yield from (("llama3_8b", {"tokens": 1, "past": 1024, "batch": batch}) for batch in (1, 64, 256))
    for name in ("gpt2_small", "gpt2_medium", "decoder"):
        yield name, {}
        yield name, {"tokens": 1, "past": 1023}
    yield from ((f"{name}_generation", {}) for name in _GENERATIONS)


def main() -> None:
    """Export them all; takes some minutes and needs the torch extra."""
    from workloads.export import export_model
    from workloads.trace_file import write_trace

    FOLDER.mkdir(exist_ok=True)
    jobs = [*shipped()]
    for index, (name, options) in enumerate(jobs, 1):
        trace = export_model(name, options)
        write_trace(trace, FOLDER / f"{trace.name}{SUFFIX}")
        sys.stderr.write(f"{index} of {len(jobs)}: {trace.name}\n")


if __name__ == "__main__":
    main()
