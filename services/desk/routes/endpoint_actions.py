"""What is done with an endpoint: its secret renewed, a test sent, stopped and started again."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from billhook.actions.endpoints import enable_endpoint, ping, rotate
from billhook.actions.ringing import ring
from billhook.rules.endpoint_settings import LONGEST_OVERLAP_SECONDS, OVERLAP_SECONDS
from billhook.rules.signing import Scheme
from billhook.store.endpoints import set_disabled
from services.desk.dependencies import Body, CallerIn, EnvIn, Id, Secret, Text
from services.desk.refusals import Refusal
from services.desk.routes.endpoints import EndpointMade, EndpointShown, EndpointWhole, find, show, show_made, show_whole

router = APIRouter(prefix="/v1/endpoints/{endpoint_id}", tags=["endpoints"])


class Rotation(Body):
    overlap_seconds: int = Field(
        OVERLAP_SECONDS,
        description="For how long messages are signed with the present secret too. 0: it counts no longer, nor does any"
        " older one, as when others have seen it.",
        json_schema_extra={"minimum": 0, "maximum": LONGEST_OVERLAP_SECONDS},
    )
    signing: Scheme | None = Field(None, description="Left out: as before.")
    secret: Secret | None = Field(None, description="Left out: billhook makes one.")


class Disabling(Body):
    reason: Text | None = None


class Enabling(Body):
    replay_held: bool = Field(False, description="Send what is held for it, too.")


class EndpointEnabled(EndpointWhole):
    replay_id: str | None = Field(description="The replay that sends what was held, if that was asked for.")


class PingSent(BaseModel):
    message_id: str
    delivery_id: str = Field(description="Ask for it at /v1/deliveries to see what became of it.")


@router.post("/rotate")
def rotate_secret(env: EnvIn, caller: CallerIn, endpoint_id: Id, asked: Rotation | None = None) -> EndpointMade:
    """Sign with a new secret from now on, and for a while with the one before it too. It is shown this once."""
    with env.database.begin() as tx:
        find(tx, endpoint_id, caller)
        secret = rotate(env, tx, endpoint_id, now=env.clock(), **({} if asked is None else asked.model_dump()))
        return show_made(env, find(tx, endpoint_id, caller), secret)


@router.post("/test", status_code=201)
def send_test(env: EnvIn, caller: CallerIn, endpoint_id: Id) -> PingSent:
    """Send a `ping` to this endpoint only, whatever its event filter."""
    with env.database.begin() as tx:
        endpoint = find(tx, endpoint_id, caller)
        if endpoint.disabled_at is not None:
            raise Refusal(409, "endpoint_disabled", "It is disabled, so nothing is sent to it. Enable it first.")
        message_id, due = ping(tx, endpoint, env.clock())
    ring(env, {"deliveries": due})
    return PingSent(message_id=message_id, delivery_id=due[0])


@router.post("/disable")
def disable(env: EnvIn, caller: CallerIn, endpoint_id: Id, asked: Disabling | None = None) -> EndpointShown:
    """Stop sending to it. What comes meanwhile is held for it."""
    by = f"disabled by {caller.key_id}"
    reason = f"{by}: {asked.reason}" if asked is not None and asked.reason is not None else by
    with env.database.begin() as tx:
        find(tx, endpoint_id, caller)
        set_disabled(tx, endpoint_id, env.clock(), reason)
        return show(env, find(tx, endpoint_id, caller))


@router.post("/enable")
def enable(env: EnvIn, caller: CallerIn, endpoint_id: Id, asked: Enabling | None = None) -> EndpointEnabled:
    """Send to it again. What is held for it stays so until it is replayed."""
    with env.database.begin() as tx:
        find(tx, endpoint_id, caller)
        replay_held = asked is not None and asked.replay_held
        job = enable_endpoint(tx, endpoint_id, replay_held=replay_held, by=caller.key_id, now=env.clock())
        endpoint = show_whole(env, tx, find(tx, endpoint_id, caller))
    if job is not None:
        ring(env, {"replays": [job]})
    return EndpointEnabled(**endpoint.model_dump(), replay_id=job)
