"""Sign-in: what verifies the tokens of a front end, at all its paths."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from ...crypto.owners import owner_of
from ...oauth_settings import OwnerBinding
from ...settings import Settings
from .fetching import Fetcher
from .introspection import IntrospectedTokens
from .json_web_tokens import SignedTokens
from .verified_tokens import VerifiedTokens, Verifier


@asynccontextmanager
async def opened_sign_in(
    settings: Settings, owner_secret: bytes, clock: Callable[[], float] = time.time
) -> AsyncIterator[VerifiedTokens | None]:
    """What verifies tokens, until the end of the block; None if there is no sign-in.

    Args:
        settings: Configuration.
        owner_secret: See `DeploymentKeys.owner_secret`.
        clock: Seconds since the epoch.
    """
    if not settings.oauth_issuers:
        yield None
        return
    fetcher = Fetcher()
    verifier = _verifier(settings, fetcher, clock)
    try:
        yield VerifiedTokens(
            verifier,
            owner_of=partial(owner_of, secret=owner_secret),
            binds_client=settings.oauth_owner_binding is OwnerBinding.CLIENT,
            claims=settings.oauth_claims,
            scope_prefix=settings.oauth_scope_prefix,
            clock=clock,
        )
    finally:
        await verifier.aclose()
        await fetcher.aclose()


def _verifier(settings: Settings, fetcher: Fetcher, clock: Callable[[], float]) -> Verifier:
    secret = settings.oauth_client_secret
    if settings.oauth_introspection_url is not None and secret is not None:
        return IntrospectedTokens(
            issuer=settings.oauth_issuers[0],
            url=settings.oauth_introspection_url,
            client_id=settings.oauth_client_id or "",
            client_secret=secret.get_secret_value(),
            fetcher=fetcher,
            clock=clock,
        )
    return SignedTokens(
        issuers=settings.oauth_issuers,
        jwks_url=settings.oauth_jwks_url,
        types=settings.oauth_token_types,
        fetcher=fetcher,
        clock=clock,
    )
