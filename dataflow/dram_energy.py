"""Energy of a DRAM from its command counts: by component, and shared out over operands.

Parts with data-sheet currents are priced as DRAMPower does it (a rank's core energy, every bank's background at the
current of an open rank): each command costs the current above standby for as long as it runs. Parts with published
energies by event are priced by event. I/O is added where a public source gives it; `left_out` of the part's energy
says what is missing.
"""

from collections.abc import Mapping

from accel.dram_energy import Currents, Events, Supply
from accel.memory import Standard

COMPONENTS = ("activate", "precharge", "read", "write", "refresh", "background", "io")
_PJ = 1e-12
_MW = 1e-3


def dram_energy(
    standard: Standard,
    commands: Mapping[str, int],
    elapsed_cycles: float = 0.0,
    active_cycles: float = 0.0,
    channels: int = 1,
) -> dict[str, float]:
    """Energy in joules of each of COMPONENTS.

    commands        counts over all channels: activates, precharges (banks closed, however), reads, writes (bursts),
                    refreshes (of all banks of a pseudo-channel), refreshes_bank; a missing name counts as 0
    elapsed_cycles  length of the run in memory cycles
    active_cycles   cycles with a bank open or refreshing, summed over all pseudo-channels
    """
    of_all = elapsed_cycles * channels * standard.organisation.pseudo_channels
    idle = max(0.0, of_all - active_cycles)
    counts = {name: commands.get(name, 0) for name in _COUNTED}
    e = standard.energy
    if isinstance(e, Currents):
        return _by_currents(standard, e, counts, active_cycles, idle)
    return _by_events(standard, e, counts, active_cycles, idle)


_COUNTED = ("activates", "precharges", "reads", "writes", "refreshes", "refreshes_bank")


def _by_currents(
    standard: Standard, e: Currents, counts: Mapping[str, int], active: float, idle: float
) -> dict[str, float]:
    total = dict.fromkeys(COMPONENTS, 0.0)
    for supply in e.supplies:
        for name, charge in _charges(standard, supply, counts, active, idle).items():
            total[name] += charge * supply.volts * e.devices * standard.clock_period_ps * _PJ * _MW
    bits = standard.organisation.burst_bytes * 8
    io = counts["reads"] * (e.io_read_pj_per_bit or 0) + counts["writes"] * (e.io_write_pj_per_bit or 0)
    return total | {"io": io * bits * _PJ}


def _charges(standard: Standard, s: Supply, counts: Mapping[str, int], active: float, idle: float) -> dict[str, float]:
    """Milliamperes x memory cycles of one device; a refresh of one bank takes the current of all banks' share."""
    t, o = standard.timing, standard.organisation
    share = t.refresh_cycles / (o.bank_groups * o.banks_per_group)
    return {
        "activate": counts["activates"] * (s.idd0_ma - s.idd3n_ma) * t.ras_cycles,
        "precharge": counts["precharges"] * (s.idd0_ma - s.idd2n_ma) * t.precharge_cycles,
        "read": counts["reads"] * (s.idd4r_ma - s.idd3n_ma) * t.burst_cycles,
        "write": counts["writes"] * (s.idd4w_ma - s.idd3n_ma) * t.burst_cycles,
        "refresh": (s.idd5b_ma - s.idd3n_ma)
        * (counts["refreshes"] * t.refresh_cycles + counts["refreshes_bank"] * share),
        "background": s.idd3n_ma * active + s.idd2n_ma * idle,
    }


def _by_events(
    standard: Standard, e: Events, counts: Mapping[str, int], active: float, idle: float
) -> dict[str, float]:
    """An activate is priced with the precharge that follows it; a refresh of one bank is a share of all banks'."""
    o = standard.organisation
    bits = o.burst_bytes * 8
    core = (e.array_pj_per_bit + e.transport_pj_per_bit) * bits * _PJ
    refreshes = counts["refreshes"] + counts["refreshes_bank"] / (o.bank_groups * o.banks_per_group)
    watts = active * (e.background_active_w or 0) + idle * (e.background_precharged_w or 0)
    return {
        "activate": counts["activates"] * e.activate_pj * _PJ,
        "precharge": 0.0,
        "read": counts["reads"] * core,
        "write": counts["writes"] * core,
        "refresh": refreshes * (e.refresh_pj or 0) * _PJ,
        "background": watts * standard.clock_period_ps * _PJ,
        "io": (counts["reads"] + counts["writes"]) * bits * e.io_pj_per_bit * _PJ,
    }


def by_operand(
    standard: Standard,
    energy: Mapping[str, float],
    moved: Mapping[str, tuple[int, int]],
    activates: Mapping[str, int] | None = None,
) -> dict[str, dict[str, float]]:
    """`energy` (of `dram_energy`) shared out: joules by operand and component; the sums stay.

    moved      bytes (read, written) of each operand
    activates  activates that each operand caused, where they were counted

    Reads and writes go by bytes in their direction; activates and precharges by activates, or by bytes where they
    were not counted; refresh and background belong to nobody and go by bytes.
    """
    both = {name: float(read + written) for name, (read, written) in moved.items()}
    read = {name: float(r) for name, (r, _) in moved.items()}
    written = {name: float(w) for name, (_, w) in moved.items()}
    rows = both if activates is None else {name: float(activates.get(name, 0)) for name in moved}
    e = standard.energy
    r, w = _io_weights(e)
    weights = dict.fromkeys(COMPONENTS, both) | {"activate": rows, "precharge": rows, "read": read, "write": written}
    weights["io"] = {name: r * read[name] + w * written[name] for name in moved}
    return {name: {part: joules * _share(weights[part], name) for part, joules in energy.items()} for name in moved}


def _io_weights(e: Currents | Events) -> tuple[float, float]:
    if isinstance(e, Events):
        return 1.0, 1.0
    return e.io_read_pj_per_bit or 0.0, e.io_write_pj_per_bit or 0.0


def _share(weights: Mapping[str, float], name: str) -> float:
    """Evenly where nothing weighs."""
    total = sum(weights.values())
    return weights[name] / total if total else 1 / len(weights)


def dram_energy_j(
    standard: Standard,
    commands: Mapping[str, int],
    cycles: tuple[float, float],
    channels: int,
    moved: Mapping[str, tuple[int, int]],
    activates: Mapping[str, int],
) -> tuple[dict[str, float], dict[str, float]]:
    """Energy of the DRAM by component ("dram_activate", ...) and by operand.

    cycles      memory cycles of the run, and of all pseudo-channels with a row open or refreshing
    moved       bytes (read, written) of each operand
    activates   activates on behalf of each operand
    """
    energy = dram_energy(standard, commands, *cycles, channels)
    shared = by_operand(standard, energy, moved, activates)
    parts = {f"dram_{name}": joules for name, joules in energy.items() if joules}
    return parts, {name: sum(joules.values()) for name, joules in shared.items()}
