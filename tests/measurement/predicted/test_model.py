"""Predictions: sensible for any shape, and never without their interval and words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasopt.measurement.predicted.device_profiles import find_profile, profiles
from nasopt.measurement.predicted.fitted import fitted
from nasopt.measurement.predicted.model import Case, known_precisions, make_case, predict, predict_many
from nasopt.measurement.predicted.software import SOFTWARE, RuntimeNotKnownError, runtime_names, software_of
from nasopt.measurement.predicted.transformer_cost import LayerShape, Workload

BASE = Workload.uniform(12, 768, 12, 64, 3072, length=128, batch=8)
A100 = "a100-40gb"


def case(workload: Workload = BASE, profile: str = A100, runtime: str = "tensorrt", precision: str = "fp16") -> Case:
    return make_case(find_profile(profile), runtime, precision, workload)


LAYER = st.builds(LayerShape, st.integers(0, 16), st.sampled_from([26, 32, 64]), st.integers(0, 4096))
WORKLOAD = st.builds(
    Workload, st.lists(LAYER, max_size=6).map(tuple), st.integers(64, 1024), st.integers(1, 512), st.integers(1, 128)
)
TARGET = st.sampled_from(
    [
        (name, runtime, precision)
        for name, profile in profiles().items()
        for runtime in runtime_names()
        for precision in known_precisions(profile, software_of(runtime), runtime)
    ]
)


@settings(max_examples=60, deadline=None)
@given(WORKLOAD, TARGET, st.integers(1, 300))
def test_more_never_takes_less(workload: Workload, target: tuple[str, str, str], more: int) -> None:
    layers = workload.layers
    larger = [
        replace(workload, layers=(*layers, LayerShape(1, 64, more))),
        replace(workload, hidden_size=workload.hidden_size + more),
        replace(workload, sequence_length=workload.sequence_length + more),
        replace(workload, batch_size=workload.batch_size + more),
    ]
    if layers:
        first, rest = layers[0], layers[1:]
        grown = [
            replace(first, heads=first.heads + more),
            replace(first, head_size=first.head_size + more),
            replace(first, ffn_size=first.ffn_size + more),
        ]
        larger += [replace(workload, layers=(layer, *rest)) for layer in grown]
    profile, runtime, precision = target
    found = predict_many([case(item, profile, runtime, precision) for item in (workload, *larger)])
    for prediction in found[1:]:
        assert prediction.latency_ms >= found[0].latency_ms * (1 - 1e-12)


def test_tiny_shapes_approach_the_time_of_starting_kernels() -> None:
    tiny = [predict(case(Workload.uniform(layers, 64, 1, 64, 64, length=1, batch=1))).latency_ms for layers in (10, 20)]
    constants = fitted().constants
    host = constants["dispatch_us:tensorrt"] * constants["host:a100-40gb/tensorrt-10.16"]
    # 7 kernels in each fused layer, which wait for the device or for the host
    floor = 7 * max(constants["start_us:tensorrt-10.16"], host) / 1e3
    assert (tiny[1] - tiny[0]) / 10 == pytest.approx(floor, rel=0.1)


def test_long_batches_approach_the_arithmetic_rate() -> None:
    found = [predict(case(replace(BASE, batch_size=batch))).latency_ms for batch in (64, 128)]
    assert found[1] / found[0] == pytest.approx(2, rel=0.1)
    flops = 12 * 128 * 128 * (8 * 768**2 + 4 * 768 * 3072 + 4 * 128 * 768)
    assert 0.3 < flops / (found[1] * 1e-3) / 312e12 < 1


def test_pruning_and_fewer_bits_are_faster() -> None:
    busy = replace(BASE, batch_size=32)
    pruned = replace(busy, layers=(LayerShape(6, 64, 1536),) * 12)
    assert predict(case(pruned)).latency_ms < 0.75 * predict(case(busy)).latency_ms
    assert predict(case(busy, precision="int8")).latency_ms < 0.8 * predict(case(busy)).latency_ms


def test_layers_count_one_by_one() -> None:
    wide, narrow = LayerShape(12, 64, 3072), LayerShape(4, 64, 512)
    mixed = predict(case(replace(BASE, layers=(wide, narrow) * 6))).latency_ms
    same = predict(case(replace(BASE, layers=(wide,) * 6 + (narrow,) * 6))).latency_ms
    assert mixed == pytest.approx(same)


def test_the_interval_and_the_words() -> None:
    prediction = predict(case())
    spread = fitted().held_out_shape.groups["tensorrt-10.16/tensorrt/fp16"].interval
    assert prediction.high == pytest.approx(prediction.latency_ms * (1 + spread))
    assert prediction.low == pytest.approx(prediction.latency_ms / (1 + spread))
    assert prediction.source == "predicted"
    assert prediction.note == f"predicted, a100-40gb, +-{100 * spread:.0f} %"
    assert not prediction.extrapolated


def test_a_device_without_measurements_has_a_wider_interval() -> None:
    assert predict(case(profile="h100")).interval_percent > predict(case()).interval_percent
    assert predict(case(profile="v100-16gb")).latency_ms > predict(case()).latency_ms


def test_a_users_own_profile_is_not_taken_for_the_calibrated_one() -> None:
    own = find_profile(A100).model_copy(update={"multiprocessors": 54})
    assert predict(make_case(own, "tensorrt", "fp16", BASE)).interval_percent > predict(case()).interval_percent


@pytest.mark.parametrize(
    ("workload", "beyond"),
    [
        (replace(BASE, batch_size=1000), "batch_size"),
        (replace(BASE, sequence_length=16), "sequence_length"),
        (replace(BASE, layers=(BASE.layers[0], LayerShape(1, 64, 3072))), "layers, attention width"),
        (replace(BASE, layers=()), "layers, attention width, ffn_size"),
    ],
)
def test_what_is_beyond_the_calibration_is_said(workload: Workload, beyond: str) -> None:
    prediction = predict(case(workload))
    assert prediction.extrapolated
    assert prediction.beyond == beyond
    assert prediction.note.endswith(f"extrapolated ({beyond})")
    assert prediction.interval_percent > predict(case()).interval_percent


def test_a_precision_without_measurements_is_borrowed_and_marked() -> None:
    prediction = predict(case(precision="bf16"))
    assert prediction.latency_ms == pytest.approx(predict(case()).latency_ms)
    assert prediction.beyond == "precision"
    assert predict(case(precision="fp32")).latency_ms > 3 * prediction.latency_ms


@pytest.mark.parametrize(
    ("profile", "runtime", "precision", "parts"),
    [
        (A100, "tensorrt", "int4", ["int4", "fp16, int8"]),
        (A100, "eager", "fp16", ["eager", "tensorrt, onnxruntime+tensorrt"]),
        (A100, "torchscript", "int8", ["torchscript in 'int8'"]),
        ("v100-32gb", "tensorrt", "bf16", ["v100-32gb", "fp32, fp16"]),
    ],
)
def test_what_is_not_known_is_refused(profile: str, runtime: str, precision: str, parts: list[str]) -> None:
    with pytest.raises(RuntimeNotKnownError) as caught:
        case(profile=profile, runtime=runtime, precision=precision)
    for part in parts:
        assert part in str(caught.value)


def test_a_source_names_a_version() -> None:
    source = "DeepLearningExamples BERT triton/dist6l"
    older = make_case(find_profile("t4"), "tensorrt", "fp16", BASE, source)
    assert older.software.name == "triton-2021"
    assert predict(older).latency_ms > predict(case(profile="t4")).latency_ms
    assert software_of("tensorrt", "something else") is SOFTWARE[0]


def test_the_fit_covers_what_it_says() -> None:
    found = fitted()
    assert set(found.calibrated) == set(found.ranges)
    assert set(found.calibrated["tensorrt-10.16/tensorrt/int8"]) == {"a100-40gb", "a30"}
    assert all(name in profiles() for names in found.calibrated.values() for name in names)
