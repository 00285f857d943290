"""The rules that every method keeps to."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nasopt.architecture.base import PRECISIONS
from nasopt.architecture.genotype import canonical
from nasopt.architecture.reading import read_architecture
from nasopt.config.study import StudyConfig
from nasopt.errors import NasoptError, StudyFileError
from nasopt.execution.controls import member_of
from nasopt.methods.base import Outcome
from nasopt.methods.controls import Control, Controls
from nasopt.methods.registry import find, make_method
from nasopt.models.building import build
from nasopt.records import queries
from nasopt.storage.rdb import parse_url
from nasopt.study.creation import create
from nasopt.testing.small_study import Proposal, SmallStudy, contains, other_values, outputs_of, shapes_of
from nasopt.training.candidate import Candidate
from nasopt.training.weights import WeightSource
from nasopt.trial.artifact import make_artifact
from nasopt.trial.rebuilding import rebuild


class MethodTestCase:
    """Conformance tests of a method: searches a few trials of a study, and looks at all it says and makes.

    A subclass overrides the fixture :meth:`config`, and :meth:`refused` if its method refuses options that fit its
    model of them.
    """

    TRIALS = 4
    """Trials of the study, base model not counted."""

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> StudyConfig:
        """A small study of the method: its trials take a second or so. Class-scoped, as those below are."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def refused(cls) -> Sequence[Mapping[str, Any]]:
        """Changes of `[method_options]` with which the study must not be created, one by one."""
        return ()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of the study."""
        return tmp_path_factory.mktemp("conformance")

    @pytest.fixture(scope="class")
    @classmethod
    def study(cls, config: StudyConfig, folder: Path) -> SmallStudy:
        """The study after its first trials."""
        study = SmallStudy.created(config, folder)
        study.run(cls.TRIALS)
        return study

    @pytest.fixture(scope="class")
    @classmethod
    def proposals(cls, study: SmallStudy) -> list[Proposal]:
        """The proposals of the study's trials."""
        assert study.proposals, "no trial of the study came to be trained"
        return list(study.proposals)

    @pytest.fixture(scope="class")
    @classmethod
    def candidate(cls, study: SmallStudy, proposals: list[Proposal]) -> Candidate:
        """The candidate of the first proposal, made once more."""
        return _candidate(study, proposals[0])

    @pytest.fixture(scope="class")
    @classmethod
    def controls(cls, study: SmallStudy) -> Controls:
        """The method's controls; tests that need some are skipped where there are none."""
        if study.method.controls is None:
            pytest.skip("the method has no controls")
        return study.method.controls

    def test_it_is_found_by_its_name(self, config: StudyConfig) -> None:
        about = find(config.method).about
        assert about.name == config.method
        assert about.searches
        assert config.task.type in about.task_types
        assert all(issubclass(source, WeightSource) for source in about.sources)

    def test_finding_it_imports_no_torch(self, config: StudyConfig) -> None:
        code = (
            f"import sys; from nasopt.methods.registry import find; find({config.method!r})\n"
            "print(*sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == []

    def test_its_plan_is_one(self, config: StudyConfig) -> None:
        plan = make_method(config).plan
        assert plan.budget >= 1
        assert plan.precisions
        assert set(plan.precisions) <= set(PRECISIONS)

    def test_unknown_options_are_refused_in_one_line(self, config: StudyConfig) -> None:
        options = {**config.method_options, "no_such_option": 1}
        with pytest.raises(StudyFileError, match="no_such_option") as error:
            make_method(config.model_copy(update={"method_options": options}))
        assert "\n" not in str(error.value)

    def test_what_cannot_work_is_refused_in_one_line(
        self, config: StudyConfig, refused: Sequence[Mapping[str, Any]], tmp_path: Path
    ) -> None:
        for changes in refused:
            wrong = config.model_copy(update={"method_options": {**config.method_options, **changes}})
            with pytest.raises(NasoptError) as error:
                create(wrong, parse_url(f"sqlite:///{tmp_path}/study.db"))
            assert "\n" not in str(error.value)
            assert not (tmp_path / "study.db").exists()

    def test_the_space_is_flat_and_constant(self, config: StudyConfig, study: SmallStudy) -> None:
        shape = study.context.shape
        space = study.method.space(shape)
        assert space.distributions
        for name, distribution in space.distributions.items():
            assert isinstance(name, str)
            assert isinstance(distribution, CategoricalDistribution | IntDistribution | FloatDistribution)
        assert make_method(config).space(shape) == space

    def test_the_base_model_lies_inside_the_space_or_has_no_parameters(self, study: SmallStudy) -> None:
        space = study.method.space(study.context.shape)
        assert not space.base or space.base.keys() == space.distributions.keys()
        assert all(contains(space.distributions[name], value) for name, value in space.base.items())
        base = queries.base_of(study.opened.study)
        assert base is not None
        assert base.params == space.base

    def test_trials_lie_inside_the_space(self, study: SmallStudy) -> None:
        distributions = study.method.space(study.context.shape).distributions
        assert study.found(), "no trial was complete"
        for trial in study.found():
            assert trial.params.keys() == distributions.keys()
            assert all(contains(distributions[name], value) for name, value in trial.params.items())
            assert all(math.isfinite(value) for value in trial.values)

    def test_an_architecture_is_pure(self, study: SmallStudy, proposals: list[Proposal]) -> None:
        before = shapes_of(study.context.base_model)
        for proposal in proposals:
            again = study.method.architecture(dict(proposal.params), proposal.context)
            assert again == proposal.architecture
            assert hash(again) == hash(proposal.architecture)
        assert shapes_of(study.context.base_model) == before

    def test_an_architecture_survives_json(self, proposals: list[Proposal]) -> None:
        for architecture in (proposal.architecture for proposal in proposals):
            read = read_architecture(architecture.to_json())
            assert read == architecture
            assert type(read) is type(architecture)

    def test_an_architecture_describes_itself(self, study: SmallStudy, proposals: list[Proposal]) -> None:
        shape, kinds = study.context.shape, study.method.about.architectures
        for architecture in (proposal.architecture for proposal in proposals):
            assert isinstance(architecture, kinds)
            assert architecture.with_precision("bf16").precision == "bf16"
            assert architecture.with_precision(architecture.precision) == architecture
            assert "\n" not in architecture.brief() + architecture.in_words(shape)
            heading, rows = architecture.table(shape)
            assert {len(row) for row in rows} <= {len(heading)}
            assert json.loads(json.dumps(architecture.summary(shape)))

    def test_equal_parameters_are_equal_work_and_others_only_where_they_change_nothing(
        self, study: SmallStudy, proposals: list[Proposal]
    ) -> None:
        distributions = study.method.space(study.context.shape).distributions
        alike: list[tuple[Proposal, dict[str, Any]]] = []
        for proposal in proposals:
            params, work = dict(proposal.params), _work(study, proposal, proposal.params)
            assert _work(study, proposal, copy.deepcopy(params)) == work
            neighbours = _neighbours(params, distributions)
            alike += [(proposal, other) for other in neighbours if _work(study, proposal, other) == work]
        for proposal, params in alike[:2]:
            architecture = study.method.architecture(params, proposal.context)
            other = study.method.weights(params, proposal.context).candidate(architecture, proposal.context)
            same = outputs_of(_candidate(study, proposal).model) == outputs_of(other.model)
            assert bool(same.all()), f"{params} is not the same work as {dict(proposal.params)}"

    def test_a_candidate_has_the_shape_that_its_architecture_says(
        self, study: SmallStudy, proposals: list[Proposal], candidate: Candidate
    ) -> None:
        assert candidate.architecture == proposals[0].architecture
        assert next(candidate.model.parameters()).dtype.is_floating_point
        assert shapes_of(candidate.model) == shapes_of(
            build(candidate.architecture, copy.deepcopy(study.context.base_model))
        )

    def test_a_candidate_evaluates_to_finite_values(self, study: SmallStudy, candidate: Candidate) -> None:
        assert bool(outputs_of(candidate.model).isfinite().all())
        assert math.isfinite(_quality(study, candidate))

    def test_a_candidate_is_made_again_from_what_is_stored(self, study: SmallStudy, candidate: Candidate) -> None:
        context, expected = study.context, outputs_of(candidate.model)
        key = context.checkpoints.write(candidate.model.state_dict(), candidate.architecture)
        weights, architecture = context.checkpoints.read(key)
        restored = study.method.about.sources[0].restore(architecture, weights, context.task.load_model())
        assert bool((outputs_of(restored) == expected).all())

    def test_a_rebuilt_trial_has_its_quality(self, study: SmallStudy) -> None:
        front = [trial.number for trial in queries.pareto_front(study.opened.study)]
        for trial in (trial for trial in study.found() if trial.number in front):
            rebuilt = rebuild(study.method, study.context.checkpoints, trial, study.context.task)
            assert _quality(study, rebuilt) == pytest.approx(trial.values[0], abs=1e-6)

    def test_the_base_model_stays_as_it_is(self, study: SmallStudy) -> None:
        context = study.context
        weights, _ = context.checkpoints.read(context.base_key)
        for name, tensor in context.base_model.state_dict().items():
            assert bool((tensor.cpu() == weights[name]).all()), f"{name} of the base model has changed"

    def test_preparing_again_changes_nothing(self, study: SmallStudy) -> None:
        context = study.context
        files = _files(context.folder)
        prepared = study.method.prepare(context)
        assert study.method.prepare(context) == prepared
        assert json.loads(json.dumps(dict(prepared))) == dict(prepared)
        assert _files(context.folder) == files

    def test_judgements_are_numbers(self, study: SmallStudy) -> None:
        trial = study.found()[0]
        outcome = Outcome(trial.values, 1000, study.opened.config.task.metric, [trial.values])
        judgement = study.method.judge(outcome)
        numbers = [*judgement.constraints.values(), *judgement.scores.values()]
        assert all(isinstance(number, float | int) and math.isfinite(number) for number in numbers)

    def test_its_summary_is_json(self, study: SmallStudy) -> None:
        summary = study.method.summary(study.opened.study)
        assert json.loads(json.dumps(summary)) == summary

    def test_controls_differ_and_are_the_same_each_time(self, study: SmallStudy, controls: Controls) -> None:
        proposed = _proposed(controls, study, random_masks=3)
        keys = [queries.recipe_key(control.recipe) for control in proposed]
        assert len(set(keys)) == len(keys)
        assert all(control.label and "\n" not in control.label for control in proposed)
        assert all(json.loads(json.dumps(control.recipe)) == control.recipe for control in proposed)
        assert _proposed(controls, study, random_masks=3) == proposed
        assert all(isinstance(controls.depth(trial.params), int | None) for trial in study.found())

    def test_fewer_random_controls_are_the_first_of_more(self, study: SmallStudy, controls: Controls) -> None:
        many = _proposed(controls, study, random_masks=3)
        for count in (0, 1, 2):
            fewer = _proposed(controls, study, random_masks=count)
            assert fewer == [control for control in many if control in fewer]

    def test_a_control_is_made_alike_each_time(self, study: SmallStudy, controls: Controls) -> None:
        proposed = _proposed(controls, study, random_masks=1)
        for control in proposed[:1] + proposed[1:][-1:]:
            first, second = _control(controls, control, study), _control(controls, control, study)
            assert first.architecture == second.architecture
            assert bool(outputs_of(first.model).isfinite().all())
            assert bool((outputs_of(first.model) == outputs_of(second.model)).all())

    def test_a_resumed_study_goes_on_with_other_trials(self, study: SmallStudy, folder: Path) -> None:
        """This test comes last, because it changes the study."""
        first = [trial.params for trial in study.found()[: self.TRIALS]]
        resumed = SmallStudy.reopened(folder, study.opened.config.name)
        assert [trial.params for trial in resumed.found()[: self.TRIALS]] == first
        more = [trial.params for trial in resumed.run(self.TRIALS) if trial.params]
        assert more[: len(first)] != first, "the resumed study proposes its first trials again"


def _work(study: SmallStudy, proposal: Proposal, params: Mapping[str, Any]) -> Any:
    work = study.method.weights(params, proposal.context).work(params)
    assert isinstance(hash(work), int)
    return work


def _neighbours(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """The same parameters with one of them changed, each in another way, unless that describes the same model."""
    changed = (
        {**params, name: value} for name in distributions for value in other_values(distributions[name], params[name])
    )
    return [other for other in changed if canonical(other) != canonical(params)]


def _candidate(study: SmallStudy, proposal: Proposal) -> Candidate:
    return study.source(proposal).candidate(proposal.architecture, proposal.context)


def _quality(study: SmallStudy, candidate: Candidate) -> float:
    """The quality of the artifact on the validation split."""
    context = study.context
    artifact = make_artifact(candidate, context.device, study.method.plan.quantizer)
    view = context.view(candidate.architecture)
    return context.task.evaluate(artifact, view.splits["validation"], context.device, view.tokenizer).quality


def _proposed(controls: Controls, study: SmallStudy, random_masks: int) -> list[Control]:
    context = study.context
    kept = [trial for trial in study.found() if queries.checkpoint_of(trial) in context.checkpoints]
    members = [member_of(trial, context.checkpoints) for trial in kept]
    return controls.propose(members, context.shape, random_masks, context.config.seed, context.epoch_cost)


def _control(controls: Controls, control: Control, study: SmallStudy) -> Candidate:
    context = study.context.for_trial(len(study.opened.study.get_trials(deepcopy=False)), None)
    architecture, source = controls.make(control.recipe, context)
    return source.candidate(architecture, context)


def _files(folder: Path) -> dict[Path, int]:
    """The files of a folder without locks, each with the time at which it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
