"""Nodes: the way of a picture, from inversion to sampling, and the files on it."""
