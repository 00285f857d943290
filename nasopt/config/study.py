"""The study file, which is checked as a whole before any work starts.

No torch here. The options of a method stay a raw table (`StudyConfig.method_options`) and are checked by the method's
own model, so that a method needs no change in this file.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from nasopt.config.task import SECOND_CLASS, TRAITS, RuntimeName, Section, TaskConfig
from nasopt.config.upgrades import upgraded
from nasopt.errors import StudyFileError, choices

SCHEMA_VERSION = 4
"""Version of the stored configuration. Raise it when a stored study would be read differently, and say in
:mod:`nasopt.config.upgrades` how it was read."""

SectionT = TypeVar("SectionT", bound=BaseModel)


class TrainingConfig(Section):
    """The settings of a training: of each candidate (`[training]`), or of the base model (`[base_training]`)."""

    epochs: int = Field(1, ge=1, description="Passes over the training split.")
    batch_size: int = Field(32, ge=1, description="Texts in one batch.")
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False, description="The largest rate, after the warm-up.")
    scheduler: Literal["linear", "cosine", "constant"] = Field("linear", description="How the learning rate falls.")
    warmup: float = Field(0.06, ge=0, lt=1, description="Length of the warm-up, as a share of the steps.")
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False, description="AdamW's; biases and norms are left out.")
    gradient_clipping: float = Field(1.0, gt=0, allow_inf_nan=False, description="Largest gradient norm.")
    accumulation: int = Field(1, ge=1, description="Batches per optimizer step.")
    freeze_word_embeddings: bool = Field(False, description="Faster; rarely costs quality in a short fine-tuning.")


class ScreeningConfig(Section):
    """The screening of provisional candidates on a part of the validation split (`[screening]`)."""

    enabled: bool = Field(True, description="Whether a provisional candidate that is shown to be worse is given up.")
    share: float = Field(0.25, gt=0, lt=1, description="The part of the validation split that comes first.")
    min_examples: int = Field(
        500, ge=1, description="Its least number of examples; no screening where that is over half of the split."
    )
    confidence: float = Field(0.99, gt=0.5, lt=1, description="Confidence of the interval on the difference.")


class LatencyConfig(Section):
    """A latency objective: the shape that is measured, and the device and runtime that it is measured on."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$", description="Needed when there are several.")
    device: str = Field(
        "cpu",
        min_length=1,
        description="`cpu` or `cuda`, or a device to predict for where it is not at hand (`nasopt device list`).",
    )
    runtime: RuntimeName | None = Field(
        None, description="Runs the models; unless set `eager` where measured, `tensorrt` (only) where predicted."
    )
    batch_size: int = Field(32, ge=1, description="Texts in the one forward pass that is measured.")
    sequence_length: int = Field(128, ge=2, description="Tokens of each text; the most where `lengths` differ.")
    lengths: Literal["fixed", "validation"] = Field(
        "fixed", description="Every text has the full length, or lengths are sampled from the validation split."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores unless set.")
    mode: Literal["direct", "lut"] = Field(
        "direct", description='"direct": measured (or predicted for a device that is not here); "lut": looked up.'
    )
    lut: str | None = Field(None, description="The table of mode `lut`; `nasopt device profile` makes one.")
    confirm: bool = Field(False, description="Mode `lut`: measure the Pareto front at the end of `optimize`.")
    tf32: bool = Field(False, description="CUDA: fp32 matrix products in TF32.")
    cuda_graph: bool = Field(False, description="CUDA: replay one captured graph (eager, compile).")

    @property
    def objective_name(self) -> str:
        """The name of the objective, among a trial's values."""
        return "latency_ms" if self.name is None else f"latency_ms_{self.name}"

    @property
    def usual_runtime(self) -> RuntimeName:
        """The runtime where the named device is not at hand."""
        return self.runtime or ("eager" if self.device in ("cpu", "cuda") else "tensorrt")

    @model_validator(mode="after")
    def _check_combination(self) -> LatencyConfig:
        if self.device == "cpu" and (self.tf32 or self.cuda_graph):
            raise ValueError("tf32 and cuda_graph are for CUDA devices, not for `cpu`")
        if self.cuda_graph and (self.runtime == "onnxruntime" or self.lengths != "fixed"):
            raise ValueError("cuda_graph needs the runtime eager or compile, and one shape (lengths = fixed)")
        if self.runtime == "tensorrt" and self.device in ("cpu", "cuda"):
            raise ValueError("the runtime tensorrt is predicted only: set `device` to a profile, such as a100")
        if self.mode == "lut":
            self._check_lookup()
        elif self.lut is not None or self.confirm:
            raise ValueError("lut and confirm are for `mode` = lut")
        return self

    def _check_lookup(self) -> None:
        if self.lut is None:
            raise ValueError("mode lut needs `lut`, a file that `nasopt device profile` wrote")
        if self.device not in ("cpu", "cuda"):
            raise ValueError("mode lut knows the device that the table was measured on: set `device` to cpu or cuda")
        if self.runtime not in (None, "eager") or self.tf32 or self.cuda_graph:
            raise ValueError("mode lut is for the runtime eager, without tf32 and cuda_graph")


class StudyConfig(Section):
    """The contents of a study file.

    docs/study-file.md names every key. A configuration cannot be changed.

    Example:
        >>> import nasopt
        >>> config = nasopt.StudyConfig.from_toml("studies/quickstart.toml")
        >>> config.metric_names
        ['quality', 'latency_ms', 'memory_mb']
        >>> print(config.to_toml())
        name = ...
    """

    # NOTE: infinities in a method's options must survive the database; by default they are stored as null.
    model_config = ConfigDict(ser_json_inf_nan="constants")

    name: str = Field(min_length=1, max_length=100, description="The study's name, and its artifact folder's.")
    method: str = Field(min_length=1, description="The search method; `nasopt methods` lists them.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the sampler and of training.")
    task: TaskConfig
    training: TrainingConfig = TrainingConfig()
    base_training: TrainingConfig = TrainingConfig(epochs=3)
    latency: Annotated[tuple[LatencyConfig, ...], Field(min_length=1)] = (LatencyConfig.model_validate({}),)
    screening: ScreeningConfig = ScreeningConfig.model_validate({})
    memory: Literal["weights", "peak"] = Field(
        "weights", description="`memory_mb` counts the stored weights, or weights and all that one pass needs."
    )
    calibration_texts: int = Field(
        128, ge=1, description="Training texts on which the activations' ranges of a calibrated int8 file are found."
    )
    teacher_cache_mb: int = Field(
        4096, ge=0, description="Largest cache of teacher outputs on the training split; a teacher with more runs live."
    )
    method_options: dict[str, Any] = Field({}, description="The method's own options, which it checks itself.")

    @property
    def metric_names(self) -> list[str]:
        """Names of a trial's values, in their order; quality is maximised, all others are minimised."""
        return ["quality", *[latency.objective_name for latency in self.latency], "memory_mb"]

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        # NOTE: `delete` removes the folder of that name: ".." must never be one.
        if name[0] == "." or name != name.strip() or not name.isprintable() or set(name) & set("/\\"):
            raise ValueError(
                f"{name!r} cannot name a folder: no dot in front, no blank at the ends, no slash, no control character"
            )
        return name

    @field_validator("latency", mode="before")
    @classmethod
    def _accept_one_table(cls, value: Any) -> Any:
        return (value,) if isinstance(value, Mapping | LatencyConfig) else value

    @field_validator("base_training", mode="before")
    @classmethod
    def _default_base_epochs(cls, value: Any) -> Any:
        return {"epochs": 3, **value} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _check_latencies(self) -> StudyConfig:
        names = [latency.name for latency in self.latency]
        if len(names) > 1 and (None in names or len(set(names)) < len(names)):
            raise ValueError("several [[latency]] tables need a different `name` each")
        for latency in self.latency:
            self._check_latency(latency)
        return self

    def _check_latency(self, latency: LatencyConfig) -> None:
        """Whether the task's latency can be had in this way."""
        traits = self.task.traits
        used = {"cuda_graph": latency.cuda_graph, "lut": latency.mode == "lut"}
        refused = [
            name
            for name, allowed in zip(used, (traits.cuda_graph, traits.estimated_latency), strict=True)
            if not allowed
        ]
        if latency.runtime not in (None, *traits.runtimes) or any(used[name] for name in refused):
            without = f", without {' or '.join(refused)}" if refused else ""
            raise ValueError(
                f"the latency of a {self.task.type} is measured in the runtime {choices(traits.runtimes)}{without}"
            )

    @classmethod
    def from_toml(cls, path: str | Path) -> StudyConfig:
        """Reads and checks a study file.

        Raises:
            StudyFileError: the file is missing, is not TOML, or holds values that are not allowed (all named at once).
        """
        config, errors = check_document(read_toml(path))
        if config is None:
            raise study_file_error(path, errors)
        return config

    def to_toml(self) -> str:
        """A study file that says the same, with every default written out: `from_toml` gives an equal configuration.

        A stored configuration has absolute paths, and so has this.
        """
        import tomli_w

        document = self.model_dump(mode="json", exclude_none=True)
        # Options that are None are left out: TOML has no word for None.
        document["method_options"] = {k: v for k, v in self.method_options.items() if v is not None}
        return tomli_w.dumps(document)

    def to_json(self) -> str:
        """The configuration as it is stored in the database."""
        return json.dumps({"schema": SCHEMA_VERSION, **self.model_dump(mode="json")}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StudyConfig:
        """Reads a stored configuration, and checks it as a file: anybody who can write to the database can write one.

        One of an earlier schema means what it meant then.

        Raises:
            StudyFileError: it was written by a newer nasopt, or holds values that are not allowed (all named at once).
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        schema = document.pop("schema", 0) if isinstance(document, dict) else None
        if not isinstance(schema, int) or document is None:
            raise study_file_error("stored configuration", ["it is not one that nasopt wrote"])
        if schema > SCHEMA_VERSION:
            raise StudyFileError(
                f"the study was made by a newer nasopt (schema {schema}, this one reads {SCHEMA_VERSION}): upgrade"
            )
        _as_of_its_day(document.get("task"))
        config, errors = check_document(upgraded(document, schema))
        if config is None:
            raise study_file_error("stored configuration", errors)
        return config


def _as_of_its_day(task: Any) -> None:
    """Makes the stored `[task]` of an older study say what it meant then, in place."""
    if not isinstance(task, dict):
        return
    if task.get("metric") == "f1" and "positive_label" not in task:
        task["positive_label"] = SECOND_CLASS
    # The table of another type is stored with the defaults of its day, which may be others by now.
    for kind, traits in TRAITS.items():
        for table in traits.tables if kind != task.get("type") else ():
            task.pop(table, None)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Parses a study file without checking it.

    Raises:
        StudyFileError: the file is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))  # some editors put a mark in front
    except FileNotFoundError:
        raise StudyFileError(f"{path}: no such study file") from None
    except OSError as error:
        raise StudyFileError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{path}: not valid TOML: {error}") from None


def check_document(document: Mapping[str, Any]) -> tuple[StudyConfig | None, list[str]]:
    """The checked configuration, or None and every error in it."""
    return check_section(StudyConfig, document)


def check_section(
    model: type[SectionT], document: Mapping[str, Any], prefix: str = ""
) -> tuple[SectionT | None, list[str]]:
    """Checks one table against its model; errors name keys as ``prefix.key``."""
    try:
        return model.model_validate(document), []
    except ValidationError as error:
        found = error.errors()
        # NOTE: pydantic says of a list with a bad item also that it is too short without it.
        places = [item["loc"] for item in found]
        echoes = [
            item["type"] == "too_short" and any(place[: len(item["loc"])] == item["loc"] != place for place in places)
            for item in found
        ]
        return None, [_describe(model, item, prefix) for item, echo in zip(found, echoes, strict=True) if not echo]


def study_file_error(path: str | Path, errors: list[str]) -> StudyFileError:
    count = "" if len(errors) == 1 else f"{len(errors)} errors: "
    return StudyFileError(f"{path}: {count}" + "; ".join(errors))


def _describe(model: type[BaseModel], error: ErrorDetails, prefix: str) -> str:
    """The text of one pydantic error: the key, the mistake, and the values that are allowed."""
    location = [str(part) for part in error["loc"]]
    key = prefix + ".".join(location) if location else prefix.rstrip(".") or "study file"
    given = error["input"]
    match error["type"]:
        case "missing":
            return f"{key}: is missing"
        case "extra_forbidden":
            allowed = sorted(_fields_at(model, error["loc"][:-1]))
            near = difflib.get_close_matches(location[-1], allowed, n=1)
            hint = f", did you mean `{near[0]}`?" if near else f"; allowed: {choices(allowed)}"
            return f"{key}: unknown key{hint}"
        case "literal_error":
            expected = error.get("ctx", {}).get("expected", "").replace(" or ", ", ").replace("'", "")
            return f"{key}: {given!r} is not allowed; one of {expected}"
        case "value_error":
            return f"{key}: {error['msg'].removeprefix('Value error, ')}"
        case _:
            message = error["msg"][:1].lower() + error["msg"][1:]
            return f"{key}: {message}, not {given!r}"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterator[str]:
    """Field names of the (sub)model that `location` leads to."""
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        nested = [annotation, *get_args(annotation)]
        found = next((item for item in nested if isinstance(item, type) and issubclass(item, BaseModel)), None)
        if found is None:
            return
        model = found
    yield from model.model_fields
