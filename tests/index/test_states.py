from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from index.states import ArrayWriter, BytesWriter, ImageStates, TextStates, open_array, ragged
from model.errors import SnapshotError
from model.states import QuantisedStates, quantise

RNG = np.random.default_rng(3)


def test_rows_appended_piece_by_piece_are_one_npy_file(tmp_path: Path) -> None:
    rows = RNG.integers(-127, 128, (1000, 3, 5), dtype=np.int8)
    writer = ArrayWriter(tmp_path / "a.npy", "int8", (3, 5))
    for start, end in ((0, 1), (1, 1), (1, 700), (700, 1000)):
        writer.append(rows[start:end])
    writer.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), rows)
    mapped = open_array(tmp_path / "a.npy", "int8", (1000, 3, 5))
    np.testing.assert_array_equal(mapped, rows)
    assert not mapped.flags.writeable


def test_what_a_killed_writer_left_is_cut_back_and_the_file_ends_the_same(tmp_path: Path) -> None:
    rows = RNG.standard_normal((50, 4)).astype(np.float32)
    whole = ArrayWriter(tmp_path / "whole.npy", "float32", (4,))
    whole.append(rows)
    whole.finish()

    killed = ArrayWriter(tmp_path / "killed.npy", "float32", (4,))
    killed.append(rows[:30])
    killed.sync()
    killed.append(rows)  # beyond what was recorded
    killed.close()
    with (tmp_path / "killed.npy").open("ab") as file:
        file.write(b"half a row")
    again = ArrayWriter(tmp_path / "killed.npy", "float32", (4,), rows=30)
    again.append(rows[30:])
    again.finish()

    assert (tmp_path / "killed.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_file_shorter_than_was_recorded_is_refused(tmp_path: Path) -> None:
    writer = ArrayWriter(tmp_path / "a.npy", "int64")
    writer.append(np.arange(5))
    writer.finish()
    with pytest.raises(SnapshotError, match=r"a\.npy is missing or shorter"):
        ArrayWriter(tmp_path / "a.npy", "int64", rows=6)
    with pytest.raises(SnapshotError, match="gone is missing or shorter"):
        BytesWriter(tmp_path / "gone", 1)
    assert len(np.load(tmp_path / "a.npy", allow_pickle=False)) == 5


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    writer = ArrayWriter(tmp_path / "a.npy", "float32", (4,))
    with pytest.raises(ValueError, match="not float64"):
        writer.append(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"\(5,\)"):
        writer.append(np.zeros((2, 5), dtype=np.float32))
    writer.finish()
    assert np.load(tmp_path / "a.npy", allow_pickle=False).shape == (0, 4)


@pytest.mark.parametrize(("dtype", "shape"), [("int64", (6,)), ("int32", (5,)), ("int64", (5, 1))])
def test_an_array_of_another_dtype_or_shape_is_refused(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    with pytest.raises(SnapshotError, match="the manifest says"):
        open_array(tmp_path / "a.npy", dtype, shape)


def test_a_damaged_header_and_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"not an array at all")
    with pytest.raises(SnapshotError, match="is damaged"):
        open_array(tmp_path / "a.npy", "int64", (5,))
    np.save(tmp_path / "b.npy", np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    with pytest.raises(SnapshotError, match="is damaged"):
        open_array(tmp_path / "b.npy", "object", (1,))


def _texts(lengths: list[int]) -> QuantisedStates:
    longest = max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    return quantise(RNG.standard_normal((len(lengths), longest, 6)).astype(np.float32), mask)


def test_ragged_texts_come_back_padded_to_the_longest_asked_for() -> None:
    lengths = [4, 9, 2, 7]
    padded = _texts(lengths)
    values, scales, counted = ragged(padded)
    assert counted.tolist() == lengths
    assert len(values) == sum(lengths)
    stored = TextStates(values, scales, np.concatenate([[0], np.cumsum(counted)]))

    everything = stored.gather(range(4))
    np.testing.assert_array_equal(everything.values, padded.values)
    np.testing.assert_array_equal(everything.scales, padded.scales)

    some = stored.gather(np.array([2, 0, 2]))
    assert some.values.shape == (3, 4, 6)
    np.testing.assert_array_equal(some.values[1], padded.values[0, :4])
    np.testing.assert_array_equal(some.values[0], some.values[2])
    assert (some.scales > 0).sum(axis=1).tolist() == [2, 4, 2]
    assert not some.values[0, 2:].any()


def test_no_texts_and_rows_out_of_range() -> None:
    values, scales, counted = ragged(_texts([3, 5]))
    stored = TextStates(values, scales, np.concatenate([[0], np.cumsum(counted)]))
    assert stored.gather([]).values.shape == (0, 0, 6)
    for row in (-1, 2):
        with pytest.raises(IndexError, match="from 0 to 1"):
            stored.gather([row])


def test_pictures_states_are_copies_in_the_order_asked_for() -> None:
    states = quantise(RNG.standard_normal((5, 4, 6)).astype(np.float32))
    stored = ImageStates(states.values, states.scales)
    gathered = stored.gather([3, 0, 3])
    np.testing.assert_array_equal(gathered.values, states.values[[3, 0, 3]])
    np.testing.assert_array_equal(gathered.scales, states.scales[[3, 0, 3]])
    gathered.values[:] = 0
    assert states.values[3].any()
    for row in (-1, 5):
        with pytest.raises(IndexError, match="picture rows go from 0 to 4"):
            stored.gather([row])
