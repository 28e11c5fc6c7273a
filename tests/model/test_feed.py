import csv
import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import CatalogueError
from model.feed import Feed, cell_text, read_feed


def feed_of(tmp_path: Path, data: bytes, name: str = "feed.csv") -> Feed:
    path = tmp_path / name
    path.write_bytes(data)
    return read_feed(path)


def defects(feed: Feed) -> list[tuple[int, str, str]]:
    return [(bad.line, bad.id, bad.code) for bad in feed.bad]


def parquet(tmp_path: Path, table: pa.Table) -> Path:
    path = tmp_path / "feed.parquet"
    pq.write_table(table, path)
    return path


# CSV


def test_csv_rows_carry_the_line_they_start_on(tmp_path: Path) -> None:
    feed = feed_of(
        tmp_path,
        b'id,text\na,"one\ntwo\r\nthree"\n\nb,"with ""quotes"", and commas"\r\nc,last',
    )
    assert feed.columns == ("id", "text")
    assert [(row.line, row.cells["id"]) for row in feed.rows] == [(2, "a"), (6, "b"), (7, "c")]
    assert feed.rows[0].cells["text"] == "one\ntwo\r\nthree"
    assert feed.rows[1].cells["text"] == 'with "quotes", and commas'
    assert not len(feed.bad)


def test_the_header_is_known_without_a_good_row(tmp_path: Path) -> None:
    path = tmp_path / "feed.csv"
    path.write_text("id;text;\n1;a;;\n")
    feed = read_feed(path)
    assert feed.columns == ("id", "text")
    assert (list(feed.rows), [bad.line for bad in feed.bad]) == ([], [2])


@pytest.mark.parametrize("separator", [b",", b";", b"\t"])
def test_the_header_tells_what_separates_cells(tmp_path: Path, separator: bytes) -> None:
    feed = feed_of(tmp_path, b"\xef\xbb\xbfid,text,\na,b,c\n".replace(b",", separator), "f.TSV")
    assert [row.cells for row in feed.rows] == [{"id": "a", "text": "b"}]


@pytest.mark.parametrize(
    "data",
    [
        'id;"text, long, plain";image\n1;a;b',
        'sep=;\r\nid;"text, long, plain";image\r\n1;a;b',
        '\ufeff"SEP=\t"\nid\t"text, long, plain"\timage\n1\ta\tb',
        '"id";"text,\r\nlong, plain";"image"\r\n1;a;b',
    ],
)
def test_headers_as_spreadsheets_write_them(tmp_path: Path, data: str) -> None:
    feed = feed_of(tmp_path, data.encode())
    (row,) = feed.rows
    assert row.cells == {"id": "1", "text, long, plain": "a", "image": "b"}
    assert row.line == 1 + data.count("\n")


def test_a_line_that_is_not_utf8_is_bad_and_the_next_is_read(tmp_path: Path) -> None:
    latin = "b,Größe\n".encode("latin-1")
    feed = feed_of(tmp_path, "id,text\na,Größe\n".encode() + latin + b"c,N\0L\nd\xff,x\ne,fine\n")
    assert [row.cells for row in feed.rows] == [
        {"id": "a", "text": "Größe"},
        {"id": "e", "text": "fine"},
    ]
    assert defects(feed) == [
        (3, "b", "wrong_encoding"),
        (4, "c", "wrong_encoding"),
        (5, "d\N{REPLACEMENT CHARACTER}", "wrong_encoding"),
    ]


def test_a_bad_byte_within_a_quoted_newline_spoils_only_that_row(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, b'id,text\na,"one\nt\xe9o"\nb,two\n')
    assert defects(feed) == [(2, "a", "wrong_encoding")]
    assert [(row.line, row.cells["id"]) for row in feed.rows] == [(4, "b")]


def test_rows_with_too_few_or_too_many_cells_are_bad(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, b"id,text\na\nb,fine\nc,x,y\n  \n")
    assert defects(feed) == [(2, "", "malformed"), (4, "", "malformed")]
    assert list(feed.bad)[1].detail == "3 cells where the header has 2"
    assert [row.cells["id"] for row in feed.rows] == ["b"]


def test_an_open_quote_costs_its_own_line_and_not_the_rest(tmp_path: Path) -> None:
    lines = [b"id,text", b'a,"open', b'b,"fine\nhere"', b"c,fine", b'd,5" wide', b'e,"open', b"f,x"]
    feed = feed_of(tmp_path, b"\n".join(lines))
    assert defects(feed) == [(2, "", "malformed"), (7, "", "malformed")]
    assert [(row.line, row.cells["id"]) for row in feed.rows] == [
        (3, "b"),
        (5, "c"),
        (6, "d"),
        (8, "f"),
    ]
    assert feed.rows[2].cells["text"] == '5" wide'


def test_a_long_cell_is_read_and_the_limit_is_left_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    feed = feed_of(tmp_path, b'id,text\na,"' + b"<p>" * 100_000 + b'"\n')
    assert len(str(feed.rows[0].cells["text"])) == 300_000
    assert csv.field_size_limit() == before


def test_a_csv_column_is_a_number_only_if_nothing_is_lost(tmp_path: Path) -> None:
    columns = {
        "year": ("2011", "", "-3"),
        "price": ("1", "2.50", "-0.1"),
        "article": ("0146706004", "12", "13"),
        "size": ("36", "38", "M"),
        "code": ("12E5", "1", "2"),
        "huge": ("1", "2", "9223372036854775808"),  # 2**63
        "odd": ("nan", "1", "2"),
        "none": ("", " ", ""),
        "flag": ("true", "", "FALSE"),
        "word": ("true", "no", "false"),
    }
    rows = zip(*columns.values(), strict=True)
    text = "\n".join([",".join(columns), *map(",".join, rows)])
    assert feed_of(tmp_path, text.encode()).types == {
        "year": int,
        "price": float,
        "article": str,
        "size": str,
        "code": str,
        "huge": str,
        "odd": str,
        "none": str,
        "flag": bool,
        "word": str,
    }


# JSONL


def test_jsonl_lines_keep_their_types_and_numbers(tmp_path: Path) -> None:
    rows = [{"id": "a", "n": 1, "x": None}, {"id": "b", "tags": ["u", "v"], "ok": True}]
    data = "\n\n".join(json.dumps(row) for row in rows)
    feed = feed_of(tmp_path, b"\xef\xbb\xbf" + data.encode(), "feed.JSONL")
    assert feed.columns == ("id", "n", "x", "tags", "ok")
    assert [(row.line, row.cells) for row in feed.rows] == [(1, rows[0]), (3, rows[1])]
    assert feed.types == {}


def test_jsonl_lines_that_are_no_object_are_bad(tmp_path: Path) -> None:
    lines = [
        b'{"id": "a"',
        b'["a"]',
        b'{"id": "b", "text": "caf\xe9"}',
        b'{"id": "c", "text": "\\u0000"}',
        b'{"id": "d", "text": ["\\ud800"]}',
        b"\xe9\xe9",
        b"[" * 100_000,
        b'{"id": "e"}',
    ]
    feed = feed_of(tmp_path, b"\n".join(lines), "feed.ndjson")
    assert defects(feed) == [
        (1, "", "malformed"),
        (2, "", "malformed"),
        (3, "b", "wrong_encoding"),
        (4, "c", "wrong_encoding"),
        (5, "d", "wrong_encoding"),
        (6, "", "wrong_encoding"),
        (7, "", "malformed"),
    ]
    assert [row.line for row in feed.rows] == [8]


@pytest.mark.parametrize("depth", [201, 400, 900, 1500, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a": ', "}")])
def test_a_jsonl_line_nested_too_deep_is_bad(
    tmp_path: Path, depth: int, opened: str, closed: str
) -> None:
    deep = opened * depth + "7" + closed * depth
    lines = [f'{{"id": "a", "x": {deep}}}', f'{{"id": {deep}}}', '{"id": "c"}']
    feed = feed_of(tmp_path, "\n".join(lines).encode(), "feed.jsonl")
    assert [(bad.line, bad.code, bad.detail) for bad in feed.bad] == [
        (1, "malformed", "nested more than 200 deep"),
        (2, "malformed", "nested more than 200 deep"),
    ]
    assert [row.line for row in feed.rows] == [3]


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a": ', "}")])
def test_a_jsonl_line_nested_deep_is_read(tmp_path: Path, opened: str, closed: str) -> None:
    deep = opened * 200 + "7" + closed * 200
    feed = feed_of(tmp_path, f'{{"id": "a", "x": {deep}}}'.encode(), "feed.jsonl")
    assert not len(feed.bad)
    assert cell_text(feed.rows[0].cells["x"]) in ("7", deep)


# Parquet


def test_parquet_rows_are_numbered_and_typed(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [1, 2],
            "day": [datetime.date(2024, 2, 29), None],
            "at": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
            "tags": [["u", "v"], None],
            "kind": pa.array(["x", "y"]).dictionary_encode(),
        }
    )
    feed = read_feed(parquet(tmp_path, table))
    assert [row.line for row in feed.rows] == [1, 2]
    assert feed.rows[0].cells == {
        "id": 1,
        "day": "2024-02-29",
        "at": "2023-11-14 22:13:20.123456789",
        "tags": ["u", "v"],
        "kind": "x",
    }
    assert feed.rows[1].cells == {"id": 2, "day": None, "at": None, "tags": None, "kind": "y"}


def test_parquet_text_that_is_not_utf8_is_bad(tmp_path: Path) -> None:
    text = pa.array([b"fine", b"caf\xe9", b"N\0L", None], pa.binary()).view(pa.string())
    feed = read_feed(parquet(tmp_path, pa.table({"id": ["a", "b", "c", "d"], "text": text})))
    assert defects(feed) == [(2, "b", "wrong_encoding"), (3, "c", "wrong_encoding")]
    assert [row.line for row in feed.rows] == [1, 4]


def test_a_damaged_parquet_is_an_error(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.table({"id": [str(n) for n in range(5000)]}))
    whole = path.read_bytes()
    for data in (whole[:-50], b"id\na\n", whole[:4] + bytes(2000) + whole[2004:]):
        path.write_bytes(data)
        with pytest.raises(CatalogueError, match="damaged or not a Parquet"):
            read_feed(path)


# All of them


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("feed.csv", b"", "has no rows"),
        ("feed.csv", b"\n\n", "has no rows"),
        ("feed.csv", b"id,text\n", "has no rows"),
        ("feed.jsonl", b"\n", "has no rows"),
        ("feed.xlsx", b"id", r"ends in '\.xlsx'.*\.csv, .*\.jsonl, .*\.parquet"),
        ("feed", b"id", "ends in 'nothing'"),
        ("feed.csv", "id,text\na,b\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("feed.jsonl", "{}".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("feed.csv", b"id,caf\xe9\na,b\n", "the header of .* is not UTF-8"),
        ("feed.csv", b"id,x,x\na,b,c\n", "more than one column called x"),
        ("feed.csv", b'id,"x\na,b\n', "the header of .* a quote is opened and not closed"),
        ("n" * 300 + ".csv", None, "cannot be read: File name too long"),
    ],
)
def test_a_feed_that_is_useless_as_a_whole(
    tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CatalogueError, match=message):
        read_feed(tmp_path / name)


@pytest.mark.parametrize("name", ["feed.csv", "feed.jsonl"])
def test_a_disk_that_fails(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/proc/self/mem")  # a file whose beginning cannot be read
    with pytest.raises(CatalogueError, match=rf"{name} cannot be read: Input/output error"):
        read_feed(tmp_path / name)


def test_a_missing_feed_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    for name, message in (("feed.csv", "there is no feed"), ("folder.parquet", "is a folder")):
        with pytest.raises(CatalogueError, match=message):
            read_feed(tmp_path / name)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        ("  a ", "a"),
        (2011, "2011"),
        (2011.0, "2011"),
        (1.5, "1.5"),
        (float("nan"), ""),
        (True, "true"),
        (["a", None, 1], "a, 1"),
        ({"ä": 1}, '{"ä": 1}'),
        (b"\xff", ""),
    ],
)
def test_cell_text(cell: object, text: str) -> None:
    assert cell_text(cell) == text
