"""Pictures, charts and sentences that nodes show; no node of its own."""
