"""Files of shapes, and the errors of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasopt.measurement.predicted.shapes import ShapeError, ShapesFileError, head_size_of, read_shapes
from nasopt.measurement.predicted.transformer_cost import LayerShape

HEADING = "layers,hidden_size,heads,ffn_size,sequence_length,batch_size"
ROW = "4,312,12,1200,384,8"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "shapes.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_optional_columns_may_be_missing(tmp_path: Path) -> None:
    (row,) = read_shapes(written(tmp_path, HEADING, ROW))
    assert row.workload.layers == (LayerShape(12, 26, 1200),) * 4
    assert (row.workload.hidden_size, row.workload.sequence_length, row.workload.batch_size) == (312, 384, 8)
    assert (row.number, row.source, row.device, row.runtime, row.precision) == (1, "", "", "", "")


def test_latency_is_ignored_unless_it_is_needed(tmp_path: Path) -> None:
    path = written(tmp_path, f"source,device,runtime,precision,{HEADING},latency_ms", f"s,T4,tensorrt,fp16,{ROW},?")
    (row,) = read_shapes(path)
    assert row.latency_ms is None
    assert "latency_ms" not in row.fields
    assert (row.source, row.device, row.runtime, row.precision) == ("s", "T4", "tensorrt", "fp16")
    with pytest.raises(ShapesFileError, match=r"row 1: latency_ms = '\?' is not a number"):
        read_shapes(path, measured=True)


def test_pruned_heads_have_their_own_size(tmp_path: Path) -> None:
    (row,) = read_shapes(written(tmp_path, f"{HEADING},head_size", "2,768,5,512,128,1,64"))
    assert row.workload.layers[0] == LayerShape(5, 64, 512)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ([HEADING.replace(",heads", ""), ROW], "column heads is missing"),
        ([HEADING, ROW, "4,312,12,many,384,8"], "row 2: ffn_size = 'many' is not a number"),
        ([HEADING, "4,312,12,1200,384"], "row 1: batch_size = '' is not a number"),
        ([HEADING, "4,312,12,1200,384,0"], "row 1: batch_size = '0' must be greater than 0"),
        ([HEADING, "4,312,12,1200,384,2.5"], "row 1: batch_size = '2.5' must be a whole number"),
        ([HEADING, "4,312,12,1200,384,nan"], "row 1: batch_size = 'nan' must be"),
        ([HEADING], "no row"),
        ([""], "is missing"),
    ],
)
def test_mistakes_are_told_with_their_row(tmp_path: Path, lines: list[str], part: str) -> None:
    with pytest.raises(ShapesFileError) as caught:
        read_shapes(written(tmp_path, *lines))
    assert part in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ShapesFileError, match="cannot be read"):
        read_shapes(tmp_path / "none.csv")


def test_sizes_that_no_model_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="row 1: batch_size = 10000000 must be at most 1000000"):
        read_shapes(written(tmp_path, HEADING, "2,768,12,512,128,1e7"))


def test_a_byte_order_mark_is_no_part_of_the_heading(tmp_path: Path) -> None:
    path = tmp_path / "shapes.csv"
    path.write_text(f"{HEADING}\n{ROW}\n", encoding="utf-8-sig")
    assert len(read_shapes(path)) == 1


def test_heads_must_divide_the_hidden_size(tmp_path: Path) -> None:
    assert head_size_of(768, 12) == 64
    with pytest.raises(ShapeError, match="row 1: 7 heads do not divide the hidden size 768"):
        read_shapes(written(tmp_path, HEADING, "2,768,7,512,128,1"))
