"""The rules that every task keeps to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nasopt.testing.small_study import shapes_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nasopt.tasks.base import Evaluation, Task
    from nasopt.tasks.batches import Examples


class TaskTestCase:
    """Conformance tests of a task: its data, its model, its loss and its quality.

    A subclass overrides the fixture :meth:`task`.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> Task:
        """A task on a small model and few data. Class-scoped, as those below are."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of the tokenised data."""
        return tmp_path_factory.mktemp("encoded")

    @pytest.fixture(scope="class")
    @classmethod
    def splits(cls, task: Task, folder: Path) -> Mapping[str, Examples]:
        """The tokenised data."""
        return task.encode(folder)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, task: Task) -> PreTrainedModel:
        """The base model, always with the same new weights where some are new."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return task.load_model().eval()

    @pytest.fixture(scope="class")
    @classmethod
    def evaluation(cls, task: Task, model: PreTrainedModel, splits: Mapping[str, Examples]) -> Evaluation:
        """The evaluation of the base model."""
        return _evaluate(task, model, splits)

    def test_there_are_examples_to_train_on_and_to_validate_with(self, splits: Mapping[str, Examples]) -> None:
        assert {"train", "validation"} <= splits.keys()
        for split in splits.values():
            assert len(split) == len(split.lengths) == len(split.labels) > 0
            assert all(len(side) == len(split) for side in split.sides)

    def test_what_was_tokenised_before_is_read(self, task: Task, splits: Mapping[str, Examples], folder: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        again = task.encode(folder)
        assert {role: split.fingerprint for role, split in again.items()} == {
            role: split.fingerprint for role, split in splits.items()
        }
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    def test_no_text_is_longer_than_the_model_reads(self, task: Task, splits: Mapping[str, Examples]) -> None:
        for split in splits.values():
            assert all(int(side.lengths.max()) <= task.max_positions for side in split.sides)

    def test_splits_differ(self, splits: Mapping[str, Examples]) -> None:
        assert len({split.fingerprint for split in splits.values()}) == len(splits)

    def test_evaluation_is_deterministic(
        self, task: Task, model: PreTrainedModel, splits: Mapping[str, Examples], evaluation: Evaluation
    ) -> None:
        again = _evaluate(task, model, splits)
        assert again.quality == evaluation.quality
        for mine, its in ((evaluation.outputs, again.outputs), (evaluation.replicates, again.replicates)):
            assert mine is its is None or (mine is not None and its is not None and np.array_equal(mine, its))

    def test_a_quality_is_finite_and_models_can_be_compared(
        self, task: Task, splits: Mapping[str, Examples], evaluation: Evaluation
    ) -> None:
        assert np.isfinite(evaluation.quality)
        assert (evaluation.outputs is None) != (evaluation.replicates is None)
        if evaluation.outputs is not None:
            assert evaluation.outputs.shape == (len(splits["validation"]), task.num_outputs)
            assert np.isfinite(evaluation.outputs).all()

    def test_replicates_agree_with_the_quality(self, evaluation: Evaluation) -> None:
        if evaluation.replicates is None:
            pytest.skip("models are compared by their outputs")
        first, resampled = evaluation.replicates[0], evaluation.replicates[1:]
        assert first == pytest.approx(evaluation.quality)
        assert len(resampled) >= 100
        assert abs(resampled.mean() - first) <= 3 * resampled.std() + 1e-9

    def test_the_loss_is_finite_and_can_be_differentiated(
        self, task: Task, model: PreTrainedModel, splits: Mapping[str, Examples]
    ) -> None:
        model.zero_grad()
        loss = task.training_loss(model, _batch(splits))
        assert loss.shape == ()
        assert bool(loss.isfinite())
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        model.zero_grad()
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)

    def test_the_training_loss_is_that_of_the_outputs(
        self, task: Task, model: PreTrainedModel, splits: Mapping[str, Examples]
    ) -> None:
        batch = _batch(splits)
        found, expected = task.loss_of(task.run(model, batch), batch), task.training_loss(model, batch)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_students_learn_rows_of_finite_logits(
        self, task: Task, model: PreTrainedModel, splits: Mapping[str, Examples]
    ) -> None:
        if not task.has_logits:
            pytest.skip("outputs have no logits")
        batch = _batch(splits)
        (output,) = task.run(model, batch)
        rows = task.distributions(output.logits, batch.sides[-1])
        assert rows.ndim == 2
        assert len(rows) >= len(batch.labels)
        assert bool(rows.isfinite().all())

    def test_hidden_states_are_given_where_they_are_wanted(
        self, task: Task, model: PreTrainedModel, splits: Mapping[str, Examples]
    ) -> None:
        for outputs in task.run(model, _batch(splits), hidden_states=True):
            states = getattr(outputs, "decoder_hidden_states", None) or outputs.hidden_states
            assert len(states) == task.shape.num_layers + 1

    def test_the_blank_model_has_the_shapes_of_the_model(self, task: Task, model: PreTrainedModel) -> None:
        blank = task.blank_model()
        assert shapes_of(blank) == shapes_of(model)
        assert {parameter.device.type for parameter in blank.parameters()} == {"meta"}

    def test_its_shape_is_the_model_s(self, task: Task, model: PreTrainedModel) -> None:
        from nasopt.models.families import encoder_shape

        assert task.shape == encoder_shape(model.config)

    def test_what_is_timed_takes_a_batch_of_texts(
        self, task: Task, model: PreTrainedModel, splits: Mapping[str, Examples]
    ) -> None:
        import torch

        side = next(_sides(splits))
        with torch.inference_mode():
            assert task.workload(model)(**side.inputs) is not None


def _evaluate(task: Task, model: PreTrainedModel, splits: Mapping[str, Examples]) -> Evaluation:
    import torch

    return task.evaluate(model, splits["validation"], torch.device("cpu"))


def _batch(splits: Mapping[str, Examples]) -> Any:
    """The first examples to train on."""
    import torch

    return splits["train"].batch(torch.arange(min(8, len(splits["train"]))))


def _sides(splits: Mapping[str, Examples]) -> Iterator[Any]:
    yield from _batch(splits).sides
