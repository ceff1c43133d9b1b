"""Nodes: what a trajectory or a pair of pictures shows."""
