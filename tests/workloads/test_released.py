"""The reader of SpAtten's released files, on rows of our own in that format."""

import pytest

from workloads.policy import Policy
from workloads.released import COLUMNS, read_released
from workloads.replay import attention_work
from workloads.trace import load_workload

HEADER = ",".join(COLUMNS)
# two steps, layers, heads; layer 1 has lost head 1; the top-k after the last layer serves the next step
ROWS = [
    "0,0,0,64.0,9,9,6,16,0.05,True,4,4,6,True,False,False,-1",
    "0,0,1,64.0,9,9,6,16,0.05,False,4,4,6,True,False,True,5",
    "0,1,0,64.0,9,5,6,16,0.05,True,4,2,6,True,True,True,8",
    "1,0,0,64.0,10,8,6,16,0.05,False,4,3.0,6,True,False,False,-1",
    "1,0,1,64.0,10,8,6,16,0.05,False,4,3,6,True,False,True,5",
    "1,1,0,64,10,5,6,16,0.05,False,4,2,6,False,False,False,-1",
]
LAST = "configs/some/name.yml" + "," * 16


def write(tmp_path, rows, last=LAST, header=HEADER):
    path = tmp_path / "released.csv"
    path.write_text("\n".join([header, *rows, *([last] if last else [])]))
    return path


def change(row, column, value):
    fields = ROWS[row].split(",")
    fields[list(COLUMNS).index(column)] = value
    return [*ROWS[:row], ",".join(fields), *ROWS[row + 1 :]]


def test_rows_become_one_sequence_in_file_order(tmp_path):
    trace = load_workload(write(tmp_path, ROWS))
    (work,) = attention_work(trace, None)
    assert trace.name == work.name == "released"
    assert (work.rows, work.head_size) == (6, 64)
    assert work.step.tolist() == [0, 0, 0, 1, 1, 1]
    assert work.layer.tolist() == [0, 0, 1, 0, 0, 1]
    assert work.head.tolist() == [0, 1, 0, 0, 1, 0]
    assert work.length.tolist() == [9, 9, 9, 10, 10, 10]
    assert work.keys.tolist() == [9, 9, 5, 8, 8, 5]
    assert work.values.tolist() == [4, 4, 2, 3, 3, 2]
    assert work.queries.tolist() == [1] * 6
    assert work.needs_lsb.tolist() == [1, 0, 1, 0, 0, 0]
    assert work.key_set.tolist() == [-1] * 6
    assert (work.key_msb_bits, work.key_lsb_bits, work.value_bits, work.query_bits) == (6, 4, 6, 12)
    assert work.token_topk.tolist() == [0, 5, 8, 0, 5, 0]
    # a top-k that keeps more than its row has keys competes among all tokens so far
    assert work.token_candidates.tolist() == [0, 9, 9, 0, 8, 0]
    assert not work.head_topk.any()
    assert work.score_ptr.tolist() == [0] * 7
    # two layers, two heads, though one is missing: (9 + 10) keys x 64 x Q x K and prob x V x 2 operations
    assert work.dense_operations == 4 * (9 + 10) * 64 * 2 * 2


def test_no_quantization_is_32_bit(tmp_path):
    row = "0,0,0,64.0,993,993,-1,-1,-1,False,-1,993,-1,True,False,False,-1"
    (work,) = attention_work(read_released(write(tmp_path, [row])), None)
    assert (work.key_msb_bits, work.key_lsb_bits, work.value_bits, work.query_bits) == (32, 0, 32, 32)


def test_the_dense_model_is_there_for_the_baselines(tmp_path):
    trace = read_released(write(tmp_path, ROWS))
    assert set(trace.operators["part"]) == {"attention"}
    assert sorted(set(trace.operators["step"])) == [0, 1]
    products = trace.operators["kind"] == "bmm"
    assert int((trace.operators["flops"] * trace.operators["repeat"])[products].sum()) == 4 * 19 * 64 * 2 * 2


def test_a_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="released: policy must be None"):
        attention_work(read_released(write(tmp_path, ROWS)), Policy())


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (1, "head_id", "x", "3:5: head_id: must be a whole number >= 0, got 'x'"),
        (0, "embedding_length_D", "64.5", "2:7: embedding_length_D: must be a whole number >= 1, got '64.5'"),
        (2, "key_fetch_num", "0", "4:14: key_fetch_num: must be a whole number >= 1, got '0'"),
        (2, "key_fetch_num", "nan", "must be a whole number"),
        (2, "key_fetch_num", "inf", "must be a whole number"),
        (2, "key_fetch_num", "10", r"key_fetch_num: must be <= sentence_length_L \(9\), got '10'"),
        (2, "value_fetch_num", "6", r"value_fetch_num: must be <= key_fetch_num \(5\), got '6'"),
        (0, "if_requant", "yes", "if_requant: must be True or False, got 'yes'"),
        (0, "quant_key_bit", "0", "quant_key_bit: must be -1 or 1..32, got '0'"),
        (3, "quant_key_bit", "8", r"5:.*: quant_key_bit: must be the same in all rows \(6\), got '8'"),
        (0, "auto_requant_incre", "-1", "auto_requant_incre: must be > 0 where if_requant, got '-1'"),
        (1, "topk", "-1", r"topk: must be 1..9 where if_topk, else -1, got '-1'"),
        (0, "topk", "4", "topk: must be 1..9 where if_topk, else -1, got '4'"),
        (0, "auto_requant_thres", "1.5", "auto_requant_thres: must be -1 or a share 0..1, got '1.5'"),
    ],
)
def test_a_faulty_field_is_named_with_its_place(tmp_path, row, column, value, message):
    with pytest.raises(ValueError, match=rf"released.csv:.*{message}"):
        read_released(write(tmp_path, change(row, column, value)))


def test_all_faults_come_at_once_but_at_most_twenty(tmp_path):
    rows = change(0, "head_id", "x")[:1] * 12 + change(0, "layer_id", "y")[:1] * 12
    with pytest.raises(ValueError) as caught:
        read_released(write(tmp_path, rows))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1].endswith("and 4 more faults")


@pytest.mark.parametrize("text", ["", "a,b\n1,2", HEADER, f"{HEADER}\n{LAST}", f"{HEADER}\n1,2,3"])
def test_a_file_without_rows_is_refused(tmp_path, text):
    path = tmp_path / "released.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"released.csv:\d+:1: "):
        read_released(path)


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "released.csv"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="must be a text file"):
        read_released(path)


def test_a_configuration_line_in_the_middle_is_a_fault(tmp_path):
    with pytest.raises(ValueError, match=r"released.csv:3:1: iteration_id"):
        read_released(write(tmp_path, [ROWS[0], LAST, ROWS[1]]))
