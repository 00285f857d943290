"""The study file of the tests that run whole studies on the tiny model."""

from __future__ import annotations

from pathlib import Path


def study_text(model: Path, data: Path, options: str, base_epochs: int = 4) -> str:
    """A genetic study named `tiny`; `options` are the lines of its `[method_options]`."""
    return f"""
name = "tiny"
method = "genetic"
seed = 1
[task]
model = "{model}"
max_length = 32
[task.dataset]
path = "{data}"
text = ["text"]
splits = {{ train = "train", validation = "validation", test = "test" }}
[training]
batch_size = 16
learning_rate = 1e-3
[base_training]
epochs = {base_epochs}
batch_size = 16
learning_rate = 3e-3
[latency]
batch_size = 2
sequence_length = 16
threads = 1
[method_options]
{options}
"""
