from nasopt.methods.alphanas.method import AlphaNASMethod

__all__ = ["AlphaNASMethod"]
