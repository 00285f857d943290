from nasopt.methods.genetic.method import GeneticMethod

__all__ = ["GeneticMethod"]
