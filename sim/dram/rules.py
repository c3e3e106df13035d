"""The pairwise timing rules of a DRAM as a table, as the standards print them; independent of the controller."""

from dataclasses import dataclass

from sim.dram.spec import ACT, COMMAND_NAMES, PRE, PREA, RD, RDA, REF, REFB, WR, WRA, DramSpec

AUTO = len(COMMAND_NAMES)  # a bank that closes by itself after RDA or WRA: an event of ours, not a command of the trace
NAMES = (*COMMAND_NAMES, "auto-precharge")
READS, WRITES, COLUMNS, CLOSES = (RD, RDA), (WR, WRA), (RD, RDA, WR, WRA), (PRE, PREA, AUTO)


@dataclass(frozen=True)
class Rule:
    """`after` stays `cycles` from the last of `before` in the same `scope`, counted between the ends of the two."""

    name: str
    scope: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    cycles: int


def timing_rules(spec: DramSpec) -> tuple[Rule, ...]:
    """The pairwise rules, in memory cycles. PREA and REF act on each bank of their pseudo-channel."""
    written = spec.write_latency + spec.burst
    ccd_short_write, ccd_long_write = spec.ccd_short_write or spec.ccd_short, spec.ccd_long_write or spec.ccd_long
    return (
        Rule("tRC", "bank", (ACT,), (ACT, REF, REFB), spec.row_cycle),
        Rule("tRCD of reads", "bank", (ACT,), READS, spec.rcd_read),
        Rule("tRCD of writes", "bank", (ACT,), WRITES, spec.rcd_write),
        Rule("tRAS", "bank", (ACT,), (PRE, PREA), spec.ras),
        Rule("tRTP", "bank", READS, (PRE, PREA), spec.read_to_precharge),
        Rule("tWR", "bank", WRITES, (PRE, PREA), written + spec.write_recovery),
        Rule("tRP", "bank", CLOSES, (ACT, REF, REFB), spec.precharge),
        Rule("tRFC", "bank", (REF,), (ACT, REF), spec.refresh),
        Rule("tRFC of a bank", "bank", (REFB,), (ACT, REFB), spec.refresh_bank),
        Rule("tCCD_L of reads", "bank group", READS, READS, spec.ccd_long),
        Rule("tCCD_L of writes", "bank group", WRITES, WRITES, ccd_long_write),
        Rule("tWTR_L", "bank group", WRITES, READS, written + spec.write_to_read_long),
        Rule("tRRD_L", "bank group", (ACT,), (ACT,), spec.rrd_long),
        Rule("tCCD_S of reads", "pseudo-channel", READS, READS, spec.ccd_short),
        Rule("tCCD_S of writes", "pseudo-channel", WRITES, WRITES, ccd_short_write),
        Rule("tRTW", "pseudo-channel", READS, WRITES, spec.read_to_write),
        Rule("tWTR_S", "pseudo-channel", WRITES, READS, written + spec.write_to_read_short),
        Rule("tRRD_S", "pseudo-channel", (ACT,), (ACT, REFB), spec.rrd_short),
        Rule("tPPD", "pseudo-channel", (PRE, PREA), (PRE, PREA), spec.precharge_to_precharge),
        Rule("tRREFD", "pseudo-channel", (REFB,), (ACT, REFB), spec.refresh_bank_gap),
    )
