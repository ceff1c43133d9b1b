"""One file per paper: how a step is held to the picture."""
