"""Nodes: what couples an edit to its source, one per editor."""
