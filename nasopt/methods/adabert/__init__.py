from nasopt.methods.adabert.method import AdaBERTMethod

__all__ = ["AdaBERTMethod"]
