"""Gradients through the host's network, within the memory there is."""
