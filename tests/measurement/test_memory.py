import pytest
import torch

from nasopt.measurement.memory import memory_mb


def test_counts_bytes_of_every_dtype_in_millions() -> None:
    tensors = {
        "fp32": torch.zeros(1000, 250),  # 1.0 MB
        "bf16": torch.zeros(1000, 250, dtype=torch.bfloat16),  # 0.5 MB
        "int8": torch.zeros(1000, 250, dtype=torch.int8),  # 0.25 MB
        "scalar": torch.tensor(1.0, dtype=torch.float64),  # 8 bytes
        "empty": torch.zeros(0, 7),
    }
    assert memory_mb(tensors) == pytest.approx(1.750008, abs=1e-12)
    assert memory_mb({}) == 0.0


def test_tied_weights_count_once() -> None:
    embedding = torch.nn.Embedding(100, 10)
    decoder = torch.nn.Linear(10, 100, bias=False)
    decoder.weight = embedding.weight
    tensors = {"embedding": embedding.weight, "decoder": decoder.weight.data, "transposed": embedding.weight.t()}
    assert memory_mb(tensors) == pytest.approx(100 * 10 * 4 / 1e6)
    assert memory_mb({"a": torch.zeros(10), "b": torch.zeros(10)}) == pytest.approx(80 / 1e6), "equal is not shared"


def test_a_view_counts_with_what_it_shows() -> None:
    whole = torch.zeros(100, 10)
    assert memory_mb({"rows": whole[:30]}) == pytest.approx(30 * 10 * 4 / 1e6)
    assert memory_mb({"first": whole[:30], "rest": whole[30:]}) == pytest.approx(100 * 10 * 4 / 1e6)


def test_a_tensor_without_data_is_refused() -> None:
    with pytest.raises(ValueError, match="'weight' is on the device `meta`"):
        memory_mb({"weight": torch.zeros(3, device="meta")})
