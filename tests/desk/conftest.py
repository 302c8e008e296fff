from desk.world import clock, desk, world

__all__ = ["clock", "desk", "world"]
