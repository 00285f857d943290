"""The rules that every latency source keeps to."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nasopt.architecture.encoder import Architecture
from nasopt.records.latency import LatencyRecord, latency_from_json

if TYPE_CHECKING:
    from nasopt.measurement.sources import LatencySource
    from nasopt.measurement.subject import Subject

TOKENS = 24
"""The most tokens of a text of the subject's split."""


class LatencySourceTestCase:
    """Conformance tests of a latency source.

    A subclass overrides the fixture :meth:`make`, and :meth:`subject` if its source is not for the small BERT there.
    """

    TOLERANCE = 0.3
    """The amount by which the base model's ratio to itself may differ from 1, and a smaller model's may exceed it."""

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Callable[[], LatencySource]:
        """Makes a source, always the same. Class-scoped, as those below are."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Subject:
        """The first layer of a small BERT (3 layers, 4 heads, FFN 128, hidden size 64), beside all of it; in fp32."""
        return small_subject()

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, make: Callable[[], LatencySource], subject: Subject) -> LatencySource:
        """The source; the subject is on its device."""
        source = make()
        subject.artifact.to(source.device)
        return source

    @pytest.fixture(scope="class")
    @classmethod
    def record(cls, source: LatencySource, subject: Subject) -> LatencyRecord:
        """The subject's record, where the base model took 10 ms at trial 0."""
        return source.record(subject, 10.0)

    def test_its_identity_is_stable(self, make: Callable[[], LatencySource], source: LatencySource) -> None:
        assert source.identity
        assert "\n" not in source.identity
        assert source.identity == make().identity

    def test_records_come_from_it(self, source: LatencySource, subject: Subject, record: LatencyRecord) -> None:
        assert record.identity == source.identity
        assert record.dtype == subject.architecture.precision

    def test_a_record_survives_json(self, record: LatencyRecord) -> None:
        assert latency_from_json(json.loads(json.dumps(record.to_json()))) == record

    def test_times_are_positive(self, record: LatencyRecord) -> None:
        for number in (record.value_ms, record.median_ms, record.base_median_ms, record.ratio):
            assert math.isfinite(number)
            assert number > 0

    def test_a_record_says_what_it_is_on_one_line(self, record: LatencyRecord) -> None:
        for words in (record.summary, record.source_words, record.ratio_words, record.spread_words):
            assert words
            assert "\n" not in words

    def test_the_value_is_the_ratio_times_the_base_model_s_latency(
        self, source: LatencySource, subject: Subject, record: LatencyRecord
    ) -> None:
        assert record.value_ms == pytest.approx(10 * record.ratio)
        other = source.record(subject, 1000.0)
        assert other.value_ms == pytest.approx(1000 * other.ratio)

    def test_the_base_model_is_as_fast_as_itself(self, source: LatencySource, subject: Subject) -> None:
        base = copy.deepcopy(subject.base_model).to(source.device)
        itself = replace(subject, artifact=base, architecture=Architecture.full(subject.shape))
        found = source.record(itself, None)
        assert found.ratio == pytest.approx(1, abs=self.TOLERANCE)
        assert found.value_ms == pytest.approx(found.ratio * found.base_median_ms)

    def test_a_smaller_model_is_no_slower(self, record: LatencyRecord) -> None:
        assert record.ratio < 1 + self.TOLERANCE

    def test_weights_stay_as_they_are(self, source: LatencySource, subject: Subject) -> None:
        models = (subject.artifact, subject.base_model)
        before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
        source.record(subject, 10.0)
        for model, weights in zip(models, before, strict=True):
            for name, tensor in model.state_dict().items():
                assert bool((tensor.cpu() == weights[name].cpu()).all())


def small_subject() -> Subject:
    """Makes the subject of :meth:`LatencySourceTestCase.subject`."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from nasopt.measurement.subject import Subject
    from nasopt.models.families import encoder_shape
    from nasopt.models.surgery import cut

    config = BertConfig(
        vocab_size=40,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = BertForSequenceClassification(config).eval()
    shape = encoder_shape(config)
    architecture = Architecture.masked(shape, [1, 0, 0])
    texts = torch.arange(8 * TOKENS).view(8, TOKENS) % 40
    return Subject(
        artifact=cut(copy.deepcopy(base), architecture),
        vocabulary=config.vocab_size,
        architecture=architecture,
        shape=shape,
        base_model=base,
        base_key="small",
        workload=lambda model: model,
        special_ids=(0,),
        lengths=torch.full((8,), TOKENS),
        batch_of=lambda indices: {"input_ids": texts[indices], "attention_mask": torch.ones_like(texts[indices])},
    )
