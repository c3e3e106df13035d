"""Compiled passes: what torch.compile makes of repeated blocks, by one rule.

The outermost modules that a list holds two or more of are compiled; everything else stays eager. In a block, operators
that are no product run together where one feeds the other and no product lies between them on any path: such a chain is
one kernel, which reads what comes from outside once and writes what is used outside once. A convolution in a block
takes and gives channels last, and its bias joins the chain behind it. Left out: kernels for outputs of several shapes,
chains cut for their size.

Under a number scheme, products of one quantized input in one block are one kernel with all their outputs, and the
products of a low-rank branch are done in its quantizer and in its GEMM, as kernels for such schemes do.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from dataflow.gpu.framework import Kernel
from dataflow.gpu.kernels import FUSED, Kernels
from dataflow.gpu.operators import Operators, Product
from dataflow.gpu.residency import UNKNOWN, Touches

QUANTIZED = ("w4a8", "w4a8_group", "w8a8", "fp8", "w4a4_int4", "w4a4_nvfp4")


def repeated_blocks(modules: Iterable[str]) -> list[str]:
    """Paths of the outermost modules that a list holds two or more of with the same children; leaves left out.

    A list is a module whose children have numbers for names.
    """
    children: dict[str, dict[str, None]] = defaultdict(dict)
    for path in dict.fromkeys(modules):
        parts = path.split(".")
        for length in range(1, len(parts)):
            children[".".join(parts[:length])][parts[length]] = None
    roots = dict.fromkeys(path.split(".")[0] for path in modules)
    return [block for root in roots for block in _blocks(root, children)]


def _blocks(path: str, children: dict[str, dict[str, None]]) -> list[str]:
    names = list(children.get(path, ()))
    members = {name: tuple(children.get(f"{path}.{name}", ())) for name in names}
    alike = [members[name] for name in names if name.isdigit()]
    found: list[str] = []
    for name in names:
        inner, below = members[name], f"{path}.{name}"
        a_list = bool(inner) and all(one.isdigit() for one in inner)
        if name.isdigit() and inner and not a_list and alike.count(inner) > 1:
            found.append(below)
        else:
            found += _blocks(below, children)
    return found


def block_of(modules: Sequence[str]) -> list[int]:
    """Number of the repeated block that each operator's module lies in; -1: none."""
    number = {path: index for index, path in enumerate(repeated_blocks(modules))}
    found: dict[str, int] = {}
    for path in dict.fromkeys(modules):
        parts = path.split(".")
        prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
        found[path] = next((number[prefix] for prefix in prefixes if prefix in number), -1)
    return [found[path] for path in modules]


def fused_kernels(operators: Operators) -> Kernels:
    """Kernels of the compiled pass."""
    blocks = block_of(operators.modules)
    group = _groups(operators, blocks, _inputs(operators))
    rows = [row for row in range(len(operators)) if operators.launches(row)]
    order: dict[int, list[int]] = {}
    for row in rows:
        order.setdefault(group[row], []).append(row)
    members = list(order.values())
    number = np.full(len(operators), -1, np.int64)
    for index, mine in enumerate(members):
        number[mine] = index
    fused = np.array([blocks[mine[0]] >= 0 and operators.moving[mine[0]] is not None for mine in members])
    touches = _outside(operators, number, fused)
    return Kernels(
        names=[FUSED if fused[i] else operators.kinds[mine[0]] for i, mine in enumerate(members)],
        products=[_compiled([operators.products[row] for row in mine], blocks[mine[0]] >= 0) for mine in members],
        moving=[_chain(operators, mine) if fused[i] else operators.moving[mine[0]] for i, mine in enumerate(members)],
        repeat=np.array([operators.repeat[mine[0]] for mine in members]),
        touches=touches,
    )


def _inputs(operators: Operators) -> list[list[int]]:
    """[operators] rows that wrote what each reads, its operands in order."""
    found: list[list[int]] = [[] for _ in range(len(operators))]
    reads = ~operators.written & (operators.tensor >= 0)
    for row, source in zip(operators.operator[reads].tolist(), operators.tensor[reads].tolist(), strict=True):
        found[row].append(source)
    return found


def _groups(operators: Operators, blocks: Sequence[int], inputs: Sequence[Sequence[int]]) -> list[int]:
    """The first row of the kernel that each operator is in: itself where it runs alone.

    `depth` counts the products on the longest path from the block's inputs; a kernel has one depth.
    """
    size = len(operators)
    depth, root = [0] * size, list(range(size))
    beside: dict[tuple[object, ...], int] = {}
    for row in range(size):
        mine = [source for source in inputs[row] if blocks[source] == blocks[row] >= 0]
        product = operators.products[row]
        depth[row] = max((depth[s] + (operators.products[s] is not None) for s in mine), default=0)
        if product is not None and product.format in QUANTIZED and not product.branch and mine:
            _, m, _, k = product.sizes
            _join(root, beside.setdefault((blocks[row], depth[row], product.format, m, k, mine[0]), row), row)
        if operators.moving[row] is None:
            continue
        for source in mine:
            if operators.moving[source] is not None and depth[source] == depth[row]:
                _join(root, source, row)
    return [_root(root, row) for row in range(size)]


def _root(root: list[int], row: int) -> int:
    while root[row] != row:
        root[row] = root[root[row]]
        row = root[row]
    return row


def _join(root: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(root, one), _root(root, other)))
    root[second] = first


def _compiled(products: Sequence[Product | None], inside: bool) -> Product | None:
    """Of one kernel: quantized products of one input are one with all their outputs; branches join their neighbours."""
    product = products[0]
    if product is None or not inside:
        return product
    if product.branch:
        return replace(product, model="branch")
    if len(products) > 1:
        batch, m, _, k = product.sizes
        return replace(product, sizes=(batch, m, sum(one.sizes[2] for one in products if one), k))
    flags = {"conv": (True, False), "depthwise": (True, False), "simt": (True,)}
    return replace(product, flags=flags.get(product.model, product.flags))


def _chain(operators: Operators, rows: Sequence[int]) -> Kernel:
    """The one kernel of a chain: as large as its largest operator."""
    largest = max((operators.moving[row] for row in rows), key=lambda one: one.elements if one else 0)
    assert largest is not None
    return Kernel(FUSED, largest.elements, operators=len(rows))


def _outside(
    operators: Operators, number: "np.typing.NDArray[np.int64]", fused: "np.typing.NDArray[np.bool_]"
) -> Touches:
    """Tensors that a kernel reads from or writes for others; each once, however many of its operators use it."""
    kernel = number[operators.operator]
    source = np.where(operators.tensor >= 0, number[np.maximum(operators.tensor, 0)], -1)
    inner_read = ~operators.written & (source == kernel) & fused[kernel]
    used = np.zeros(len(number), bool)  # by another kernel
    reads = ~operators.written & (operators.tensor >= 0) & (source != kernel)
    used[operators.tensor[reads]] = True
    anyone = np.zeros(len(number), bool)
    anyone[operators.tensor[~operators.written & (operators.tensor >= 0)]] = True
    inner_write = operators.written & fused[kernel] & ~used[operators.operator] & anyone[operators.operator]
    kept = np.flatnonzero(~inner_read & ~inner_write)
    kept = kept[np.argsort(-operators.bytes[kept], kind="stable")]
    keys = np.stack([kernel[kept], operators.tensor[kept], operators.written[kept].astype(np.int64)])
    unknown = operators.tensor[kept] == UNKNOWN
    keys[1, unknown] = -(10**9) - kept[unknown]
    _, first = np.unique(keys, axis=1, return_index=True)
    chosen = kept[np.sort(first)]
    chosen = chosen[np.argsort(kernel[chosen], kind="stable")]
    return Touches(kernel[chosen], operators.tensor[chosen], operators.bytes[chosen], operators.written[chosen])
