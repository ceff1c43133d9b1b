"""Pictures and masks: fitting, padding, and the original put back."""
