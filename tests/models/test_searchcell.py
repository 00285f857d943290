from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nasopt.architecture.cells import OPERATIONS, CellArchitecture, all_operation_flops, model_flops
from nasopt.models.modeling_adabert import AdaBertConfig, AdaBertEmbeddings, Convolution, make_operation
from nasopt.models.searchcell import (
    FrozenAdaBERT,
    KDProjections,
    SearchCell,
    Supernet,
    check_pairs,
    embeddings_from_teacher,
    freeze,
    gumbel,
    strongest,
    student_config,
)

CHAIN = ("conv3", "skip", "avgpool", "dilconv3")


@pytest.fixture
def supernet() -> Supernet:
    """Four cells, width 8, embedding rank 4, every weight random; in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Supernet(AdaBertConfig(vocab_size=100, hidden_size=8, embedding_rank=4, num_labels=3), num_cells=4)
        with torch.no_grad():
            for parameter in net.network_parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return net.eval()


def test_a_cell_is_the_weighted_sum_of_its_operations() -> None:
    torch.manual_seed(0)
    cell = SearchCell(6)
    hidden, mask = torch.randn(2, 5, 6), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    weights = torch.rand(7)
    expected = np.zeros((2, 5, 6))
    with torch.no_grad():
        for index, name in enumerate(OPERATIONS):
            alone = make_operation(name, 6)
            alone.load_state_dict(cell.operations[name].state_dict())
            expected += float(weights[index]) * alone(hidden, mask.unsqueeze(-1).float()).numpy()
            np.testing.assert_array_equal(cell(hidden, mask, torch.eye(7)[index]), cell.apply_one(name, hidden, mask))
        np.testing.assert_allclose(cell(hidden, mask, weights).numpy(), expected, atol=1e-5)
    assert list(cell.operations) == list(OPERATIONS)


def test_padding_changes_nothing(supernet: Supernet, batch: dict[str, Tensor]) -> None:
    supernet.double()
    mask = batch["attention_mask"]
    ids, more = batch["input_ids"].clone(), torch.zeros(3, 4, dtype=torch.int64)
    ids[mask == 0] = 99 - ids[mask == 0]
    with torch.inference_mode():
        expected = supernet(**batch)
        found = supernet(torch.cat([ids, more + 7], 1), torch.cat([mask, more], 1))
    assert float((found.logits - expected.logits).abs().max()) < 1e-12
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert float((one[:, :9] - other)[mask == 1].abs().max()) < 1e-12


def test_evaluation_mixes_by_theta_without_noise(supernet: Supernet, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        supernet.architecture_logits.copy_(torch.randn(4, 7))
        output = supernet(**batch, tau=0.1)
        hidden = output.hidden_states[0]
        for index, cell in enumerate(supernet.cells):
            logits = supernet.architecture_logits[index].numpy()
            hidden = cell(hidden, batch["attention_mask"], torch.tensor(np.exp(logits) / np.exp(logits).sum()))
    assert torch.allclose(hidden, output.hidden_states[-1], atol=1e-6)
    assert len(output.hidden_states) == 5
    assert output.logits.shape == (3, 3)


def test_training_mixes_by_fresh_gumbel_softmax(supernet: Supernet, batch: dict[str, Tensor], monkeypatch) -> None:
    with torch.no_grad():
        supernet.architecture_logits.copy_(torch.randn(4, 7))
    logits = supernet.architecture_logits.detach().numpy().astype(np.float64)
    seen: list[np.ndarray] = []
    for cell in supernet.cells:
        cell.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[2].detach().numpy()))
    supernet.train()
    for _ in range(2):
        supernet(**batch, tau=0.5, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    noise = -np.log(-np.log(torch.rand((4, 7), generator=generator, dtype=torch.float64).numpy()))
    exponentials = np.exp((logits + noise) / 0.5)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.stack(seen[:4]), expected, rtol=1e-5)
    np.testing.assert_array_equal(np.stack(seen[4:]), np.stack(seen[:4]))
    seen.clear()
    supernet(**batch, tau=0.5)
    supernet(**batch, tau=0.5)
    assert not np.allclose(np.stack(seen[4:]), np.stack(seen[:4]))
    with pytest.raises(ValueError, match="`tau` must be above 0, but is 0"):
        supernet(**batch, tau=0)


def test_gumbel_noise_picks_by_the_softmax() -> None:
    """argmax(a + g) is distributed as softmax(a)."""
    logits = torch.tensor([0.0, 1.0, -1.0])
    picks = (logits + gumbel((40_000, 3), torch.Generator().manual_seed(0))).argmax(dim=1)
    frequencies = torch.bincount(picks, minlength=3) / 40_000
    expected = np.exp([0, 1, -1]) / np.exp([0, 1, -1]).sum()
    np.testing.assert_allclose(frequencies.numpy(), expected, atol=0.01)


def test_theta_and_its_entropy(supernet: Supernet) -> None:
    assert torch.allclose(supernet.theta(), torch.full((4, 7), 1 / 7))
    assert supernet.entropy().tolist() == pytest.approx([math.log(7)] * 4)
    with torch.no_grad():
        supernet.architecture_logits[0, 2] = 1e4
        supernet.architecture_logits[1, :4] = -1e4
    # One operation for sure; three alike.
    assert supernet.entropy().tolist() == pytest.approx([0, math.log(3), math.log(7), math.log(7)])


def test_parameters_are_the_networks_or_the_architectures(supernet: Supernet, batch: dict[str, Tensor]) -> None:
    network, architecture = supernet.network_parameters(), supernet.architecture_parameters()
    assert [p.shape for p in architecture] == [(4, 7)]
    assert {*map(id, network), *map(id, architecture)} == set(map(id, supernet.parameters()))
    assert len(network) + 1 == len(list(supernet.parameters()))
    supernet.train()
    supernet(**batch).logits.square().sum().backward()
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_path_alone_is_the_frozen_model(supernet: Supernet, batch: dict[str, Tensor]) -> None:
    architecture = CellArchitecture(CHAIN, 8, embedding_rank=4)
    student = freeze(supernet, architecture)
    assert type(student) is FrozenAdaBERT
    assert not student.training
    with torch.inference_mode():
        path = supernet(**batch, operations=CHAIN)
        frozen = student(**batch, output_hidden_states=True)
    assert torch.equal(path.logits, frozen.logits)
    assert len(frozen.hidden_states) == 4
    for s, hidden in enumerate(path.hidden_states):
        assert torch.equal(hidden, frozen.hidden_states[architecture.student_index(s)])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        supernet(**batch, operations=CHAIN)
    assert counter.get_total_flops() == model_flops(architecture, num_labels=3, batch_size=3, tokens=9)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        supernet(**batch)
    assert counter.get_total_flops() == 27 * (4 * int(all_operation_flops(8).sum()) + 2 * 4 * 8) + 2 * 3 * 8 * 3
    with pytest.raises(ValueError, match="one name for each of the 4 cells"):
        supernet(**batch, operations=CHAIN[:3])


def test_only_the_chosen_operations_exist(supernet: Supernet) -> None:
    student = freeze(supernet, CellArchitecture(CHAIN, 8, 4))
    names = [name for name, module in student.named_modules() if isinstance(module, Convolution)]
    assert names == ["adabert.cells.0", "adabert.cells.2"]
    assert student.config.cells == ["conv3", "avgpool", "dilconv3"]
    assert supernet.config.cells == []
    with torch.no_grad():  # copies: training the student leaves the supernet alone
        student.adabert.cells[0].convolution.weight.zero_()
        student.classifier.weight.zero_()
    assert supernet.cells[0].operations["conv3"].convolution.weight.abs().sum() > 0
    assert supernet.classifier.weight.abs().sum() > 0
    bag = freeze(supernet, CellArchitecture(("skip",) * 4, 8, 4))
    assert len(bag.adabert.cells) == 0


@pytest.mark.parametrize(
    "architecture",
    [CellArchitecture(CHAIN, 16, 4), CellArchitecture(CHAIN[:3], 8, 4), CellArchitecture(CHAIN, 8)],
)
def test_architectures_of_other_sizes_are_refused(supernet: Supernet, architecture: CellArchitecture) -> None:
    with pytest.raises(ValueError, match=r"number of cells, width and embedding rank are \(4, 8, 4\), not"):
        freeze(supernet, architecture)


def test_the_strongest_operations(supernet: Supernet) -> None:
    with torch.no_grad():
        for cell, operation in enumerate(CHAIN):
            supernet.architecture_logits[cell, OPERATIONS.index(operation)] = 0.1
    assert strongest(supernet) == CellArchitecture(CHAIN, 8, 4)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_students_have_their_teachers_vocabulary_and_labels(make_model, family: str) -> None:
    teacher = make_model(family).config
    teacher.id2label, teacher.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    config = student_config(teacher, 16, 4)
    assert (config.vocab_size, config.hidden_size, config.embedding_rank) == (100, 16, 4)
    assert (config.id2label, config.label2id, config.num_labels) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1}, 2)
    assert config.pad_token_id == teacher.pad_token_id
    assert config.max_position_embeddings == {"bert": 40, "roberta": 38, "distilbert": 40}[family]


def teacher_table() -> np.ndarray:
    """60 words of 12 units, with a large common mean and directions of different strength."""
    generator = np.random.default_rng(0)
    return (generator.normal(size=(60, 12)) * np.arange(12, 0, -1) + 5).astype(np.float32)


@pytest.mark.parametrize("hidden_size", [4, 8])
def test_embeddings_start_at_the_teachers_principal_components(hidden_size: int) -> None:
    table = teacher_table()
    state = embeddings_from_teacher(torch.tensor(table), hidden_size)
    found = state["word_embeddings.weight"].numpy()
    centred = table - table.mean(axis=0)
    left, strengths, right = np.linalg.svd(centred, full_matrices=False)
    # Columns are those of U S, up to their signs.
    expected = left[:, :hidden_size] * strengths[:hidden_size]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)
    # And so the geometry of the words is that of the best approximation of this rank.
    best = expected @ right[:hidden_size]
    np.testing.assert_allclose(found @ found.T, best @ best.T, atol=1e-2)
    AdaBertEmbeddings(AdaBertConfig(vocab_size=60, hidden_size=hidden_size)).load_state_dict(state)


@pytest.mark.parametrize("hidden_size", [8, 12, 16])
def test_factors_are_the_best_of_their_rank(hidden_size: int) -> None:
    table = teacher_table()
    state = embeddings_from_teacher(torch.tensor(table), hidden_size, rank=4)
    assert state["word_embeddings.weight"].shape == (60, 4)
    assert state["projection.weight"].shape == (hidden_size, 4)
    product = state["word_embeddings.weight"].numpy() @ state["projection.weight"].numpy().T
    one_table = embeddings_from_teacher(torch.tensor(table), hidden_size)["word_embeddings.weight"].numpy()
    one_table = one_table - one_table.mean(axis=0)
    left, strengths, right = np.linalg.svd(one_table, full_matrices=False)
    np.testing.assert_allclose(product, (left[:, :4] * strengths[:4]) @ right[:4], atol=1e-3)
    config = AdaBertConfig(vocab_size=60, hidden_size=hidden_size, embedding_rank=4)
    AdaBertEmbeddings(config).load_state_dict(state)


def test_widths_that_differ_little_or_not_at_all() -> None:
    table = torch.tensor(teacher_table())
    assert torch.equal(embeddings_from_teacher(table, 12)["word_embeddings.weight"], table)
    wider = embeddings_from_teacher(table, 16)["word_embeddings.weight"]
    assert wider.shape == (60, 16)
    assert not wider[:, 12:].any()
    for rank in (0, 9):
        with pytest.raises(ValueError, match=f"`rank` must be from 1 to 8, but is {rank}"):
            embeddings_from_teacher(table, 8, rank)


def test_projections_are_learned_only_where_widths_differ() -> None:
    pairs = [(0, 0), (1, 3), (2, 6)]
    hidden = [torch.randn(2, 5, 8) for _ in pairs]
    same = KDProjections(pairs, 8, 8)
    assert all(torch.equal(one, other) for one, other in zip(same(hidden), hidden, strict=True))
    assert list(same.parameters()) == []
    maps = KDProjections(pairs, 8, 12)
    projected = maps(hidden)
    assert [tuple(one.shape) for one in projected] == [(2, 5, 12)] * 3
    expected = hidden[1] @ maps.maps[1].weight.T + maps.maps[1].bias
    assert torch.allclose(projected[1], expected, atol=1e-6)


def test_layer_pairs_that_do_not_exist_are_told() -> None:
    check_pairs([(0, 0), (2, 6)], num_cells=2, teacher_layers=6)
    with pytest.raises(ValueError, match="layer pair 3-6: the student has no hidden state 3, only 0 to 2"):
        check_pairs([(0, 0), (3, 6)], num_cells=2, teacher_layers=6)
    with pytest.raises(ValueError, match="layer pair 1-7: the teacher has no hidden state 7, only 0 to 6"):
        check_pairs([(1, 7)], num_cells=2, teacher_layers=6)
