"""Where and with what a model of the zoo is built: shapes only, random weights, or a local checkpoint.

torch is imported inside functions. A module is built on its device and in its format at once, so that 8e9 parameters
cost neither a copy on the host nor an initialization there. Left out: checkpoints on "meta", any download, and buffers
that a class draws at random in place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from workloads.zoo.registry import Place

DEVICES = ("meta", "cpu", "cuda")
DTYPES = ("bfloat16", "float16", "float32")
# in-place initializations to skip, by name: torch.nn.init and transformers wrap each other's
RANDOM = {"normal_", "uniform_", *(f"{kind}_{way}_" for kind in ("kaiming", "xavier") for way in ("normal", "uniform"))}
DEVIATION = 0.02  # of random weights: the `initializer_range` of GPT-2, BERT and Llama


def construct(make: Callable[..., Any], place: Place, part: str = "", **given: Any) -> Any:
    """The module that `make(**given)` builds, on `place`, in eval mode, without gradients.

    make   builds a torch.nn.Module of the published configuration; it is called under the place's default device and
           format, so it should not name either
    part   where `place.weights` is a pipeline's folder: the folder in it ("text_encoder_2"), taken if it is there
    given  arguments of the class beside its configuration; a checkpoint is read with them too
    Without weights, matrices are normal (0, 0.02), vectors 0 (biases) or 1; buffers are what the class makes them.
    Raises ValueError for an unknown device or format, and for weights that are missing or do not fit.
    """
    dtype_of(place)
    if place.weights is not None:
        return _frozen(_loaded(make, place, _folder(place, part), given))
    with _placed(place):
        module = make(**given).to(place.device)  # diffusers makes some buffers from NumPy, on the host
    if place.device != "meta":
        _fill(module, place)
    return _frozen(module)


def tensor(shape: Sequence[int], place: Place, kind: str = "normal", below: int = 2, seed: int = 0) -> Any:
    """An input on `place`: "normal" (0, 1) in its format, "ids" (int64 in 0..below-1), "mask" (int64 ones), or "zeros".

    The same seed gives the same values on one kind of device. Raises ValueError for another kind.
    """
    import torch

    device, size = place.device, tuple(shape)
    if kind == "mask":
        return torch.ones(size, dtype=torch.int64, device=device)
    if kind == "zeros" or (kind == "normal" and device == "meta"):
        return torch.zeros(size, dtype=dtype_of(place), device=device)
    if kind == "ids" and device == "meta":
        return torch.zeros(size, dtype=torch.int64, device=device)
    if kind == "ids":
        return torch.randint(below, size, device=device, generator=_generator(place, seed))
    if kind == "normal":
        return torch.randn(size, dtype=dtype_of(place), device=device, generator=_generator(place, seed))
    raise ValueError(f"tensor: kind must be one of normal, ids, mask, zeros, got {kind!r}")


def dtype_of(place: Place) -> Any:
    """The torch.dtype of a place. Raises ValueError for an unknown device or format, or a device that is absent."""
    import torch

    if place.device.split(":")[0] not in DEVICES:
        raise ValueError(f"device: must be one of {', '.join(DEVICES)}, got {place.device!r}")
    if place.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("device: no GPU that PyTorch can use is here, got 'cuda'")
    if place.dtype not in DTYPES:
        raise ValueError(f"dtype: must be one of {', '.join(DTYPES)}, got {place.dtype!r}")
    return getattr(torch, place.dtype)


def _generator(place: Place, seed: int) -> Any:
    import torch

    return torch.Generator(device=place.device).manual_seed(seed)


def _frozen(module: Any) -> Any:
    return module.eval().requires_grad_(False)


@contextmanager
def _placed(place: Place) -> Iterator[None]:
    """Default device and format of the place; random initialization is skipped, all else is computed."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            if getattr(func, "__name__", "") in RANDOM:
                return args[0] if args else given["tensor"]
            return func(*args, **given)

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype_of(place))
    try:
        with torch.device(place.device), Unfilled():
            yield
    finally:
        torch.set_default_dtype(before)


def _fill(module: Any, place: Place) -> None:
    """Random matrices from seed 0 in the order of the parameters, zero biases, everything else one."""
    import torch

    generator = _generator(place, 0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, DEVIATION, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def _folder(place: Place, part: str) -> Path:
    """The folder with the checkpoint's `config.json`. Raises ValueError if it is not there."""
    folder = Path(str(place.weights))
    folder = folder / part if part and (folder / part).is_dir() else folder
    if place.device == "meta":
        raise ValueError(f"weights: need device cpu or cuda, since meta holds none, got {str(folder)!r}")
    if not (folder / "config.json").is_file():
        raise ValueError(f"weights: must be a local folder with config.json and the weights, got {str(folder)!r}")
    return folder


def _loaded(make: Callable[..., Any], place: Place, folder: Path, given: Mapping[str, Any]) -> Any:
    """The checkpoint of `folder`, read by the class that `make` builds. ValueError if it is another architecture."""
    with _placed(Place("meta", place.dtype)):
        expected = make(**given)
    kind = type(expected)
    if not hasattr(kind, "from_pretrained"):
        raise ValueError(f"weights: {kind.__name__} reads no checkpoints, got {str(folder)!r}")
    try:
        loaded, info = _read(kind, expected, folder, dtype_of(place), given)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"weights: {folder}: no {kind.__name__} can be read: {str(error).splitlines()[0]}") from None
    faults = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    faults += [f"{key[0]}: {tuple(key[2])} expected, {tuple(key[1])} found" for key in sorted(info["mismatched_keys"])]
    faults += _differences(expected, loaded)
    if faults:
        raise ValueError(f"weights: {folder}: not the architecture asked for, {len(faults)} differences: {faults[0]}")
    return loaded.to(place.device)


def _read(kind: Any, expected: Any, folder: Path, dtype: Any, given: Mapping[str, Any]) -> Any:
    """(module, report). transformers takes the configuration of `expected`, diffusers that of the folder."""
    how = {"torch_dtype": dtype}
    if kind.__module__.startswith("transformers"):
        how = {"dtype": dtype, "config": expected.config, "ignore_mismatched_sizes": True}
    with _quiet(kind.__module__.split(".")[0]):
        return kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **how, **given)


@contextmanager
def _quiet(library: str) -> Iterator[None]:
    """No progress bars and no reports of the library: what is wrong with a checkpoint is our ValueError."""
    logging = import_module(f"{library}.utils.logging")
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _differences(expected: Any, loaded: Any) -> list[str]:
    """Parameters of either module that the other has not, or has in another shape."""
    one, other = ({name: tuple(p.shape) for name, p in m.named_parameters()} for m in (expected, loaded))
    return [f"{n}: {one.get(n)} expected, {other.get(n)} found" for n in one | other if one.get(n) != other.get(n)]
