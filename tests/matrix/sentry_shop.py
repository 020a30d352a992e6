"""The shop with Sentry's Celery integration, and with tasks and tools that fail."""

from __future__ import annotations

import os

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration

sentry_sdk.init(
    dsn=os.environ["SHOP_DSN"],
    traces_sample_rate=1.0,
    integrations=[CeleryIntegration()],
)

from shop import app, service  # noqa: E402 - as in shops: whoever reports errors comes first


class OvenOnFire(Exception):
    """Of the shop's own."""


@app.task(name="shop.roast")
def roast(weight: int) -> int:
    """Fail, as a task of the shop that is a tool too."""
    raise OvenOnFire(f"at {weight} kg")


@service.tool(queue="shop")
def fry() -> str:
    """Fail, as a tool that is a function."""
    raise OvenOnFire("in the pan")


service.expose("shop.roast", description="Roast.", queue="shop")
