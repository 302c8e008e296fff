"""The reconciler: finds what drifted between the providers and the book, and has it repaired."""

from billhook.queue.bell import Listener
from billhook.queue.consumer import BatchConsumer
from billhook.queue.steps import Steps
from billhook.runtime.env import Env
from billhook.runtime.service import Health, Running, Service, Together
from services.reconciler.running import Reconciling
from services.reconciler.schedule import Scheduler


def start(env: Env, health: Health) -> Running:
    handler = Reconciling(env.database, env.provider_apis, lambda: env.objects, env.metrics, env.clock)
    steps = Steps(handler, env.database, env.bell, env.metrics, env.clock, tracing=env.tracing)
    consumer = BatchConsumer(steps, Listener(env.broker, steps.queue, env.metrics), env.metrics, health.parts)
    scheduler = Scheduler(env.database, env.bell, env.clock, health.parts)
    consumer.start()
    scheduler.start()
    return Together(consumer, scheduler)


SERVICE = Service(
    name="reconciler", summary="Compares the providers' lists with the inbox and the book; repairs.", start=start
)
