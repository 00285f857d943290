"""ONNX files of other people: what they name outside of themselves is not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from nasopt.models.onnx import OnnxModel  # noqa: E402


def write_model(file: Path, location: str) -> None:
    """A model that adds to its input a vector of four numbers, which lie in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        weight.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../secret", "{folder}/secret", "a/../../secret", "link"])
def test_weights_outside_of_the_folder_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "model"
    secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (folder / "a").mkdir(parents=True)
    (folder / "link").symlink_to(secret)
    monkeypatch.chdir(folder)
    write_model(folder / "model.onnx", location.format(folder=tmp_path))
    for read in (OnnxModel, lambda file: OnnxModel(file.read_bytes()), onnx.load):
        with pytest.raises(Exception, match=r"[Ee]xternal|escapes|outside|regular file|symlink|hardlink|should be"):
            read(folder / "model.onnx")
