"""Everything that a report says of a study, as one JSON object: the page shows the same numbers."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from nasopt.records import queries
from nasopt.records.latency import LatencyRecord, MeasuredLatency
from nasopt.records.trial import TrialRecord
from nasopt.report.confirmations import confirmation_summary, with_confirmation
from nasopt.report.figures.progress import progress_of
from nasopt.report.headline import headline
from nasopt.report.outside import outside_lines, outside_records
from nasopt.report.printing import Record
from nasopt.report.tables import pareto_trials, study_record, trial_record
from nasopt.report.verdicts import Comparisons, control_records, pareto_records, summary_lines
from nasopt.storage.rdb import holds_password, parse_url
from nasopt.study.opening import OpenStudy


def report_record(opened: OpenStudy, storage: str | None = None) -> Record:
    """What the study set out from, what it found, how sure that is, and what went wrong.

    Args:
        opened: the study.
        storage: how commands name its database; None where they need not.
    """
    front, names = pareto_trials(opened), opened.config.metric_names
    comparisons = Comparisons(opened, front)
    records = [with_confirmation(opened, record) for record in pareto_records(comparisons, front, names)]
    for record, trial in zip(records, front, strict=True):
        stored = TrialRecord.of(trial)
        record["architecture"] = stored.architecture
        record["training_budget"] = stored.training_budget
        record["export"] = export_command(opened.name, trial.number, storage)
    outside = outside_records(opened, comparisons)
    progress = progress_of(opened.study)
    return {
        "study": study_record(opened),
        "headline": headline(opened, comparisons, records),
        "front": records,
        "verdicts": [
            *summary_lines(comparisons, records, opened.name),
            *outside_lines(comparisons, records, outside),
        ],
        "controls": control_records(opened),
        "outside": outside,
        "hypervolume": {"trials": progress.numbers, "seconds": progress.seconds, "values": progress.volumes},
        "failures": failures(opened),
        "latency": latency_records(opened, front),
        "confirmed": confirmation_summary(opened),
        "configuration": json.loads(opened.config.to_json()),
    }


def export_command(name: str, number: int, storage: str | None) -> str:
    """The command line that exports a trial. It names no password: others read the page."""
    words = ["nasopt", "study", "export", name, "--trial", str(number), "--to", f"{name}-{number}"]
    if storage is not None and not storage.startswith("@") and holds_password(parse_url(storage)):
        storage = "@FILE"
    return shlex.join([*words, *([] if storage is None else ["--storage", storage])])


def failures(opened: OpenStudy) -> list[Record]:
    """The trials that gave no values, by their reason, the most frequent one first."""
    found: dict[tuple[str, str], list[int]] = {}
    for trial in opened.study.get_trials(deepcopy=False, states=(TrialState.FAIL, TrialState.PRUNED)):
        kind = "interrupted" if queries.is_interrupted(trial) else _kind(trial)
        reason = trial_record(trial, opened.config.metric_names)["failure"] or "no reason is stored"
        found.setdefault((kind, reason), []).append(trial.number)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[1]))
    return [{"kind": kind, "reason": reason, "trials": numbers} for (kind, reason), numbers in ordered]


def _kind(trial: FrozenTrial) -> str:
    if queries.is_rejected(trial):
        return "rejected"
    return "screened" if queries.is_screened(trial) else "failed"


def latency_records(opened: OpenStudy, front: Sequence[FrozenTrial]) -> list[Record]:
    """How each latency of the front was obtained, on what, and how far repeated measurements spread."""
    base = queries.base_of(opened.study)
    found = []
    for name in opened.config.metric_names[1:-1]:
        items = [item for trial in front if (item := queries.latencies_of(trial).get(name)) is not None]
        first = (queries.latencies_of(base).get(name) if base is not None else None) or next(iter(items), None)
        if first is not None:
            found.append({"objective": name, **_how(first), **_spread(items)})
    return found


def _how(item: LatencyRecord) -> Record:
    return {
        "source": item.source_words,
        "device": item.device_words,
        "runtime": item.runtime_words,
        "threads": item.threads,
        "torch": item.torch_version if isinstance(item, MeasuredLatency) else None,
        "batch": item.batch_words,
        "base": item.spread_words,
    }


def _spread(items: Sequence[LatencyRecord]) -> Record:
    """The median, over the front, of half the width of the 95 % interval of the ratio to the base, in percent."""
    measured = [item for item in items if isinstance(item, MeasuredLatency)]
    if not measured:
        return {"interval_percent": None, "repetitions": None}
    widths = [50 * (item.ratio_high - item.ratio_low) / item.ratio for item in measured]
    return {
        "interval_percent": statistics.median(widths),
        "repetitions": statistics.median(item.repetitions for item in measured),
    }
