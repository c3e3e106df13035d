"""Energy and area of a SpAtten-type machine part by part: counts of actions x published values of a CMOS node.

The second mode, beside the first-order one of `dataflow/spatten/price.py` that is fed with Table II. Each part is built
from the paper's own description (arXiv 2012.09852, section IV, Table I); the paper synthesized fixed-point logic, took
published floating-point units for the softmax and CACTI for memories (section V-A) and prints no energy of an action.
Left out: clock tree, leakage, control, wires inside arrays, and what synthesis adds to reach the clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2, sqrt

from accel.energy import Technology, load_technology
from accel.spatten import Cost, SpattenMachine
from dataflow.spatten.price import area_mm2
from sim.result import Result

NODE_NM = 40  # SpAtten, Table III
RAMS = 24  # released RTL: 12 bit slices x 2 banks make up the K memory, and the V memory
EXPONENT_ORDER = 5  # section IV-D: Taylor series
DIVISION_STEPS = 3  # assumed: a division as so many multiply-adds (Newton); the paper names none
FIFO_DEPTH = 64  # Table I: address and data FIFOs of the fetcher, and those of the top-k
CROSSBAR_LANES = 2  # Table I: 32 FIFOs and lanes for 16 channels
ADDRESS_BITS, DATA_BITS = 64, 128  # Table I: FIFOs of 8 B and of 16 B
REQUEST_BYTES = 32  # released RTL: one address is sent for so many bytes
TOKENS = 1024  # Table I: longest context, for the importance memory
ENGINE_ARRAYS = 2  # section IV-B: "<" and ">" comparators, a FIFO and a zero eliminator each
PJ, UM2 = 1e-12, 1e-6
GROUPS: Mapping[str, tuple[str, ...]] = {  # rows of Table II: the memories are counted with their arrays
    "query_key": ("query_key", "key_sram"),
    "prob_value": ("prob_value", "value_sram"),
    "fetcher": ("fetcher",),
    "softmax": ("softmax",),
    "topk": ("topk",),
    "other": ("accumulator",),
}


@dataclass(frozen=True)
class Part:
    """A part of the machine: energy of one of its actions (see `Cost`) and its area, at the machine's node."""

    action_pj: float
    area_mm2: float


@dataclass(frozen=True)
class Row:
    """A line of the comparison. quantity: "area_mm2" or "power_w"; table: first mode, fed with Table II."""

    component: str
    quantity: str
    bottom_up: float
    table: float

    @property
    def ratio(self) -> float:
        """Bottom-up over table; infinite where the table has nothing."""
        return self.bottom_up / self.table if self.table else float("inf")


@dataclass(frozen=True)
class _Node:
    """Prices at the machine's node; logic areas are those of placed cells."""

    technology: Technology
    node_nm: float

    def pj(self, at_own_node: float) -> float:
        return at_own_node * self.technology.energy_scale(self.node_nm)

    def logic_mm2(self, cells_um2: float) -> float:
        scale = self.technology.area_scale(self.node_nm) / self.technology.placement_density
        return cells_um2 * scale * UM2

    def sram_mm2(self, capacity_bytes: float) -> float:
        return self.technology.sram_um2(capacity_bytes) * self.technology.area_scale(self.node_nm) * UM2


def parts(machine: SpattenMachine, technology: Technology | None = None, node_nm: float = NODE_NM) -> dict[str, Part]:
    """Every part of one pipeline, by the names of `Result.energy_j`."""
    node, u, bits = _Node(technology or load_technology(), node_nm), machine.units, machine.element_bits
    return {
        "query_key": _array(node, u.query_key.multipliers, bits),
        "prob_value": _array(node, u.prob_value.multipliers, bits),
        "key_sram": _memory(node, u.key_sram.bytes),
        "value_sram": _memory(node, u.value_sram.bytes),
        "fetcher": _fetcher(node, machine.memory.channels),
        "softmax": _softmax(node, u.softmax.lanes),
        "topk": _topk(node, u.topk.comparators, u.topk.engines, bits),
        "accumulator": _accumulator(node, u.softmax.lanes, bits),
    }


def _array(node: _Node, multipliers: int, bits: int) -> Part:
    """A multiplier, an adder of tree or accumulator, and registers: operand, product, sum (one a tree level)."""
    t, total = node.technology, 2 * bits + 4
    registers = bits + 2 * bits + total
    pj = t.energy_pj("multiply", bits) + t.energy_pj("add", total) + registers * t.register_pj
    um2 = t.area_um2("multiply", bits) + t.area_um2("add", total) + registers * t.register_um2
    return Part(node.pj(pj), node.logic_mm2(multipliers * um2))


def _memory(node: _Node, capacity_bytes: int) -> Part:
    """A byte of K or V, in or out, in RAMS memories side by side."""
    return Part(node.pj(node.technology.sram_pj_per_byte(capacity_bytes / RAMS)), node.sram_mm2(capacity_bytes))


def _fetcher(node: _Node, channels: int) -> Part:
    """A byte: through a data FIFO and crossbar, a share of an address. Wires are as long as the fetcher is wide."""
    t, lanes = node.technology, CROSSBAR_LANES * channels
    fifos = {width: FIFO_DEPTH * width / 8 for width in (ADDRESS_BITS, DATA_BITS)}
    muxes = channels * (lanes - 1) * ADDRESS_BITS + lanes * (channels - 1) * DATA_BITS
    area = node.sram_mm2(lanes * sum(fifos.values())) + node.logic_mm2(muxes * t.mux_um2)
    queued = 2 * t.sram_pj_per_byte(fifos[DATA_BITS])
    queued += 2 * t.sram_pj_per_byte(fifos[ADDRESS_BITS]) * ADDRESS_BITS / 8 / REQUEST_BYTES
    wires = 8 * (1 + ADDRESS_BITS / 8 / REQUEST_BYTES) * t.wire_pj_per_bit_mm * sqrt(area)
    return Part(node.pj(queued + wires), area)


def _softmax(node: _Node, lanes: int) -> Part:
    """A score in 32-bit floats: dequantize, the series, the sum, a division, quantize."""
    t = node.technology
    multiplies, adds = 1 + EXPONENT_ORDER + DIVISION_STEPS, EXPONENT_ORDER + 1 + DIVISION_STEPS + 1
    pj = multiplies * t.energy_pj("float_multiply", 32) + adds * t.energy_pj("float_add", 32)
    um2 = multiplies * t.area_um2("float_multiply", 32) + adds * t.area_um2("float_add", 32)
    return Part(node.pj(pj), node.logic_mm2(lanes * um2))


def _topk(node: _Node, comparators: int, engines: int, bits: int) -> Part:
    """A comparison: both arrays look at it, one FIFO takes it and gives it back, through its zero eliminator."""
    t = node.technology
    fifo_bytes, stages = FIFO_DEPTH * comparators * bits / 8, log2(max(comparators, 2))
    queued = 2 * t.sram_pj_per_byte(fifo_bytes) * bits / 8
    pj = ENGINE_ARRAYS * t.energy_pj("add", bits) + queued + stages * bits * t.register_pj
    lane = t.area_um2("add", bits) + stages * bits * (t.mux_um2 + t.register_um2)
    arrays = engines * ENGINE_ARRAYS
    return Part(node.pj(pj), node.logic_mm2(arrays * comparators * lane) + node.sram_mm2(arrays * fifo_bytes))


def _accumulator(node: _Node, lanes: int, bits: int) -> Part:
    """An addition: read, add, write back in the importance memory (one sum a token, twice the width)."""
    t, memory_bytes = node.technology, TOKENS * 2 * bits / 8
    moved = 2 * t.sram_pj_per_byte(memory_bytes / lanes) * 2 * bits / 8
    pj = t.energy_pj("add", 2 * bits) + moved
    return Part(node.pj(pj), node.logic_mm2(lanes * t.area_um2("add", 2 * bits)) + node.sram_mm2(memory_bytes))


def bottom_up_area_mm2(machine: SpattenMachine, technology: Technology | None = None) -> dict[str, float]:
    """Area of each part, of all pipelines; one fetcher serves them."""
    copies = {"fetcher": 1}
    return {
        name: copies.get(name, machine.pipelines) * part.area_mm2 for name, part in parts(machine, technology).items()
    }


def actions(machine: SpattenMachine, result: Result) -> dict[str, float]:
    """How often each part acted: the result's first-order energy over the energy of one action that it was priced at.

    Raises ValueError where that is 0: nothing can be recovered then.
    """
    found = {}
    for name in [name for group in GROUPS.values() for name in group]:
        cost: Cost = getattr(machine.units, name).cost
        if not cost.energy_pj:
            raise ValueError(f"{machine.name}: units.{name}.cost.energy_pj: must be > 0 for a bottom-up energy, got 0")
        found[name] = result.energy_j.get(name, 0.0) / (cost.energy_pj * PJ)
    return found


def bottom_up_energy_j(
    machine: SpattenMachine, result: Result, technology: Technology | None = None
) -> dict[str, float]:
    """Energy of each part on the chip over that run; the DRAM's is the result's own (public energies already)."""
    counted = actions(machine, result)
    return {name: counted[name] * part.action_pj * PJ for name, part in parts(machine, technology).items()}


def bottom_up_table(machine: SpattenMachine, result: Result, technology: Technology | None = None) -> list[Row]:
    """Area and mean power of the run by the rows of Table II, and their sums ("total"), beside the first mode."""
    area = (bottom_up_area_mm2(machine, technology), area_mm2(machine))
    energy = (bottom_up_energy_j(machine, result, technology), result.energy_j)
    power = tuple({name: joules / result.latency_s for name, joules in each.items()} for each in energy)
    return [*_rows("area_mm2", *area), *_rows("power_w", power[0], power[1])]


def _rows(quantity: str, ours: Mapping[str, float], table: Mapping[str, float]) -> list[Row]:
    sums = [
        (group, [sum(each.get(name, 0.0) for name in names) for each in (ours, table)])
        for group, names in GROUPS.items()
    ]
    total = [sum(pair[i] for _, pair in sums) for i in (0, 1)]
    return [Row(group, quantity, *pair) for group, pair in [*sums, ("total", total)]]
