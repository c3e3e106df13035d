from typing import Any

import numpy as np
import pytest

from accel.gpu.attention import AttentionFit, FlashFit, LibraryDecodeFit, OurDecodeFit
from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from dataflow.gpu.attention import DECODE_KERNELS, PREFILL_KERNELS, decode_attention, prefill_attention
from dataflow.gpu.attention_work import block_queries, cudnn_splits, flash_splits, partly_hidden, walk

H200 = load_machine("h200")
FIT = load_fit("h200").attention
assert FIT is not None
CONTEXTS = 64.0 * np.arange(1, 400)
LLAMA = {"heads": 32, "kv_heads": 8, "head_size": 128}
WIDTH = {"ours": 16, "flash": 16, "cudnn": 16, "qserve": 4}


def free(**changes: float) -> AttentionFit:
    """Nothing costs anything but what is asked for."""
    none = dict.fromkeys(FlashFit.model_fields, 0.0)
    ones = dict.fromkeys(("hopper", "tensor", "within", "alone", "slowing_s", "memory_share", "combine_share"), 1.0)
    flash = FlashFit(**(none | ones | {"across": 50.0} | changes))
    return AttentionFit(prefill={"flash": flash})


def ours(**changes: float) -> AttentionFit:
    none = dict.fromkeys(OurDecodeFit.model_fields, 0.0)
    chosen = {"memory_share": 1.0, "overlap": 1.0, "across": 50.0}
    return AttentionFit(prefill={}, ours=OurDecodeFit(**(none | chosen | changes)))


def faster(machine: GpuMachine, **changes: Any) -> GpuMachine:
    return machine.model_copy(update=changes)


@pytest.mark.parametrize("kernel", DECODE_KERNELS)
@pytest.mark.parametrize("batch", [1, 16, 256])
def test_a_decode_step_is_never_below_its_floor_and_a_longer_cache_takes_longer(kernel: str, batch: int) -> None:
    made = decode_attention(H200, FIT, batch, CONTEXTS, **LLAMA, kv_bits=WIDTH[kernel], kernel=kernel)
    assert (made.seconds >= made.floor_s).all()
    # another split or tile may take a little less; 4096 tokens more never do
    assert (made.seconds[64:] > made.seconds[:-64]).all()
    assert (np.diff(made.dram_read_bytes) > 0).all()


@pytest.mark.parametrize("kernel", sorted(FIT.prefill))
@pytest.mark.parametrize("causal", [False, True])
def test_a_prefill_is_never_below_its_floor_and_a_longer_one_takes_longer(kernel: str, causal: bool) -> None:
    lengths = 256.0 * np.arange(1, 64)
    made = prefill_attention(H200, FIT, 4, 16, 16, lengths, lengths, 128, causal, kernel)
    assert (made.seconds >= made.floor_s).all()
    assert (made.seconds[4:] > made.seconds[:-4]).all()
    assert (made.operations["fp16"] >= 4 * 4 * 16 * 128 * lengths**2 / (2 if causal else 1)).all()


@pytest.mark.parametrize("kernel", DECODE_KERNELS)
def test_more_bandwidth_and_clock_are_never_slower(kernel: str) -> None:
    def seconds(machine: GpuMachine) -> Any:
        return decode_attention(machine, FIT, 64, CONTEXTS, **LLAMA, kv_bits=WIDTH[kernel], kernel=kernel).seconds

    memory = H200.memory.model_copy(update={"read_bytes_per_s": 9e12, "peak_bytes_per_s": 1e13})
    for changes in ({"memory": memory}, {"clock_hz": 2 * H200.clock_hz}):
        assert (seconds(faster(H200, **changes)) <= seconds(H200)).all()


def test_query_heads_of_a_group_share_the_bytes_of_their_keys_but_not_in_qserves_kernel_their_instructions() -> None:
    one, eight = (decode_attention(H200, FIT, 64, 4096, heads, 8, 128, 4) for heads in (8, 64))
    assert one.dram_read_bytes == eight.dram_read_bytes == 64 * 8 * 4096 * 2 * 68
    assert eight.seconds / one.seconds < 1.2
    theirs = [decode_attention(H200, FIT, 64, 4096, heads, 8, 128, 4, "qserve").seconds for heads in (8, 64)]
    assert theirs[1] / theirs[0] > 4


def test_codes_of_fewer_bits_are_fewer_bytes_with_their_scales() -> None:
    read = [decode_attention(H200, FIT, 2, 1024, 8, 8, 128, bits).dram_read_bytes[0] for bits in (4, 8, 16)]
    assert read == [2 * 8 * 1024 * 2 * row for row in (68, 132, 256)]


def test_a_stream_that_costs_nothing_but_bytes_takes_its_bytes_over_the_bandwidth() -> None:
    made = decode_attention(H200, ours(), 64, 8192, **LLAMA, kv_bits=16)
    expected = made.dram_read_bytes / H200.memory.read_bytes_per_s + H200.launch.graph_s
    assert made.seconds == pytest.approx(expected, rel=0.01)
    assert made.limited_by() == ["dram"]


def test_a_second_turn_of_blocks_starts_when_the_first_has_ended() -> None:
    # 2 x 132 blocks are resident with 16-bit caches: the 265th waits
    slow = ours(block_cycles=1e6)
    one, two = (decode_attention(H200, slow, 1, 64, heads, heads, 128, 16).seconds[0] for heads in (264, 265))
    assert (two - one) * H200.clock_hz == pytest.approx(1e6, rel=0.01)


def test_a_list_of_tokens_is_read_in_whole_sectors_and_pays_only_where_it_is_short() -> None:
    whole = decode_attention(H200, FIT, 64, 4096, **LLAMA, kv_bits=4)
    kept = decode_attention(H200, FIT, 64, 4096, **LLAMA, kv_bits=4, kept=[4096, 2048, 1024])
    assert kept.dram_read_bytes.tolist() == [64 * 8 * tokens * 160 for tokens in (4096, 2048, 1024)]
    assert kept.seconds[0] > whole.seconds[0] > kept.seconds[2]
    # measured on an H200, README of the kernel: 125, 66.5 and 38.7 us
    assert kept.seconds * 1e6 == pytest.approx([125, 66.5, 38.7], rel=0.1)


def test_products_of_full_tiles_take_their_operations_over_the_rate() -> None:
    made = prefill_attention(H200, free(), 33, 4, 4, 1024, 1024, 128)
    expected = 4 * 33 * 4 * 1024**2 * 128 / H200.per_s("fp16")
    softmax = 33 * 4 * 1024**2 / H200.per_s("special")
    assert made.seconds == pytest.approx(expected + softmax + H200.launch.graph_s)
    assert made.operations["special"] == 33 * 4 * 1024**2


def test_only_on_hopper_mma_sync_is_slower_than_the_tensor_cores() -> None:
    for name, slower in (("h200", 2.0), ("a100_80g_sxm", 1.0), ("rtx_5090", 1.0)):
        machine = load_machine(name)
        full, half = (prefill_attention(machine, free(hopper=share), 1, 1, 1, 128, 256, 128) for share in (1.0, 0.5))
        assert half.terms["tensor"] == pytest.approx(slower * full.terms["tensor"])


def test_a_multiprocessor_takes_whole_blocks() -> None:
    full, more = (prefill_attention(H200, free(), 1, heads, heads, 128, 256, 128) for heads in (264, 265))
    launch = H200.launch.graph_s
    assert (more.seconds - launch) / (full.seconds - launch) == pytest.approx(1.5)


def test_what_limits_is_named() -> None:
    long = prefill_attention(H200, FIT, 4, 32, 32, 4096, 4096, 128, kernel="cudnn")
    one = prefill_attention(H200, FIT, 1, 133, 133, 128, 65536, 128, kernel="cudnn")
    assert long.limited_by() == ["tensor"]
    # the last block of 133 has the card to itself
    assert one.terms["waves"] > 0.4 * one.seconds
    assert long.terms["waves"] < 0.05 * long.seconds
    assert decode_attention(H200, FIT, 256, 8192, **LLAMA, kv_bits=4).limited_by() == ["dram"]
    assert decode_attention(H200, FIT, 64, 4096, 64, 8, 128, 4, "qserve").limited_by() == ["alu"]


def test_causal_attention_computes_the_tiles_that_hold_a_score() -> None:
    found = walk(np.array([512.0]), np.array([512.0]), 128, np.array([64.0]), True)
    assert (found.tiles, found.longest, found.diagonal) == (2 + 4 + 6 + 8, 8, 8)
    suffix = walk(np.array([128.0]), np.array([512.0]), 128, np.array([128.0]), True)
    assert (suffix.tiles, suffix.longest) == (4, 4)


def test_splits_are_those_of_recorded_grids() -> None:
    heads = np.array([8.0, 32, 32, 128, 64, 16, 256])
    keys = np.array([1024.0, 1024, 4096, 4096, 16384, 256, 4096])
    size = np.array([128.0, 128, 128, 128, 128, 64, 64])
    assert flash_splits(heads, np.ones(7), keys, size, 132).tolist() == [8, 8, 7, 2, 4, 1, 1]
    assert cudnn_splits(heads, keys, 132).tolist() == [8, 8, 8, 1, 4, 1, 1]


def test_of_two_phases_the_longer_hides_the_other_but_for_what_is_exposed() -> None:
    sharp = 50.0
    assert partly_hidden(np.array([10.0]), np.array([4.0]), np.array([0.0]), sharp) == pytest.approx(10)
    assert partly_hidden(np.array([10.0]), np.array([4.0]), np.array([3.0]), sharp) == pytest.approx(13, rel=0.01)
    assert partly_hidden(np.array([2.0]), np.array([4.0]), np.array([9.0]), sharp) == pytest.approx(6, rel=0.01)


def test_operands_that_fit_the_cache_stay_there() -> None:
    made = prefill_attention(H200, FIT, 1, 16, 16, [512, 16384], [512, 16384], 72)
    # 115.3 and 42.7 MB by the counters of an H200 (calibration_h200.json), 113 and 38 are compulsory
    assert made.dram_read_bytes[0] == 0
    assert made.dram_read_bytes[1] == pytest.approx(115.3e6, rel=0.05)


def test_keys_and_values_that_heads_share_are_read_once() -> None:
    own, shared = (prefill_attention(H200, FIT, 8, 32, kv, 8192, 8192, 128) for kv in (32, 8))
    assert own.seconds == pytest.approx(shared.seconds)
    assert own.dram_read_bytes - shared.dram_read_bytes == pytest.approx(4 * 8 * 24 * 8192 * 128)
    few = [prefill_attention(H200, FIT, 8, 32, kv, 1, 65536, 128).floor_s for kv in (32, 8)]
    cache = 4 * 8 * 65536 * 128
    apart = (32 - 8) * cache / H200.memory.peak_bytes_per_s
    assert few[0] - few[1] == pytest.approx(apart)


def test_other_gpus_take_what_their_units_say() -> None:
    times = {}
    for name in ("h200", "a100_80g_sxm", "l40s", "rtx_4090", "rtx_5090"):
        machine = load_machine(name)
        for bits in (4, 16):
            made = decode_attention(machine, FIT, 64, 4096, **LLAMA, kv_bits=bits)
            assert made.seconds >= made.floor_s
        long = prefill_attention(machine, FIT, 4, 16, 16, 4096, 4096, 128)
        share = 4 * 4 * 16 * 4096**2 * 128 / long.seconds[0] / machine.per_s("fp16")
        times[name] = share
    # of the peak: FlashAttention 2 reaches 0.37 on Hopper, more where mma.sync is all there is
    assert times["h200"] < 0.4 < times["a100_80g_sxm"] < times["rtx_5090"] <= 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: decode_attention(H200, FIT, 1, 64, 8, 8, 128, kernel="flush"), "kernel: .* 'flush' .*flash"),
        (lambda: decode_attention(H200, FIT, 0, 64, 8, 8, 128), "batch: must be whole numbers >= 1, got 0"),
        (lambda: decode_attention(H200, FIT, 1, 64, 12, 8, 128), "heads: must be a multiple of kv_heads, got 12"),
        (lambda: decode_attention(H200, FIT, 1, 64, 8, 8, 128, 5), "caches of"),
        (lambda: decode_attention(H200, FIT, 1, 64, 8, 8, 128, 4, "flash"), "kv_bits: flash reads caches of 16 bits"),
        (lambda: decode_attention(H200, FIT, 1, 64, 8, 8, 128, kept=65), "kept: must be at most the context, got 65"),
        (lambda: decode_attention(H200, FIT, 1, 64, 8, 8, 128, kernel="flash", kept=3), "kept: only our kernel"),
        (lambda: prefill_attention(H200, FIT, 1, 8, 8, 65, 64, 128, causal=True), "queries: causal"),
        (lambda: prefill_attention(H200, FIT, 1, 8, 8, 64, 64, 512), "head_size: flash has kernels up to 256"),
        (lambda: prefill_attention(H200, FIT, 1, 8, 8, 64, 64, 64, kernel="cuddn"), "kernel: .*cudnn"),
        (lambda: decode_attention(H200, AttentionFit(prefill={}), 1, 64, 8, 8, 128), "kernel: this fit has no 'ours'"),
    ],
)
def test_faults_name_what_is_wrong(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_every_name_of_a_kernel_is_known() -> None:
    assert set(FIT.prefill) <= set(PREFILL_KERNELS)
    assert isinstance(FIT.cudnn_decode, LibraryDecodeFit)


def test_a_mask_costs_as_much_as_in_recorded_traces() -> None:
    # sana_1600m_batch2, _size2048, _size4096 and pixart_sigma_batch2 on an H200: cross attention of a layer, eager, us
    measured = {(20, 1024, 112): 33.6, (20, 4096, 112): 103.7, (20, 16384, 112): 381.1, (16, 4096, 72): 82.8}
    for (heads, queries, size), us in measured.items():
        shape = 2, heads, heads, queries, 300, size
        plain, biased = (prefill_attention(H200, FIT, *shape, False, "cudnn", one).seconds for one in (False, True))
        assert plain < biased
        assert biased * 1e6 == pytest.approx(us, rel=0.05)


def test_attention_of_whole_models_takes_what_their_traces_say() -> None:
    # eager traces on an H200, cuDNN's kernels: flux_dev, pixart_sigma_batch2, llama3_8b, qwen15_72b, us a layer
    measured = {
        (1, 24, 4608, 128, False): 394.9,
        (2, 16, 4096, 72, False): 399.8,
        (1, 32, 1024, 128, True): 30.8,
        (1, 64, 1024, 128, True): 48.9,
    }
    for (batch, heads, length, size, causal), us in measured.items():
        made = prefill_attention(H200, FIT, batch, heads, heads, length, length, size, causal, "cudnn")
        assert made.seconds * 1e6 == pytest.approx(us, rel=0.06)


def test_large_heads_have_blocks_of_half_as_many_queries_where_two_share_a_multiprocessor() -> None:
    size = np.array([128.0, 256.0])
    assert block_queries("flash", size, "sm_90").tolist() == [128, 64]
    assert block_queries("flash", size, "sm_80").tolist() == [128, 128]
    # printed label of FlashAttention-3's figure, an H100, 16384 tokens, 8 heads of 256: 326 TFLOPS
    made = prefill_attention(load_machine("h100_sxm"), FIT, 1, 8, 8, 16384, 16384, 256)
    assert 4 * 8 * 16384**2 * 256 / made.seconds / 1e12 == pytest.approx(326, rel=0.2)


def test_qserves_kernel_is_predicted_without_a_number_fitted_to_it() -> None:
    # gpu_kernels/bench/peers_h200.csv: batch 64 and 256, 1024 and 8192 tokens
    made = decode_attention(H200, FIT, [64, 256, 64, 256], [1024, 1024, 8192, 8192], 32, 8, 128, 4, "qserve")
    assert made.seconds * 1e6 == pytest.approx([166.4, 624.76, 1424.98, 5402.5], rel=0.15)
    assert set(made.limited_by()) == {"alu"}


def test_a_gpu_without_tensor_cores_is_refused() -> None:
    """It has no rate to divide by: the answer would be an infinite time."""
    from dataflow.gpu.predict_attention import predict_attention, predict_prefill

    with pytest.raises(ValueError, match="need tensor cores"):
        predict_attention("titan_xp_gpu", 1, 1000, 32, 8)
    with pytest.raises(ValueError, match="need tensor cores"):
        predict_prefill("titan_xp_gpu", 1, 128, 32, 32)
