"""Files of trajectories and directions: safetensors with a digest, written whole or not at all."""
