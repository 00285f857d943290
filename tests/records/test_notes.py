"""The text of notes."""

from dataclasses import replace

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.records.latency import MeasuredLatency, PredictedLatency
from nasopt.records.notes import TrialView, failure_text, in_words, note_text
from nasopt.records.trial import MemoryRecord, TrialRecord

SHAPE = EncoderShape(num_layers=3, num_heads=4, ffn_size=1536, hidden_size=64)
LATENCY = MeasuredLatency(
    value_ms=2.5,
    median_ms=2.6,
    p10_ms=2.4,
    p90_ms=3.0,
    repetitions=40,
    base_median_ms=5.2,
    ratio=0.5,
    ratio_low=0.48,
    ratio_high=0.53,
    device="Some CPU",
    driver="",
    torch_version="2.13.0",
    dtype="int8",
    threads=2,
    batch_size=8,
    sequence_length=64,
)
VIEW = TrialView(
    record=TrialRecord(
        parameters=1_234_567,
        flops=2_345_000_000,
        latencies={"latency_ms": LATENCY},
        parent=7,
        training_result={"steps": 10, "tokens": 100, "seconds": 1.25, "loss": 0.5},
        finetune_epochs=0,
        distill_epochs=2,
    ),
    architecture=Architecture(
        (KeptUnits((0, 3), tuple(range(1024))), None, KeptUnits((0, 1, 2, 3), tuple(range(1536)))), "int8"
    ),
    shape=SHAPE,
    values={"quality": 0.875, "latency_ms": 2.5, "memory_mb": 1.5},
    base_values={"quality": 0.9, "latency_ms": 5.0, "memory_mb": 6.0},
    metric="accuracy",
    trained="distill",
)


def lines_of(text: str) -> list[str]:
    return [" ".join(line.replace("\N{EM SPACE}", "").split()) for line in text.splitlines()]


def test_the_architecture_in_words() -> None:
    assert in_words(VIEW) == (
        "2 of 3 layers, 6 of 12 attention heads, 2,560 of 4,608 FFN neurons, int8, 1,234,567 parameters, "
        "2.35 GFLOPs a batch"
    )


def test_a_note_says_where_a_trial_comes_from_and_what_it_reached() -> None:
    lines = lines_of(note_text(VIEW))
    assert lines[2].startswith("Child of trial 7; distilled from the base model in this trial (1.2 s, 10 steps")
    assert lines[2].endswith("Epochs since the base model: 2 of distillation.")
    assert "| `quality` (accuracy) | 0.8750 | 0.9000 | 0.972 |" in lines
    assert "| `latency_ms` | 2.500 ms | 5.000 ms | 0.500 (0.480 to 0.530) |" in lines
    assert "| `memory_mb` | 1.50 MB | 6.00 MB | 0.250 |" in lines


def test_a_note_says_what_cut_vectors_are_worth() -> None:
    view = replace(VIEW, record=replace(VIEW.record, quality_by_dimension={"256": 0.5, "64": 0.25}))
    lines = lines_of(note_text(view))
    place = lines.index("| first entries of a vector | 256 | 64 |")
    assert lines[place + 2] == "| `quality` (accuracy) | 0.5000 | 0.2500 |"


def test_a_note_lists_the_layers_and_the_environment() -> None:
    lines = lines_of(note_text(VIEW))
    assert lines[lines.index("| layer | attention heads | FFN neurons |") + 2 :][:3] == [
        "| 0 | 2 of 4 | 1024 of 1536 |",
        "| 1 | removed | - |",
        "| 2 | 4 of 4 | 1536 of 1536 |",
    ]
    for line in ("| device | Some CPU |", "| threads | 2 |", "| torch | 2.13.0 |", "| source | measured |"):
        assert line in lines
    assert "| median (p10 to p90) | 2.600 ms (2.400 to 3.000) |" in lines


def test_a_predicted_latency_is_called_one_and_several_have_a_column_each() -> None:
    gpu = PredictedLatency(
        profile="a100-40gb",
        device="a100-40gb",
        fitted="2026-11-20",
        interval_percent=12.4,
        runtime="tensorrt",
        dtype="fp16",
        batch_size=8,
        sequence_length=64,
        lengths="fixed",
        value_ms=0.5,
        median_ms=0.5,
        low_ms=0.45,
        high_ms=0.56,
        beyond=("layers",),
        base_median_ms=1.0,
        ratio=0.5,
    )
    view = replace(
        VIEW,
        values={"quality": 0.8, "latency_ms_cpu": 2.5, "latency_ms_gpu": 0.5, "memory_mb": 1.0},
        record=replace(VIEW.record, latencies={"latency_ms_cpu": LATENCY, "latency_ms_gpu": gpu}),
    )
    lines = lines_of(note_text(view))
    words = "predicted, a100-40gb, +-12 %, extrapolated (layers)"
    assert f"| source | measured | {words} |" in lines
    assert f"| `latency_ms_gpu` | 0.500 ms ({words}) | - | 0.500 |" in lines
    assert "| device | Some CPU | a100-40gb |" in lines
    assert "| runtime | eager | tensorrt |" in lines
    assert "| median (p10 to p90) | 2.600 ms (2.400 to 3.000) | 0.500 ms (interval 0.450 to 0.560) |" in lines


def test_a_note_says_what_memory_is_and_that_the_device_has_changed() -> None:
    memory = MemoryRecord(1.5, 3.25, "Some CPU")
    record = replace(VIEW.record, memory=memory, device_change="latency_ms: measured, another CPU")
    text = note_text(replace(VIEW, record=record))
    assert "Memory: 1.50 MB of weights, 3.25 MB at most in one pass (on Some CPU)." in text
    assert "**The device has changed:** latency_ms: measured, another CPU" in text


def test_the_base_model_has_nothing_to_compare_with() -> None:
    view = replace(VIEW, record=TrialRecord(latencies={"latency_ms": LATENCY}), base_values={})
    lines = lines_of(note_text(view))
    assert lines[2] == "The base model."
    assert "| `memory_mb` | 1.50 MB | - | - |" in lines


def test_an_error_message_is_not_taken_for_markdown() -> None:
    assert failure_text("ValueError: `x` is *bad*", 3) == "**Failed:** `ValueError: 'x' is *bad*`\n\nChild of trial 3."
    assert failure_text("no", None) == "**Failed:** `no`"
