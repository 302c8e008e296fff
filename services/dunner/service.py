"""The dunner: carries failed payments through grace, retries and reminders to an end."""

from typing import Final

from billhook.queue.bell import Listener
from billhook.queue.consumer import BatchConsumer
from billhook.queue.steps import Steps
from billhook.runtime.env import Env
from billhook.runtime.group_commit import give_way
from billhook.runtime.service import Health, Running, Service, Together
from services.dunner.admission import Admission
from services.dunner.attempts import Attempts
from services.dunner.cases import Cases
from services.dunner.final_action import FinalAction
from services.dunner.first_look import FirstLook

LOOK_SECONDS = 0.25
"""How often due attempts are looked for: their turns at a provider's account come by the moment, and nobody rings."""


COLLECTING: Final = 2
"""Batches of attempts at a time: while one is settled, the provider is called for the other."""


def start(env: Env, health: Health) -> Running:
    give_way()
    apis = env.provider_apis
    cases = Steps(
        Cases(
            FirstLook(env.database, apis, env.clock),
            FinalAction(env.database, apis, env.clock),
            env.clock,
            env.settings.public,
        ),
        env.database,
        env.bell,
        env.metrics,
        env.clock,
        tracing=env.tracing,
    )
    attempts = Steps(
        Attempts(env.database, apis, env.clock, env.metrics, env.settings.public),
        env.database,
        env.bell,
        env.metrics,
        env.clock,
        admit=Admission(env.settings.provider_calls_per_second, env.clock).admit,
        tracing=env.tracing,
    )
    calendars = BatchConsumer(cases, Listener(env.broker, cases.queue, env.metrics), env.metrics, health.parts)
    rings = Listener(env.broker, attempts.queue, env.metrics)
    collecting = [
        BatchConsumer(attempts, rings, env.metrics, health.parts, look_seconds=LOOK_SECONDS) for _ in range(COLLECTING)
    ]
    calendars.start()
    for consumer in collecting:
        consumer.start()
    return Together(calendars, *collecting)


SERVICE = Service(
    name="dunner",
    summary="Carries failed payments through a grace period, retries and reminders to an end.",
    start=start,
)
