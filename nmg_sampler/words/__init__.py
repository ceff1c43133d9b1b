"""What a prompt is to attention: tokens, words, and how two prompts find each other."""
