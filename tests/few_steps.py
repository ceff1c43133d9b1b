"""Shipped workflows at few steps: for tests of what they are made of, not of their pictures."""

FEW_STEPS = 4
# Widgets that count steps. Skipping as many as a workflow ships with would leave none.
SHORTER = {"steps": FEW_STEPS, "skip": FEW_STEPS // 3}
# The fewest at which no node of a workflow shows a line of advice, which makes it taller.
WITHOUT_ADVICE = {"method-comparison": 17}


def shorten(prompt):
    """Set the widgets that count steps in a prompt of the host's API; how many were set."""
    found = 0
    for node in prompt.values():
        for name in SHORTER.keys() & node["inputs"].keys():
            if not isinstance(node["inputs"][name], list):  # that would be a wire
                node["inputs"][name] = SHORTER[name]
                found += 1
    return found
