"""The relay: rings again for due work that nobody holds, so that a lost ring costs a second, not an event.

Beside that it walks the replays, deletes what is older than its time, and measures the ledger for Prometheus.
"""

from billhook.queue.bell import Listener
from billhook.queue.consumer import BatchConsumer
from billhook.queue.steps import Steps
from billhook.runtime.env import Env
from billhook.runtime.service import Health, Running, Service, Together
from services.relay.exporter import Exporter
from services.relay.pruning import Keep, Pruner
from services.relay.replaying import LOOK_SECONDS, Replaying
from services.relay.sweep import Sweeper


def start(env: Env, health: Health) -> Running:
    sweeper = Sweeper(env.database, env.broker, env.bell, env.metrics, env.clock, health.parts)
    replaying = Replaying(env.database, env.clock)
    steps = Steps(replaying, env.database, env.bell, env.metrics, env.clock, tracing=env.tracing)
    listener = Listener(env.broker, steps.queue, env.metrics)
    consumer = BatchConsumer(steps, listener, env.metrics, health.parts, look_seconds=LOOK_SECONDS)
    pruner = Pruner(env.database, lambda: env.objects, env.metrics, env.clock, health.parts, Keep.of(env.settings))
    exporter = Exporter(env.database, env.metrics, env.clock, health.parts)
    for part in (sweeper, consumer, pruner, exporter):
        part.start()
    return Together(sweeper, consumer, pruner, exporter)


SERVICE = Service(
    name="relay", summary="Rings for due work, walks replays, and deletes what is past its retention.", start=start
)
