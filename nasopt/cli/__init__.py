from nasopt.cli.app import main

__all__ = ["main"]
