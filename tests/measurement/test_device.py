import pytest
import torch
from gpu import needs_cuda

from nasopt.errors import DeviceNotFoundError
from nasopt.measurement.device import (
    device_name,
    driver_version,
    is_device_of,
    resolve_device,
    supports_bf16,
)

CPU = torch.device("cpu")


def test_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
def test_absent_cuda_is_one_clear_line() -> None:
    with pytest.raises(
        DeviceNotFoundError, match=r"`cuda` is not present.*set `device` under \[latency\] to `cpu`"
    ) as e:
        resolve_device("cuda")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["a100", "t4", "CPU", "cuda:7", "", "tpu"])
def test_other_names_are_refused_with_the_cure(name: str) -> None:
    with pytest.raises(DeviceNotFoundError, match=r"only the device at hand can.*to `cpu` or `cuda`") as e:
        resolve_device(name)
    assert f"`{name}`" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("profile", "gpu", "expected"),
    [
        ("a100-40gb", "NVIDIA A100-SXM4-40GB", True),
        ("a100-40gb", "NVIDIA A100-PCIE-40GB", True),
        ("a100-40gb", "NVIDIA A100-SXM4-80GB", False),
        ("a100-80gb", "NVIDIA A100 80GB PCIe", True),
        ("v100-16gb", "Tesla V100-SXM2-16GB", True),
        ("l4", "NVIDIA L4", True),
        ("l4", "NVIDIA L40S", False),
        ("t4", "Tesla T4", True),
        ("h100", "NVIDIA H100 80GB HBM3", True),
        ("h100", "NVIDIA H200", False),
        ("a30", "NVIDIA A100-SXM4-40GB", False),
    ],
)
def test_which_gpu_a_profile_describes(profile: str, gpu: str, expected: bool) -> None:
    assert is_device_of(profile, gpu) is expected


def test_the_cpu_has_a_name() -> None:
    name = device_name(CPU)
    assert name
    assert name == name.strip()


@pytest.mark.skipif(
    not hasattr(torch.cpu, "get_capabilities"), reason="needs torch.cpu.get_capabilities to compare with"
)
def test_bf16_support_agrees_with_torch() -> None:
    capabilities = torch.cpu.get_capabilities()
    expected = bool(capabilities.get("avx512_bf16")) or bool(capabilities.get("amx_bf16"))
    assert supports_bf16(CPU) == expected


@needs_cuda
def test_cuda_is_resolved_with_its_index_and_described() -> None:
    device = resolve_device("cuda")
    assert device.type == "cuda"
    assert device.index is not None
    assert device_name(device) == torch.cuda.get_device_name(device)
    assert any(character.isdigit() for character in driver_version(device))
    assert supports_bf16(device) == (torch.cuda.get_device_capability(device) >= (8, 0))
