"""Studies in a database."""

from nasopt.study.opening import OpenStudy, open_study

__all__ = ["OpenStudy", "open_study"]
