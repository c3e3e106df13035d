"""The quick-select top-k engine (arXiv 2012.09852, sections IV-B and IV-C, Alg. 3, Figs. 9 and 10).

rule         what planners use: how many passes, how many cycles, which winners
engine       the hardware, row by row: comparator arrays, FIFOs, filter
eliminator   the zero eliminator behind each array, shift by shift
sorter       what the paper compares with: merge sort on a Batcher network

The same engine in Verilog lies beside, in `dataflow/spatten/verilog`; docs/topk.md compares all.
"""

from dataflow.spatten.topk.eliminator import ZeroEliminator
from dataflow.spatten.topk.engine import Selection, TopKEngine
from dataflow.spatten.topk.rule import (
    filter_cycles,
    mean_cycles,
    next_random,
    select_by_rank,
    select_by_value,
    winners,
)
from dataflow.spatten.topk.sorter import BatcherSorter, compare_with_sorter

__all__ = [
    "BatcherSorter",
    "Selection",
    "TopKEngine",
    "ZeroEliminator",
    "compare_with_sorter",
    "filter_cycles",
    "mean_cycles",
    "next_random",
    "select_by_rank",
    "select_by_value",
    "winners",
]
