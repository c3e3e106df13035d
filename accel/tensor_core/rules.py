"""The rule by which a tensor core adds products to an accumulator, by architecture, operand and instruction.

K is walked upwards in blocks of `width`. The products of a block and the accumulator are added at once:

1. Each product is exact; its exponent is the sum of its operands' exponents (the significand lies in [1, 4)); a
   subnormal operand has the smallest normal exponent. The accumulator's exponent is its own, at least -126.
2. All are aligned to the largest of these exponents and cut, towards zero, after `fraction_bits` bits behind it.
3. What is left is added exactly.
4. The sum is cut, towards zero, to `result_bits` bits behind its leading one, and goes on in float32. With float16
   sums it is rounded to float16 instead, to nearest even.

So a block is neither a chain of FMAs nor a rounded exact sum, and the order inside a block does not matter. Infinities
and NaN go through as in IEEE 754, a sum of zero is +0, and what leaves the range of float32 becomes infinite.

An H200 has no mma.sync of 8-bit floats: the assembler (ptxas of CUDA 13.0) makes float16 of the bytes and adds two
float16 products of depth 16 from zero, then c in float32. MMA-Sim, which agrees with every other H200 rule here, lists
this one as a block of 32 with 25 bits; it is the compiler's, so another version may well do it otherwise.
"""

from dataclasses import dataclass
from difflib import get_close_matches

LEAST_EXPONENT = {
    "float16": -14,
    "bfloat16": -126,
    "e4m3": -6,
    "e5m2": -14,
    "float32": -126,
}  # of normal numbers of these formats
PROBED = "probed: gpu_kernels/results/arithmetic_probe_h200.json"
PUBLISHED = "assumed: published by MMA-Sim (arXiv 2511.10909) from runs on this architecture; not run by us"


@dataclass(frozen=True)
class Accumulation:
    """One rule (see above).

    evidence   where it was seen, or "assumed: ..."
    sums       "float32", or "float16" with result_bits 0
    emulated   8-bit floats by float16 products, to whose blocks the numbers belong
    """

    architecture: str
    operand: str
    instruction: str
    width: int
    fraction_bits: int
    result_bits: int
    evidence: str
    sums: str = "float32"
    emulated: bool = False

    @property
    def assumed(self) -> bool:
        """Whether nobody has run this architecture for us."""
        return self.evidence.startswith("assumed")


def _sixteen(architecture: str, width: int, fraction_bits: int, evidence: str) -> list[Accumulation]:
    """Both 16-bit formats add alike; Volta and Turing take float16 alone."""
    forms = ("float16",) if architecture in ("sm_70", "sm_75") else ("float16", "bfloat16")
    return [Accumulation(architecture, form, "mma", width, fraction_bits, 23, evidence) for form in forms]


def _eight(
    architecture: str, instruction: str, width: int, bits: tuple[int, int], evidence: str, emulated: bool = False
) -> list[Accumulation]:
    return [
        Accumulation(architecture, form, instruction, width, *bits, evidence, emulated=emulated)
        for form in ("e4m3", "e5m2")
    ]


_TABLE = [
    *_sixteen("sm_70", 4, 23, PUBLISHED),
    *_sixteen("sm_75", 8, 24, PUBLISHED),
    *_sixteen("sm_80", 8, 24, PUBLISHED),
    *_sixteen("sm_86", 8, 24, PUBLISHED),
    *_sixteen("sm_89", 8, 24, PUBLISHED),
    *_eight("sm_89", "mma", 16, (13, 13), PUBLISHED),
    *_sixteen("sm_90", 16, 25, PROBED),
    *(Accumulation("sm_90", form, "wgmma", 16, 25, 23, PROBED) for form in ("float16", "bfloat16")),
    *_eight("sm_90", "mma", 16, (25, 23), PROBED, emulated=True),
    *_eight("sm_90", "wgmma", 32, (13, 13), PROBED),
    *_sixteen("sm_100", 16, 25, PUBLISHED),
    *_eight("sm_100", "mma", 32, (25, 23), PUBLISHED),
    *_sixteen("sm_120", 16, 25, PUBLISHED),
    *_eight("sm_120", "mma", 32, (25, 23), PUBLISHED),
]
_RULES = {(one.architecture, one.operand, one.instruction): one for one in _TABLE}


def architectures() -> tuple[str, ...]:
    """Architectures with a rule, oldest first."""
    return tuple(dict.fromkeys(one.architecture for one in _TABLE))


def rule(architecture: str, operand: str, instruction: str = "mma") -> Accumulation:
    """The rule of `architecture` ("sm_90") for `operand` ("float16", "bfloat16", "e4m3", "e5m2").

    instruction: "mma" (mma.sync) or "wgmma". Raises ValueError where there is no such rule.
    """
    found = _RULES.get((architecture, operand, instruction))
    if found is None:
        names = [f"{a} {o} {i}" for a, o, i in _RULES]
        near = get_close_matches(f"{architecture} {operand} {instruction}", names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"tensor core: no rule for {architecture} {operand} {instruction}{hint}")
    return found
