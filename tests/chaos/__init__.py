"""Chaos: the whole product under load while its processes and its queue are killed, and an account of every event."""
