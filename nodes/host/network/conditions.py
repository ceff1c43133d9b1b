"""What the host calls a prompt, before and after it has processed it."""

from typing import Any

# On a CONDITIONING wire: per part the embedding (rows, columns, width) and its options.
Conditioning = list[list[Any]]
# In the middle of a run: one part, what the network takes of it under "model_conds".
Condition = dict[str, Any]
