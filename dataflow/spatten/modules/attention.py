"""One head of attention through all modules: what SpAtten computes, bit for bit (arXiv 2012.09852, Fig. 8).

    K, V, Q in DRAM -> fetch -> convert -> SRAM -> Q x K -> softmax -> decision (-> LSBs, once more) -> local value
    top-k -> prob x V, with the importance beside it

Numbers: Q, K and V are quantized symmetrically, one scale a head each; scores and sums are exact integers, softmax is
float32, probabilities are unsigned fractions of `word_bits` bits, outputs have the words and the scale of V. When it
happens is `dataflow.spatten.stages`; masks (causal attention of a prompt) are left out, as in the paper.
"""

from dataclasses import dataclass, field

import numpy as np

from accel.spatten import SpattenMachine
from dataflow.spatten.modules import accumulators, converter, fetcher, prob_value, query_key, softmax
from dataflow.spatten.modules.buffers import Buffer, Geometry
from dataflow.spatten.modules.decision import needs_lsb
from dataflow.spatten.modules.fixed_point import Fixed, Floats, Ints, quantize
from dataflow.spatten.topk import winners
from workloads.policy import Policy


@dataclass(frozen=True)
class Datapath:
    """The sizes of the modules."""

    word_bits: int
    query_key_multipliers: int
    prob_value_multipliers: int
    lanes: int
    comparators: int
    pass_overhead_cycles: int
    seed: int
    key_sram: Geometry
    value_sram: Geometry
    burst_bytes: int

    @classmethod
    def of(cls, machine: SpattenMachine, burst_bytes: int = 32) -> "Datapath":
        """Those of a machine."""
        u, bits = machine.units, machine.element_bits
        arrays = u.query_key.multipliers, u.prob_value.multipliers
        key = Geometry(u.key_sram.bytes, u.key_sram.buffers, arrays[0], bits)
        value = Geometry(u.value_sram.bytes, u.value_sram.buffers, arrays[1], bits)
        topk = u.topk.comparators, u.topk.pass_overhead_cycles, u.topk.seed
        return cls(bits, *arrays, u.softmax.lanes, *topk, key, value, burst_bytes)


@dataclass
class Counts:
    """What was done; names as in the plan's counters, SRAM traffic in lines."""

    macs_qk: int = 0
    macs_pv: int = 0
    exponentials: int = 0
    accumulations: int = 0
    recomputed: int = 0
    key_lines_read: int = 0
    key_lines_written: int = 0
    value_lines_read: int = 0
    value_lines_written: int = 0
    fetched_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """What a head gives; n queries, m keys.

    output        [n, D] words with V's scale; `output.value` are its numbers
    probabilities int64 [n, m] words: those of the last pass, before local pruning
    recomputed    bool [n]     queries that needed the LSBs
    values_used   list of n    positions of the keys whose V was used, ascending
    importance    int64 [m]    sum of the probability words over the queries
    head_score    float        sum of |output|
    """

    output: Fixed
    probabilities: Ints
    recomputed: Ints
    values_used: list[Ints]
    importance: Ints
    head_score: float
    counts: Counts


def values_kept(keep: float, keys: int) -> int:
    """Whole V vectors of a share, rounded up, as `workloads.replay` counts them."""
    return max(1, int(np.ceil(keep * keys - 1e-9)))


def attend(query: Floats, key: Floats, value: Floats, datapath: Datapath, policy: Policy) -> Head:
    """One head on that datapath: float query [n, D], key and value [m, D].

    Of the policy: query_bits, key_msb_bits, key_lsb_bits, value_bits, lsb_threshold and value_keep; tokens and heads
    that are pruned are not handed over. Raises ValueError where shapes do not fit each other or the SRAM.
    """
    _check_shapes(query, key, value)
    counts, used, rows, sums, again = Counts(), [], [], [], []
    queries = _fetched(query, policy.query_bits, "query", datapath, counts)
    keys, values = _Keys(key, datapath, policy, counts), _Values(value, datapath, policy, counts, len(query) == 1)
    importance = accumulators.Importance.of(len(key), 1)
    for words in queries.code:
        probability, flat = keys.decided(words, queries.scale)
        importance.add_probabilities(np.arange(len(key)), probability)
        used.append(_local_topk(probability, datapath, policy))
        sums.append(values.weighted(probability, used[-1]))
        rows.append(probability)
        again.append(flat)
    output = prob_value.output(np.array(sums), values.scale, datapath.word_bits, datapath.word_bits)
    importance.add_output(0, output)
    _finish(counts, keys.buffer, values.buffer, len(query) * len(key))
    score = float(importance.heads[0])
    return Head(output, np.array(rows), np.array(again), used, importance.tokens, score, counts)


def _check_shapes(query: Floats, key: Floats, value: Floats) -> None:
    if query.ndim != 2 or key.shape != value.shape or query.shape[1:] != key.shape[1:] or not query.size:
        raise ValueError(
            "attend: query [n, D], key and value [m, D] must have one D and at least one row, got "
            f"{query.shape}, {key.shape} and {value.shape}"
        )


def _fetched(values: Floats, bits: int, name: str, datapath: Datapath, counts: Counts) -> Fixed:
    """Quantized, stored in DRAM, fetched and converted to words."""
    codes = quantize(values, bits)
    fetched = _through_dram(codes.code, np.arange(len(values)), bits, name, datapath, counts)
    scale = converter.word_scale(codes.scale, bits, datapath.word_bits)
    return Fixed(converter.to_words(fetched, bits, datapath.word_bits), datapath.word_bits, scale)


def _through_dram(codes: Ints, positions: Ints, bits: int, name: str, datapath: Datapath, counts: Counts) -> Ints:
    """Pack a plane, fetch the vectors at those positions, unpack them. LSBs have no sign."""
    plane = converter.pack(codes, bits)
    address, size = fetcher.segments(0, plane.shape[1], positions)
    stream = fetcher.gather(plane.reshape(-1), address, size, datapath.burst_bytes)
    counts.fetched_bytes[name] = counts.fetched_bytes.get(name, 0) + len(stream)
    return converter.unpack_vectors(stream, codes.shape[1], bits, signed=name != "key_lsb")


def _filled(geometry: Geometry, words: Ints) -> Buffer:
    buffer = Buffer(geometry, words.shape[1])
    buffer.fill(0, words)
    buffer.open(0)
    return buffer


class _Keys:
    """K of the head: its MSBs in the SRAM, its LSBs in DRAM until a query needs them."""

    def __init__(self, key: Floats, datapath: Datapath, policy: Policy, counts: Counts) -> None:
        self.datapath, self.policy, self.counts = datapath, policy, counts
        codes = quantize(key, policy.key_msb_bits + policy.key_lsb_bits)
        msb, self.lsb = converter.split(codes.code, policy.key_lsb_bits)
        self.scale = converter.word_scale(codes.scale, codes.bits, datapath.word_bits)
        fetched = _through_dram(msb, np.arange(len(key)), policy.key_msb_bits, "key", datapath, counts)
        words = converter.to_words(fetched, policy.key_msb_bits, datapath.word_bits)
        self.buffer = _filled(datapath.key_sram, words)
        self.lsb_fetched = False

    def decided(self, words: Ints, query_scale: float) -> tuple[Ints, bool]:
        """Probabilities of one query, and whether it had to be computed with the LSBs.

        The first pass sees the MSBs alone, even where an earlier query has fetched the LSBs: the result does not
        depend on when they come.
        """
        first = self._probabilities(words, query_scale, self.policy.key_msb_bits)
        threshold, bits = self.policy.lsb_threshold, self.datapath.word_bits
        if self.policy.key_lsb_bits == 0 or not needs_lsb(first, threshold, bits):
            return first, False
        if not self.lsb_fetched:
            self._fetch_lsb()
        self.counts.recomputed += 1
        return self._probabilities(words, query_scale, bits), True

    def _probabilities(self, words: Ints, query_scale: float, key_bits: int) -> Ints:
        """Q x K and softmax of one query with the upper bits of K."""
        d, size = self.datapath, len(words)
        upper = self.buffer.vectors(0) & -(1 << max(0, d.word_bits - key_bits))
        scores = query_key.scores(words, upper, d.word_bits)
        self.counts.macs_qk += len(scores) * size
        self.counts.exponentials += len(scores)
        return softmax.probabilities(scores, softmax.factor(query_scale, self.scale, size), d.lanes, d.word_bits)

    def _fetch_lsb(self) -> None:
        """Once a head: all bits are in the SRAM from now on."""
        msb_bits, lsb_bits = self.policy.key_msb_bits, self.policy.key_lsb_bits
        lsb = _through_dram(self.lsb, np.arange(len(self.lsb)), lsb_bits, "key_lsb", self.datapath, self.counts)
        merged = converter.merge(self.buffer.words[0], lsb, msb_bits, lsb_bits, self.datapath.word_bits)
        self.buffer.refill(0, merged)
        self.lsb_fetched = True


class _Values:
    """V of the head: fetched whole for a prompt; of a single query (`one`) what its local top-k keeps."""

    def __init__(self, value: Floats, datapath: Datapath, policy: Policy, counts: Counts, one: bool) -> None:
        self.datapath, self.counts, self.bits, self.one = datapath, counts, policy.value_bits, one
        self.codes = quantize(value, self.bits)
        self.scale = converter.word_scale(self.codes.scale, self.bits, datapath.word_bits)
        self.buffer = Buffer(datapath.value_sram, value.shape[1])
        if not one:
            self._fetch(np.arange(len(value)))

    def weighted(self, probability: Ints, used: Ints) -> Ints:
        """Prob x V of one query over the keys that it uses: the sums, before their rounding."""
        if self.one:
            self._fetch(used)
        d = self.datapath
        words = self.buffer.select(0, np.arange(len(used)) if self.one else used)
        self.counts.macs_pv += words.size
        return prob_value.weighted_sum(probability[used], words, d.prob_value_multipliers, d.word_bits, d.word_bits)

    def _fetch(self, positions: Ints) -> None:
        fetched = _through_dram(self.codes.code, positions, self.bits, "value", self.datapath, self.counts)
        self.buffer.fill(0, converter.to_words(fetched, self.bits, self.datapath.word_bits))
        self.buffer.open(0)


def _local_topk(probability: Ints, datapath: Datapath, policy: Policy) -> Ints:
    """Keys whose V is used (section III-C)."""
    kept, d = values_kept(policy.value_keep, len(probability)), datapath
    if kept == len(probability):
        return np.arange(kept)
    found: Ints = winners(probability.astype(float), kept, d.comparators, d.pass_overhead_cycles, np.uint64(d.seed))
    return found


def _finish(counts: Counts, key: Buffer, value: Buffer, probabilities: int) -> None:
    key.release(0)
    value.release(0)
    counts.accumulations = probabilities
    counts.key_lines_read, counts.key_lines_written = key.read, key.written
    counts.value_lines_read, counts.value_lines_written = value.read, value.written
