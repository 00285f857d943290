"""Any study file that is accepted comes back equal from the database, and as a study file again."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import hypothesis.strategies as st
import optuna
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from nasopt.config.embedding import RetrievalConfig
from nasopt.config.study import LatencyConfig, StudyConfig
from nasopt.config.task import METRICS_OF_KIND, MULTI_LABEL, RERANKING, RETRIEVAL_METRICS, TRAITS, TaskConfig
from nasopt.errors import StudyFileError
from nasopt.methods.genetic.method import GeneticOptions
from nasopt.records import names as attributes
from nasopt.samplers.mutations import MUTATIONS
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.study.opening import open_study

pytestmark = pytest.mark.integration

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
NAMES = st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters="./\\"), min_size=1, max_size=20)
INFINITIES = st.sampled_from([float("inf"), -float("inf")])
TABLES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | INFINITIES | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
FUNCTIONS = st.sampled_from(["json:dumps", "os.path:join"])


def number(
    field: FieldInfo, strategy: Callable[..., st.SearchStrategy[Any]], **settings: Any
) -> st.SearchStrategy[Any]:
    """Numbers within a field's bounds."""
    bounds: dict[str, Any] = {}
    for item in field.metadata:
        match item:
            case annotated_types.Ge(ge=low) | annotated_types.Gt(gt=low):
                bounds["min_value"] = low
            case annotated_types.Le(le=high) | annotated_types.Lt(lt=high):
                bounds["max_value"] = high
    excluded = {item.gt for item in field.metadata if isinstance(item, annotated_types.Gt)}
    excluded |= {item.lt for item in field.metadata if isinstance(item, annotated_types.Lt)}
    return strategy(**{"max_value": 10**6, **bounds}, **settings).filter(lambda value: value not in excluded)


def value(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values that a study file may have for one key, read off its model."""
    annotation = field.annotation
    if get_origin(annotation) in (UnionType, Union):
        (annotation,) = (item for item in get_args(annotation) if item is not NoneType)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return tables(annotation)
    if get_origin(annotation) is tuple:
        if get_args(annotation)[0] is int:
            return st.lists(st.integers(1, 4096), max_size=3, unique=True)
        choices = get_args(get_args(annotation)[0])
        return st.lists(st.sampled_from(choices), min_size=1, max_size=3) if choices else st.lists(TEXT, min_size=2)
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if annotation is int:
        return number(field, st.integers)
    if annotation is float:
        return number(field, st.floats, allow_nan=False, allow_infinity=False)
    if annotation is str:
        longest = next((item.max_length for item in field.metadata if isinstance(item, annotated_types.MaxLen)), None)
        return TEXT.map(lambda text: text[:longest])
    return {bool: st.booleans()}[annotation]


def tables(model: type[BaseModel], **special: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Tables of a study file with some of the keys that may be left out; `special` keys are made otherwise."""
    required, optional = {}, {}
    for name, field in model.model_fields.items():
        kind = required if field.is_required() else optional
        if name in special:
            kind[name] = special[name]
        elif name == "text":
            kind[name] = st.lists(TEXT, min_size=1, max_size=2)
        else:
            kind[name] = value(field)
    return st.fixed_dictionaries(required, optional=optional)


def contradicts_itself(table: dict[str, Any]) -> bool:
    """Whether keys exclude each other, which their bounds do not say."""
    try:
        LatencyConfig.model_validate(table)
    except ValidationError:
        return True
    return False


def latencies() -> st.SearchStrategy[Any]:
    """One table, or several with a name each."""
    name = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
    devices = st.sampled_from(["cpu", "cuda", "a100"])
    one = tables(LatencyConfig, name=name, device=devices).filter(lambda table: not contradicts_itself(table))
    named = st.builds(lambda table, text: {**table, "name": text}, one, name)
    return one | st.lists(named, min_size=1, max_size=3, unique_by=lambda table: table["name"])


def options() -> st.SearchStrategy[dict[str, Any]]:
    """Options of the genetic method."""
    probability = st.floats(0.125, 1)
    return tables(
        GeneticOptions,
        mutation_prob=probability,
        quantization_prob=probability,
        crossover_prob=probability,
        mutations=st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=1, max_size=4),
        precisions=st.permutations(["fp32", "bf16", "int8"]).map(lambda names: [*names[:2], *{"fp32"} - {*names[:2]}]),
        pruning=FUNCTIONS,
        weights=st.sampled_from(["inherit", "cut"]),  # an elastic base has no order by a function
        quantization=FUNCTIONS,
    )


ANY_TASK, ANY_RETRIEVAL = tables(TaskConfig), tables(RetrievalConfig)  # once: a strategy is slow to make


@st.composite
def tasks(draw: st.DrawFn) -> dict[str, Any]:
    """A task of each type, with the tables and metrics that are its own."""
    kind = draw(st.sampled_from(sorted(TRAITS)))
    table = draw(ANY_TASK)
    others = {table for name, traits in TRAITS.items() if name != kind for table in traits.tables} | {"new_model"}
    table = {key: item for key, item in table.items() if key not in others}
    table |= {"type": kind, "metric": draw(st.sampled_from(TRAITS[kind].metrics))}
    labels = {"class_weights": table.pop("class_weights", None), "labels": table["dataset"].pop("labels", None)}
    query = table["dataset"].pop("query", None)
    table = {key: item for key, item in table.items() if key not in ("kind", "positive_label")}
    if kind == "text-classification":
        kinds = [name for name, metrics in METRICS_OF_KIND.items() if table["metric"] in metrics]
        reading = draw(st.sampled_from(kinds))
        is_said = reading in (MULTI_LABEL, RERANKING) or draw(st.booleans())
        table |= {"kind": reading} if is_said else {}
        table |= {"positive_label": draw(TEXT)} if table["metric"] == "f1" else {}
        if reading == MULTI_LABEL and labels["labels"]:
            table["dataset"] = {**table["dataset"], "labels": labels["labels"]}
        if reading == MULTI_LABEL and labels["class_weights"]:
            table["class_weights"] = labels["class_weights"]
        if reading == RERANKING:
            table["dataset"] |= {"text": ["first", "second"]} | ({"query": query} if query else {})
    else:
        table.pop("new_head", None)
        table["dataset"] = {**table["dataset"], "text": ["first", "second"][: TRAITS[kind].columns[0]]}
    if table["metric"] == "encodechka":
        table["similarity"] = {**table.get("similarity", {}), "encodechka": draw(TEXT)}
    table.pop("retrieval", None)
    if kind == "sentence-similarity" and table["metric"] in RETRIEVAL_METRICS:
        table["retrieval"] = draw(ANY_RETRIEVAL)
    return table


def study_files(method_options: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Study files; those of translations lack `latency`, because they do not accept every kind of it."""
    documents = tables(
        StudyConfig,
        name=NAMES,
        method=st.just("genetic"),
        task=tasks(),
        latency=latencies(),
        method_options=method_options,
    )
    return documents.map(
        lambda document: {
            key: item for key, item in document.items() if key != "latency" or document["task"]["type"] != "translation"
        }
    )


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(document=study_files(st.dictionaries(TEXT, TABLES, max_size=4)))
def test_a_study_file_comes_back_as_a_study_file(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    """Methods' options may be anything that TOML has words for, but dates."""
    path = tmp_path_factory.getbasetemp() / "property.toml"
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    config = StudyConfig.from_toml(path)
    for key, given_value in document["task"].items():
        if not isinstance(given_value, dict):
            assert getattr(config.task, key) == given_value
    path.write_text(config.to_toml(), encoding="utf-8")
    assert StudyConfig.from_toml(path) == config
    assert StudyConfig.from_json(config.to_json()) == config


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(document=study_files(options()).filter(lambda document: document["task"]["type"] != "translation"))
def test_a_study_file_comes_back_from_the_database(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "property.toml"
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    config = StudyConfig.from_toml(path)
    url = parse_url(f"sqlite:///{folder / 'property.db'}")
    storage = open_storage(url)
    study = optuna.create_study(
        study_name=config.name, storage=storage, directions=["maximize", "minimize", "minimize"]
    )
    try:
        study.set_user_attr(attributes.ARTIFACTS, str(folder))
        study.set_user_attr(attributes.CONFIG, json.loads(config.to_json()))
        opened = open_study(url, config.name)
        assert opened.config == config
        assert opened.folder.parent == folder.resolve()
        path.write_text(opened.config.to_toml(), encoding="utf-8")
        assert StudyConfig.from_toml(path) == config
    finally:
        optuna.delete_study(study_name=config.name, storage=storage)
        storage.engine.dispose()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(before=st.text(max_size=3), bad=st.sampled_from("/\\\n\r\t\x00\x1b"), after=st.text(max_size=3))
def test_a_name_never_leads_out_of_the_artifact_folder(before: str, bad: str, after: str) -> None:
    document = {"method": "genetic", "task": {"model": "m", "dataset": {"path": "d", "text": ["a"]}}}
    for name in (before + bad + after, "..", ".", f".{after}"):
        with pytest.raises(ValueError, match="name"):
            StudyConfig.model_validate({**document, "name": name})


def test_a_name_that_leads_out_of_the_artifact_folder_is_refused_in_one_line(tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "up.toml"
    path.write_text('name = ".."\nmethod = "genetic"\n[task]\nmodel = "m"\n[task.dataset]\npath = "d"\ntext = ["a"]\n')
    with pytest.raises(StudyFileError, match=r"name: '\.\.' cannot name a folder"):
        StudyConfig.from_toml(path)
