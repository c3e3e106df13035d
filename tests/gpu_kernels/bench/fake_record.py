"""A record of the bench as a run would write it, with times that follow from its floors: no GPU was there."""

from dataclasses import asdict
from typing import Any

from gpu_kernels.bench.recorded import figures
from gpu_kernels.bench.shapes import attentions, gemms

READ, INT8 = 4.5e12, 1.9e15  # bytes, operations a second
OVER_FLOOR = {"w4a8_channel": 1.5, "w4a8_group": 1.75, "w8a8": 2.5, "w4a16": 3.0, "torch_fp8": 4.0}


def column(us: float) -> dict[str, Any]:
    return {"us": us, "least_us": us, "most_us": us, "sets": 3, "calls": 30}


def fake_record() -> dict[str, Any]:
    state = {"least": 1000.0, "median": 1500.0, "most": 1980.0}
    rows = [*map(gemm_row, gemms()), *map(attention_row, attentions())]
    return {
        "format": "kernels_bench 1",
        "device": "a GPU that is not there",
        "architecture": "sm_90a",
        "driver": "1.2",
        "cuda": "13.0",
        "nvrtc": "13.0",
        "packages": {"torch": "2.11"},
        "date": "2026",
        "commit": "abc",
        "seconds": 200.0,
        "state": {"clocks.sm": state, "power.draw": state},
        "ceilings": {
            "read_bytes_per_s": READ,
            "int8_registers_per_s": INT8,
            "launch_us": 1.5,
            "int8_sustained": {"state": {"clocks.sm": state}},
            "refused": {"torch": "RuntimeError: no"},
        },
        "rows": [*rows, layer_row(64, 2.5), layer_row(128, 2.9), {"part": "ablations", "name": "", "columns": {},
                                                                  "refused": "ModuleNotFoundError: no"}],
    }  # fmt: skip


def gemm_row(shape: Any) -> dict[str, Any]:
    floors = {"channel": shape.floor_us(READ, INT8), "group": shape.floor_us(READ, INT8, grouped=True)}
    columns = {name: column(over * floors["channel"]) for name, over in OVER_FLOOR.items()}
    columns["w4a8_group"] = column(OVER_FLOOR["w4a8_group"] * floors["group"])
    columns["torch_bf16"] = column(2 * figures()["gemm", shape.name]["torch_bf16"])  # half as fast as when recorded
    columns["torch_int8"] = {"refused": "RuntimeError: no"}
    return {"part": "gemm", "name": shape.name, **asdict(shape), "floor_us": floors, "columns": columns}


def attention_row(shape: Any) -> dict[str, Any]:
    floors = {str(bits): shape.floor_us(READ, bits) for bits in (4, 8, 16)}
    columns = {"kv4": column(1.25 * floors["4"]), "sdpa_cudnn": column(1.1 * floors["16"])}
    columns["sdpa_flash"] = column(1.2 * floors["16"])
    return {"part": "attention", "name": shape.name, **asdict(shape), "floor_us": floors, "columns": columns}


def layer_row(batch: int, speed: float) -> dict[str, Any]:
    columns = {"tilewright": column(100.0), "torch_graph": column(100.0 * speed), "torch_compile": column(400.0)}
    return {"part": "layer", "name": f"batch {batch}", "batch": batch, "context": 1024, "columns": columns}
