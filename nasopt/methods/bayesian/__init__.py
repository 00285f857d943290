from nasopt.methods.bayesian.method import BayesianMethod

__all__ = ["BayesianMethod"]
