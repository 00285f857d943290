"""Taylor on tiny models: cuts, whole searches, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import read, run
from conftest import FILLERS, WORDS, write_pairs
from pydantic import ValidationError
from study_text import pairs_text

import nasopt
from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.methods.taylor.method import TaylorMethod
from nasopt.methods.taylor.options import TaylorOptions
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.storage.rdb import parse_url
from nasopt.study.opening import OpenStudy, open_study
from nasopt.training.context import Context
from nasopt.training.samples import SampleSettings
from nasopt.training.sensitivity import study_sensitivity


@pytest.fixture
def write(write_study: Callable[..., Path]) -> Callable[..., Path]:
    def write(options: str, **more: str) -> Path:
        return write_study(method="taylor", options=options, **more)

    return write


@pytest.fixture
def pairs_study(study_folder: Path, tmp_path: Path, tiny_bert: Path) -> Callable[[str], Path]:
    """A study on two "languages" of eight words each. The word `of` of the vocabulary occurs in no text."""
    folder = write_pairs(
        tmp_path / "pairs",
        {"train": 120, "validation": 40, "test": 40},
        dict(zip(WORDS, FILLERS, strict=False)),
        longest=6,
    )

    def write(options: str) -> Path:
        file = study_folder / "tiny.toml"
        task = 'type = "sentence-similarity"\nmetric = "retrieval"'
        prefix = '[task.similarity]\nprefix = "it "'
        file.write_text(pairs_text(tiny_bert, folder, options, task=task, tables=prefix, method="taylor"))
        return file

    return write


def opened() -> OpenStudy:
    return open_study(parse_url("sqlite:///nasopt.db"), "tiny")


def architecture_of(number: int) -> Architecture:
    study = opened()
    key = study.study.trials[number].user_attrs["checkpoint"]
    found = CheckpointStore(study.folder / "checkpoints").read(key)[1]
    assert isinstance(found, Architecture)
    return found


@pytest.mark.integration
def test_a_whole_search_with_its_controls(study_folder: Path, write: Callable[..., Path]) -> None:
    options = 'trials = 4\nsampler = "tpe"\npopulation_size = 2\nheads = [0.25, 0.75]\nffn = [0.34, 0.67]\n'
    run("study", "create", write(options + "learning_rate = [1e-4, 1e-3]\nsaliency_examples = 64\n"))
    result = run("study", "optimize", "tiny")
    assert result.code == 0, result.err
    base, *trials = opened().study.trials
    assert (base.params, base.user_attrs["base"]) == ({}, True)
    assert len(trials) == 4
    for trial in trials:
        assert trial.state.name == "COMPLETE", trial.user_attrs
        assert 3 <= trial.params["heads_kept"] <= 9
        assert trial.params["ffn_kept"] in (128, 192, 256)
        assert 1e-4 <= trial.params["learning_rate"] <= 1e-3
        assert f"{trial.params['heads_kept']} heads, {trial.params['ffn_kept']} FFN" in trial.user_attrs["architecture"]
        assert trial.user_attrs["distill_epochs"] == 1
        assert trial.values[2] < base.values[2]
    assert len(list((study_folder / "nasopt.db.artifacts" / "tiny" / "taylor").glob("saliency-*.safetensors"))) == 1

    result = run("study", "controls", "tiny", "--random-masks", "1")
    assert result.code == 0, result.err
    shown = read("study", "pareto", "tiny")
    members = [row["number"] for row in shown if row["number"] != 0]
    controls = [trial for trial in opened().study.trials if "control" in trial.user_attrs]
    assert {trial.user_attrs["control"] for trial in controls} == {"random-units-0", "full-1"}
    for control in controls:
        recipe = control.user_attrs["control_recipe"]
        if recipe["kind"] == "full":
            continue
        member = next(n for n in members if opened().study.trials[n].user_attrs["checkpoint"] == recipe["like"])
        mine, theirs = architecture_of(member), control.user_attrs["architecture"]
        assert mine.brief() == theirs
        assert control.values[2] == opened().study.trials[member].values[2]
        assert recipe["learning_rate"] == opened().study.trials[member].params["learning_rate"]


@pytest.mark.slow
@pytest.mark.integration
def test_sentence_encoders_with_a_cut_vocabulary(study_folder: Path, pairs_study: Callable[[str], Path]) -> None:
    (study_folder / "more.txt").write_text("sad film\n")
    options = """trials = 3
sampler = "random"
scope = "layer"
rounds = 2
normalize = true
reading = "weights"
heads = [0.5, 1.0]
ffn = [0.5, 0.5]
saliency_examples = 64
hidden_weight = 0.5
vocabulary = ["cut"]
vocabulary_texts = ["more.txt"]
"""
    result = run("study", "create", pairs_study(options))
    assert result.code == 0, result.err
    assert Path(opened().config.method_options["vocabulary_texts"][0]).is_absolute()
    result = run("study", "optimize", "tiny", "--n-trials", "2")
    assert result.code == 0, result.err
    base, *trials = opened().study.trials
    for trial in trials:
        assert trial.state.name == "COMPLETE", trial.user_attrs
        assert set(trial.params) == {f"{part}_{layer}" for part in ("heads", "ffn") for layer in range(3)}
        assert all(trial.params[f"ffn_{layer}"] == 64 for layer in range(3))
        assert trial.values[0] > base.values[0]
    member = trials[0]
    architecture = architecture_of(member.number)
    counts = [len(units.heads) for units in architecture.layers if units is not None]
    assert counts == [member.params[f"heads_{layer}"] for layer in range(3)]
    # Five special tokens and eighteen words, of which `of` alone is not needed.
    assert len(architecture.vocabulary or ()) == 22
    assert "22 tokens" in member.user_attrs["architecture"]

    result = run("study", "export", "tiny", "--trial", str(member.number), "--to", "exported")
    assert result.code == 0, result.err
    model, tokenizer = nasopt.load("exported")
    assert model.config.vocab_size == len(tokenizer) == 22
    assert tokenizer.tokenize("it of sad film") == ["it", "[UNK]", "sad", "film"]
    assert "retrieval on the test split" in Path("exported/README.md").read_text()

    result = run("study", "controls", "tiny", "--random-masks", "0")
    assert result.code == 0, result.err
    random_units = [t for t in opened().study.trials if t.user_attrs.get("control", "").startswith("random-units")]
    assert random_units, "random units are a control of every study"
    assert all("22 tokens" in trial.user_attrs["architecture"] for trial in random_units)


def counts(**options: object) -> dict[str, tuple[int, int]]:
    return TaylorMethod(TaylorOptions.model_validate(options))._counts(EncoderShape(12, 12, 1536, 384))


def test_shares_become_counts() -> None:
    assert counts(heads=[0.25, 0.5], ffn=[0.3, 1.0]) == {"heads_kept": (36, 72), "ffn_kept": (5504, 18432)}
    by_layer = counts(scope="layer", heads=[0.0, 1.0], ffn=[0.5, 0.5])
    assert by_layer["heads_11"] == (0, 12)
    assert by_layer["ffn_0"] == (768, 768)
    assert len(by_layer) == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": [0.8, 0.2]}, "lower end comes first"),
        ({"ffn": [0.5, 1.2]}, "less than or equal to 1"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate": [1e-3, 1e-4]}, "lower end comes first"),
        ({"ranking_weight": 0, "output_weight": 0}, "nothing would be trained"),
        ({"vocabulary": ["cut", "cut"]}, "once"),
        ({"sampler": "cmaes"}, "nsga2"),
        ({"start": "fisher"}, 'set scope = "layer"'),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaylorOptions.model_validate(options)


def test_a_missing_file_of_texts_is_told(pairs_study: Callable[[str], Path]) -> None:
    result = run("study", "create", pairs_study('vocabulary = ["cut"]\nvocabulary_texts = ["none.txt"]\n'))
    assert result.code == 2
    assert "method_options.vocabulary_texts: there is no file none.txt" in result.err


def test_hidden_states_that_the_model_does_not_have_are_told(pairs_study: Callable[[str], Path]) -> None:
    result = run("study", "create", pairs_study("hidden_weight = 1.0\nhidden_layers = [1, 7]\n"))
    assert result.code == 2
    assert "method_options.hidden_layers: 7, but the base model has the hidden states 0 to" in result.err


def test_units_may_be_ranked_by_fisher_information(context: Context) -> None:
    options = {"scope": "layer", "saliency_examples": 64}
    params = {f"{part}_{layer}": kept for layer in range(3) for part, kept in (("heads", 2), ("ffn", 64))}
    found = TaylorMethod(TaylorOptions.model_validate({**options, "pruning": "fisher"})).architecture(params, context)
    training = context.config.training
    order = study_sensitivity("fisher", SampleSettings(64, training.batch_size, context.config.seed), context)
    for layer, units in enumerate(found.layers):
        assert units is not None
        assert units.heads == tuple(sorted(order.heads[layer].order[:2]))
        assert units.neurons == tuple(sorted(order.neurons[layer].order[:64]))


@pytest.mark.integration
def test_a_search_can_start_with_the_least_lossy_sub_networks(write: Callable[..., Path], study_folder: Path) -> None:
    options = (
        'start = "fisher"\nscope = "layer"\ncost = "flops"\nladder = 2\nlowest_share = 0.4\nheads = [0.25, 1.0]\n'
        "ffn = [0.0, 1.0]\nlearning_rate = [1e-4, 4e-4]\nsaliency_examples = 64\n"
    )
    run("study", "create", write(options))
    assert run("study", "optimize", "tiny", "--n-trials", "3").code == 0
    study = opened().study
    base, first, second, third = study.trials[:4]
    rungs = study.user_attrs["ladder"]
    assert base.params == {}
    assert [first.params, second.params] == rungs
    assert third.params not in rungs
    assert all(rung["learning_rate"] == pytest.approx(2e-4) for rung in rungs)
    for name, distribution in first.distributions.items():
        assert all(distribution._contains(distribution.to_internal_repr(rung[name])) for rung in rungs)
    sizes = [sum(rung[name] for name in rung if name.startswith("ffn")) for rung in rungs]
    assert sizes[0] < sizes[1]  # a bisection of two begins with the smaller one
