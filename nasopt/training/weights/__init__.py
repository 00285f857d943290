"""Weight sources: each turns an architecture into a candidate."""

from nasopt.training.weights.cut import Cut
from nasopt.training.weights.elastic import Elastic
from nasopt.training.weights.inherited import Inherited
from nasopt.training.weights.source import WeightSource
from nasopt.training.weights.stored import Stored
from nasopt.training.weights.trained import Stage, Trained

__all__ = ["Cut", "Elastic", "Inherited", "Stage", "Stored", "Trained", "WeightSource"]
