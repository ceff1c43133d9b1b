"""Nodes: pictures of any size through the latent and back."""
