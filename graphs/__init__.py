"""Graphs to compile, deploy and change: one file each, state, nodes and edges only."""
