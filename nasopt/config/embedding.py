"""`[task.similarity]` and `[task.retrieval]`: how a text becomes a vector, and how vectors are judged."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from nasopt.config.section import Section

EncodechkaTask: TypeAlias = Literal["STS", "PI", "NLI", "SA", "TI", "II", "IC", "ICX", "NE1", "NE2"]
SENTENCE_TASKS: tuple[EncodechkaTask, ...] = ("STS", "PI", "NLI", "SA", "TI", "II", "IC", "ICX")
VECTOR_SETTINGS = frozenset({"pooling", "prefix", "normalize"})
"""The keys of `[task.similarity]` that a model's own files answer where the study file does not."""


class SimilarityConfig(Section):
    """The options of sentence encoders: how a text becomes one vector, and how vectors are judged."""

    pooling: Literal["mean", "cls"] | None = Field(
        None,
        description="Mean over a text's tokens, or its first token; unless set, as the model's files say, or the mean.",
    )
    prefix: str = Field(
        "",
        description='Put before every text, for example `"query: "`; unless set, the default prompt of the model\'s '
        "files.",
    )
    normalize: bool = Field(
        True, description="Scale vectors to length 1; unless set, as the model's files say, or true."
    )
    dimensions: tuple[int, ...] = Field(
        (),
        description="Matryoshka: vectors cut to their first entries, of these numbers, are judged as well; each is "
        "smaller than the model's vectors.",
    )
    scale: float = Field(20.0, gt=0, allow_inf_nan=False, description="Factor of cosines in the ranking loss.")
    encodechka: str | None = Field(None, description="Folder with the benchmark's files, for the metric `encodechka`.")
    encodechka_tasks: Annotated[tuple[EncodechkaTask, ...], Field(min_length=1)] = Field(
        SENTENCE_TASKS, description="The tasks, of ten; the eight that are about sentences unless set."
    )

    @field_validator("dimensions")
    @classmethod
    def _check_dimensions(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(each < 1 for each in value) or len(set(value)) < len(value):
            raise ValueError("dimensions are numbers of at least 1, each of them once")
        return value

    def answered_by(self, settled: SimilarityConfig) -> SimilarityConfig:
        """This table with another one's values of the settings that it leaves open."""
        open_ones = VECTOR_SETTINGS - self.model_fields_set
        return self.model_copy(update={name: getattr(settled, name) for name in open_ones})


class RetrievalConfig(Section):
    """The passages that a sentence encoder finds for queries, in a folder of BEIR's format."""

    path: str = Field(
        min_length=1,
        description="Folder with `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`; the splits are "
        "`dataset.splits.validation` and `dataset.splits.test`.",
    )
    query_prefix: str | None = Field(
        None,
        description="Put before every query; unless set, `similarity.prefix`, or the prompt `query` of the model's "
        "files.",
    )
    passage_prefix: str | None = Field(
        None,
        description="Put before every passage; unless set, `similarity.prefix`, or the prompt `document` or `passage` "
        "of the model's files.",
    )

    def answered_by(self, settled: RetrievalConfig) -> RetrievalConfig:
        """This table with another one's prefixes where it has none."""
        open_ones = [name for name in ("query_prefix", "passage_prefix") if getattr(self, name) is None]
        return self.model_copy(update={name: getattr(settled, name) for name in open_ones})
