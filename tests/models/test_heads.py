"""Heads whose outputs are put into another order."""

from __future__ import annotations

import pytest
import torch

from nasopt.errors import UnsupportedModelError
from nasopt.models.example_inputs import fixed_batch
from nasopt.models.families import FAMILIES
from nasopt.models.heads import reorder_head


@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_change_places_in_every_family(make_model, name):
    model = make_model(name)
    batch = fixed_batch(model)
    with torch.inference_mode():
        before = model(**batch).logits
    reorder_head(model, [1, 0])
    with torch.inference_mode():
        torch.testing.assert_close(model(**batch).logits, before[:, [1, 0]])
    assert not torch.equal(before[:, 0], before[:, 1])


def test_a_head_that_is_made_otherwise_is_refused(make_model):
    model = make_model("bert")

    class Scaled(torch.nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * torch.tensor([1.0, 2.0])

    scaled = Scaled(model.classifier.in_features, 2)
    scaled.load_state_dict(model.classifier.state_dict())
    model.classifier = scaled
    with pytest.raises(UnsupportedModelError, match="does not end in a linear layer"):
        reorder_head(model.eval(), [1, 0])
