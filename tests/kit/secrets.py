"""Secrets of messages, and what the store says of those of front ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from tasks_service.broker.signature import PURPOSE, MessageSigner
from tasks_service.crypto.keys import DeploymentKeys, KeyRing
from tasks_service.crypto.signing import Signer
from tasks_service.store.findings import Severity
from tasks_service.store.redis import AsyncRedisTaskStore


def keys(owners: str, *sealing: str) -> DeploymentKeys:
    """The keys of a front end, by the secret of owners and those that open what was sealed."""
    ring = KeyRing(tuple(secret.encode() for secret in sealing or (owners,)))
    return DeploymentKeys(sealing=ring, owner_secret=owners.encode())


MESSAGE_SECRET = "the-secret-of-these-messages"
"""As TASKS_MESSAGE_SECRET."""


def signer_of(*secrets: str, requires: bool = True) -> MessageSigner:
    """The signer of a process whose first secret signs, and whose every one verifies."""
    ring = KeyRing(tuple(secret.encode() for secret in secrets or (MESSAGE_SECRET,)))
    return MessageSigner(Signer(ring, PURPOSE), requires=requires, fingerprints=ring.fingerprints(PURPOSE))


def secrets_problems(url: str, owners: str, *sealing: str) -> list[str]:
    """What a front end with these secrets is refused for, when it starts on a store."""

    async def ask() -> list[str]:
        async with aclosing(AsyncRedisTaskStore(url, deadline=60.0)) as store:
            found = await store.check(keys(owners, *sealing).fingerprints)
        return [f"{f.what} {f.fix}" for f in found if f.severity is Severity.ERROR]

    return asyncio.run(ask())
