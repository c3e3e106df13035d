"""The bench without a GPU: shapes and floors, recorded peers, goals and tables of a made-up record, guards."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpu_kernels import record, runtime
from gpu_kernels.bench import contest, parts, recorded, suite, timing, variants
from gpu_kernels.bench import goals as aims
from gpu_kernels.bench.shapes import Attention, Gemm, attentions, gemms
from gpu_kernels.bench.tables import markdown, tables
from tests.gpu_kernels.bench.fake_record import INT8, READ, fake_record

FOLDER = Path(suite.__file__).parent


def test_shapes() -> None:
    assert len(list(gemms())) == len({shape.name for shape in gemms()}) == 66
    assert len(list(attentions())) == 16
    assert {shape.kind for shape in gemms()} == {"M <= 64", "M 128 to 256", "M >= 1024", "FLUX"}


def test_floors() -> None:
    small = Gemm("l3-8b o", 1, 4096, 4096)
    assert small.bytes_moved() == 4096 * 4096 // 2 + 4096 + 2 * 4096 + 4 * 4096
    assert small.bytes_moved(grouped=True) - small.bytes_moved() == 2 * 4096 * 32
    assert small.floor_us(4.5672e12, 1.9258e15) == pytest.approx(1.84, abs=0.005)
    assert Gemm("x", 4096, 49152, 8192).floor_us(4.5672e12, 1.9258e15) == pytest.approx(1712.81, rel=1e-4)
    assert Attention(64, 1024).floor_us(4.5672e12) == pytest.approx(15.61, abs=0.01)
    assert Attention(64, 1024).floor_us(4.5672e12, 16) == pytest.approx(58.77, abs=0.01)


def test_operand_sets_outgrow_the_cache_and_replays_are_long_enough() -> None:
    assert timing.sets_for(8 << 20, 60 << 20) * (8 << 20) >= 4 * (60 << 20)
    assert timing.sets_for(1 << 30, 60 << 20) == 1
    assert timing.calls_for(30, 2.0) == 270
    assert timing.calls_for(3, 1e9) == 3
    assert timing.calls_for(7, 100.0) % 7 == 0


def test_recorded_peers_are_scaled_by_the_yardstick() -> None:
    known = recorded.figures()["gemm", "1x6144x4096"]
    assert known["torch_bf16"] == 15.64
    assert recorded.scaled("gemm", "1x6144x4096", 31.28) == pytest.approx(
        {name: 2 * us for name, us in known.items() if name != "torch_bf16"}
    )
    assert recorded.scaled("gemm", "1x6144x4096", None) == {}
    assert recorded.scaled("attention", "batch 256 context 8192", 100.0) == {}  # torch's was not recorded there


def test_every_shape_has_recorded_peers() -> None:
    assert {name for kind, name in recorded.figures() if kind == "gemm"} == {shape.name for shape in gemms()}
    assert {name for kind, name in recorded.figures() if kind == "attention"} == {shape.name for shape in attentions()}


def test_goals_of_a_record() -> None:
    found = {goal.text: goal for goal in aims.goals(fake_record())}
    large = found["KV4 attention, batch >= 64: mean time over floor"]
    assert (large.found, large.reached, large.aimed) == (pytest.approx(1.25), "yes", "no")
    small = found["w4a8_channel, M <= 64: mean time over floor"]
    assert (small.found, small.reached, small.aimed) == (pytest.approx(1.5), "yes", "yes")
    assert found["w4a8_group, M >= 1024: mean time over floor"].found == pytest.approx(1.75)
    assert found["w4a8_channel, M >= 1024: times faster than torch_int8, mean"].found is None
    layers = [found[f"decode layer, batch {batch}: times faster than torch"] for batch in (64, 128, 256)]
    assert [(goal.found, goal.reached, goal.aimed) for goal in layers] == [
        (2.5, "yes", "no"),
        (2.9, "yes", "yes"),
        (None, "", ""),
    ]


def test_worst_shape_is_named() -> None:
    rows = aims.part(fake_record(), "gemm")
    rows[5] = rows[5] | {"columns": rows[5]["columns"] | {"w4a8_channel": {"us": 1e6}}}
    ratio, where = aims.worst(rows, "w4a8_channel", aims.peer_named("torch_bf16"))
    assert (where, ratio) == (rows[5]["name"], pytest.approx(1e6 / rows[5]["columns"]["torch_bf16"]["us"]))
    (goal,) = [
        one
        for one in aims.goals({"rows": rows})
        if one.text.startswith("w4a8_channel, any shape: worst time over torch")
    ]
    assert (goal.reached, goal.where) == ("no", rows[5]["name"])


def test_the_best_peer_may_be_a_recorded_one() -> None:
    row = next(row for row in fake_record()["rows"] if row["name"] == "1x4096x14336")
    assert aims.best_peer(row) == pytest.approx(min(2 * 17.71, 4 * row["floor_us"]["channel"]))


def test_goals_are_met_on_their_side() -> None:
    most = aims.Goal("", 1.5, 1.5, 1.2)
    assert (most.reached, most.aimed, replace(most, found=1.6).reached) == ("yes", "no", "no")
    least = aims.Goal("", 2.0, 2.3, None, at_most=False)
    assert (least.reached, least.aimed, replace(least, found=2.3).reached) == ("no", "", "yes")


def test_tables_hold_every_shape_and_what_was_not_measured() -> None:
    by_title = {title: rows for title, _, rows in tables(fake_record())}
    text = markdown(fake_record())
    assert len(next(rows for title, rows in by_title.items() if title.startswith("GEMM, ours and"))) == 66
    assert len(next(rows for title, rows in by_title.items() if title.startswith("Decode attention"))) == 16
    assert ["gemm torch_int8", "66", "1x6144x4096", "RuntimeError: no"] in by_title["Not measured"]
    assert ["ablations", "1", "", "ModuleNotFoundError: no"] in by_title["Not measured"]
    assert "(67 %)" in text  # 1 / 1.5
    assert "| Marlin* |" in text
    assert "4.5 TB/s" in text
    assert markdown(fake_record(), "Goals").count("**") == 2


def test_means_follow_from_the_rows() -> None:
    means = next(rows for title, _, rows in tables(fake_record()) if title.startswith("GEMM, geometric"))
    assert [row[1:3] for row in means] == [["1.50", "1.75"]] * 4


def test_tables_of_a_record_cut_short() -> None:
    cut = fake_record() | {"rows": fake_record()["rows"][:1]}
    assert any(title == "Goals" for title, _, _ in tables(cut))
    empty = fake_record() | {"rows": [], "ceilings": {}}
    assert all(goal.found is None for goal in aims.goals(empty))
    assert tables(empty)


def test_a_failure_stays_in_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(shape: Any, sets: int) -> Any:
        raise RuntimeError("out of everything\nmore")

    monkeypatch.setattr(contest, "measure", lambda calls, us: timing.Timing(1.23456789, 1.0, 2.0, 2.5, 3, len(calls)))
    monkeypatch.setattr(contest, "_check_room", lambda wanted: None)
    contenders = {
        "fails": contest.Contender(fail, lambda shape: 1),
        "wrong": contest.Contender(lambda shape, sets: ([], "7 elements differ"), lambda shape: 1),
        "right": contest.Contender(lambda shape, sets: ([print] * sets, ""), lambda shape: 100),
    }
    found = contest.columns(None, contenders, 1.0, 100)
    assert found["fails"] == {"refused": "RuntimeError: out of everything"}
    assert found["wrong"] == {"refused": "wrong: 7 elements differ"}
    assert found["right"] == {"us": 1.2346, "least_us": 1.0, "most_us": 2.0, "slower_us": 2.5, "sets": 3, "calls": 4}


class NoWatch:
    def __enter__(self) -> "NoWatch":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def since(self, begin_s: float) -> dict[str, Any]:
        return {}


@pytest.fixture
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench whose device is made up."""
    from gpu_kernels.bench import ceilings

    limits = {"read_bytes_per_s": READ, "int8_registers_per_s": INT8}
    monkeypatch.setattr(runtime, "architecture", lambda: "sm_90a")
    monkeypatch.setattr(record, "Watch", NoWatch)
    told = {"l2_bytes": 60 << 20, "architecture": "sm_90a"}
    monkeypatch.setattr(runtime, "multiprocessors", lambda: 132)
    monkeypatch.setattr(suite, "compile_all", lambda some, architecture: len(some))
    monkeypatch.setattr(record, "surroundings", lambda commit: told | {"commit": commit})
    monkeypatch.setattr(ceilings, "ceilings", lambda sustained, watch: dict(limits))


@pytest.mark.usefixtures("no_gpu_needed")
def test_a_run_keeps_every_row_that_was_there_before_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def rows(limits: Any) -> Any:
        yield {"name": "first", "columns": {}}
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(parts, "brought_rows", lambda part, limits: ({"part": part} | row for row in rows(limits)))
    monkeypatch.setattr(suite, "counts", lambda part: 2)
    sizes, told, out = [], [], tmp_path / "bench.json"

    def progress(done: int, total: int, text: str) -> None:
        sizes.append(len(record.read(out, suite.FORMAT)["rows"]))
        told.append((done, total, text))

    found = suite.run_bench(("layer", "ablations"), out, "abc", progress)
    assert sizes == [0, 0, 1, 2, 3, 4]
    assert [row.get("refused", "") for row in found["rows"]] == [
        "",
        "RuntimeError: an illegal memory access was encountered",
    ] * 2
    assert told[:2] == [(1, 6, "compiled"), (2, 6, "ceilings")]
    assert found["compiled"]["variants"] > 4
    assert [one.name for one in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.usefixtures("no_gpu_needed")
def test_floors_need_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_kernels.bench import ceilings

    monkeypatch.setattr(ceilings, "ceilings", lambda sustained, watch: {"refused": {"read": "RuntimeError: no"}})
    with pytest.raises(ArithmeticError, match="no floors without read bandwidth"):
        suite.run_bench(("gemm",))


def test_parts_by_name() -> None:
    assert suite.chosen_parts(None) == parts.PARTS
    assert suite.chosen_parts("attention, gemm") == ("gemm", "attention")
    with pytest.raises(ValueError, match="got 'gem'; nearest: gemm"):
        suite.chosen_parts("gem")


def test_sources_are_those_of_the_kernels() -> None:
    names = suite.kernel_sources()
    assert "bench/ceilings.cu" in names
    assert not [name for name in names if name.startswith(("dram_probe", "arithmetic_probe"))]
    assert set(record.source_hashes(names)) == set(names)


@pytest.mark.parametrize("architecture", runtime.ARCHITECTURES)
def test_ceilings_compile(architecture: str) -> None:
    pytest.importorskip("cuda.core")
    code = runtime.compile_cubin("bench/ceilings.cu", architecture, {"LOADS": 4}).code
    assert (b"wgmma_registers" in code) == (architecture == "sm_90a")
    assert b"read_once" in code


def test_the_readme_names_every_part() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in parts.PARTS)


def test_variants_are_known_before_they_are_launched() -> None:
    hopper = variants.wanted(parts.PARTS, "sm_90a", 132)
    assert len(hopper) == len(set(hopper)) > 50
    assert {source.partition("/")[0] for source, _ in hopper} == {"w4a8_gemm", "w4a8_portable", "kv4_attention"}
    assert {source for source, _ in variants.wanted(["gemm"], "sm_80", 108)} == {"w4a8_portable/kernel.cu"}
    assert variants.wanted(["ceilings", "layer"], "sm_90a", 132) == []


@pytest.mark.parametrize("part", variants.PARTS)
def test_a_variant_of_each_part_compiles(part: str) -> None:
    pytest.importorskip("cuda.core")
    assert variants._compile(variants.wanted([part], "sm_90a", 132)[0], "sm_90a")


def test_a_variant_that_does_not_compile_is_left_to_its_launch() -> None:
    assert not variants._compile(("w4a8_gemm/kernel.cu", (("KIND", "none"),)), "sm_90a")
    assert variants.compile_all([("gone.cu", ())] * variants.FEW, "sm_90a") == 0


def test_an_interrupted_run_says_what_it_lacks() -> None:
    from gpu_kernels.bench.tables import tables, unfinished

    begun = {"format": "kernels_bench 1", "parts": ["ceilings", "gemm", "layer"], "rows": []}
    assert unfinished(begun)[2] == [["gemm", "not run"], ["layer", "not run"]]
    assert tables(begun)[-1][0] == "Interrupted"  # before the ceilings are there
    assert unfinished(begun | {"seconds_by_part": {"gemm": 1.0, "layer": 1.0}})[2] == []
