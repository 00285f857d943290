import json

import pytest
import torch

from nasopt.errors import DeviceNotFoundError
from nasopt.measurement.device import (
    Environment,
    device_identity,
    device_name,
    driver_version,
    resolve_device,
    supports_bf16,
)

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


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
    with pytest.raises(DeviceNotFoundError, match=r"measures on the device at hand only.*to `cpu` or `cuda`") as e:
        resolve_device(name)
    assert f"`{name}`" in str(e.value)
    assert "\n" not in str(e.value)


def test_environment_says_where_a_value_came_from() -> None:
    environment = Environment.of(CPU, dtype="int8", threads=2, batch_size=8, sequence_length=64)
    stored = json.loads(json.dumps(environment.to_dict()))
    assert stored == {
        "device": device_name(CPU),
        "driver": "",
        "torch_version": torch.__version__,
        "dtype": "int8",
        "threads": 2,
        "batch_size": 8,
        "sequence_length": 64,
        "source": "measured",
    }
    assert Environment(**stored) == environment


def test_identity_is_device_and_threads_and_nothing_else() -> None:
    one = Environment.of(CPU, dtype="fp32", threads=1, batch_size=8, sequence_length=64)
    same = Environment.of(CPU, dtype="int4", threads=1, batch_size=1, sequence_length=16)
    other = Environment.of(CPU, dtype="fp32", threads=2, batch_size=8, sequence_length=64)
    assert one.identity == same.identity == device_identity(device_name(CPU), 1)
    assert one.identity != other.identity
    assert device_identity("AMD EPYC", 1) == "AMD EPYC, 1 thread"
    assert device_identity("AMD EPYC", 8) == "AMD EPYC, 8 threads"


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
