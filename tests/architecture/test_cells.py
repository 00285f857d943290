from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.cells import (
    KERNELS,
    OPERATIONS,
    PARAMETER_FREE,
    CellArchitecture,
    all_operation_flops,
    all_operation_parameters,
    embedding_parameters,
    model_flops,
    model_parameters,
    operation_flops,
    operation_parameters,
)
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.reading import read_architecture
from nasopt.models.modeling_adabert import CONVOLUTIONS, AdaBertConfig, AdaBertForSequenceClassification, make_operation

CHAIN = CellArchitecture(("conv3", "skip", "avgpool", "dilconv3"), 24)
CHAINS = [
    CHAIN,
    CellArchitecture(("conv1", "conv5", "maxpool"), 24, embedding_rank=8),
    CellArchitecture(("skip", "skip"), 24),
    CellArchitecture((), 24, embedding_rank=8),
]


def count_flops(module: torch.nn.Module, *arguments: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*arguments)
    return counter.get_total_flops()


def test_operations_and_kernels_are_those_of_the_modelling_file() -> None:
    assert OPERATIONS == ("conv1", "conv3", "conv5", "dilconv3", "maxpool", "avgpool", "skip")
    assert {name: (KERNELS[name].size, KERNELS[name].dilation) for name in CONVOLUTIONS} == CONVOLUTIONS
    assert {*CONVOLUTIONS, *PARAMETER_FREE} == set(OPERATIONS) == set(KERNELS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_costs_are_those_that_torch_counts(operation) -> None:
    module = make_operation(operation, 24)
    flops = count_flops(module, torch.randn(3, 7, 24), torch.ones(3, 7, 1))
    assert operation_flops(operation, 24) * 3 * 7 == flops
    assert operation_parameters(operation, 24) == sum(p.numel() for p in module.parameters())


def test_costs_by_hand() -> None:
    # Width 10: 2 * kernel * 100 FLOPs; kernel * 100 weights, 10 biases, a norm of 20.
    assert all_operation_flops(10).tolist() == [200, 600, 1000, 600, 0, 0, 0]
    assert all_operation_parameters(10).tolist() == [130, 330, 530, 330, 0, 0, 0]


@pytest.mark.parametrize("architecture", CHAINS, ids=lambda architecture: architecture.brief())
def test_costs_of_frozen_models_are_those_that_torch_counts(architecture: CellArchitecture) -> None:
    config = AdaBertConfig(
        vocab_size=50,
        hidden_size=24,
        embedding_rank=architecture.embedding_rank,
        cells=[architecture.cells[index] for index in architecture.kept_cells],
        num_labels=3,
    )
    model = AdaBertForSequenceClassification(config).eval()
    ids = torch.randint(0, 50, (4, 9))
    assert model_flops(architecture, num_labels=3, batch_size=4, tokens=9) == count_flops(model, ids)
    assert model_parameters(architecture, vocab_size=50, num_labels=3) == sum(p.numel() for p in model.parameters())
    embedding = sum(p.numel() for p in model.adabert.embeddings.parameters())
    assert embedding_parameters(architecture, vocab_size=50) == embedding


def test_the_frozen_model_has_no_hidden_states_of_skipped_cells() -> None:
    assert CHAIN.kept_cells == (0, 2, 3)
    # The embeddings, after conv3, after the skip (the same), after avgpool, after dilconv3.
    assert [CHAIN.student_index(s) for s in range(5)] == [0, 1, 1, 2, 3]
    for s in (-1, 5):
        with pytest.raises(ValueError, match=f"hidden state {s} does not exist; 4 cells have 0 to 4"):
            CHAIN.student_index(s)


@pytest.mark.parametrize("architecture", CHAINS, ids=lambda architecture: architecture.brief())
def test_json_round_trip(architecture: CellArchitecture) -> None:
    stored = architecture.with_precision("bf16")
    assert read_architecture(stored.to_json()) == stored
    assert json.loads(stored.to_json())["kind"] == "cells"
    assert hash(CellArchitecture.from_json(stored.to_json())) == hash(stored)


def test_other_json_is_refused() -> None:
    text = Architecture.full(EncoderShape(1, 2, 64, 8)).to_json()
    with pytest.raises(ValueError, match="not an architecture of cells"):
        CellArchitecture.from_json(text)


def test_words_and_parameters() -> None:
    base = EncoderShape(num_layers=6, num_heads=12, ffn_size=1536, hidden_size=384)
    three = CellArchitecture(("conv3", "skip", "avgpool"), 256)
    assert three.brief() == "conv3 skip avgpool, 256 wide"
    assert CHAINS[3].brief() == "no cells, 24 wide, embedding rank 8"
    assert three.to_params() == {"cell_0": "conv3", "cell_1": "skip", "cell_2": "avgpool"}
    assert three.in_words(base) == "conv3 skip avgpool, 256 wide (base: 6 layers, 384 wide)"
    # 3 * 256^2 + 3 * 256
    rows = [["0", "conv3", "197,376"], ["1", "skip", "0"], ["2", "avgpool", "0"]]
    assert three.table(base) == (["cell", "operation", "parameters"], rows)
    assert json.loads(json.dumps(three.summary(base))) == {
        "precision": "fp32",
        "cells": ["conv3", "skip", "avgpool"],
        "hidden_size": 256,
        "embedding_rank": None,
        "base": {"layers": 6, "hidden_size": 384},
    }


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="cell 1 cannot be 'conv7'; the operations are conv1, conv3"):
        CellArchitecture(("conv1", "conv7"), 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`embedding_rank` must be at least 1, but is 0"):
        CellArchitecture(("conv1",), 8, embedding_rank=0)


@pytest.mark.integration
def test_no_torch_is_imported() -> None:
    code = "import sys, nasopt.architecture.cells; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
