"""Servers that a benchmark starts for itself."""
