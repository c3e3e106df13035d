"""The rows of `published/spatten.csv`, computed: each function returns values by id, from simulated points.

A table knows no accelerator's internals: it names points (machine, benchmark, what is changed) and does
arithmetic on their outcomes.  Geometric means throughout, as in the paper, but where a row says "mean".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, log
from statistics import fmean

import numpy as np

from accel.machine import load_machine, load_standard
from accel.spatten import Cost, SpattenMachine
from analysis.reproduce.points import Outcome, Point, Runs, Values
from analysis.reproduce.workload import FULL_BITS
from dataflow.bottom_up import GROUPS, parts
from dataflow.memory import peak_bytes_per_s
from dataflow.spatten.topk import mean_cycles
from dataflow.spatten.topk.sorter import compare_with_sorter

TASKS = ("cola", "mnli_m", "mnli_mm", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "squad1", "squad2")
TEXTS = ("wikitext2", "wikitext103", "ptb", "1bw")
BERT = tuple(f"bert_{size}_{task}" for size in ("base", "large") for task in TASKS)
SMALL, MEDIUM = (tuple(f"gpt2_{size}_{text}" for text in TEXTS) for size in ("small", "medium"))
GPT2 = SMALL + MEDIUM
ALL = BERT + GPT2
FAMILIES = {"bert": BERT, "gpt2": GPT2}
DEVICES = ("titan_xp", "xeon_e5_2640v4", "jetson_nano", "raspberry_pi4")
DENSE = (("dense", True),)
RIVALS = ("a3", "mnnfast")
Rows = dict[str, float]


@dataclass(frozen=True)
class Configuration:
    """How points are run: the outcomes, and the DRAM configuration as settings of every SpAtten-type machine."""

    runs: Runs
    memory: Values = ()

    def spatten(self, benchmark: str, policy: Values = (), settings: Values = (), machine: str = "spatten") -> Outcome:
        """One benchmark on a SpAtten-type machine."""
        return self.runs(Point(machine, benchmark, settings + self.memory, policy))

    def other(self, machine: str, benchmark: str, parts: tuple[str, ...] = ("attention",)) -> Outcome:
        """One benchmark on a machine of another kind, dense; rival accelerators get the same DRAM configuration."""
        return self.runs(Point(machine, benchmark, self.memory if machine in RIVALS else (), DENSE, parts=parts))


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean logarithm."""
    return exp(fmean(log(value) for value in values))


def rank_correlation(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """Spearman's, ties share their mean rank; 0 where all are equal."""
    import pandas

    ranks = pandas.DataFrame({"ours": list(ours), "theirs": list(theirs)}).rank()
    if (ranks.nunique() == 1).any():
        return 0.0
    return float(np.corrcoef(ranks["ours"], ranks["theirs"])[0, 1])


def spatten_machine(memory: Values = ()) -> SpattenMachine:
    """The shipped machine, with another DRAM configuration if one is given."""
    machine = load_machine("spatten", dict(memory))
    assert isinstance(machine, SpattenMachine)
    return machine


def hardware_rows(memory_settings: Values = ()) -> Rows:
    """Table I and Fig. 18: what the machine file comes to, without a simulation."""
    machine = spatten_machine(memory_settings)
    units, memory = machine.units, machine.memory
    lanes = units.query_key.multipliers + units.prob_value.multipliers
    return {
        "machine.sram_bytes": units.key_sram.bytes,
        "machine.scores_per_cycle": units.query_key.multipliers / 64,
        "machine.peak_gb_per_s": peak_bytes_per_s(memory, load_standard(memory.standard)) / 1e9,
        "machine.roof_tflops": 2 * lanes * machine.clock_hz / 1e12,
    }


def figure_14(on: Configuration, published: Mapping[str, float]) -> Rows:
    """Speedups and energy savings of 30 tasks over four devices."""
    rows: Rows = {}
    ours = {name: on.spatten(name) for name in ALL}
    for device in DEVICES:
        theirs = {name: on.other(device, name) for name in ALL}
        speedup = {name: theirs[name].latency_s / ours[name].latency_s for name in ALL}
        energy = {name: theirs[name].energy_j / ours[name].energy_j for name in ALL}
        rows |= {f"fig14.{device}.{name}.speedup": value for name, value in speedup.items()}
        rows |= {f"fig14.{device}.{name}.energy": value for name, value in energy.items()}
        rows[f"fig14.{device}.geomean.speedup"] = geometric_mean(speedup.values())
        rows[f"fig14.{device}.geomean.energy"] = geometric_mean(energy.values())
        for group, names in FAMILIES.items():
            rows[f"fig14.{device}.{group}.speedup"] = geometric_mean(speedup[name] for name in names)
        printed = [published[f"fig14.{device}.{name}.speedup"] for name in ALL]
        rows[f"fig14.{device}.rank_correlation"] = rank_correlation(speedup.values(), printed)
    return {name: value for name, value in rows.items() if name in published}


def averages(on: Configuration) -> Rows:
    """Sections V-B: traffic, work, throughput and power over the benchmarks."""
    ours = {name: on.spatten(name) for name in ALL}
    dense = {name: on.spatten(name, DENSE) for name in BERT}

    def tflops(outcomes: Iterable[Outcome]) -> float:
        return fmean(one.executed / one.latency_s / 1e12 for one in outcomes)

    def intensity(names: Iterable[str]) -> float:
        return fmean(ours[name].executed / ours[name].dram_bytes for name in names)

    def cut(names: Iterable[str]) -> float:
        return geometric_mean(ours[name].dense_bytes / ours[name].dram_bytes for name in names)

    return {
        "all.dram_cut": cut(ALL),
        "gpt2.dram_cut": cut(GPT2),
        "all.computation_cut": geometric_mean(one.effective / one.executed for one in ours.values()),
        "quantization.dram_cut": fmean(_bits_cut(ours[name]) for name in GPT2 if name != "gpt2_medium_wikitext2"),
        "roofline.bert_dense_tflops": tflops(dense.values()),
        "roofline.bert_tflops": tflops(ours[name] for name in BERT),
        "roofline.gpt2_tflops": tflops(ours[name] for name in GPT2),
        "roofline.bert_ops_per_byte": intensity(BERT),
        "roofline.gpt2_ops_per_byte": intensity(GPT2),
        "power.total": fmean(one.power_w for one in ours.values()),
        "power.dram": fmean(one.dram_energy_j / one.latency_s for one in ours.values()),
        "power.dram_share": 100 * fmean(one.dram_energy_j / one.energy_j for one in ours.values()),
    }


def _bits_cut(one: Outcome) -> float:
    """32 bits over the bits that came for each element of K, refetched ones included."""
    fetched = 8 * (one.read["key"] + one.read["key_lsb"]) / (one.counts["k_vectors"] * 64)
    return FULL_BITS / fetched


def table_4(on: Configuration) -> Rows:
    """GPT-2-Medium without head pruning: attention, and FC on SpAtten-e2e."""
    whole = [_e2e(on, name, 8) for name in MEDIUM]
    clock_hz = 1e9
    return {
        **attention_of_table_4(on),
        "table4.fc_ms": 1e3 * fmean(one.counts["fc_cycles"] for one in whole) / clock_hz,
        "table4.fc_gflop": fmean(2 * one.counts["fc_multiply_adds"] for one in whole) / 1e9,
    }


def attention_of_table_4(on: Configuration) -> Rows:
    """The attention alone."""
    attention = [on.spatten(name, (("head_keep", 1.0),)) for name in MEDIUM]
    return {
        "table4.attention_ms": 1e3 * fmean(one.latency_s for one in attention),
        "table4.attention_gflop": fmean(one.executed for one in attention) / 1e9,
    }


def _e2e(on: Configuration, benchmark: str, bits: int) -> Outcome:
    settings = (("fc.weight_bits", bits),)
    return on.spatten(benchmark, (("head_keep", 1.0),), settings, "spatten_e2e")


def figure_15(on: Configuration) -> Rows:
    """End to end: attention and FC, over the two devices that ran both."""
    rows: Rows = {}
    for device in DEVICES[:2]:
        theirs = {name: on.other(device, name, ("attention", "fc")) for name in GPT2}
        for bits in (8, 12):
            gain = {name: theirs[name].latency_s / _e2e(on, name, bits).latency_s for name in GPT2}
            rows |= {f"fig15.{device}.{name}.fc{bits}_speedup": value for name, value in gain.items()}
            rows[f"fig15.{device}.geomean.fc{bits}_speedup"] = geometric_mean(gain.values())
    return rows


def figure_20(on: Configuration) -> Rows:
    """What each part of SpAtten brings on the 8 GPT-2 benchmarks, one after another."""
    widths = dict.fromkeys(("query_bits", "key_msb_bits", "value_bits"), FULL_BITS)
    full = tuple((widths | {"key_lsb_bits": 0}).items())
    serial = (("units.topk.comparators", 1),)
    steps = {
        "datapath": lambda name: on.spatten(name, DENSE + full, (), "spatten_datapath"),
        "token_pruning": lambda name: on.spatten(name, (("head_keep", 1.0), *full), serial),
        "head_pruning": lambda name: on.spatten(name, full, serial),
        "parallel_topk": lambda name: on.spatten(name, full),
        "static_quantization": lambda name: on.spatten(name, (("static", True),)),
        "progressive_quantization": on.spatten,
    }
    latency = {step: {name: run(name).latency_s for name in GPT2} for step, run in steps.items()}
    before = {name: on.other("titan_xp", name).latency_s for name in GPT2}
    rows: Rows = {}
    for step, after in latency.items():
        rows[f"fig20.{step}"] = geometric_mean(before[name] / after[name] for name in GPT2)
        before = after
    rows["fig20.up_to_topk"] = _product(rows, ("token_pruning", "head_pruning", "parallel_topk"))
    rows["fig20.up_to_quantization"] = _product(rows, ("static_quantization", "progressive_quantization"))
    return rows


def _product(rows: Rows, steps: Iterable[str]) -> float:
    return float(np.prod([rows[f"fig20.{step}"] for step in steps]))


def figure_19(on: Configuration) -> Rows:
    """Throughput over comparators and SRAM, relative to the shipped machine, on one GPT-2 task."""
    name = "gpt2_small_wikitext2"

    def speed(**units: int) -> float:
        settings = tuple((f"units.{key.replace('__', '.')}", value) for key, value in units.items())
        return 1 / on.spatten(name, (), settings).latency_s

    shipped, kilobytes = speed(), (196, 392, 784)
    lanes = {f"fig19.topk_{n}": speed(topk__comparators=n) / shipped for n in (1, 2, 4, 8, 16, 32)}
    sizes = {kb: 196_608 * kb // 196 for kb in kilobytes}
    sram = {f"fig19.sram_{kb}kb": speed(key_sram__bytes=b, value_sram__bytes=b) / shipped for kb, b in sizes.items()}
    return lanes | sram


def table_3(on: Configuration) -> Rows:
    """SpAtten-1/8 beside A3 and MNNFast: effective work as the paper counts, and executed work."""
    eighth = [on.spatten(name, (), (), "spatten_eighth") for name in ALL]
    a3, mnnfast = ([on.other(machine, name) for name in ALL] for machine in RIVALS)

    def mean(outcomes: Iterable[Outcome], work: str, cost: str) -> float:
        return geometric_mean(getattr(one, work) / getattr(one, cost) / 1e9 for one in outcomes)

    def ratio(other: list[Outcome], work: str, cost: str) -> float:
        return mean(eighth, work, cost) / mean(other, work, cost)

    return {
        "table3.eighth_area": eighth[0].area_mm2,
        "table3.eighth_power": fmean(one.power_w for one in eighth),
        "table3.eighth_gops": mean(eighth, "effective", "latency_s"),
        "table3.eighth_gops_per_j": mean(eighth, "effective", "energy_j"),
        "table3.a3_gops": mean(a3, "effective", "latency_s"),
        "table3.mnnfast_gops": mean(mnnfast, "effective", "latency_s"),
        "table3.over_a3": ratio(a3, "effective", "latency_s"),
        "table3.over_mnnfast": ratio(mnnfast, "effective", "latency_s"),
        "table3.over_a3_per_j": ratio(a3, "effective", "energy_j"),
        "table3.over_mnnfast_per_j": ratio(mnnfast, "effective", "energy_j"),
        "table3.over_a3_executed": ratio(a3, "executed", "latency_s"),
        "table3.over_mnnfast_executed": ratio(mnnfast, "executed", "latency_s"),
    }


def released_workloads(on: Configuration) -> Rows:
    """The two released workloads, by the benchmarks that follow their schedules."""
    small, medium = on.spatten(SMALL[0]), on.spatten(MEDIUM[0])
    return {
        **released_times(on),
        **_cuts("small", small, on.spatten(SMALL[0], DENSE)),
        **_cuts("medium", medium, on.spatten(MEDIUM[0], DENSE)),
    }


def released_times(on: Configuration) -> Rows:
    """Their latencies."""
    pairs = (("medium_ms", MEDIUM[0]), ("small_low_ms", SMALL[0]))
    return {f"released.{row}": 1e3 * on.spatten(name).latency_s for row, name in pairs}


def _cuts(name: str, ours: Outcome, dense: Outcome) -> Rows:
    k, v, all_rows = ("k_vectors", "v_vectors", "rows")
    both = (dense.counts[k] + dense.counts[v]) / (ours.counts[k] + ours.counts[v])
    rows = {
        f"released.{name}.kv_cut": both,
        f"released.{name}.k_cut": dense.counts[k] / ours.counts[k],
        f"released.{name}.v_cut": dense.counts[v] / ours.counts[v],
    }
    if name == "small":
        return rows | {"released.small.lsb_rows": 100 * ours.counts["lsb_rows"] / ours.counts[all_rows]}
    return rows | {"released.medium.head_cut": dense.counts[all_rows] / ours.counts[all_rows]}


def other_models(on: Configuration) -> Rows:
    """The authors' C++ model of dense BERT-Base, and a run of their RTL."""
    rows = {f"authors_model.bert_base_{n}": on.spatten(f"12x12x{n}").cycles for n in (32, 64, 128, 256, 384, 512)}
    arrays = tuple((f"units.{array}.multipliers", 128) for array in ("query_key", "prob_value"))
    fork = (*arrays, ("units.topk.comparators", 16), ("memory.channels", 8))
    return rows | {"fork.rtl_cycles_128": on.spatten("1/128", (), fork).cycles}


def topk_rows(draws: int = 20_000) -> Rows:
    """Mean cycles of the quick-select, by the model that the planner uses; and beside a sorter."""
    overhead = spatten_machine().units.topk.pass_overhead_cycles
    shapes = ((64, 32), (256, 32), (1024, 32), (1024, 128), (1024, 512), (4096, 32))
    rows = {
        f"topk.n{n}_k{k}_p{p}": mean_cycles(n, k, p, overhead, draws)[0] for n, k in shapes for p in (1, 4, 8, 16, 32)
    }
    sorter = compare_with_sorter(overhead=overhead, draws=draws)
    beside = {"throughput": sorter.throughput_ratio, "power": sorter.power_ratio}
    return rows | {f"topk.sorter_{what}_ratio": ratio for what, ratio in beside.items()}


def bottom_up(on: Configuration) -> Rows:
    """Table II and Fig. 13 from published values of a CMOS node; power is the mean over the thirty benchmarks."""
    machine = spatten_machine()
    built, ours = parts(machine), [on.spatten(name) for name in ALL]

    def watts(one: Outcome, name: str) -> float:
        per_action: Cost = getattr(machine.units, name).cost
        return one.energy[name] / one.latency_s * built[name].action_pj / per_action.energy_pj

    area = {group: sum(built[name].area_mm2 for name in names) for group, names in GROUPS.items()}
    power = {group: fmean(sum(watts(one, name) for name in names) for one in ours) for group, names in GROUPS.items()}
    return {
        "bottom_up.area.total": sum(area.values()),
        "bottom_up.power.on_chip": sum(power.values()),
        **{f"bottom_up.area.{group}": value for group, value in area.items()},
        **{f"bottom_up.power.{group}": value for group, value in power.items()},
    }


def simulated_rows(on: Configuration, published: Mapping[str, float]) -> Rows:
    """Everything that needs simulations."""
    tables = (averages, bottom_up, table_4, figure_15, figure_20, figure_19, table_3, released_workloads, other_models)
    rows = figure_14(on, published)
    for table in tables:
        rows |= table(on)
    return rows
