"""Inputs of the nodes by their names, with the values that a test may leave alone."""

from host_models import first

# Of NMG Sample and its kin: text guidance and nothing else.
PLAIN = {"noise_map_scale": 0.0, "gradient_scale": 0.0, "mode": "fused"}


def choices(**inputs):
    """All that NMG Guidance asks for."""
    return {
        "mode": "fused",
        "gradient": "direct",
        "loss": "l1",
        "reference": "auto",
        "noise_map_scale": 1.0,
        "gradient_scale": 5000.0,
        "start": 0.0,
        "end": 1.0,
        **inputs,
    }


def guidance(nodes, **inputs):
    """The method that NMG Guidance makes of these inputs and `choices` for the rest."""
    return first(nodes["NMGGuidance"].execute(**choices(**inputs)))
