"""What the store says of front ends' secrets."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from tasks_service.crypto.keys import DeploymentKeys, KeyRing
from tasks_service.store.findings import Severity
from tasks_service.store.redis import AsyncRedisTaskStore


def keys(owners: str, *sealing: str) -> DeploymentKeys:
    """The keys of a front end, by the secret of owners and those that open what was sealed."""
    ring = KeyRing(tuple(secret.encode() for secret in sealing or (owners,)))
    return DeploymentKeys(sealing=ring, owner_secret=owners.encode())


def secrets_problems(url: str, owners: str, *sealing: str) -> list[str]:
    """What a front end with these secrets is refused for, when it starts on a store."""

    async def ask() -> list[str]:
        async with aclosing(AsyncRedisTaskStore(url, deadline=60.0)) as store:
            found = await store.check(keys(owners, *sealing).fingerprints)
        return [f"{f.what} {f.fix}" for f in found if f.severity is Severity.ERROR]

    return asyncio.run(ask())
