"""tilewright: what a quantized or sparse model costs on a piece of hardware, and what that should be.

    import tilewright as tw

    result = tw.simulate(tw.load_machine("spatten"), tw.load_workload("minilm"), tw.Policy(token_keep=0.5))
    print(result.latency_s, result.limited_by)
    print(tw.predict_gemm("h200", "w4a8", m=64, n=4096, k=4096).row(0))

Every name here is imported on first use, so `import tilewright` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accel.loading import Faults as Faults
    from accel.machine import Machine as Machine
    from accel.machine import load_machine as load_machine
    from accel.machine import machine_names as machine_names
    from analysis.api import pareto as pareto
    from analysis.api import run as run
    from analysis.reproduce.table import reproduce_spatten as reproduce_spatten
    from analysis.running import SweepRun as SweepRun
    from analysis.running import run_sweep as run_sweep
    from analysis.sweep import Sweep as Sweep
    from analysis.sweep import points as points
    from analysis.sweep import read_sweep as read_sweep
    from dataflow.gpu.predict import predict_attention as predict_attention
    from dataflow.gpu.predict import predict_convolution as predict_convolution
    from dataflow.gpu.predict import predict_copy as predict_copy
    from dataflow.gpu.predict import predict_elementwise as predict_elementwise
    from dataflow.gpu.predict import predict_gemm as predict_gemm
    from dataflow.gpu.predict import predict_linear_attention as predict_linear_attention
    from dataflow.gpu.predict import predict_prefill as predict_prefill
    from dataflow.gpu.predict import predict_rows as predict_rows
    from dataflow.gpu.prediction import Prediction as Prediction
    from dataflow.simulate import simulate as simulate
    from sim.result import Result as Result
    from workloads.export import export as export
    from workloads.export import export_model as export_model
    from workloads.policy import Policy as Policy
    from workloads.schemes import annotate as annotate
    from workloads.schemes import weight_bytes as weight_bytes
    from workloads.trace import Trace as Trace
    from workloads.trace import load_workload as load_workload
    from workloads.trace import workload_names as workload_names
    from workloads.trace_file import write_trace as write_trace

_HOME = {
    "Faults": "accel.loading",
    "Machine": "accel.machine",
    "Policy": "workloads.policy",
    "Prediction": "dataflow.gpu.prediction",
    "Result": "sim.result",
    "Sweep": "analysis.sweep",
    "SweepRun": "analysis.running",
    "Trace": "workloads.trace",
    "annotate": "workloads.schemes",
    "export": "workloads.export",
    "export_model": "workloads.export",
    "load_machine": "accel.machine",
    "load_workload": "workloads.trace",
    "machine_names": "accel.machine",
    "pareto": "analysis.api",
    "points": "analysis.sweep",
    "predict_attention": "dataflow.gpu.predict",
    "predict_convolution": "dataflow.gpu.predict",
    "predict_copy": "dataflow.gpu.predict",
    "predict_elementwise": "dataflow.gpu.predict",
    "predict_gemm": "dataflow.gpu.predict",
    "predict_linear_attention": "dataflow.gpu.predict",
    "predict_prefill": "dataflow.gpu.predict",
    "predict_rows": "dataflow.gpu.predict",
    "read_sweep": "analysis.sweep",
    "reproduce_spatten": "analysis.reproduce.table",
    "run": "analysis.api",
    "run_sweep": "analysis.running",
    "simulate": "dataflow.simulate",
    "weight_bytes": "workloads.schemes",
    "workload_names": "workloads.trace",
    "write_trace": "workloads.trace_file",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
    import_module("analysis.cache").use_kernel_cache()  # before Numba is imported
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
