"""Shapes of models that were made elsewhere."""

from __future__ import annotations

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.outside import OutsideArchitecture, OutsideModel
from nasopt.architecture.reading import read_architecture

BASE = EncoderShape(num_layers=3, num_heads=4, ffn_size=128, hidden_size=64)
STUDENT = OutsideArchitecture(OutsideModel("a/student", "v1", True), "bert", ((2, 64), (0, 32)), 48, 16)


def test_json_gives_it_back() -> None:
    assert read_architecture(STUDENT.to_json()) == STUDENT
    assert read_architecture(STUDENT.with_precision("int8").to_json()).precision == "int8"


def test_it_is_described_by_its_own_sizes() -> None:
    assert STUDENT.brief() == "2 layers, 2 heads, 96 FFN neurons, hidden size 48"
    assert STUDENT.in_words(BASE) == f"{STUDENT.brief()} (base model: 3 layers, hidden size 64)"
    assert STUDENT.table(BASE)[1] == [["0", "2", "64"], ["1", "0", "32"]]
    assert STUDENT.summary(BASE)["outside"]["layers"] == [{"heads": 2, "ffn": 64}, {"heads": 0, "ffn": 32}]
    unknown = OutsideArchitecture(OutsideModel("b"), "albert", (), 48, 0)
    assert unknown.brief() == "a model of the type albert"
