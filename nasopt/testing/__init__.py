"""Conformance tests for the authors of methods, tasks and latency sources."""
