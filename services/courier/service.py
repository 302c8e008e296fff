"""The courier: delivers signed messages to merchants' endpoints until they arrive or are given up; and it mails."""

from billhook.outlets.webhooks.client import WebhookClient
from billhook.queue.bell import Listener
from billhook.queue.consumer import BatchConsumer
from billhook.queue.steps import Steps
from billhook.runtime.env import Env
from billhook.runtime.group_commit import give_way
from billhook.runtime.service import Health, Running, Service, Together
from billhook.store.queues import lane_name
from services.courier.delivery import Delivery
from services.courier.dispatcher import Dispatcher
from services.courier.mailing import Mailing


def start(env: Env, health: Health) -> Running:
    give_way()
    dispatcher = Dispatcher(
        Steps(Delivery(env.vault), env.database, env.bell, env.metrics, env.clock),
        env.database,
        lambda lane: Listener(env.broker, lane_name(lane), env.metrics),
        lambda connections: WebhookClient(connections=connections, reach=env.reach, parts=health.parts),
        env.metrics,
        env.clock,
        health.parts,
        env.tracing,
    )
    handler = Mailing(env.mailer, env.objects, env.clock, env.settings.mails_per_day)
    mails = Steps(handler, env.database, env.bell, env.metrics, env.clock, tracing=env.tracing)
    mailing = BatchConsumer(mails, Listener(env.broker, mails.queue, env.metrics), env.metrics, health.parts)
    dispatcher.start()
    mailing.start()
    return Together(dispatcher, mailing)


SERVICE = Service(
    name="courier", summary="Delivers signed webhooks to merchants, with retries, and mails.", start=start
)
