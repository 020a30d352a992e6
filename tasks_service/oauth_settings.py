"""The settings of sign-in: every `TASKS_OAUTH_*` variable, with its checks.

The service is an OAuth 2.1 resource server: it takes access tokens that authorization servers issue, and
issues none itself (docs/guide-sign-in.md).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, SecretStr, ValidationInfo, field_validator, model_validator

from .addresses.web import check_secure_url
from .domain.scopes import SERVICE_SCOPES, is_scope

MCP_PATH = "/mcp"
"""What the path of a resource ends with."""

TOKEN_TYPES = ("at+jwt", "jwt")
"""The types that signed tokens may be declared to have, in lower case: `at+jwt` is that of RFC 9068."""

OFFLINE_ACCESS = "offline_access"
"""Asks for a refresh token, which is no business of a resource server (2026-07-28, basic/authorization)."""


class OwnerBinding(StrEnum):
    """Whose tasks those are that are made with a token."""

    CLIENT = "client"
    """Of the user through this client: the user's other clients do not see them."""
    USER = "user"
    """Of the user, through whichever client."""


class OAuthSettings(BaseModel):
    """The part of the settings that is about sign-in.

    Attributes:
        oauth_issuers: The authorization servers whose tokens are taken: their issuer identifiers, exactly as
            tokens have them in `iss`, comma-separated. Empty: there is no sign-in.
        oauth_resource: The address of `/mcp` as clients enter it, as in `https://tasks.example.com/mcp`:
            what tokens are issued for. Never taken from a request.
        oauth_authorization_servers: Where clients are told to sign in, comma-separated, if that is a gateway
            in front of the issuers. Empty: at the issuers themselves.
        oauth_audience: What tokens have in `aud`, comma-separated, where that is not the resource: for
            clients that never send `resource`, and servers that know no resource indicators.
        oauth_scopes: The scopes that clients are told to ask for, comma-separated. Empty: the authorization
            servers know none of them, and whoever has a token for this service may do everything but call
            tools that have scopes of their own.
        oauth_scope_prefix: What the authorization server wants in front of each scope when it is asked for,
            and may leave out in tokens.
        oauth_token_types: The types that signed tokens may have in `typ`, comma-separated: `at+jwt`, and
            `JWT` for servers that do not follow RFC 9068.
        oauth_jwks_url: Where the issuer's keys are. Unset: where its metadata says.
        oauth_introspection_url: Where tokens are asked about, instead of being checked by their signature:
            for opaque tokens, and so that a revoked one is refused within a minute.
        oauth_client_id: The service's own name at the introspection endpoint.
        oauth_client_secret: And its secret there.
        oauth_owner_binding: Whose tasks those are that are made with a token: `client`, of the user through
            this client; or `user`, whichever client. May not change while tasks matter.
        oauth_claims: Further claims of tokens that tools are shown, comma-separated.
    """

    oauth_issuers: tuple[str, ...] = ()
    oauth_resource: str | None = None
    oauth_authorization_servers: tuple[str, ...] = ()
    oauth_audience: tuple[str, ...] = ()
    oauth_scopes: tuple[str, ...] = SERVICE_SCOPES
    oauth_scope_prefix: str = ""
    oauth_token_types: tuple[str, ...] = ("at+jwt",)
    oauth_jwks_url: str | None = None
    oauth_introspection_url: str | None = None
    oauth_client_id: str | None = None
    oauth_client_secret: SecretStr | None = None
    oauth_owner_binding: OwnerBinding = OwnerBinding.CLIENT
    oauth_claims: tuple[str, ...] = ()

    @field_validator(
        "oauth_issuers",
        "oauth_authorization_servers",
        "oauth_audience",
        "oauth_scopes",
        "oauth_token_types",
        "oauth_claims",
        mode="before",
    )
    @classmethod
    def _parse_sign_in_texts(cls, value: object) -> object:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("oauth_issuers", "oauth_authorization_servers")
    @classmethod
    def _check_issuers(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        variable = f"TASKS_{str(info.field_name).upper()}"
        for issuer in value:
            _check(variable, check_secure_url, issuer)
            if "?" in issuer:
                raise ValueError(f"{variable}: {issuer!r}: an issuer has no query (RFC 8414, section 2)")
        return value

    @field_validator("oauth_resource", "oauth_jwks_url", "oauth_introspection_url")
    @classmethod
    def _check_sign_in_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value:
            _check(f"TASKS_{str(info.field_name).upper()}", check_secure_url, value)
        return value or None

    @field_validator("oauth_resource")
    @classmethod
    def _check_resource(cls, value: str | None) -> str | None:
        if value and ("?" in value or not value.endswith(MCP_PATH)):
            raise ValueError(
                f"TASKS_OAUTH_RESOURCE: {value!r}: expected the address of {MCP_PATH} as clients enter it, "
                f"as in https://tasks.example.com{MCP_PATH}"
            )
        return value

    @field_validator("oauth_scopes")
    @classmethod
    def _check_scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for scope in value:
            if not is_scope(scope):
                raise ValueError(
                    f"TASKS_OAUTH_SCOPES: {scope!r} is no scope: visible characters without quotation marks "
                    "and backslashes; several are separated by commas"
                )
        if OFFLINE_ACCESS in value:
            raise ValueError(
                f"TASKS_OAUTH_SCOPES: {OFFLINE_ACCESS} asks for a refresh token, which is between a client "
                "and its authorization server; leave it out"
            )
        return value

    @field_validator("oauth_scope_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if value and not is_scope(value):
            raise ValueError(f"TASKS_OAUTH_SCOPE_PREFIX: {value!r} cannot be the beginning of a scope")
        return value

    @field_validator("oauth_token_types")
    @classmethod
    def _check_types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        types = tuple(one.lower().removeprefix("application/") for one in value)
        for one in types:
            if one not in TOKEN_TYPES:
                raise ValueError(f"TASKS_OAUTH_TOKEN_TYPES: {one!r}: expected at+jwt, JWT, or both")
        if not types:
            raise ValueError("TASKS_OAUTH_TOKEN_TYPES: expected at+jwt, JWT, or both")
        return types

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (problem := self._disagreement()) is not None:
            raise ValueError(problem)
        return self

    def _disagreement(self) -> str | None:
        """What is set that cannot go together, as a sentence."""
        given = sorted(
            name
            for name in OAuthSettings.model_fields
            if name in self.model_fields_set and getattr(self, name)
        )
        if not self.oauth_issuers:
            return (
                f"TASKS_{given[0].upper()} is set, but TASKS_OAUTH_ISSUERS is not, so that nobody could sign "
                "in. Set it to the issuer of your authorization server, as in https://login.example.com"
                if given
                else None
            )
        if self.oauth_resource is None:
            return (
                "TASKS_OAUTH_ISSUERS is set, but TASKS_OAUTH_RESOURCE is not. Set it to the address of /mcp "
                "as clients enter it, as in https://tasks.example.com/mcp: tokens are taken only if they "
                "were issued for it"
            )
        one_place = self.oauth_jwks_url or self.oauth_introspection_url
        if one_place and len(self.oauth_issuers) > 1:
            return (
                "TASKS_OAUTH_JWKS_URL and TASKS_OAUTH_INTROSPECTION_URL belong to one issuer, and "
                "TASKS_OAUTH_ISSUERS names several. Leave the URL out: each issuer's metadata says where its "
                "keys are"
            )
        if self.oauth_jwks_url and self.oauth_introspection_url:
            return (
                "TASKS_OAUTH_JWKS_URL and TASKS_OAUTH_INTROSPECTION_URL: tokens are checked by their "
                "signature or asked about, not both. Leave one out"
            )
        has_client = self.oauth_client_id is not None and self.oauth_client_secret is not None
        if self.oauth_introspection_url and not has_client:
            return (
                "TASKS_OAUTH_INTROSPECTION_URL is set, so TASKS_OAUTH_CLIENT_ID and "
                "TASKS_OAUTH_CLIENT_SECRET are needed: with them the service signs in at the introspection "
                "endpoint"
            )
        if not self.oauth_introspection_url and (self.oauth_client_id or self.oauth_client_secret):
            return (
                "TASKS_OAUTH_CLIENT_ID and TASKS_OAUTH_CLIENT_SECRET are for TASKS_OAUTH_INTROSPECTION_URL, "
                "which is not set. The service itself is no client of your authorization server otherwise"
            )
        return None


def _check(variable: str, check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{variable}: {error}") from None
