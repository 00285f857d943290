"""The options that say how AdaBERT's supernet is trained (METHODS.md section 3). This module does not import torch."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from nasopt.architecture.cells import CellArchitecture
from nasopt.config.study import TrainingConfig
from nasopt.config.task import Section


class SearchOptions(Section):
    """Sizes, loss weights and schedule of the search, by default the published ones where those are given.

    `L = task_weight * L_CE + distillation_weight * L_KD + efficiency_weight * L_eff`.
    """

    hidden_size: int = Field(256, ge=1, description="Width of the cells; the teacher's may be smaller or larger.")
    cells: int = Field(6, ge=1, description="Cells in the chain, before those that become skips are removed.")
    embedding_rank: int | None = Field(
        None, ge=1, description="Store the embedding as two matrices of this rank; one matrix unless set."
    )
    task_weight: float = Field(0.2, ge=0, allow_inf_nan=False, description="Weight of the task's loss (l1).")
    distillation_weight: float = Field(0.8, ge=0, allow_inf_nan=False, description="Weight of L_KD (l2).")
    efficiency_weight: float = Field(1.5, ge=0, allow_inf_nan=False, description="Weight of L_eff (l3).")
    layer_pairs: tuple[tuple[int, int], ...] = Field(
        ((0, 0), (1, 3), (2, 6)),
        description="Hidden states (student, teacher) that L_KD compares; 0: the embeddings, i: after cell or layer i.",
    )
    search_epochs: int = Field(15, ge=1, description="Epochs of the supernet, the warm-up included.")
    warmup_epochs: int = Field(
        0, ge=0, description="First epochs of the supernet, in which the network learns and no choice is made."
    )
    tau_start: float = Field(1.0, gt=0, allow_inf_nan=False, description="Temperature of the Gumbel-softmax at first.")
    tau_end: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Temperature of the Gumbel-softmax in the last epoch; geometric in between.",
    )
    efficiency_warmup: int = Field(
        0, ge=0, description="Epochs after the warm-up over which the efficiency weight grows to its full size."
    )
    architecture_split: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training split kept for the architecture weights; 0: they share it.",
    )
    architecture_learning_rate: float = Field(
        3e-3, gt=0, allow_inf_nan=False, description="Constant learning rate of the architecture weights."
    )
    search_batch_size: int = Field(32, ge=1, description="Texts in a batch of the search.")
    search_learning_rate: float = Field(
        1e-3, gt=0, allow_inf_nan=False, description="Largest learning rate of the supernet's weights."
    )
    search_freeze_word_embeddings: bool = Field(
        False, description="Keep the teacher's projected embedding as it is during the search."
    )

    @field_validator("layer_pairs")
    @classmethod
    def _named_once(cls, pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if len(set(pairs)) < len(pairs):
            raise ValueError(f"names a pair twice: {pairs}")
        return pairs

    @model_validator(mode="after")
    def _something_is_learnt(self) -> SearchOptions:
        if not (self.task_weight or self.distillation_weight or self.efficiency_weight):
            raise ValueError(
                "task_weight, distillation_weight and efficiency_weight are all 0: nothing would be learnt"
            )
        if not (self.task_weight or (self.distillation_weight and self.layer_pairs)):
            raise ValueError(
                "task_weight is 0 and nothing is distilled (distillation_weight is 0, or layer_pairs names none): "
                "the network would learn nothing"
            )
        return self

    @model_validator(mode="after")
    def _pairs_exist(self) -> SearchOptions:
        for student, teacher in self.layer_pairs:
            if not 0 <= student <= self.cells:
                raise ValueError(
                    f"layer_pairs: ({student}, {teacher}): the student has the hidden states 0 to {self.cells} "
                    "(0: the embeddings, then one after each of its `cells`)"
                )
            if teacher < 0:
                raise ValueError(f"layer_pairs: ({student}, {teacher}): the teacher has no hidden state {teacher}")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> SearchOptions:
        if self.warmup_epochs >= self.search_epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} and search_epochs {self.search_epochs}: none is left to choose"
            )
        return self

    @property
    def training(self) -> TrainingConfig:
        """The settings that the supernet's own weights are trained with."""
        return TrainingConfig(
            epochs=self.search_epochs,
            batch_size=self.search_batch_size,
            learning_rate=self.search_learning_rate,
            freeze_word_embeddings=self.search_freeze_word_embeddings,
        )

    @property
    def search_passes(self) -> float:
        """Passes over the training split that the search takes, the steps of the architecture weights included."""
        if self.architecture_split == 0:
            return float(self.search_epochs)
        # After the warm-up each step of the network is followed by one of the choice, on as many other examples.
        return (1 - self.architecture_split) * (2 * self.search_epochs - self.warmup_epochs)

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """The teacher's hidden states that are wanted, ascending."""
        return tuple(sorted({teacher for _, teacher in self.layer_pairs}))

    def tau(self, epoch: int) -> float:
        """The temperature in an epoch (0: the first): from `tau_start` to `tau_end`, by the same factor each epoch."""
        share = epoch / max(1, self.search_epochs - 1)
        return float(self.tau_start ** (1 - share) * self.tau_end**share)

    def efficiency_weight_in(self, epoch: int) -> float:
        """The weight of L_eff in an epoch: 0 during the warm-up, then rising in equal steps to its full size."""
        since = epoch - self.warmup_epochs
        if since < 0:
            return 0.0
        return self.efficiency_weight * min(1.0, (since + 1) / (self.efficiency_warmup + 1))

    def surviving_pairs(self, architecture: CellArchitecture) -> tuple[int, ...]:
        """Positions of the layer pairs that a frozen student still has: those whose cell is not skipped."""
        kept = {0, *(index + 1 for index in architecture.kept_cells)}
        return tuple(position for position, (student, _) in enumerate(self.layer_pairs) if student in kept)
