"""The `[method_options]` of AdaBERT."""

from __future__ import annotations

from pydantic import Field

from nasopt.methods.adabert.search_options import SearchOptions


class AdaBERTOptions(SearchOptions):
    """The `[method_options]` of AdaBERT, whose defaults are the published ones where those are given.

    A drawn student is fine-tuned as `[training]` says, with the same weights and pairs; the efficiency loss, by then a
    constant, is left out.
    """

    trials: int = Field(20, ge=1, description="Architectures drawn in a whole search.")
    temperature: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Temperature of the draws: 1 is the learnt distribution, less keeps to the best.",
    )
