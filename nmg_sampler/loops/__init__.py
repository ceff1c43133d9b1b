"""The loops: up from a picture, down to an edit, and one step for somebody else's loop."""
