"""What plugs into what: a network, a method, an editor, and what a run tells of itself."""
