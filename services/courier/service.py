"""The courier: delivers messages to merchants' endpoints, signed, again and again until they arrive or are given up."""

from billhook.queue.bell import Listener
from billhook.queue.consumer import Steps
from billhook.runtime.env import Env
from billhook.runtime.service import Health, Running, Service
from services.courier.delivery import Delivery
from services.courier.rounds import Rounds


def start(env: Env, health: Health) -> Running:
    delivery = Delivery(env.vault)
    steps = Steps(delivery, env.database, env.bell, env.metrics, env.clock)
    rounds = Rounds(steps, Listener(env.broker, steps.queue, env.metrics), env.metrics, env.clock, health.tick)
    rounds.start()
    return rounds


SERVICE = Service(name="courier", summary="Delivers signed webhooks to merchants, with retries.", start=start)
