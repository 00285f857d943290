"""The search of a supernet: its loss, its schedule, and that a process that is killed loses nothing but an epoch."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from nasopt.architecture.cells import OPERATIONS, CellArchitecture
from nasopt.errors import CheckpointError
from nasopt.methods.adabert.distilled import bag_of_embeddings, fine_tuning
from nasopt.methods.adabert.search_options import SearchOptions
from nasopt.methods.adabert.supernet import RECORD, STATE, SearchLoss, SupernetSearch, make_supernet
from nasopt.models.searchcell import Supernet, freeze
from nasopt.tasks.batches import EncodedSplit
from nasopt.training.teacher import LiveTeacher

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")
TEXTS = 48
OPTIONS = SearchOptions(
    hidden_size=8,
    cells=2,
    layer_pairs=((0, 0), (1, 1), (2, 3)),
    search_epochs=3,
    search_batch_size=8,
    search_learning_rate=1e-2,
    architecture_learning_rate=5e-2,
    warmup_epochs=1,
    tau_start=2.0,
    tau_end=0.5,
)


class StopError(Exception):
    """Stands for the end of a process."""


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    config = BertConfig(
        vocab_size=20,
        hidden_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def split() -> EncodedSplit:
    """Class 0 has the word 5, class 1 the word 6, somewhere in 3 to 7 words."""
    generator = np.random.default_rng(0)
    texts = []
    for index in range(TEXTS):
        words = generator.integers(7, 20, size=generator.integers(3, 8))
        words[generator.integers(len(words))] = 5 + index % 2
        texts.append(words)
    offsets = torch.tensor([0, *map(len, texts)]).cumsum(0)
    flat = torch.from_numpy(np.concatenate(texts).astype(np.int32))
    labels = torch.arange(TEXTS) % 2
    return EncodedSplit({"input_ids": flat}, {"input_ids": 0}, offsets, labels)


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs.float(), labels)


def search_in(
    folder: Path, base: PreTrainedModel, split: EncodedSplit, options: SearchOptions = OPTIONS, origin: str = "one"
) -> SupernetSearch:
    return SupernetSearch(
        base_model=base,
        split=split,
        task_loss=cross_entropy,
        make_teacher=lambda: LiveTeacher(base, CPU, options.teacher_layers),
        options=options,
        folder=folder,
        origin=origin,
        device=CPU,
        seed=4,
    )


def stop_in(epoch: int) -> object:
    def on_step(done: int, total: int) -> None:
        if done > total * epoch // OPTIONS.search_epochs + 1:
            raise StopError

    return on_step


def without_time(record: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if name != "seconds"}


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_search_that_goes_on_ends_as_if_it_had_not_stopped(
    tmp_path: Path, base: PreTrainedModel, split: EncodedSplit, share: float
) -> None:
    options = OPTIONS.model_copy(update={"architecture_split": share})
    whole = search_in(tmp_path / "whole", base, split, options).run()
    search = search_in(tmp_path / "stopped", base, split, options)
    for epoch in (1, 2):
        with pytest.raises(StopError):
            search.run(stop_in(epoch))  # type: ignore[arg-type]
    steps: list[int] = []
    resumed = search.run(lambda done, total: steps.append(done))
    assert len(steps) == steps[-1] // 3  # the last epoch alone
    assert without_time(resumed) == without_time(whole)
    assert not (tmp_path / "stopped" / STATE).exists()


def test_it_is_done_once(tmp_path: Path, base: PreTrainedModel, split: EncodedSplit) -> None:
    search = search_in(tmp_path, base, split)
    record = search.run()

    def nothing(done: int, total: int) -> None:
        raise AssertionError("trained again")

    assert search.run(nothing) == record
    other = search_in(tmp_path, base, split, origin="other")
    with pytest.raises(AssertionError, match="trained again"):
        other.run(nothing)


def test_two_workers_that_start_together_do_it_once(tmp_path: Path, base: PreTrainedModel, split: EncodedSplit) -> None:
    steps: list[tuple[int, int]] = []
    records: list[dict[str, object]] = []

    def work() -> None:
        search = search_in(tmp_path, base, split)
        records.append(search.run(lambda *step: steps.append((threading.get_ident(), step[0]))))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert records[0] == records[1]
    assert len({thread for thread, _ in steps}) == 1
    assert [step for _, step in steps] == list(range(1, 3 * 6 + 1))


def test_the_record_tells_what_happened(tmp_path: Path, base: PreTrainedModel, split: EncodedSplit) -> None:
    search = search_in(tmp_path, base, split)
    record = search.run()
    assert json.loads((tmp_path / RECORD).read_text()) == record
    uniform = [[pytest.approx(1 / 7, abs=1e-4)] * 7] * 2
    assert record["theta"][0] == uniform  # the warm-up
    assert record["theta"][1] != uniform
    assert record["tau"] == pytest.approx([2.0, 1.0, 0.5])
    assert record["efficiency_weight"] == [0.0, 1.5, 1.5]
    logits = np.array(record["logits"])
    theta = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(record["theta"][-1], theta, atol=1e-4)
    np.testing.assert_allclose(record["entropy"][-1], -(theta * np.log(theta)).sum(axis=1), atol=1e-3)
    assert record["chosen"][-1] == [OPERATIONS[index] for index in theta.argmax(axis=1)]
    assert all(len(record["losses"][name]) == 3 for name in ("task", "distillation", "efficiency"))
    assert record["losses"]["distillation"][-1] < record["losses"]["distillation"][0]
    loaded = search.load(record["checkpoint"])
    assert isinstance(loaded.network, Supernet)
    assert loaded.network.architecture_logits.tolist() == record["logits"]


def test_the_published_efficiency_weight_collapses(tmp_path: Path, base: PreTrainedModel, split: EncodedSplit) -> None:
    options = OPTIONS.model_copy(update={"search_epochs": 8, "architecture_learning_rate": 0.2, "warmup_epochs": 0})
    record = search_in(tmp_path, base, split, options).run()
    assert record["verdict"] == "parameter-free"
    assert record["text"].startswith("collapsed: every cell chose an operation without parameters")


def test_a_lost_supernet_is_made_again(tmp_path: Path, base: PreTrainedModel, split: EncodedSplit) -> None:
    search = search_in(tmp_path, base, split)
    record = search.run()
    (file,) = tmp_path.glob(f"{record['checkpoint']}*")
    file.unlink()
    assert search.run()["checkpoint"] == record["checkpoint"]
    file.write_bytes(file.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(CheckpointError, match="damaged"):
        search.load(str(record["checkpoint"]))


def test_the_loss_is_the_weighted_sum(base: PreTrainedModel, split: EncodedSplit) -> None:
    options = OPTIONS.model_copy(update={"warmup_epochs": 0, "efficiency_weight": 3.0})
    model = make_supernet(base, options, seed=0).eval()  # in eval mode the mixture is theta, without noise
    supernet = model.network
    assert isinstance(supernet, Supernet)
    with torch.no_grad():
        supernet.architecture_logits.copy_(torch.randn(2, 7, generator=torch.Generator().manual_seed(0)))
    batch = split.batch(torch.tensor([0, 3, 5]))
    loss = SearchLoss(cross_entropy, options, LiveTeacher(base, CPU, (0, 1, 3)))
    with torch.no_grad():
        found = float(loss(model, batch))
        logits, states = supernet(batch.inputs["input_ids"], batch.attention_mask)
        teacher = base(**batch.inputs, output_hidden_states=True).hidden_states
        projected = [project(state) for project, state in zip(model.projections.maps, states, strict=True)]
    mask = batch.attention_mask.numpy()[..., None]
    squares = [
        (((mine - its).numpy() ** 2) * mask).sum() / (mask.sum() * 12)
        for mine, its in zip(projected, (teacher[0], teacher[1], teacher[3]), strict=True)
    ]
    scores = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    task = -np.log(scores[range(3), batch.labels.numpy()]).mean()
    theta = torch.softmax(supernet.architecture_logits, -1).detach().numpy()
    kernels = np.array([1, 3, 5, 3, 0, 0, 0])
    parameters = np.where(kernels > 0, kernels * 64 + 24, 0)
    costs = theta @ (kernels / 5 + parameters / parameters.max())
    expected = 0.2 * task + 0.8 * np.mean(squares) + 3.0 * costs.mean()
    assert found == pytest.approx(expected, rel=2e-2)  # a live teacher computes in bf16 where that is fast
    means = loss.means()
    assert means["task"] == pytest.approx(task, rel=1e-4)
    assert means["efficiency"] == pytest.approx(costs.mean(), rel=1e-5)


def test_a_student_is_compared_where_it_still_has_a_cell(base: PreTrainedModel, split: EncodedSplit) -> None:
    model = make_supernet(base, OPTIONS, seed=0)
    assert isinstance(model.network, Supernet)
    architecture = CellArchitecture(("skip", "conv3"), 8)
    student = freeze(model.network, architecture)
    teacher = LiveTeacher(base, CPU, OPTIONS.teacher_layers)
    wrapped, loss = fine_tuning(architecture, student, model.projections, cross_entropy, OPTIONS, teacher)
    batch = split.batch(torch.tensor([1, 2]))
    with torch.no_grad():
        found = float(loss(wrapped, batch))
        outputs = student(**batch.inputs, output_hidden_states=True)
        _, hidden = teacher(batch)
    mask = batch.attention_mask[..., None]

    @torch.no_grad()
    def square(position: int, state: int, layer: int) -> float:
        projected = model.projections.maps[position](outputs.hidden_states[state])
        return float((((projected - hidden[layer].float()) ** 2) * mask).sum() / (mask.sum() * 12))

    expected = 0.2 * cross_entropy(outputs.logits, batch.labels) + 0.8 * (square(0, 0, 0) + square(2, 1, 2)) / 2
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_the_bag_has_an_embedding_and_a_classifier_only(base: PreTrainedModel) -> None:
    bag = bag_of_embeddings(base, OPTIONS, seed=0)
    supernet = make_supernet(base, OPTIONS, seed=0).network
    assert len(bag.network.adabert.cells) == 0
    theirs = supernet.get_submodule("embeddings").state_dict()
    mine = bag.network.adabert.embeddings.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_nothing_is_compared_without_a_teacher(tmp_path: Path, base: PreTrainedModel, split: EncodedSplit) -> None:
    options = OPTIONS.model_copy(update={"distillation_weight": 0.0, "search_epochs": 2})
    record = replace(search_in(tmp_path, base, split, options), make_teacher=lambda: None).run()
    assert record["losses"]["distillation"] == [0.0, 0.0]
