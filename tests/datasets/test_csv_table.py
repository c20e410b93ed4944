"""Tables of numbers, and what is said where they are not."""

import pytest
from orrery.datasets.csv_table import read_csv_table, read_numbered_table


@pytest.fixture
def write(tmp_path):
    def call(text):
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return call


def test_columns_come_in_the_order_asked_for(write):
    path = write("a, b,c\n1,2,3\n\n4,5,6\n")
    names, table = read_csv_table(path, ["c", "a"])
    assert names == ["c", "a"]
    assert table.tolist() == [[3, 1], [6, 4]]
    names, table = read_csv_table(path)
    assert names == ["a", "b", "c"] and table.shape == (2, 3)


def test_rows_are_counted_as_in_the_file(write):
    path = write("a,b\n\n1,2\n3,4\n\n\n5,6\n")
    names, table, rows = read_numbered_table(path, ["b"])
    assert names == ["b"] and table.tolist() == [[2], [4], [6]]
    assert rows == [3, 4, 7]


def test_a_mark_of_byte_order_is_no_name(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a\n1\n", encoding="utf-8-sig")
    assert read_csv_table(path)[0] == ["a"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("a,b\n", "no rows"),
        ("a,c\n1,2\n", "misses the column 'b'"),
        ("a,b,b\n1,2,3\n", "has twice the column 'b'"),
        ("a,b\n1,2\n3\n", "row 3 has 1 entries"),
        ("a,b\n1,2\n3,\n", "row 3, column 'b'.*Received: ''"),
        ("a,b\n1,nan\n", "row 2, column 'b'.*Received: 'nan'"),
        ("a,b\n1,inf\n", "row 2, column 'b'.*Received: 'inf'"),
        ("a,b\n1,x\n", "row 2, column 'b'.*Received: 'x'"),
    ],
)
def test_what_is_wrong_is_named(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_csv_table(write(text), ["a", "b"])


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv"):
        read_csv_table(tmp_path / "none.csv")


def test_no_text(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="not a CSV file"):
        read_csv_table(path)
