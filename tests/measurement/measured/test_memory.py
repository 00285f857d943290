import pytest
import torch
from gpu import needs_cuda
from torch import Tensor, nn

from nasopt.measurement.measured import memory
from nasopt.measurement.measured.memory import memory_mb, peak_memory_mb

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")


class Glutton(nn.Module):
    """Holds two blocks of `mb` MB at once, then one of them."""

    def __init__(self, mb: int) -> None:
        super().__init__()
        self.floats = mb * 250_000

    def forward(self, x: Tensor) -> Tensor:
        first = torch.ones(self.floats)
        second = first + x
        del first
        return second.sum()


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


@pytest.mark.parametrize("has_mark", [True, False])
@pytest.mark.parametrize("mb", [4, 32])
def test_peak_is_weights_and_what_a_pass_holds_at_once(
    mb: int, has_mark: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_mark:  # as on a system whose kernel keeps no high-water mark
        monkeypatch.setattr(memory, "_reset_high_water", lambda: False)
    found = peak_memory_mb(Glutton(mb), {"x": torch.zeros(1)}, 7.0, CPU)
    assert found == pytest.approx(7 + 2 * mb, rel=0.15)


def test_memory_that_was_freed_before_is_not_used_unseen() -> None:
    blocks = [torch.ones(20_000) for _ in range(2000)]  # 160 MB in pieces that the C library keeps when they are freed
    del blocks[::2]
    found = peak_memory_mb(Glutton(16), {"x": torch.zeros(1)}, 0.0, CPU)
    assert found == pytest.approx(32, rel=0.15)


def test_larger_batches_take_more() -> None:
    model = nn.Sequential(nn.Linear(256, 4096), nn.ReLU(), nn.Linear(4096, 256))
    few, many = (peak_memory_mb(model, {"input": torch.zeros(rows, 256)}, 0.0, CPU) for rows in (256, 2048))
    assert many > 4 * few


@needs_cuda
def test_peak_on_a_gpu_is_the_allocators() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    model = nn.Sequential(nn.ReLU()).to(device)
    found = peak_memory_mb(model, {"input": torch.zeros(1_000_000, device=device)}, 1.0, device)
    assert found == pytest.approx(5, rel=0.01)
