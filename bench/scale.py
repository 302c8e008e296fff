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
    message_memory: int = 20_000
    delivery_rounds: int = 2
    deliveries: int = 20_000
    herd: int = 10_000
    """Deliveries that fall due at once."""
    isolation_rounds: int = 5
    isolation_seconds: float = 5.0
    publish_seconds: float = 10.0
    fanned_out: int = 200
    """Messages to a hundred endpoints each."""
    document_rounds: int = 2
    documents: int = 600
    """Of 8 lines, a round; of 200 lines a sixth of that."""
    document_memory: int = 2_000
    history: int = 1_000_000
    """Rows in the tables that are measured and scraped."""
    compared: int = 200_000
    """Objects of the provider's list; a tenth of them for the memory beside it."""
    replayed: int = 100_000
    attempts: int = 100_000
    """Due at once, without a limit."""
    limited_attempts: int = 3_000
    """With one, a minute's worth."""
    customers: int = 1_000_000
    rest_seconds: float = 30.0


DEFAULT = Scale()
QUICK = Scale(
    rounds=1,
    seconds=1.5,
    burst=3_000,
    steady_seconds=5.0,
    ingress_memory=20_000,
    pipeline_memory=5_000,
    message_memory=2_000,
    delivery_rounds=1,
    deliveries=1_000,
    herd=1_000,
    isolation_rounds=1,
    isolation_seconds=1.0,
    publish_seconds=0.4,
    fanned_out=10,
    document_rounds=1,
    documents=60,
    document_memory=100,
    history=50_000,
    compared=2_000,
    replayed=2_000,
    attempts=500,
    limited_attempts=150,
    customers=5_000,
    rest_seconds=10.0,
)
FULL = Scale(
    rounds=5,
    burst=50_000,
    steady_seconds=60.0,
    pipeline_memory=100_000,
    message_memory=100_000,
    delivery_rounds=5,
    isolation_rounds=15,
    publish_seconds=60.0,
    document_rounds=5,
)
