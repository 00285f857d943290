"""One competitor's run against the clock: what it found, when, and what its front measures in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.front.figures import Point, front
from benchmarks.front.ground import FINAL_SECONDS, Ground
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.genotype import FFN_STEP
from nasopt.models.surgery import choose_units, keep_largest
from nasopt.training.loop import StepCallback

Make = Callable[[], nn.Module]
Params = Mapping[str, int]
"""`layer_<i>` in {0, 1}, `heads_<i>` from 1, and `blocks_<i>` from 1, of 64 FFN neurons each."""


@dataclass
class Race:
    """The clock and the findings of one competitor; the clock starts when this is made.

    Attributes:
        ground: base model, data, training and measurement.
        budget_s: seconds after which nothing counts any more.
        started: the clock's start, for one that started earlier.
    """

    ground: Ground
    budget_s: float
    points: list[Point] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    _makes: list[Make | None] = field(default_factory=list)
    _cpu: float = field(default_factory=time.process_time)
    late: int = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    def left(self) -> bool:
        """Whether another trial may begin."""
        return self.seconds < self.budget_s

    def found(self, quality: float, ratio: float, make: Make | None, seconds: float | None = None) -> bool:
        """Notes a model, and says whether it was there in time.

        Args:
            quality: on the whole validation split.
            ratio: of latencies, measured in alternation with the base model.
            make: gives a model of the same shape, to be measured again if it ends on the front; None if there is none,
                and the latency stays.
            seconds: when it was there; now unless given.
        """
        when = self.seconds if seconds is None else seconds
        if when > self.budget_s:
            self.late += 1  # it began in time, but was not there in time
            return False
        self.points.append(Point(when, quality, ratio))
        self._makes.append(make)
        on_front = set(front(self.points))
        # What is off the front is never measured again: let the model go.
        self._makes = [make if index in on_front else None for index, make in enumerate(self._makes)]
        return True

    def result(self) -> dict[str, Any]:
        """The findings, and the front with latencies measured once more, in alternation with the base model."""
        seconds, cpu = self.seconds, time.process_time() - self._cpu
        final = []
        for index in front(self.points):
            make, point = self._makes[index], self.points[index]
            ratio = point.ratio if make is None else self.ground.measure(make(), FINAL_SECONDS).ratio
            final.append({"quality": point.quality, "ratio": ratio, "in_run": point.ratio})
        points = [point._asdict() for point in self.points]
        return {"seconds": seconds, "cpu_seconds": cpu, "late": self.late, "points": points, "front": final}

    def fine_tuned(self, params: Params, on_step: Callable[[nn.Module], StepCallback] | None = None) -> Point:
        """Cuts, trains, evaluates and measures what a generic search proposes, and notes it.

        Units are kept by the size of their weights: a generic search knows nothing of sensitivities. A proposal
        without layers is no model: it is as bad as can be.

        Args:
            params: the proposal.
            on_step: makes a function that is told of every step of the training of a model, and may raise.
        """
        ground = self.ground
        layers = range(ground.context.shape.num_layers)
        if not any(params[f"layer_{layer}"] for layer in layers):
            return Point(self.seconds, 0.0, 1.0)
        architecture = architecture_of(params, ground)
        model = ground.cut(architecture)
        ground.train(model, on_step(model) if on_step else None)
        quality, ratio = ground.quality(model), ground.measure(model).ratio
        self.found(quality, ratio, lambda: ground.cut(architecture))
        return Point(self.seconds, quality, ratio)


def ranges(ground: Ground) -> dict[str, tuple[int, int]]:
    """The space of a generic search: lowest and highest value of each parameter (see :data:`Params`)."""
    shape = ground.context.shape
    found = {}
    for layer in range(shape.num_layers):
        found[f"layer_{layer}"] = (0, 1)
        found[f"heads_{layer}"] = (1, shape.num_heads)
        found[f"blocks_{layer}"] = (1, shape.ffn_size // FFN_STEP)
    return found


def architecture_of(params: Params, ground: Ground) -> Architecture:
    """The shape that a proposal describes; of each block the units with the largest weights stay."""
    shape = ground.context.shape
    genotype: dict[str, Any] = {"precision": "fp32"}
    for layer in range(shape.num_layers):
        genotype[f"layer_{layer}"] = params[f"layer_{layer}"]
        genotype[f"heads_{layer}"] = params[f"heads_{layer}"]
        genotype[f"ffn_{layer}"] = params[f"blocks_{layer}"] * FFN_STEP
    return choose_units(ground.context.base_model, Architecture.full(shape), genotype, keep_largest)
