"""A user's CSV of trajectories: what is read, and what is refused."""

import numpy as np
import pytest
from orrery.datasets import (
    kepler,
    read_trajectories,
    time_step,
    write_trajectories,
)

GOOD = """trajectory,t,q0,p0,u0,remark
a,0.0,1.0,0.5,0.1,
a,0.1,1.1,0.4,0.2,x
a,0.2,1.2,0.3,0.3,
b,5.0,2.0,0.1,0.0,
b,5.1,2.1,0.2,0.0,
"""


@pytest.fixture
def write(tmp_path):
    def call(text, name="data.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return call


def test_reads_trajectories_of_several_lengths(write):
    data = read_trajectories(write(GOOD))
    assert data["length"].tolist() == [3, 2]
    assert data["q"].shape == data["p"].shape == data["u"].shape == (2, 3, 1)
    np.testing.assert_array_equal(data["q"][0, :, 0], [1.0, 1.1, 1.2])
    np.testing.assert_array_equal(data["u"][0, :, 0], [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(data["p"][1, :, 0], [0.1, 0.2, np.nan])
    assert time_step(data) == pytest.approx(0.1)


def test_what_is_written_is_read(tmp_path):
    data = kepler(3, 10, control=lambda t: 0.1)
    path = tmp_path / "kepler.csv"
    write_trajectories(path, data)
    found = read_trajectories(path)
    for name in "qput":
        np.testing.assert_array_equal(found[name], data[name])
    assert found["length"].tolist() == [10] * 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trajectory,", "run,", "misses the column 'trajectory'"),
        (",t,", ",time,", "misses the column 't'"),
        ("p0", "momentum", "misses the column 'p0'"),
        ("q0", "q1", "misses the column 'q0'"),
        ("p0", "q0", "has twice the column 'q0'"),
        ("1.1,0.4", "nan,0.4", "row 3, column 'q0'.*'nan'"),
        ("1.1,0.4", "1.1,", "row 3, column 'p0'.*''"),
        ("1.1,0.4", "1.1,four", "row 3, column 'p0'.*'four'"),
        ("0.3,0.3,", "0.3,inf,", "row 4, column 'u0'.*'inf'"),
        ("b,5.1,2.1,0.2,0.0,\n", "", "'b' has one row only"),
        ("a,0.2,1.2,0.3,0.3,\n", "a,0.2,1.2\n", "row 4 has 3 entries"),
        ("a,0.2", "a,0.25", "'a'.*equal steps.*t=0.1 at point 1, where 0.125"),
        ("b,5.1", "b,5.2", "'b'.*equal steps, 0.1.*steps of 0.2"),
        ("a,0.2", "a,-0.2", "'a'.*rising.*t=-0.2 at point 2 after t=0.1"),
        ("a,0.2", "a,0.1", "'a'.*rising.*t=0.1 at point 2 after t=0.1"),
    ],
)
def test_what_is_wrong_is_named(write, old, new, message):
    assert old in GOOD
    path = write(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=message) as error:
        read_trajectories(path)
    assert str(path) in str(error.value)


def test_other_files(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such"):
        read_trajectories(tmp_path / "no_such.csv")
    with pytest.raises(ValueError, match="empty"):
        read_trajectories(write(""))
    with pytest.raises(ValueError, match="no rows"):
        read_trajectories(write("trajectory,t,q0,p0\n"))
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="not a CSV file"):
        read_trajectories(path)


def test_clocks_that_run_a_little_apart(write):
    """A hundredth of a percent, over 300 points, and few digits."""
    rows = "".join(f"a,{0.1 * k:.6f},{k},0\n" for k in range(300))
    rows += "".join(f"b,{0.10001 * k:.6f},{k},0\n" for k in range(300))
    data = read_trajectories(write("trajectory,t,q0,p0\n" + rows))
    assert time_step(data) == pytest.approx(0.1, rel=1e-3)
    rows = "".join(f"0,{k / 30:.3f},{k},0\n" for k in range(60))
    data = read_trajectories(write("trajectory,t,q0,p0\n" + rows))
    assert time_step(data) == pytest.approx(1 / 30, rel=1e-3)


def test_times_rounded_in_the_file_are_equal_steps(write):
    rows = "".join(f"0,{k / 15:.3f},{k},0\n" for k in range(60))
    data = read_trajectories(write("trajectory,t,q0,p0\n" + rows))
    assert time_step(data) == pytest.approx(1 / 15, rel=1e-3)
