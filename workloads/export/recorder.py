"""The recorder: a dispatch mode of PyTorch that writes down every operator a module calls.

Under `torch.inference_mode` composite operators (linear, scaled_dot_product_attention, layer_norm) reach the
mode whole, above the choice of a kernel; those that the catalogue does not list are taken apart until it does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workloads.export import catalogue, names
from workloads.export.catalogue import Call, Gemm


@dataclass(frozen=True)
class Operand:
    """A tensor of an operator. producer: row that last wrote its storage, weight: row of the weights; or -1.

    constant   a weight, or made of nothing but weights
    """

    output: bool
    producer: int
    weight: int
    format: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    bytes: int
    constant: bool = False


@dataclass
class Row:
    """One call of an operator."""

    op: str
    kind: str
    module: str
    stage: int
    flops: int
    gemm: Gemm | None
    operands: list[Operand]
    read_bytes: int
    write_bytes: int
    launches: int


@dataclass
class _Home:
    """What is known of a storage: its owner, who wrote it last, and the weight that it holds or is a copy of."""

    storage: StorageWeakRef | None
    producer: int = -1
    weight: int = -1
    constant: bool = False


@dataclass(repr=False)
class Recorder(TorchDispatchMode):
    """Rows of the operators called while the mode is on.

    paths is the stack of modules that are running, innermost last; entered is the one that was called last
    """

    rows: list[Row] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    paths: list[str] = field(default_factory=lambda: [""])
    stage: int = 0
    entered: str = ""
    homes: dict[int, _Home] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = names.base_name(str(func))
        if names.NOT_RECORDED.match(str(func)):
            return func(*args, **kwargs)
        if not _is_listed(name, func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        written, targets = _written(func, args, kwargs)
        read = (args, {key: value for key, value in kwargs.items() if key not in targets})
        inputs = [self._operand(one, False) for one in _tensors(read)]
        result = func(*args, **kwargs)
        self._note(func, name, (args, kwargs), inputs, written, result)
        return result

    def weights(self, module: torch.nn.Module, stage: str, first: int) -> dict[str, tuple[torch.Tensor, bool]]:
        """Know a module's parameters and buffers as weights `first`, `first` + 1, ...

        Returns name -> (tensor, is a parameter) of those that were not known from an earlier stage.
        """
        known = {id(home) for home in self.homes.values() if home.constant}
        parameters = {name for name, _ in module.named_parameters()}
        found: dict[str, tuple[torch.Tensor, bool]] = {}
        for name, tensor in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
            home = self._home(tensor)
            if home is not None and id(home) in known:
                continue
            if home is not None and not home.constant:
                home.weight, home.constant = first + len(found), True
            found[".".join(filter(None, (stage, name)))] = tensor, name in parameters
        return found

    def _home(self, tensor: torch.Tensor) -> _Home | None:
        try:
            storage = StorageWeakRef(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
            return None
        return self.homes.setdefault(storage.cdata, _Home(storage))  # the weak reference keeps the address taken

    def _operand(self, tensor: torch.Tensor, output: bool) -> Operand:
        home = self._home(tensor) or _Home(None)
        strides = tuple(tensor.stride()) if tensor.layout == torch.strided else ()
        return Operand(
            output=output,
            producer=-1 if output else home.producer,
            weight=-1 if output else home.weight,
            format=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            strides=strides,
            bytes=touched(tensor),
            constant=home.constant and not output,
        )

    def _note(
        self, func: Any, name: str, given: Any, inputs: list[Operand], written: list[torch.Tensor], result: Any
    ) -> None:
        results = [*_tensors(result)]
        outputs = [self._operand(one, True) for one in results]
        is_view = self._is_view(name, func, given, written, results)
        gemm = None if is_view else self._gemm(name, given, outputs)
        kind = "view" if is_view else self._kind(name, func, gemm, inputs, outputs)
        reads, writes = catalogue.traffic(
            str(func), kind, [one.bytes for one in inputs], [one.bytes for one in outputs]
        )
        row = Row(
            op=str(func),
            kind=kind,
            module=self.paths[-1],
            stage=self.stage,
            flops=gemm.flops if gemm else _elementwise(kind, inputs, outputs),
            gemm=gemm,
            operands=[*inputs, *outputs],
            read_bytes=reads,
            write_bytes=writes,
            launches=int(kind not in ("view", "alloc")),
        )
        self._settle(row, results if not is_view else [], inputs)
        self.rows.append(row)

    def _settle(self, row: Row, written: Sequence[torch.Tensor], inputs: Sequence[Operand]) -> None:
        """The results belong to this row from now on; a weight that is merely cast or copied stays one."""
        made_of = inputs[0].weight if inputs and row.kind in ("cast", "copy", "dequantize") else -1
        constant = bool(inputs) and all(one.constant for one in inputs)
        for tensor in written:
            home = self._home(tensor)
            if home is not None:
                home.producer, home.weight, home.constant = len(self.rows), made_of, constant

    def _is_view(self, name: str, func: Any, given: Any, written: Any, results: Sequence[torch.Tensor]) -> bool:
        if written or not results or (name in catalogue.GEMMS):
            return False
        before = {id(self._home(one)) for one in _tensors(given) if self._home(one) is not None}
        return bool(before) and all(id(self._home(one)) in before for one in results)

    def _gemm(self, name: str, given: Any, outputs: Sequence[Operand]) -> Gemm | None:
        rule = catalogue.GEMMS.get(name)
        if rule is None or not outputs:
            return None
        args, kwargs = given
        shapes = [tuple(one.shape) if isinstance(one, torch.Tensor) else None for one in args]
        return rule(Call(args, kwargs, shapes, outputs[0].shape))

    def _kind(
        self, name: str, func: Any, gemm: Gemm | None, inputs: Sequence[Operand], outputs: Sequence[Operand]
    ) -> str:
        if gemm:
            return gemm.kind
        if name.endswith("dropout"):
            return "dropout"
        if name in names.ALIASING or name == "aten.copy":
            source = inputs[-1 if name == "aten.copy" else 0]  # copy_(target, source)
            return "cast" if source.format != outputs[0].format else "copy"
        if name in names.KINDS:
            return names.KINDS[name]
        if _is_pointwise(name, func):
            return name.rpartition(".")[2]
        self.unknown[str(func)] = self.unknown.get(str(func), 0) + 1
        return "unknown"


def _is_listed(name: str, func: Any) -> bool:
    listed = name in catalogue.GEMMS or name in names.KINDS or name in names.ALIASING
    return listed or _is_pointwise(name, func) or not func._can_decompose()


def _is_pointwise(name: str, func: Any) -> bool:
    """By PyTorch's tag, which in-place forms do not have; then by that of another form of the operator."""
    if torch.Tag.pointwise in func.tags or name in names.POINTWISE:
        return True
    other = getattr(torch.ops.aten, name.partition(".")[2], None) if names.in_place(str(func)) else None
    return other is not None and any(torch.Tag.pointwise in getattr(other, one).tags for one in other.overloads())


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _written(func: Any, args: Sequence[Any], kwargs: Any) -> tuple[list[torch.Tensor], set[str]]:
    """The arguments that an operator changes, and the names of those that it only writes (`out=`)."""
    if not func._schema.is_mutable:
        return [], set()
    slots = [slot for slot in func._schema.arguments if slot.alias_info and slot.alias_info.is_write]
    places = {slot.name: index for index, slot in enumerate(func._schema.arguments)}
    changed = [args[places[slot.name]] for slot in slots if places[slot.name] < len(args)]
    targets = {slot.name for slot in slots if slot.name in kwargs}
    return [*_tensors([*changed, *(kwargs[name] for name in targets)])], targets


def _elementwise(kind: str, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> int:
    sizes = [prod(one.shape) for one in (*inputs, *outputs)]
    return catalogue.operations(kind, max(sizes, default=0))


def touched(tensor: torch.Tensor) -> int:
    """Bytes behind a tensor, an expanded dimension (stride 0) once."""
    if tensor.layout != torch.strided:
        return 0
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    return prod(sizes) * tensor.element_size()


@contextmanager
def module_paths(recorder: Recorder, module: torch.nn.Module, stage: str, tick: Callable[[], None]) -> Iterator[None]:
    """Every operator is put down to the innermost module whose `__call__` is running."""
    paths = {id(one): ".".join(filter(None, (stage, path))) for path, one in module.named_modules()}

    def enter(one: torch.nn.Module, args: Any) -> None:
        tick()
        recorder.entered = paths.get(id(one), recorder.paths[-1])
        recorder.paths.append(recorder.entered)

    def leave(one: torch.nn.Module, args: Any, result: Any) -> None:
        recorder.paths.pop()

    before = torch.nn.modules.module.register_module_forward_pre_hook(enter)
    after = torch.nn.modules.module.register_module_forward_hook(leave, always_call=True)
    recorder.paths = [stage]
    try:
        yield
    finally:
        before.remove()
        after.remove()


@contextmanager
def whole_operators() -> Iterator[None]:
    """No autograd, no compiled code, no fused encoder layers, which would hide what runs inside."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
