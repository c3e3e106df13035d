"""SpAtten's thirty benchmarks as data (`workloads/benchmarks/specs/*.yaml`), and the attention work they imply.

trace = load_workload("bert_base_cola")
attention_work(trace, None)            # under the file's own policy, by `workloads.replay`
sampled_work(trace, None, every=8)     # a few generation steps that stand for all
"""

from workloads.benchmarks.file import Benchmark, Shape, benchmark_trace, length_ranges, read_benchmark
from workloads.benchmarks.work import attention_work, sampled_work
from workloads.trace import benchmark_names

__all__ = [
    "Benchmark",
    "Shape",
    "attention_work",
    "benchmark_names",
    "benchmark_trace",
    "length_ranges",
    "read_benchmark",
    "sampled_work",
]
