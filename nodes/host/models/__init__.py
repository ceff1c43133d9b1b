"""The host's models, text encoders and VAEs as the library sees them."""
