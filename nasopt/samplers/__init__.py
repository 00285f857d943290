"""Samplers for Optuna studies. They know Optuna and nothing of torch."""

from nasopt.samplers.adabert import AdaBERTSampler
from nasopt.samplers.alphanas import AlphaNASSampler
from nasopt.samplers.evolution import EvolutionSampler, is_exhausted, parent_of, proposed_params
from nasopt.samplers.fisher import FisherSampler
from nasopt.samplers.genetic import GeneticSampler

__all__ = [
    "AdaBERTSampler",
    "AlphaNASSampler",
    "EvolutionSampler",
    "FisherSampler",
    "GeneticSampler",
    "is_exhausted",
    "parent_of",
    "proposed_params",
]
