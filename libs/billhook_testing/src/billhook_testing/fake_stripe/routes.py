"""What a resource is to the server: a table of routes, and the few shapes that most routes have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from billhook_testing.fake_stripe.errors import invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.world import Json, World, copied

Handler = Callable[[World, Params, dict[str, str]], Json]
Filter = Callable[[World, Json], Any]
"""What of an object a list parameter compares with."""

PAGING = "limit starting_after ending_before created expand"


@dataclass(frozen=True)
class Route:
    """`method path`, who answers, and every top-level parameter it understands: any other is refused, not ignored."""

    method: str
    path: str
    handler: Handler
    accepts: str = ""


def refuse_unknown(params: Params, accepts: str) -> None:
    known = {*accepts.split(), "expand"}
    for name in params:
        if name not in known:
            message = f"Received unknown parameter: {name} (the fake does not know it for this call)"
            raise invalid(message, param=name, code="parameter_unknown")


def retrieve(kind: str, path: str) -> Route:
    return Route("GET", f"{path}/{{id}}", lambda world, params, ids: world.get(kind, ids["id"]))


def listing(kind: str, path: str, **filters: Filter) -> Route:
    def handler(world: World, params: Params, ids: dict[str, str]) -> Json:
        wanted = {name: params.text(name) for name in filters if name in params}
        found = [
            obj
            for obj in reversed(world.all(kind))
            if all(_text(filters[name](world, obj)) == value for name, value in wanted.items())
            and within(params, "created", obj.get("created", 0))
        ]
        return page(found, params, path)

    return Route("GET", path, handler, f"{PAGING} {' '.join(filters)}")


def by(*path: str) -> Filter:
    """The filter that compares with a field, given by its path inside the object."""

    def read(world: World, obj: Json) -> Any:
        value: Any = obj
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    return read


def _text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def within(params: Params, name: str, value: int) -> bool:
    """Whether a time satisfies `created=…` or `created[gte]=…` and its like."""
    if name not in params:
        return True
    if isinstance(params.values[name], str):
        return value == int(params.integer(name))
    bounds = params.within(name)
    refuse_unknown(bounds, "gt gte lt lte")
    earliest = max(bounds.integer("gt", value - 1) + 1, bounds.integer("gte", value))
    latest = min(bounds.integer("lt", value + 1) - 1, bounds.integer("lte", value))
    return bool(earliest <= value <= latest)


def page(newest_first: list[Json], params: Params, url: str) -> Json:
    """One page of a list. A cursor that the list does not hold is refused, as Stripe does."""
    limit = params.integer("limit", 10)
    if not 1 <= limit <= 100:
        raise invalid("Invalid limit: must be between 1 and 100", param="limit")
    after, before = params.text("starting_after"), params.text("ending_before")
    if after and before:
        raise invalid("Only one of starting_after and ending_before may be given.", param="ending_before")
    ids = [obj["id"] for obj in newest_first]
    cursor = after or before
    if cursor and cursor not in ids:
        param = "starting_after" if after else "ending_before"
        raise invalid(f"No such object: '{cursor}'", param=param, code="resource_missing")
    if before:
        # Going back gives the page next to the cursor, still newest first.
        rest = newest_first[: ids.index(before)]
        shown = rest[-limit:]
    else:
        rest = newest_first[ids.index(after) + 1 :] if after else newest_first
        shown = rest[:limit]
    return {"object": "list", "data": shown, "has_more": len(rest) > len(shown), "url": url}


Includes = dict[tuple[str, str], Callable[[World, Json], Any]]


def expanded(world: World, answer: Json, paths: list[str], includes: Includes) -> Json:
    """The answer, or a copy of it in which the ids at `paths` are the objects they name.

    `includes` has what is no id but shown only when asked for, such as an invoice's payments.
    """
    if not paths:
        return answer
    copy: Json = copied(answer)
    for path in paths:
        _expand(world, copy, path.split("."), path, includes)
    return copy


def _expand(world: World, at: Any, parts: list[str], path: str, includes: Includes) -> None:
    if isinstance(at, list):
        for inner in at:
            _expand(world, inner, parts, path, includes)
        return
    if not isinstance(at, dict) or not parts:
        return
    name, rest = parts[0], parts[1:]
    include = includes.get((str(at.get("object")), name))
    if include is not None and name not in at:
        at[name] = copied(include(world, at))
    elif isinstance(at.get(name), str):
        found = world.find(at[name])
        if found is None:
            raise invalid(f"This property cannot be expanded ({path}).")
        at[name] = copied(found)
    elif name not in at:
        raise invalid(f"This property cannot be expanded ({path}).")
    _expand(world, at[name], rest, path, includes)
