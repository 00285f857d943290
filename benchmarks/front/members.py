"""Members of the front against the base model and against controls of the same latency and whole training budget.

For every seed a real study runs the sub-networks of given shares, untrained and healed, and then, through the fisher
method's own controls, the first k layers and random units, trained until their budget is the healed member's.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from benchmarks.front.figures import Bits, markdown, paired_difference, unpacked
from benchmarks.front.ground import Setting, StudyRun, facts_of
from benchmarks.front.results import Results, Row
from nasopt.execution.controls import member_of, run_controls, unsettled
from nasopt.methods.fisher.method import FisherMethod
from nasopt.records import queries
from nasopt.storage.checkpoints import FOLDER as CHECKPOINTS

SHARES = (0.6, 0.5, 0.35, 0.2, 0.17, 0.11)
RANDOM_MASKS = 1
KINDS = ("first-k", "random-units")


def run(setting: Setting, results: Results, seed: int, weights: str, with_controls: bool) -> None:
    """The members of one seed, and their controls unless they are not wanted; what is there is not run again."""
    if results.has(piece="members", seed=seed, weights=weights, controls=with_controls):
        return
    options: dict[str, Any] = {"ladder": 0, "lowest_share": min(SHARES)}
    if weights != "cut":
        options["weights"] = weights
    study = setting.study_of(seed, f"members-{weights}", fresh=False, **options)
    _run_members(study)
    found = _members(study)
    controls: list[dict[str, Any]] = []
    if with_controls:
        healed = [trial for trial in found if trial.params["training"] == "distill"]
        controls = _run_controls(study, healed, seed)
    results.add(
        piece="members",
        seed=seed,
        weights=weights,
        controls=with_controls,
        threads=setting.threads,
        base=facts_of(study, study.complete()[0]),
        members=[facts_of(study, trial) for trial in found],
        rivals=controls,
    )
    if with_controls:
        shutil.rmtree(study.opened.folder / CHECKPOINTS)  # about 60 MB each, which nothing needs any more


def _run_members(study: StudyRun) -> None:
    """Queues the members that are neither done nor waiting, and runs all that wait."""
    known = [trial.params | trial.system_attrs.get("fixed_params", {}) for trial in study.opened.study.trials]
    method, context = study.objective.method, study.prepare()
    assert isinstance(method, FisherMethod)
    healing = {"training": "distill", "criterion": method.options.trained_criterion}
    rungs = [method.rung(share, context) for share in SHARES]
    wanted = [params for rung in rungs for params in (rung, {**rung, **healing})]
    for params in wanted:
        if params not in known:
            study.opened.study.enqueue_trial(params)
    study.run_some(len(wanted) - len(_members(study)))


def _members(study: StudyRun) -> list[FrozenTrial]:
    return [trial for trial in study.complete() if not (queries.is_base(trial) or queries.is_control(trial))]


def _run_controls(study: StudyRun, healed: Sequence[FrozenTrial], seed: int) -> list[dict[str, Any]]:
    """Runs the controls of the healed members, and says of each member and control that belong together."""
    family, context = study.objective.method.controls, study.prepare()
    assert family is not None
    members = [member_of(trial, context.checkpoints) for trial in healed]
    wanted = family.propose(members, context.shape, RANDOM_MASKS, seed, context.epoch_cost)
    wanted = [control for control in wanted if _kind(control.label) in KINDS]
    run_controls(study.opened, study.objective, unsettled(study.opened.study, wanted), lambda trial: None)
    rows = []
    for control in queries.complete_controls(study.opened.study):
        recipe, depth, label = (
            queries.recipe_of(control) or {},
            queries.control_depth_of(control),
            str(queries.label_of(control)),
        )
        rows += [
            {"of": member.number, "kind": _kind(label), "label": label, **facts_of(study, control)}
            for member in healed
            if family.is_alike(member.params, recipe, depth)
        ]
    return rows


def _kind(label: str) -> str:
    """`first-k` for a label such as `first-3`, `random-units` for one such as `random-units-0`."""
    kind = label.rpartition("-")[0]
    return "first-k" if kind == "first" else kind


def table(results: Results) -> str:
    """Members and controls of all seeds, as Markdown; differences are pooled over the seeds that have both."""
    rows = results.rows(piece="members")
    heading = ["share asked for", "weights", "latency / base", "untrained", "healed", "first k", "random units"]
    heading.append("healed - best control")
    lines = []
    for weights in dict.fromkeys(row["weights"] for row in rows):
        seeds = _by_seed(row for row in rows if row["weights"] == weights)
        lines += [_line(share, weights, seeds) for share in SHARES]
    seeds = sorted({row["seed"] for row in rows})
    base = ", ".join(f"{row['base']['quality']:.4f}" for row in {row["seed"]: row for row in rows}.values())
    return (
        f"Seeds {', '.join(map(str, seeds))}; base model {base}. Accuracy of the validation phrases: points from the "
        "base model of the same seed, mean over the seeds and 95 % interval over phrases; the range over the seeds in "
        f"square brackets; after @ the latency of a control.\n\n{markdown(heading, lines)}"
    )


def _by_seed(rows: Any) -> list[Row]:
    """One row for each seed: the one with controls, where there is one."""
    found: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: row["controls"]):
        found[row["seed"]] = row
    return list(found.values())


def _line(share: float, weights: str, seeds: Sequence[Row]) -> list[str]:
    cells = []
    for training in ("none", "distill"):
        pairs = [(_member(row, share, training), row["base"]) for row in seeds]
        cells.append(_cell([(one, base) for one, base in pairs if one is not None]))
    rivals = {kind: [(_rival(row, share, kind), row["base"]) for row in seeds] for kind in KINDS}
    for kind in KINDS:
        pairs = [(one, base) for one, base in rivals[kind] if one is not None]
        cells.append(_cell(pairs) + (f" @ {_mean_ratio([one for one, _ in pairs])}" if pairs else ""))
    against = []
    for row in seeds:
        healed, theirs = _member(row, share, "distill"), [_rival(row, share, kind) for kind in KINDS]
        known = [rival for rival in theirs if rival is not None]
        if healed is not None and known:
            against.append((healed, max(known, key=lambda rival: rival["quality"])))
    cells.append(_cell(against))
    members = [found for row in seeds if (found := _member(row, share, "distill")) is not None]
    return [f"{share:.2f}", weights, _mean_ratio(members), *cells]


def _member(row: Row, share: float, training: str) -> dict[str, Any] | None:
    wanted = {"latency_share": share, "training": training}
    return next((item for item in row["members"] if wanted.items() <= item["params"].items()), None)


def _rival(row: Row, share: float, kind: str) -> dict[str, Any] | None:
    member = _member(row, share, "distill")
    return next(
        (item for item in row["rivals"] if member and item["of"] == member["number"] and item["kind"] == kind), None
    )


def _mean_ratio(items: Sequence[dict[str, Any]]) -> str:
    return f"{sum(item['ratio'] for item in items) / len(items):.3f}" if items else "-"


def _cell(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The pooled difference of pairs of models, one pair a seed."""
    if not pairs:
        return "-"
    found = paired_difference([(_bits(one), _bits(other)) for one, other in pairs])
    each = [100 * (one["quality"] - other["quality"]) for one, other in pairs]
    return found.in_points() + (f" [{min(each):+.1f} to {max(each):+.1f}]" if len(each) > 1 else "")


def _bits(item: dict[str, Any]) -> Bits:
    return unpacked(item["correct"], item["examples"])


def budgets(results: Results) -> str:
    """A line on the largest lack of a control's budget against its member's: 0 or less means that none lacks any."""
    gaps = []
    for row in results.rows(piece="members"):
        members = {item["number"]: item for item in row["members"]}
        gaps += [1 - (item["budget"] or 0) / members[item["of"]]["budget"] for item in row["rivals"]]
    return f"Of their member's training budget controls lack at most {max(gaps):.1%}." if gaps else ""
