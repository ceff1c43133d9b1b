"""The host's node interface, files, previews and words on a node."""
