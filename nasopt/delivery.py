"""From a trial to a model folder: choosing it, rebuilding its artifact, evaluating it once on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import TrialNotFoundError
from nasopt.methods.base import Candidate, Lineage
from nasopt.objective import make_method
from nasopt.query import best_trial
from nasopt.storage import attributes
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.study import OpenStudy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nasopt.tasks.base import Task


def choose(opened: OpenStudy, number: int | None, condition: str | None) -> FrozenTrial:
    """The trial of that number, or the best one that satisfies a condition.

    Raises:
        TrialNotFoundError: it is missing, failed, or its checkpoint was not kept.
    """
    store = _store(opened)
    if condition is not None:
        names = opened.study.metric_names or []
        kept = [t for t in attributes.complete_trials(opened.study) if t.user_attrs.get(attributes.CHECKPOINT) in store]
        return best_trial(kept, condition, names)
    trials = opened.study.get_trials(deepcopy=False)
    if number is None or number >= len(trials):
        last = f"0 to {len(trials) - 1}" if trials else "none; run `nasopt study optimize` first"
        raise TrialNotFoundError(f"--trial {number}: there is no such trial; the study has {last}")
    trial = trials[number]
    if trial.state != TrialState.COMPLETE:
        reason = trial.user_attrs.get(attributes.FAILURE, "")
        raise TrialNotFoundError(
            f"--trial {number}: it is {trial.state.name}, not COMPLETE{': ' * bool(reason)}{reason}"
        )
    if trial.user_attrs.get(attributes.CHECKPOINT) not in store:
        raise TrialNotFoundError(
            f"--trial {number}: its weights were not kept (only those on the Pareto front and in the population are); "
            "`nasopt study pareto` shows trials that can be exported"
        )
    return trial


def export(opened: OpenStudy, trial: FrozenTrial, to: Path, *, force: bool = False) -> Path:
    """Writes a trial's model for `from_pretrained`, verified, with a model card.

    Raises:
        ExportError: the folder is not empty (and `force` is not set), or the model read back differs.
        CheckpointError: the checkpoint is damaged.
    """
    from nasopt.export import check_target, export_hf
    from nasopt.measurement.device import resolve_device
    from nasopt.preparation import open_task

    check_target(to, force)
    task = open_task(opened.config)
    candidate = rebuild(opened, trial, task)
    device = resolve_device(opened.config.latency[0].device)
    artifact = make_method(opened.config).quantize(candidate, device)
    card = model_card(opened, trial, _test_qualities(opened, trial, task))
    return export_hf(artifact, task.tokenizer, candidate.architecture, to, card=card, force=force)


def rebuild(opened: OpenStudy, trial: FrozenTrial, task: Task) -> Candidate:
    """The candidate of a complete trial, from its checkpoint."""
    from nasopt.models.surgery import cut

    weights, architecture = _store(opened).read(trial.user_attrs[attributes.CHECKPOINT])
    model: PreTrainedModel = cut(task.load_model(), architecture)
    model.load_state_dict(weights)
    model.eval()
    return Candidate(model, architecture.with_precision(trial.params["precision"]), Lineage())


def _test_qualities(opened: OpenStudy, trial: FrozenTrial, task: Task) -> tuple[float | None, float | None]:
    """Quality on the test split of a trial and of the base model; None where there is no such split or checkpoint."""
    from nasopt.measurement.device import resolve_device

    if opened.config.task.dataset.splits.test is None:
        return None, None
    device, method = resolve_device(opened.config.latency[0].device), make_method(opened.config)
    (opened.folder / "data").mkdir(exist_ok=True)
    split = task.encode(opened.folder / "data")["test"]

    def quality(which: FrozenTrial | None) -> float | None:
        if which is None or which.user_attrs[attributes.CHECKPOINT] not in _store(opened):
            return None
        # Quantised again: evaluating would repack the weights of the artifact that is exported.
        return task.evaluate(method.quantize(rebuild(opened, which, task), device), split, device).quality

    return quality(trial), quality(attributes.base_of(opened.study))


def _store(opened: OpenStudy) -> CheckpointStore:
    return CheckpointStore(opened.folder / "checkpoints")


def model_card(opened: OpenStudy, trial: FrozenTrial, test_qualities: tuple[float | None, float | None]) -> str:
    """README.md of an exported model: what it is, its numbers beside the base model's, and where they were measured."""
    task = opened.config.task
    base = attributes.base_of(opened.study)
    base_values = base.values if base else [None] * len(trial.values)
    rows = [
        f"| {name} | {_number(mine)} | {_number(its)} |"
        for name, mine, its in zip(opened.study.metric_names or [], trial.values, base_values, strict=True)
    ]
    if test_qualities[0] is not None:
        mine, its = test_qualities
        rows.insert(1, f"| {task.metric} on the test split | {_number(mine)} | {_number(its)} |")
    licence = _licence(task.model)
    front = f"---\nbase_model: {Path(task.model).name}\nlibrary_name: transformers\npipeline_tag: {task.type}\n"
    front += f"license: {licence}\n" if licence else ""
    environments = "\n".join(
        f"* {name}: {_environment(item)}" for name, item in trial.user_attrs.get(attributes.LATENCY, {}).items()
    )
    return f"""{front}---
# {opened.config.name}, trial {trial.number}

Made from `{Path(task.model).name}` by nasopt's {opened.config.method} search, for {task.type} on
`{Path(task.dataset.path).name}`. Precision {trial.params["precision"]},
{trial.user_attrs.get("parameters", 0):,} parameters.

| | this model | base model |
|---|---|---|
{chr(10).join(rows)}

`quality` is {task.metric} on the validation split, which the search has seen.

Latency is one forward pass of one batch, measured in alternation with the base model:

{environments}

```python
import nasopt

model, tokenizer = nasopt.load("this folder")
```

Licence of the base model: {licence or "unknown"}.
"""


def _environment(item: Mapping[str, Any]) -> str:
    return (
        f"{item['batch_size']} x {item['sequence_length']} tokens on {item['device']}, {item['threads']} threads, "
        f"torch {item['torch_version']}; ratio to the base model {item['ratio']:.3f} "
        f"({item['ratio_low']:.3f} to {item['ratio_high']:.3f}, {item['repetitions']} pairs); {item['source']}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _licence(model: str) -> str | None:
    """The licence that a local base model's own card states."""
    card = Path(model) / "README.md"
    if not card.is_file():
        return None
    for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
        if line.startswith("license:"):
            return line.partition(":")[2].strip()
    return None
