"""The library's loops where the host runs its samplers."""
