"""The plain case, which is most deliveries: claimed with all that is needed to send them, and settled, in one statement
each on PostgreSQL and in as few as can be on SQLite.

Plain is a delivery for which no rule has to be asked. It has no order to keep, nobody holds it or died with it, and its
endpoint is on, well or known not to be, and without limits of its own but a cap that the claim is told of. Everything
else is left as it is, for `work.claim` and the settling that all consumers share: what is not taken here is not lost
here.

    claim    found (locked, skipping what others lock) ─▶ plain ─▶ as many to each endpoint and for each merchant as
             there is room ─▶ taken
    settle   held still, under their tokens ─▶ attempts written, rows marked
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from billhook.rules.delivery import FRESH, RETRY
from billhook.store.database import Database, Run, Tx, run_in
from billhook.store.deliveries import Attempt, OutboundMessage, add_attempts
from billhook.store.endpoints import Endpoint, endpoints
from billhook.store.queue_pauses import is_running
from billhook.store.schema import Instant, as_instant, new_id, to_micros
from billhook.store.statements import as_json
from billhook.store.work import CLOCK_SKEW, DUE

LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a claim found."""

    token: str
    messages: list[OutboundMessage]
    """Claimed."""
    due: list[datetime]
    """Since when each of them had been due."""
    waiting: list[tuple[str, str, str]]
    """Plain ones for which there is no room: (delivery, endpoint, merchant)."""
    left: list[tuple[str, str]]
    """Those that are due and not plain, and those whose endpoint's places others have taken: (delivery, endpoint)."""
    places: Mapping[str, int] = field(default_factory=dict)
    """How many of the places of an endpoint that has a cap other couriers leave, of those that the claim came upon."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """How many may go to each endpoint, and for each merchant."""

    known: Mapping[str, int]
    others: int
    """To each endpoint that is not among them."""
    shares: Mapping[str, int]
    """Of merchants."""
    other_shares: int
    """Of each merchant that is not among them."""
    capped: Mapping[str, int] = field(default_factory=dict)
    """Endpoints that are known to have a cap, with how many more may be taken for each than other couriers leave of it
    (fewer, if negative). It holds over all couriers, so they are locked while what those have in hand is counted."""
    judged: Collection[str] = ()
    """Endpoints that this process has judged by their answers: their room says what they may have, also where their
    record says that they fail."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which deliveries a claim looks at."""

    lane: str
    ids: Collection[str] | None
    """None: those that have been due for longest."""
    limit: int
    passing_over: Collection[str]
    """Endpoints whose deliveries stay where they are."""
    passing_over_all_of: Collection[str]
    """Merchants whose deliveries do."""
    mine: Collection[str] = ()
    """The tokens of what this process has in hand: what is held under others is another courier's."""
    after: datetime = LONG_AGO
    """What has been due since before that is not looked at: the caller knows that it is to be passed over."""


def take(
    database: Database, wanted: Wanted, rooms: Rooms, *, max_attempts: int, now: datetime, lease: timedelta
) -> Taken:
    """Claim what is plain."""
    claim = _Claim(new_id("tok"), now, now if wanted.ids is None else now + CLOCK_SKEW, now + lease, max_attempts)
    if database.sqlite:
        with database.begin(durable=False) as tx:
            return _take_on_sqlite(tx, wanted, rooms, claim)
    if rooms.capped:
        with database.begin(durable=False) as tx:
            # In a statement of its own: the next one sees what others took until they let go of the lock.
            run = run_in(tx)
            run(_LOCK, (",".join(rooms.capped),))
            return _take_on_postgresql(run, wanted, rooms, claim)
    with database.statement() as run:
        return _take_on_postgresql(run, wanted, rooms, claim)


@dataclass(frozen=True, slots=True)
class _Claim:
    token: str
    now: datetime
    horizon: datetime
    until: datetime
    max_attempts: int


_ENDPOINT: Final = [column.name for column in endpoints.c]
_ENDPOINT_AT: Final = 13
"""Where an endpoint's columns begin in a row on PostgreSQL; they come once for each endpoint."""
_PLAIN_AT: Final = _ENDPOINT_AT + len(_ENDPOINT)

_LOCK: Final = """
SELECT id FROM endpoints WHERE id = ANY (string_to_array(%s::text, ',')) ORDER BY id FOR NO KEY UPDATE
"""
# Lists are sent as one string each: the driver's arrays cost more than the statement where they are short. A claim need
# not be durable (`Database.begin`), which a statement of its own says by `set_config`.
#
# PostgreSQL plans it once for all lists. `<> ALL` of a list that it does not know it takes for nearly nobody, and it
# sorted the whole backlog for each claim, where the index has it in order; and it read the whole list anew for each row
# that is passed over. `NOT IN` a question it takes for every second row, and looks each up in a table that it makes
# once. To the first end nothing is joined to itself: what becomes of the rows found is told by windows over them.
_TAKE: Final = """
WITH found AS MATERIALIZED (
  SELECT id, merchant_id, message_id, endpoint_id, attempts, attempts_before, due_at, subject, token FROM deliveries
   WHERE {among} state = '{due}' AND due_at <= %s AND due_at > %s AND lane = %s AND {running}
     AND endpoint_id NOT IN (SELECT unnest(string_to_array(%s::text, ',')))
     AND merchant_id NOT IN (SELECT unnest(string_to_array(%s::text, ',')))
   {order} LIMIT %s FOR UPDATE SKIP LOCKED
), room AS (
  SELECT * FROM unnest(string_to_array(%s::text, ','), string_to_array(%s::text, ',')::int[]) AS r(endpoint_id, places)
), share AS (
  SELECT * FROM unnest(string_to_array(%s::text, ','), string_to_array(%s::text, ',')::int[]) AS s(merchant_id, places)
), capped AS (
  SELECT endpoint_id, others_leave, CASE WHEN others_leave > 0 THEN others_leave + more ELSE 0 END AS free
    FROM (SELECT endpoints.id AS endpoint_id, more, max_in_flight - (
            SELECT count(*) FROM deliveries AS held
             WHERE held.endpoint_id = endpoints.id AND held.token IS NOT NULL AND held.due_at > %s
               AND held.token NOT IN (SELECT unnest(string_to_array(%s::text, ',')))) AS others_leave
            FROM unnest(string_to_array(%s::text, ','), string_to_array(%s::text, ',')::int[]) AS known(id, more)
            JOIN endpoints ON endpoints.id = known.id WHERE max_in_flight IS NOT NULL) AS counted
), judged AS (
  SELECT found.*, free, others_leave,
         subject IS NULL AND token IS NULL AND attempts < %s AND deleted_at IS NULL AND disabled_at IS NULL
         AND (max_in_flight IS NULL OR free IS NOT NULL) AND rate_limit IS NULL
         AND (failing_since IS NULL OR endpoint_id IN (SELECT unnest(string_to_array(%s::text, ',')))) AS plain
    FROM found JOIN endpoints ON endpoints.id = endpoint_id LEFT JOIN capped USING (endpoint_id)
), placed AS (
  SELECT judged.*, row_number() OVER (PARTITION BY endpoint_id, plain ORDER BY id) AS place FROM judged
), roomy AS (
  SELECT placed.*, plain AND place <= least(coalesce(places, %s), free) AS roomy
    FROM placed LEFT JOIN room USING (endpoint_id)
), turned AS (
  SELECT roomy.*, row_number() OVER (PARTITION BY merchant_id, roomy ORDER BY id) AS turn FROM roomy
), decided AS MATERIALIZED (
  SELECT turned.*, roomy AND turn <= coalesce(places, %s) AS fits FROM turned LEFT JOIN share USING (merchant_id)
), taken AS (
  UPDATE deliveries SET attempts = deliveries.attempts + 1, token = %s, due_at = %s
    FROM decided WHERE deliveries.id = decided.id AND fits
)
SELECT fits, decided.endpoint_id, due_at, decided.id, decided.merchant_id, message_id, attempts + 1, attempts_before,
       type, body, pruned_at IS NOT NULL, inbox_id, traceparent, {endpoint},
       plain AND coalesce(others_leave, 1) > 0, others_leave, set_config('synchronous_commit', 'off', true)
  FROM decided
  LEFT JOIN messages ON messages.id = message_id AND fits
  LEFT JOIN endpoints ON endpoints.id = decided.endpoint_id AND fits AND place = 1
"""
# JSON comes as the text it is, so that rows can be told apart (`_endpoint`).
_COLUMNS: Final = ", ".join(
    f"endpoints.{one.name}::text" if isinstance(one.type, sa.JSON) else f"endpoints.{one.name}" for one in endpoints.c
)
_RUNNING: Final = is_running("deliveries")
_TAKE_AMONG: Final = _TAKE.format(
    among="id = ANY (string_to_array(%s::text, ',')) AND", due=DUE, running=_RUNNING, order="", endpoint=_COLUMNS
)
_TAKE_LONGEST_DUE: Final = _TAKE.format(among="", due=DUE, running=_RUNNING, order="ORDER BY due_at", endpoint=_COLUMNS)


def _take_on_postgresql(run: Run, wanted: Wanted, rooms: Rooms, claim: _Claim) -> Taken:
    given = (
        claim.horizon,
        wanted.after,
        wanted.lane,
        ",".join(wanted.passing_over),
        ",".join(wanted.passing_over_all_of),
        wanted.limit,
        ",".join(rooms.known),
        ",".join(map(str, rooms.known.values())),
        ",".join(rooms.shares),
        ",".join(map(str, rooms.shares.values())),
        claim.now,
        ",".join(wanted.mine),
        ",".join(rooms.capped),
        ",".join(map(str, rooms.capped.values())),
        claim.max_attempts,
        ",".join(rooms.judged),
        rooms.others,
        rooms.other_shares,
        claim.token,
        claim.until,
    )
    # Binary: to read bodies and times as text takes twice as long.
    if wanted.ids is None:
        rows = run(_TAKE_LONGEST_DUE, given, binary=True).fetchall()
    else:
        rows = run(_TAKE_AMONG, (",".join(wanted.ids), *given), binary=True).fetchall()
    mine = [row for row in rows if row[0]]
    known = {row[1]: _endpoint(row[_ENDPOINT_AT:_PLAIN_AT]) for row in mine if row[_ENDPOINT_AT] is not None}
    others = [row for row in rows if not row[0]]
    return Taken(
        claim.token,
        [_message(wanted.lane, known[row[1]], row[3:_ENDPOINT_AT]) for row in mine],
        [row[2] for row in mine],
        [(row[3], row[1], row[4]) for row in others if row[_PLAIN_AT]],
        [(row[3], row[1]) for row in others if not row[_PLAIN_AT]],
        {row[1]: row[_PLAIN_AT + 1] for row in rows if row[_PLAIN_AT + 1] is not None} if rooms.capped else {},
    )


# SQLite's UPDATE returns nothing of the tables it joins, and asking it costs nothing but a call: it is done in steps.
_FIND: Final = """
SELECT subject IS NULL AND token IS NULL AND attempts < ?, endpoint_id, due_at, deliveries.id, deliveries.merchant_id,
       message_id, attempts + 1, attempts_before, type, body, pruned_at IS NOT NULL, inbox_id, traceparent
  FROM deliveries JOIN messages ON messages.id = message_id
 WHERE {among} state = '{due}' AND due_at <= ? AND due_at > ? AND lane = ? AND {running}
   AND endpoint_id NOT IN (SELECT value FROM json_each(?))
   AND deliveries.merchant_id NOT IN (SELECT value FROM json_each(?))
 {order} LIMIT ?
"""
_FIND_AMONG: Final = _FIND.format(
    among="deliveries.id IN (SELECT value FROM json_each(?)) AND", due=DUE, running=_RUNNING, order=""
)
_FIND_LONGEST_DUE: Final = _FIND.format(among="", due=DUE, running=_RUNNING, order="ORDER BY due_at")
_WELL: Final = f"""
SELECT {", ".join(_ENDPOINT)} FROM endpoints
 WHERE id IN (SELECT value FROM json_each(?)) AND deleted_at IS NULL AND disabled_at IS NULL AND rate_limit IS NULL
   AND (failing_since IS NULL OR id IN (SELECT value FROM json_each(?)))
"""
_WITH_OTHERS: Final = """
SELECT count(*) FROM deliveries
 WHERE endpoint_id = ? AND token IS NOT NULL AND due_at > ? AND token NOT IN (SELECT value FROM json_each(?))
"""
_MARK_TAKEN: Final = """
UPDATE deliveries SET attempts = attempts + 1, token = ?, due_at = ? WHERE id IN (SELECT value FROM json_each(?))
"""


def _take_on_sqlite(tx: Tx, wanted: Wanted, rooms: Rooms, claim: _Claim) -> Taken:
    passing_over = (as_json(wanted.passing_over), as_json(wanted.passing_over_all_of))
    given = (to_micros(claim.horizon), to_micros(wanted.after), wanted.lane, *passing_over, wanted.limit)
    if wanted.ids is None:
        rows = tx.exec_driver_sql(_FIND_LONGEST_DUE, (claim.max_attempts, *given)).fetchall()
    else:
        rows = tx.exec_driver_sql(_FIND_AMONG, (claim.max_attempts, as_json(wanted.ids), *given)).fetchall()
    asked = {row[1] for row in rows if row[0]}
    found = tx.exec_driver_sql(_WELL, (as_json(asked), as_json(rooms.judged))).fetchall() if asked else []
    well = {row[0]: _endpoint(tuple(row)) for row in found}
    well = {
        endpoint_id: one
        for endpoint_id, one in well.items()
        if one.max_in_flight is None or endpoint_id in rooms.capped
    }
    places = {endpoint_id: rooms.known.get(endpoint_id, rooms.others) for endpoint_id in well}
    caps = {endpoint_id: one.max_in_flight for endpoint_id, one in well.items() if one.max_in_flight is not None}
    others_leave = {}
    for endpoint_id, cap in caps.items():
        counted = (endpoint_id, to_micros(claim.now), as_json(wanted.mine))
        others_leave[endpoint_id] = left = cap - tx.exec_driver_sql(_WITH_OTHERS, counted).scalar_one()
        places[endpoint_id] = min(places[endpoint_id], left + rooms.capped[endpoint_id] if left > 0 else 0)
    shares = {row[4]: rooms.shares.get(row[4], rooms.other_shares) for row in rows}
    mine = []
    for row in sorted(rows, key=lambda row: row[3]):
        if row[0] and places.get(row[1], 0) > 0 and shares[row[4]] > 0:
            places[row[1]] -= 1
            shares[row[4]] -= 1
            mine.append(row)
    if mine:
        tx.exec_driver_sql(_MARK_TAKEN, (claim.token, to_micros(claim.until), as_json([row[3] for row in mine])))
    taken = {row[3] for row in mine}
    others = [row for row in rows if row[3] not in taken]
    plain = {row[3] for row in others if row[0] and row[1] in well and others_leave.get(row[1], 1) > 0}
    return Taken(
        claim.token,
        [_message(wanted.lane, well[row[1]], row[3:]) for row in mine],
        [as_instant(row[2]) for row in mine],
        [(row[3], row[1], row[4]) for row in others if row[3] in plain],
        [(row[3], row[1]) for row in others if row[3] not in plain],
        others_leave,
    )


def _message(lane: str, endpoint: Endpoint, fields: Sequence[Any]) -> OutboundMessage:
    """`fields`: the delivery's id, its merchant's, its message's, claims with this one, attempts before, and the
    message's type and body, whether it was pruned, the event it came from, and its trace."""
    delivery_id, merchant_id, message_id, attempts, before, event_type, body, pruned, event_id, traceparent = fields
    return OutboundMessage(
        delivery_id,
        merchant_id,
        message_id,
        endpoint,
        attempts,
        before + attempts,
        event_type,
        bytes(body),
        bool(pruned),
        None,
        lane,
        event_id,
        traceparent,
    )


_INSTANTS: Final = [at for at, column in enumerate(endpoints.c) if isinstance(column.type, Instant)]
_JSONS: Final = [at for at, column in enumerate(endpoints.c) if isinstance(column.type, sa.JSON)]


@lru_cache(maxsize=1000)  # to read a row anew takes as long as to sign a message
def _endpoint(row: tuple[Any, ...]) -> Endpoint:
    values = [*row]
    for at in _INSTANTS:
        values[at] = as_instant(values[at])
    for at in _JSONS:
        if values[at] is not None:
            values[at] = msgspec.json.decode(values[at])
    return Endpoint(**dict(zip(_ENDPOINT, values, strict=True)))


class Settled(msgspec.Struct, frozen=True):
    """How a plain delivery's attempt ended, and where that leaves it."""

    token: str
    state: str
    due_at: datetime | None
    """When to try again; None where it is over."""
    reason: str | None
    """Why to try again."""
    attempt: Attempt
    failing: str | None = None
    """Its endpoint, where this is the first sign that it fails."""


def settle(database: Database, settled: Sequence[Settled], now: datetime) -> set[str]:
    """Write the attempts of deliveries that are still held under their tokens, and what became of them; returns the
    ids of these."""
    if database.sqlite:
        with database.begin() as tx:
            return _settle_on_sqlite(tx, settled, now)
    rows = [
        {
            **msgspec.structs.asdict(one.attempt),
            "id": new_id("att"),
            "token": one.token,
            "state": one.state,
            "due_at": one.due_at,
            "reason": one.reason,
            "failing": one.failing,
        }
        for one in settled
    ]
    statement = _SETTLE if all(one.failing is None for one in settled) else _SETTLE_AND_NOTE
    with database.statement() as run:
        return {row[0] for row in run(statement, (as_json(rows), now)).fetchall()}


# One JSON for all rows and columns, for the same reason as above. Rows are locked sorted, as everywhere. (A LIMIT would
# tell the planner how few they are, and it compared each of them with each of those held: three times the processor.)
_WRITE: Final = f"""
WITH given AS MATERIALIZED (
  SELECT * FROM json_to_recordset(%s::json) AS one(
    token text, state text, due_at timestamptz, reason text, id text, merchant_id text, delivery_id text, number int,
    started_at timestamptz, duration_ms int, outcome text, status_code int, error text, response text,
    response_headers json, url text, request_headers json, failing text)
), held AS MATERIALIZED (
  SELECT deliveries.id FROM deliveries JOIN given ON delivery_id = deliveries.id
   WHERE deliveries.state = '{DUE}' AND deliveries.token = given.token ORDER BY deliveries.id FOR UPDATE OF deliveries
), noted AS (
  INSERT INTO delivery_attempts (id, merchant_id, delivery_id, number, started_at, duration_ms, outcome, status_code,
                                 error, response, response_headers, url, request_headers)
  SELECT given.id, merchant_id, delivery_id, number, started_at, duration_ms, outcome, status_code, error,
         decode(response, 'base64'), response_headers, url, request_headers
    FROM given JOIN held ON held.id = delivery_id
), marked AS (
  UPDATE deliveries
     SET state = given.state, token = NULL, last_error = reason, due_at = coalesce(given.due_at, deliveries.due_at),
         finished_at = CASE WHEN given.due_at IS NULL THEN %s::timestamptz END,
         lane = CASE WHEN given.due_at IS NOT NULL AND lane = '{FRESH}' THEN '{RETRY}' ELSE lane END
    FROM given JOIN held ON held.id = delivery_id WHERE deliveries.id = held.id
)
"""
_HELD: Final = "SELECT id FROM held"
_SETTLE: Final = _WRITE + _HELD
_SETTLE_AND_NOTE: Final = f"""{_WRITE}, failing AS MATERIALIZED (
  SELECT endpoints.id, since
    FROM (SELECT failing AS id, min(started_at) AS since FROM given JOIN held ON held.id = delivery_id GROUP BY failing)
      AS first JOIN endpoints ON endpoints.id = first.id
   WHERE failing_since IS NULL AND disabled_at IS NULL AND deleted_at IS NULL
   ORDER BY endpoints.id FOR NO KEY UPDATE OF endpoints
), said AS (
  UPDATE endpoints SET failing_since = since, last_failure_at = since, notices = 0
    FROM failing WHERE endpoints.id = failing.id
)
{_HELD}
"""


_MARK_SETTLED: Final = f"""
UPDATE deliveries
   SET state = ?, token = NULL, last_error = ?, due_at = coalesce(?, due_at), finished_at = ?,
       lane = CASE WHEN ? AND lane = '{FRESH}' THEN '{RETRY}' ELSE lane END
 WHERE id = ?
"""
_NOTE_FAILING: Final = """
UPDATE endpoints SET failing_since = ?, last_failure_at = ?, notices = 0
 WHERE id = ? AND failing_since IS NULL AND disabled_at IS NULL AND deleted_at IS NULL
"""


def _settle_on_sqlite(tx: Tx, settled: Sequence[Settled], now: datetime) -> set[str]:
    ids = as_json([one.attempt.delivery_id for one in settled])
    found = tx.exec_driver_sql(
        f"SELECT id, token FROM deliveries WHERE state = '{DUE}' AND id IN (SELECT value FROM json_each(?))", (ids,)
    )
    tokens = {row[0]: row[1] for row in found}
    held = [one for one in settled if tokens.get(one.attempt.delivery_id) == one.token]
    if held:
        add_attempts(tx, [one.attempt for one in held])
        marked = [
            (
                one.state,
                one.reason,
                None if one.due_at is None else to_micros(one.due_at),
                to_micros(now) if one.due_at is None else None,
                one.due_at is not None,
                one.attempt.delivery_id,
            )
            for one in held
        ]
        tx.exec_driver_sql(_MARK_SETTLED, marked)
        since = [(at := to_micros(one.attempt.started_at), at, one.failing) for one in held if one.failing is not None]
        if since:
            tx.exec_driver_sql(_NOTE_FAILING, sorted(since))
    return {one.attempt.delivery_id for one in held}
