"""What a trajectory shows without an edit."""
