"""Retrieval: sentence encoders that find the passages of a folder which are relevant for its queries.

Pairs of a query and a passage train, as in :mod:`nasopt.tasks.similarity`; quality is `ndcg@10` or `recall@100`, by the
cosines of the queries of `qrels/<split>.tsv` with every passage. Vectors of queries and of passages begin with their
own prefixes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from nasopt.architecture.base import Precision
from nasopt.config.section import Section
from nasopt.config.task import TaskConfig
from nasopt.errors import UnsupportedModelError
from nasopt.models.sentence_modules import SentenceModules
from nasopt.numerics.resampling import resample_weights
from nasopt.tasks.base import Evaluation
from nasopt.tasks.batches import EncodedSplit, Examples, PairedSplit
from nasopt.tasks.beir import QRELS, Collection, Judgements
from nasopt.tasks.dimensions import qualities
from nasopt.tasks.retrieval_scores import nearest, query_scores
from nasopt.tasks.similarity import DEFAULT_PROMPT, RESAMPLES, ROUNDED, SEED, SIDES, SentenceSimilarity, open_pairs
from nasopt.tasks.similarity_scores import unit
from nasopt.tasks.vector_settings import is_said

PROMPTS: Mapping[str, Sequence[str]] = {"query_prefix": ("query",), "passage_prefix": ("document", "passage")}
"""Keys of `[task.retrieval]`, with the prompts of `encode_query` and `encode_document`, the first that is there."""
WORDS = {"query_prefix": "queries", "passage_prefix": "passages"}
TEXT = "text"

SENTENCE_TRANSFORMERS = """
With sentence-transformers the folder gives the same vectors; prefixes, longest text, pooling and length are in its
files:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder"{trust})
vectors = [*model.encode_query(["a query"]), *model.encode_document(["a passage"])]
```
"""


@dataclass(frozen=True, kw_only=True)
class RetrievalSplit(PairedSplit):
    """The queries of a split, each with its most relevant passage, beside all that is searched.

    Attributes:
        passages: all passages.
        judgements: the relevant ones of each query.
    """

    passages: EncodedSplit
    judgements: Judgements

    @cached_property
    def fingerprint(self) -> str:
        texts = [side.fingerprint for side in (*self.sides, self.passages)]
        relevance = [sorted(its.items()) for its in self.judgements.relevance]
        return hashlib.sha256(json.dumps([texts, relevance, self.judgements.own.tolist()]).encode()).hexdigest()


class SentenceRetrieval(SentenceSimilarity):
    """Queries and passages; quality says how well a model's vectors find the relevant passages.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    def _open_data(self, config: TaskConfig) -> Mapping[str, Dataset]:
        """Opens the folder; the data of its splits are each query with its most relevant passage."""
        assert config.retrieval is not None
        self._collection = found = Collection(config.retrieval.path)
        names, limits = config.dataset.splits.model_dump(exclude={"train"}), config.dataset.max_samples.model_dump()
        self._judgements = {
            role: found.judgements(name).first(limits[role]) for role, name in names.items() if name is not None
        }
        query, passage = config.dataset.text
        data = open_pairs(config, ["train"])
        for role, its in self._judgements.items():
            columns = {
                query: [found.queries[row] for row in its.queries],
                passage: [found.passages[row] for row in its.best],
            }
            data[role] = Dataset.from_dict(columns)
        return data

    def _read_model(self, config: TaskConfig) -> None:
        super()._read_model(config)
        assert config.retrieval is not None
        own = {} if is_said(config, "prefix") else prompts_of_sides(self._own_modules)
        usual = self.config.similarity.prefix
        said = config.retrieval.model_dump(include=set(PROMPTS), exclude_none=True)
        prefixes = {key: said.get(key, own.get(key, usual)) for key in PROMPTS}
        retrieval = config.retrieval.model_copy(update=prefixes)
        self.config = self.config.model_copy(update={"retrieval": retrieval})
        if any(self.prefixes) and not self._own_modules.pools_prompt:
            raise UnsupportedModelError(
                f"model {config.model!r}: its pooling leaves a prompt's tokens out (`include_prompt`), which nasopt "
                'does not; set query_prefix = "" and passage_prefix = "" in [task.retrieval]'
            )
        self._remarks += _remarks(said, prompts_of_sides(self._own_modules), prefixes)

    def _yielding_to(self, its: SentenceModules) -> Mapping[str, Section | None]:
        tables = super()._yielding_to(its)
        if its.prompt is None or self.config.retrieval is None:
            return {**tables, "retrieval": self.config.retrieval}
        return {**tables, "retrieval": self.config.retrieval.model_copy(update=dict.fromkeys(PROMPTS))}

    @property
    def prefixes(self) -> tuple[str, ...]:
        settings = self.config.retrieval
        assert settings is not None
        return (settings.query_prefix or "", settings.passage_prefix or "")

    @property
    def judged_on(self) -> str:
        return f"the queries of {QRELS}/{self.config.dataset.splits.validation}.tsv"

    @property
    def remarks(self) -> tuple[str, ...]:
        said = [f"there are {len(self._collection.passages)} passages"]
        for role, its in self._judgements.items():
            without = f", and {its.unanswered} without one, which do not count" if its.unanswered else ""
            name = getattr(self.config.dataset.splits, role)
            said.append(f"{QRELS}/{name}.tsv has {len(its)} queries with a relevant passage{without}")
        return (*super().remarks, *said)

    @property
    def _sample(self) -> list[str]:
        query, passage = self.prefixes
        return [f"{query}a query", f"{passage}a passage"]

    @property
    def _prompts(self) -> dict[str, str]:
        """The prompts of an exported folder: the base model's, both prefixes, and the prefix of all other texts."""
        prompts = {name: text for name, text in self._own_modules.prompts.items() if text}
        prompts |= dict(zip(SIDES, self.prefixes, strict=True))
        prefix = self.config.similarity.prefix
        return prompts | ({DEFAULT_PROMPT: prefix} if prefix and prefix not in prompts.values() else {})

    def other_use(self, precision: Precision, needs_code: bool) -> str:
        trust = ", trust_remote_code=True" if needs_code else ""
        return SENTENCE_TRANSFORMERS.format(trust=trust) + ("" if precision == "fp32" else ROUNDED)

    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, PairedSplit]:
        pairs = super().encode(folder, tokenizer)
        texts = Dataset.from_dict({TEXT: self._collection.passages})
        encoder = self._encoder(self.prefixes[1], tokenizer)
        passages = encoder.encode(texts, [TEXT], "passages", folder, torch.zeros(len(texts)))
        judged = {
            role: RetrievalSplit(pairs[role].first, pairs[role].second, passages=passages, judgements=its)
            for role, its in self._judgements.items()
        }
        return {**pairs, **judged}

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """The metric, a mean over queries, on a split and on resamples of its queries, shape (1 + resamples,).

        `details` has both metrics.
        """
        assert isinstance(examples, RetrievalSplit)
        encoder, judged = self.text_encoder(model, device, tokenizer), examples.judgements
        queries, passages = (unit(encoder.vectors(texts)) for texts in (examples.first, examples.passages))
        if not (np.isfinite(queries).all() and np.isfinite(passages).all()):
            return Evaluation(math.nan)
        scores = query_scores(nearest(queries, passages, judged.own), judged.relevance)

        def of_cut(dimension: int) -> float:
            ours, theirs = (unit(vectors[:, :dimension]) for vectors in (queries, passages))
            cut = query_scores(nearest(ours, theirs, judged.own), judged.relevance)
            return float(cut[self.config.metric].mean())

        weights = resample_weights(len(judged), RESAMPLES, SEED)
        replicates = weights @ scores[self.config.metric] / weights.sum(axis=1)
        details = {name: float(each.mean()) for name, each in scores.items()}
        by_dimension = qualities(self.config.similarity.dimensions, queries.shape[1], of_cut)
        return Evaluation(float(replicates[0]), replicates=replicates, details=details, by_dimension=by_dimension)


def prompts_of_sides(modules: SentenceModules) -> dict[str, str]:
    """The prefixes that a model's own files have for queries and for passages, where they have any prompt."""
    if not any(modules.prompts.values()):
        return {}
    found = {key: next((name for name in names if name in modules.prompts), None) for key, names in PROMPTS.items()}
    return {key: modules.prompts[name] for key, name in found.items() if name is not None}


def _remarks(said: Mapping[str, str], own: Mapping[str, str], chosen: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences about the prefixes that were read from the model's files, and about those that contradict them."""
    read = [f"{WORDS[key]} begin with {own[key]!r}" for key in own if key not in said and chosen[key] == own[key] != ""]
    sentences = [f"as the model's own files say, {' and '.join(read)}"] if read else []
    differing = [key for key in own if chosen[key] != own[key]]
    return (
        *sentences,
        *(
            f"{WORDS[key]} begin with {chosen[key]!r}, though the model's own files say {own[key]!r}"
            for key in differing
        ),
    )
