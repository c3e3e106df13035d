"""Heads of attention for SpAtten's modules: the machine, operands, policies."""

from functools import cache

import numpy as np

from accel.machine import load_machine
from accel.spatten import SpattenMachine
from dataflow.spatten.modules.attention import Datapath, Head, attend
from workloads.policy import Policy

Operands = tuple[np.ndarray, np.ndarray, np.ndarray]
STATIC = Policy()


@cache
def spatten() -> SpattenMachine:
    loaded = load_machine("spatten")
    assert isinstance(loaded, SpattenMachine)
    return loaded


def run(operands: Operands, policy: Policy = STATIC) -> Head:
    return attend(*operands, Datapath.of(spatten()), policy)


def normal(seed: int, queries: int, keys: int, size: int, spread: float = 1.0) -> Operands:
    rng = np.random.default_rng(seed)
    return rng.normal(0, spread, (queries, size)), rng.normal(size=(keys, size)), rng.normal(size=(keys, size))


POLICIES = {
    "static": STATIC,
    "8 bit": Policy(query_bits=8, key_msb_bits=8, value_bits=8),
    "6+4": Policy(key_msb_bits=6, key_lsb_bits=4, value_bits=6, lsb_threshold=0.3),
    "8+4, local": Policy(key_msb_bits=8, key_lsb_bits=4, lsb_threshold=0.15, value_keep=0.3),
    "4+4": Policy(key_msb_bits=4, key_lsb_bits=4, value_bits=4, value_keep=0.5, lsb_threshold=0.2),
}
