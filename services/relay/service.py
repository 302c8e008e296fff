"""The relay: rings again for due work that nobody holds, so that a lost ring costs a second, not an event."""

from billhook.runtime.env import Env
from billhook.runtime.service import Health, Running, Service
from services.relay.sweep import Sweeper


def start(env: Env, health: Health) -> Running:
    sweeper = Sweeper(env.database, env.broker, env.bell, env.metrics, env.clock, health.tick)
    sweeper.start()
    return sweeper


SERVICE = Service(name="relay", summary="Rings for due work: retries, expired leases, lost rings.", start=start)
