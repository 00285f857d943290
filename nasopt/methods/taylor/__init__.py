from nasopt.methods.taylor.method import TaylorMethod

__all__ = ["TaylorMethod"]
