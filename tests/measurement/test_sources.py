"""Latency objectives in a study: sources, their values, and that devices are not mixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run, trials_of

from nasopt.config.study import LatencyConfig, StudyConfig
from nasopt.errors import DeviceNotFoundError, NasoptError, StudyFileError
from nasopt.measurement import device
from nasopt.measurement.measured import source
from nasopt.measurement.sources import device_changes, make_source, remarks
from nasopt.records.latency import MeasuredLatency, PredictedLatency

WriteStudy = Callable[..., Path]
FLOATS = 'precisions = ["fp32", "bf16"]'
PREDICTED = '[[latency]]\nname = "cloud"\ndevice = "a100"\nbatch_size = 8\nsequence_length = 32'
WITH_INT8 = 'precisions = ["fp32", "int8"]'
FP32 = 'precisions = ["fp32"]'
MEASURED = {"[latency]\ndevice": '[[latency]]\nname = "here"\nruntime = "onnxruntime"\ndevice'}
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")


def latency(**settings: Any) -> LatencyConfig:
    return LatencyConfig.model_validate(settings)


def attrs_of(name: str, number: int) -> dict[str, Any]:
    import optuna

    return optuna.load_study(study_name=name, storage="sqlite:///nasopt.db").trials[number].user_attrs


def test_devices_at_hand_are_measured() -> None:
    found = make_source(latency(threads=2))
    assert found.device == torch.device("cpu")
    assert found.identity == f"measured, {device.device_name(found.device)}, 2 threads"


@no_gpu
def test_absent_devices_are_errors_or_predicted() -> None:
    with pytest.raises(DeviceNotFoundError, match="`cuda` is not present"):
        make_source(latency(device="cuda"))
    found = make_source(latency(device="a100"))
    assert found.identity.startswith("predicted, a100-40gb, fit of 20")
    assert found.device == torch.device("cpu")
    with pytest.raises(NasoptError, match=r"no device profile 'a1000'; there are a100-40gb, "):
        make_source(latency(device="a1000"))
    with pytest.raises(NasoptError, match="no prediction for the runtime 'eager'"):
        make_source(latency(device="a100", runtime="eager"))


@no_gpu
def test_precisions_that_cannot_be_had_are_refused_by_name() -> None:
    with pytest.raises(
        StudyFileError,
        match=r"tensorrt on GPUs runs fp32, fp16, int8, and has no artifact in int4 .* a study without it",
    ):
        make_source(latency(device="a100"), ["fp32", "int4"])
    with pytest.raises(StudyFileError, match="on CPUs runs fp32, int8, int8-static, and has no artifact in int4"):
        make_source(latency(runtime="onnxruntime"), ["fp32", "int4"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tf32": True}, "tf32 and cuda_graph are for CUDA"),
        ({"device": "cuda", "cuda_graph": True, "runtime": "onnxruntime"}, "cuda_graph needs"),
        ({"device": "cuda", "cuda_graph": True, "lengths": "validation"}, "cuda_graph needs"),
        ({"runtime": "tensorrt"}, "tensorrt is predicted only"),
        ({"runtime": "tvm"}, "runtime"),
    ],
)
def test_settings_that_exclude_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latency(**settings)


def measured_on(device: str, driver: str = "", threads: int = 1) -> MeasuredLatency:
    return MeasuredLatency(
        value_ms=15.0,
        median_ms=15.0,
        p10_ms=14.0,
        p90_ms=16.0,
        repetitions=10,
        base_median_ms=30.0,
        ratio=0.5,
        ratio_low=0.4,
        ratio_high=0.6,
        device=device,
        driver=driver,
        torch_version="2.13.0",
        dtype="fp32",
        threads=threads,
        batch_size=8,
        sequence_length=64,
    )


def predicted_on(profile: str, fitted: str) -> PredictedLatency:
    return PredictedLatency(
        value_ms=0.5,
        median_ms=0.5,
        base_median_ms=1.0,
        ratio=0.5,
        device=profile,
        dtype="fp32",
        batch_size=8,
        sequence_length=64,
        profile=profile,
        fitted=fitted,
        low_ms=0.4,
        high_ms=0.6,
        interval_percent=12.0,
        beyond=(),
    )


@no_gpu
def test_measured_and_predicted_are_not_mixed() -> None:
    source = make_source(latency(device="a100"))
    began = {"latency_ms": measured_on("NVIDIA A100-SXM4-40GB", driver="550.1", threads=16)}
    (change,) = device_changes(began, {"latency_ms": source})
    assert change.startswith("latency_ms: predicted, a100-40gb, fit of ")
    assert change.endswith("but the study began with: measured, NVIDIA A100-SXM4-40GB")
    own = {"latency_ms": predicted_on("a100-40gb", source.identity.rpartition(" ")[2])}
    assert device_changes(own, {"latency_ms": source}) == []


def test_other_threads_are_another_device() -> None:
    name = device.device_name(torch.device("cpu"))
    began = {"latency_ms": measured_on(name)}
    assert device_changes(began, {"latency_ms": make_source(latency(threads=1))}) == []
    assert len(device_changes(began, {"latency_ms": make_source(latency(threads=2))})) == 1


@pytest.mark.usefixtures("study_folder")
@pytest.mark.integration
@no_gpu
@pytest.mark.slow
def test_a_study_with_a_measured_and_a_predicted_latency(write_study: WriteStudy) -> None:
    assert run("study", "create", write_study(extra=PREDICTED, options=FP32, **MEASURED)).code == 0
    result = run("study", "optimize", "tiny", "--n-trials", 3)
    assert result.code == 0, result.err
    assert "(latency_ms_cloud: predicted, a100-40gb, +-" in result.err
    base, *others = trials_of()
    assert list(base["values"]) == ["quality", "latency_ms_here", "latency_ms_cloud", "memory_mb"]
    for trial in (base, *others):
        assert trial["source"] == "predicted"
        assert trial["predicted"].startswith("latency_ms_cloud: predicted, a100-40gb, +-")
        assert trial["memory"]["weights_mb"] == trial["values"]["memory_mb"] < trial["memory"]["peak_mb"]
    records = attrs_of("tiny", 1)["latency"]
    assert records["latency_ms_here"]["source"] == "measured"
    cloud = records["latency_ms_cloud"]
    assert cloud["low_ms"] < cloud["median_ms"] < cloud["high_ms"]
    assert others[0]["values"]["latency_ms_cloud"] == pytest.approx(cloud["median_ms"])
    base_ms = attrs_of("tiny", 0)["latency"]["latency_ms_cloud"]["value_ms"]
    assert base_ms == base["values"]["latency_ms_cloud"] == pytest.approx(cloud["base_median_ms"])
    assert "predicted, a100-40gb, +-" in run("study", "trials", "tiny").out
    assert "predicted, a100-40gb, +-" in run("study", "pareto", "tiny").out
    assert "latency_ms_cloud: predicted, a100-40gb, +-" in run("study", "show", "tiny").out
    assert run("study", "export", "tiny", "--trial", 0, "--to", "model").code == 0
    card = Path("model/README.md").read_text()
    assert "| latency_ms_cloud (predicted, a100-40gb, +-" in card
    assert "8 x 32 tokens on a100-40gb (tensorrt)" in card


@pytest.mark.usefixtures("study_folder")
@pytest.mark.integration
def test_a_study_does_not_go_on_on_another_device_unless_told_to(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(options=FLOATS, **{"[task]\n": 'memory = "peak"\n[task]\n'})
    assert run("study", "create", path).code == 0
    assert run("study", "optimize", "tiny", "--n-trials", 2).code == 0
    assert all(trial["values"]["memory_mb"] == trial["memory"]["peak_mb"] for trial in trials_of())
    real = device.device_name(torch.device("cpu"))
    for module in (device, source):
        monkeypatch.setattr(module, "device_name", lambda device: "Another CPU")
    for command in (("optimize", "--n-trials", 1), ("optimize", "--n-trials", 2, "--workers", 2), ("controls",)):
        refused = run("study", command[0], "tiny", *command[1:])
        assert refused.code == 2
        assert len(refused.err.splitlines()) == 1
        assert f"measured, Another CPU, 1 thread, but the study began with: measured, {real}, 1 thread" in refused.err
        assert "memory_mb: measured, Another CPU" in refused.err
        assert "--accept-device-change" in refused.err
    assert len(trials_of()) == 3, "nothing was run"
    result = run("study", "optimize", "tiny", "--n-trials", 1, "--accept-device-change")
    assert result.code == 0, result.err
    *old, new = trials_of()
    assert all(trial["device_change"] is None for trial in old)
    assert new["device_change"].startswith("latency_ms: measured, Another CPU, 1 thread, but the study began with: ")
    assert "Another CPU" in run("study", "trials", "tiny").out


@pytest.mark.usefixtures("study_folder")
@pytest.mark.integration
def test_a_study_in_onnx_runtime_over_real_lengths(write_study: WriteStudy) -> None:
    settings = 'device = "cpu"\nruntime = "onnxruntime"\nlengths = "validation"'
    assert run("study", "create", write_study(options=WITH_INT8, **{'device = "cpu"': settings})).code == 0
    result = run("study", "optimize", "tiny", "--n-trials", 1)
    assert result.code == 0, result.err
    for number, trial in enumerate(trials_of()):
        record = attrs_of("tiny", number)["latency"]["latency_ms"]
        assert trial["values"]["latency_ms"] == record["value_ms"]
        assert (record["runtime"], record["lengths"], record["batches"]) == ("onnxruntime", "validation", 32)
        assert record["runtime_version"]
        assert 5 < record["mean_length"] <= 16
        assert trial["values"]["memory_mb"] == trial["memory"]["weights_mb"]
    exported = run("study", "export", "tiny", "--trial", 0, "--to", "model")
    assert exported.code == 0, exported.err
    assert Path("model/model.onnx").stat().st_size / 1e6 == trials_of()[0]["values"]["memory_mb"]
    assert "are those of this very file" in Path("model/README.md").read_text()


@pytest.mark.parametrize(
    ("settings", "is_told"),
    [
        ({}, True),
        ({"lengths": "validation"}, False),
        ({"cuda_graph": True}, False),
        ({"runtime": "compile"}, False),
    ],
)
def test_eager_mode_on_a_gpu_is_remarked_upon(
    write_study: WriteStudy, settings: dict[str, Any], is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is that of a GPU which is not here: nothing is measured."""
    monkeypatch.setattr(source, "check_runtime", lambda runtime, device: None)
    config = StudyConfig.from_toml(write_study()).model_copy(update={"latency": (latency(device="cuda", **settings),)})
    on_gpu = source.MeasuringSource(config.latency[0], torch.device("cuda", 0))
    found = remarks(config, {"latency_ms": on_gpu})
    assert ["latency_ms: eager mode on a GPU is mostly the host's time" in line for line in found] == [True] * is_told
    here = StudyConfig.from_toml(write_study("here"))
    assert remarks(here, {"latency_ms": make_source(here.latency[0])}) == []
