"""How long a run takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """`seconds` are those of one round."""

    rounds: int = 3
    seconds: float = 3.0
    burst: int = 12_000
    """Events of the pipeline's throughput."""
    steady_seconds: float = 15.0
    ingress_memory: int = 100_000
    pipeline_memory: int = 20_000


DEFAULT = Scale()
QUICK = Scale(rounds=1, seconds=1.5, burst=3_000, steady_seconds=5.0, ingress_memory=20_000, pipeline_memory=5_000)
FULL = Scale(rounds=5, burst=50_000, steady_seconds=60.0, pipeline_memory=100_000)
