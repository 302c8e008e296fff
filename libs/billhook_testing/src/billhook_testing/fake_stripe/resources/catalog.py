"""Products and prices."""

from __future__ import annotations

from billhook_testing.fake_stripe.errors import invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.routes import Route, by, listing, retrieve
from billhook_testing.fake_stripe.world import Json, World

INTERVALS = ("day", "week", "month", "year")


def new_product(world: World, name: str, product_id: str | None = None) -> Json:
    product: Json = {
        "id": product_id or world.new_id("prod"),
        "object": "product",
        "active": True,
        "created": world.now(),
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": {},
        "name": name,
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": world.now(),
        "url": None,
    }
    return world.add("product", product)


def _apply(product: Json, params: Params) -> None:
    product["name"] = params.text("name") or product["name"]
    product["active"] = params.flag("active", product["active"])
    for name in ("description", "statement_descriptor", "unit_label", "url", "default_price"):
        if name in params:
            product[name] = params.text(name)
    product["metadata"] = params.merged("metadata", product["metadata"])


PRODUCT_FIELDS = "name active description statement_descriptor unit_label url metadata"


def _create_product(world: World, params: Params, ids: dict[str, str]) -> Json:
    name = params.required("name")
    product_id = params.text("id")
    if product_id and world.find(product_id):
        raise invalid(f"Product already exists: {product_id}", param="id", code="resource_already_exists")
    product = new_product(world, name, product_id)
    _apply(product, params)
    default = params.within("default_price_data")
    world.emit("product.created", product)
    if default.values:
        price = _new_price(world, product["id"], default)
        with world.changing(product, "product.updated"):
            product["default_price"] = price["id"]
    return product


def _update_product(world: World, params: Params, ids: dict[str, str]) -> Json:
    product = world.get("product", ids["id"])
    with world.changing(product, "product.updated"):
        _apply(product, params)
        product["updated"] = world.now()
    return product


def _delete_product(world: World, params: Params, ids: dict[str, str]) -> Json:
    product = world.get("product", ids["id"])
    if any(price["product"] == product["id"] for price in world.all("price")):
        raise invalid("This product cannot be deleted because it has prices; archive it instead.")
    world.remove("product", product["id"])
    world.emit("product.deleted", product)
    return {"id": product["id"], "object": "product", "deleted": True}


def _new_price(world: World, product: str, params: Params) -> Json:
    recurring = params.within("recurring")
    amount = params.integer("unit_amount")
    if amount is None:
        raise invalid("Prices without unit_amount are not covered by the fake.", param="unit_amount")
    price: Json = {
        "id": world.new_id("price"),
        "object": "price",
        "active": params.flag("active", True),
        "billing_scheme": "per_unit",
        "created": world.now(),
        "currency": params.required("currency").lower(),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": params.text("lookup_key"),
        "metadata": params.merged("metadata", {}),
        "nickname": params.text("nickname"),
        "product": product,
        "recurring": None,
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "one_time",
        "unit_amount": amount,
        "unit_amount_decimal": str(amount),
    }
    if recurring.values:
        price["type"] = "recurring"
        price["recurring"] = {
            "interval": recurring.choice("interval", INTERVALS, ""),
            "interval_count": recurring.integer("interval_count", 1),
            "meter": None,
            "trial_period_days": None,
            "usage_type": recurring.choice("usage_type", ("licensed",), "licensed"),
        }
    world.add("price", price)
    world.emit("price.created", price)
    return price


def price_from(world: World, params: Params) -> Json:
    """The price that `params` describe, whether sent by itself or as another call's `price_data`."""
    described = params.within("product_data")
    if described.values:
        product = new_product(world, described.required("name"))
        world.emit("product.created", product)
    else:
        product = world.named("product", params.required("product"), params.path("product"))
    return _new_price(world, product["id"], params)


def _update_price(world: World, params: Params, ids: dict[str, str]) -> Json:
    price = world.get("price", ids["id"])
    with world.changing(price, "price.updated"):
        price["active"] = params.flag("active", price["active"])
        for name in ("nickname", "lookup_key"):
            if name in params:
                price[name] = params.text(name)
        price["metadata"] = params.merged("metadata", price["metadata"])
    return price


PRICE_FIELDS = "active nickname lookup_key metadata"

ROUTES = [
    Route("POST", "/v1/products", _create_product, f"{PRODUCT_FIELDS} id default_price_data"),
    retrieve("product", "/v1/products"),
    Route("POST", "/v1/products/{id}", _update_product, f"{PRODUCT_FIELDS} default_price"),
    Route("DELETE", "/v1/products/{id}", _delete_product),
    listing("product", "/v1/products", active=by("active")),
    Route(
        "POST",
        "/v1/prices",
        lambda world, params, ids: price_from(world, params),
        f"{PRICE_FIELDS} currency product product_data recurring unit_amount",
    ),
    retrieve("price", "/v1/prices"),
    Route("POST", "/v1/prices/{id}", _update_price, PRICE_FIELDS),
    listing(
        "price",
        "/v1/prices",
        active=by("active"),
        product=by("product"),
        type=by("type"),
        currency=by("currency"),
    ),
]
