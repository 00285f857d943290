"""`[task]` of the study file: the task of the models, its data, and the metric of their quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field, field_validator, model_validator

from nasopt.config.embedding import RetrievalConfig, SimilarityConfig
from nasopt.config.section import Section as Section

TaskType: TypeAlias = Literal[
    "text-classification", "token-classification", "question-answering", "sentence-similarity", "translation"
]
MetricName: TypeAlias = Literal[
    "accuracy",
    "f1",
    "f1_macro",
    "f1_micro",
    "exact_match",
    "matthews_correlation",
    "mean_average_precision",
    "mrr@10",
    "ndcg@10",
    "recall@100",
    "pearsonr",
    "spearmanr",
    "retrieval",
    "encodechka",
    "bleu",
]
RuntimeName: TypeAlias = Literal["eager", "compile", "onnxruntime", "tensorrt"]
CLASSIFICATION_METRICS = ("accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation")
REGRESSION_METRICS = ("pearsonr", "spearmanr")
MULTI_LABEL_METRICS = ("f1_macro", "f1_micro", "mean_average_precision")
RERANKING_METRICS = ("ndcg@10", "mrr@10")
RETRIEVAL_METRICS = ("ndcg@10", "recall@100")
RERANKING = "reranking"
MULTI_LABEL = "multi_label_classification"
METRICS_OF_KIND = {
    "classification": CLASSIFICATION_METRICS,
    "regression": REGRESSION_METRICS,
    MULTI_LABEL: MULTI_LABEL_METRICS,
    RERANKING: RERANKING_METRICS,
}
SECOND_CLASS = ""
"""The `positive_label` that stands for the second of two classes, whatever its name: older studies had no choice."""


@dataclass(frozen=True)
class TaskTraits:
    """The settings that a type of task allows in a study file. The task's class declares the rest.

    Attributes:
        metrics: the metrics that `quality` can be.
        columns: the numbers of text columns that are allowed.
        labelled: whether every example has a class or a number, so that `kind` and `positive_label` say something.
        trainable_head: whether its models have a head that can be trained anew.
        tables: the tables of the study file, below `[task]`, that are for this type only.
        new_model: whether the base model may start from random weights.
        runtimes: the runtimes in which its latency can be measured.
        cuda_graph: whether its latency can be measured from a CUDA graph.
        estimated_latency: whether its latency can be predicted for a device that is not here, or looked up.
    """

    metrics: tuple[str, ...]
    columns: tuple[int, ...] = (2,)
    labelled: bool = False
    trainable_head: bool = False
    tables: tuple[str, ...] = ()
    new_model: bool = False
    runtimes: tuple[RuntimeName, ...] = get_args(RuntimeName)
    cuda_graph: bool = True
    estimated_latency: bool = True


TRAITS: Mapping[TaskType, TaskTraits] = {
    "text-classification": TaskTraits(
        (*CLASSIFICATION_METRICS, *REGRESSION_METRICS, "mean_average_precision", *RERANKING_METRICS),
        columns=(1, 2),
        labelled=True,
        trainable_head=True,
    ),
    "token-classification": TaskTraits(("f1", "accuracy"), columns=(1,), trainable_head=True, tables=("tokens",)),
    "question-answering": TaskTraits(("f1", "exact_match"), trainable_head=True, tables=("answers",)),
    "sentence-similarity": TaskTraits(
        ("spearmanr", "retrieval", "encodechka", *RETRIEVAL_METRICS), tables=("similarity", "retrieval")
    ),
    "translation": TaskTraits(
        ("bleu",),
        tables=("translation",),
        new_model=True,
        runtimes=("eager",),
        cuda_graph=False,
        estimated_latency=False,
    ),
}

POINTS: Mapping[MetricName, float] = {"bleu": 1.0}
"""The points that make one unit of a metric: BLEU is given in points, all others from 0 (or -1) to 1."""


def points_of(metric: MetricName) -> float:
    """The factor that a quality is multiplied by to be in points."""
    return POINTS.get(metric, 100.0)


class SplitsConfig(Section):
    """Names of the splits in the data set."""

    train: str = Field("train", description="The split that candidates are trained on.")
    validation: str = Field("validation", description="The split for quality; slices such as `train[:10%]` work.")
    test: str | None = Field(None, description="The split that `study export` uses once, for the model card.")


class MaxSamplesConfig(Section):
    """The largest number of rows of each split that are used (the first ones)."""

    train: int | None = Field(None, ge=1, description="Rows; all unless set.")
    validation: int | None = Field(None, ge=1, description="Rows; all unless set.")
    test: int | None = Field(None, ge=1, description="Rows; all unless set.")


class DatasetConfig(Section):
    """The data set: where it is, and what its columns hold."""

    path: str = Field(min_length=1, description="Hub id, or a local folder, csv, tsv, json or parquet file.")
    name: str | None = Field(None, description="Configuration of a hub data set, for example `sst2` of GLUE.")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    text: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = Field(
        description="The text column, or two for sentence pairs; for translation source and target; for question "
        "answering question and context; for token classification texts, or lists of words."
    )
    label: str = Field(
        "label",
        description="The column of classes or numbers; for token classification of spans, or of a tag for each word; "
        "for question answering of answers; tasks without labels ignore it.",
    )
    labels: tuple[str, ...] | None = Field(
        None, min_length=2, description="Several labels: one column of 0 and 1 for each, in place of a list in `label`."
    )
    query: str | None = Field(
        None,
        description="Reranking: the column of the queries' ids; unless set, texts of equal first column are of one "
        "query.",
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="The character between cells; unless set a comma in csv files and a tab in tsv files.",
    )
    splits: SplitsConfig = SplitsConfig()
    max_samples: MaxSamplesConfig = MaxSamplesConfig()


class TokensConfig(Section):
    """The options of token classification: how long texts are read."""

    overlap: int | None = Field(
        None,
        ge=0,
        description="Tokens that two windows of a text share that is longer than `max_length`; unless set, a quarter "
        "of it.",
    )


class AnswersConfig(Section):
    """The options of question answering: how long contexts are read, and which part of one is the answer."""

    start: str | None = Field(
        None,
        min_length=1,
        description="The column of the answer's first character in the context, where `label` holds one text for each "
        "question.",
    )
    overlap: int | None = Field(
        None,
        ge=0,
        description="Tokens that two windows of a context share that is too long for `max_length`; unless set, a "
        "quarter of it.",
    )
    longest: int = Field(30, ge=1, description="Tokens of the longest answer that is given.")
    n_best: int = Field(20, ge=1, description="The best first tokens, and the best last ones, that are tried together.")
    threshold: float = Field(
        0.0,
        allow_inf_nan=False,
        description="Where questions may have no answer, one is given unless none scores this much higher.",
    )


class TranslationConfig(Section):
    """The options of encoder-decoders: how texts are generated, for quality and for latency."""

    beams: int = Field(1, ge=1, description="Beams of the search behind `quality`; 1 is greedy.")
    max_new_tokens: int = Field(128, ge=1, description="Tokens of the longest translation, for `quality`.")
    latency_tokens: int = Field(32, ge=1, description="Tokens that are generated, greedily, while latency is measured.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the training loss.")
    source_language: str | None = Field(None, description="The source's code in a multilingual tokenizer.")
    target_language: str | None = Field(None, description="The code of the target; generation begins with it.")


class NewModelConfig(Section):
    """An encoder-decoder that starts from random weights, with a tokenizer trained on the training split."""

    encoder_layers: int = Field(3, ge=1, description="Transformer layers of the encoder.")
    decoder_layers: int = Field(4, ge=1, description="Transformer layers of the decoder.")
    hidden_size: int = Field(192, ge=2, description="Width; a multiple of twice `heads`.")
    heads: int = Field(4, ge=1, description="Attention heads of each layer.")
    ffn_size: int = Field(768, ge=1, description="Neurons of each feed-forward block.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in training.")
    vocabulary: int = Field(8000, ge=100, description="Tokens of both languages together.")
    tokenizer: Literal["bpe", "unigram"] = Field("bpe", description="The kind of tokenizer, as in SentencePiece.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> NewModelConfig:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size ({self.hidden_size}) must be a multiple of twice heads ({self.heads})")
        return self


NEW_MODEL_TYPES = ("m2m_100", "bart", "marian")
"""Model types that a new encoder-decoder can have: one pre-norm, two post-norm."""


class TaskConfig(Section):
    """The task of the models: its type, model, data and metric."""

    type: TaskType = Field("text-classification", description="Hugging Face's name of the task.")
    model: str = Field(
        min_length=1, description="Hub id or local folder of the base model; with `[task.new_model]` a model type."
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    new_head: bool = Field(
        False, description="Classification: train a new head even if the model has one (`[base_training]`)."
    )
    train_base: bool = Field(
        False, description="Train a base model further that does the task already, as `[base_training]` says."
    )
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")
    metric: MetricName = Field("accuracy", description="The metric that `quality` is; the choices depend on the task.")
    kind: Literal["classification", "regression", "multi_label_classification", "reranking"] | None = Field(
        None,
        description="Whether labels are classes, numbers, several for a text, or the relevance of a text to a query; "
        "unless set, only fractions (0.5, 1.0) are numbers.",
    )
    class_weights: Literal["balanced"] | None = Field(
        None,
        description="Several labels: weigh a label's positive examples in the loss by negatives / positives of the "
        "training split.",
    )
    positive_label: str | None = Field(
        None, description="The class that `f1` is computed for, of two whose names do not say it."
    )
    max_length: int = Field(
        128,
        ge=2,
        description="Tokens of the longest text; longer ones are cut, or read in windows for token classification and "
        "question answering. For sentence similarity, unless set, as the model's files say.",
    )
    dataset: DatasetConfig
    similarity: SimilarityConfig = SimilarityConfig.model_validate({})
    retrieval: RetrievalConfig | None = Field(
        None, description="Sentence similarity: the passages and queries of the metrics `ndcg@10` and `recall@100`."
    )
    tokens: TokensConfig = TokensConfig.model_validate({})
    answers: AnswersConfig = AnswersConfig.model_validate({})
    translation: TranslationConfig = TranslationConfig.model_validate({})
    new_model: NewModelConfig | None = Field(None, description="Start from random weights; only for translation.")

    @field_validator("positive_label", mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        """Classes may be numbers, or true and false."""
        return str(value) if isinstance(value, int) else value

    def answered_by(self, settled: TaskConfig) -> TaskConfig:
        """This table with another one's values of the settings that it leaves open, for data or model to settle."""
        answers: dict[str, object] = {
            "positive_label": settled.positive_label,
            "similarity": self.similarity.answered_by(settled.similarity),
        }
        if self.retrieval is not None and settled.retrieval is not None:
            answers["retrieval"] = self.retrieval.answered_by(settled.retrieval)
        if "max_length" not in self.model_fields_set:
            answers["max_length"] = settled.max_length
        return self.model_copy(update=answers)

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have several labels, or none."""
        return self.kind == MULTI_LABEL

    @property
    def is_reranking(self) -> bool:
        """Whether a model orders the texts of a query."""
        return self.kind == RERANKING

    @property
    def is_retrieval(self) -> bool:
        """Whether a model's vectors find the passages of a query."""
        return self.retrieval is not None

    @property
    def traits(self) -> TaskTraits:
        """The settings that its type allows."""
        return TRAITS[self.type]

    @model_validator(mode="after")
    def _check_type(self) -> TaskConfig:
        traits = self.traits
        if self.metric not in traits.metrics:
            raise ValueError(f"the metric {self.metric!r} is not one of {self.type}: {', '.join(traits.metrics)}")
        self._check_labels()
        for its_type, its in TRAITS.items():
            for table in its.tables:
                if its_type != self.type and self._says_something_in(table):
                    raise ValueError(f"[task.{table}] is for the type {its_type}, not for {self.type}")
        if len(self.dataset.text) not in traits.columns:
            wanted = "one column" if traits.columns == (1,) else "two columns"
            raise ValueError(f"{self.type} needs {wanted} in dataset.text, not {len(self.dataset.text)}")
        if self.metric == "encodechka" and self.similarity.encodechka is None:
            raise ValueError("the metric encodechka needs `similarity.encodechka`, the folder with its files")
        self._check_retrieval()
        if self.new_head and not traits.trainable_head:
            allowed = ", ".join(name for name, its in TRAITS.items() if its.trainable_head)
            raise ValueError(f"new_head is for the types {allowed}, not for {self.type}")
        if self.new_model is not None:
            self._check_new_model()
        return self

    def _check_labels(self) -> None:
        """Checks that `kind` and `positive_label` fit the type and the metric."""
        for key in ("kind", "positive_label"):
            if getattr(self, key) is not None and not self.traits.labelled:
                raise ValueError(f"{key} is not for the type {self.type}")
        if self.positive_label is not None and self.metric != "f1":
            raise ValueError(f"positive_label is for the metric f1, not for {self.metric}")
        if self.kind is not None and self.metric not in METRICS_OF_KIND[self.kind]:
            allowed = ", ".join(METRICS_OF_KIND[self.kind])
            raise ValueError(f"the metric {self.metric!r} is not one of {self.kind}: {allowed}")
        if self.is_reranking and len(self.dataset.text) != 2:
            raise ValueError(f'kind = "{RERANKING}" needs two columns in dataset.text: query and text')
        is_ranking = self.traits.labelled and self.metric in RERANKING_METRICS
        if not self.is_reranking and (is_ranking or self.dataset.query is not None):
            what = f"the metric {self.metric!r}" if is_ranking else "dataset.query"
            raise ValueError(f'{what} is for kind = "{RERANKING}"')
        for key, value in (("class_weights", self.class_weights), ("dataset.labels", self.dataset.labels)):
            if value is not None and not self.is_multi_label:
                raise ValueError(f'{key} is for kind = "{MULTI_LABEL}"')

    def _check_retrieval(self) -> None:
        is_wanted = self.metric in RETRIEVAL_METRICS and "retrieval" in self.traits.tables
        if is_wanted and self.retrieval is None:
            raise ValueError(f"the metric {self.metric!r} needs [task.retrieval], the folder of passages and queries")
        if self.retrieval is not None and not is_wanted:
            raise ValueError(f"[task.retrieval] is for {' and '.join(RETRIEVAL_METRICS)}, not for {self.metric!r}")
        if self.retrieval is not None and len(set(self.dataset.text)) < 2:
            raise ValueError("[task.retrieval] needs two columns in dataset.text: query and passage")

    def _says_something_in(self, table: str) -> bool:
        """Whether the study file has this table and changes something in it."""
        return table in self.model_fields_set and getattr(self, table) != TaskConfig.model_fields[table].default

    def _check_new_model(self) -> None:
        if not self.traits.new_model:
            allowed = ", ".join(name for name, traits in TRAITS.items() if traits.new_model)
            raise ValueError(f"[task.new_model] is for the type {allowed}, not for {self.type}")
        if self.model not in NEW_MODEL_TYPES:
            raise ValueError(
                f"with [task.new_model] `model` is one of {', '.join(NEW_MODEL_TYPES)}, not {self.model!r}"
            )
