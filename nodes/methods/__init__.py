"""Nodes: what holds the picture, one per method."""
