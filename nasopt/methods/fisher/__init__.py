from nasopt.methods.fisher.method import FisherMethod

__all__ = ["FisherMethod"]
