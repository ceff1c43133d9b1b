"""ShapesEdit: edits with true answers, the methods that make them, and what is measured."""
