"""The keys of a deployment: derived from its secrets, one for each purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pydantic import SecretStr

from .secret import check_secret, has_secret, load_secret

KEY_BYTES = 32
"""Length of a key: what AES-256 takes."""

FINGERPRINT_BYTES = 8
"""Length of a fingerprint: secrets that differ by mistake have the same one by no chance that matters."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The secrets that seal and open, so that a secret can be replaced while what it sealed is in use.

    Attributes:
        secrets: The first one seals, all of them open.
    """

    secrets: tuple[bytes, ...]

    def keys(self, purpose: str) -> list[bytes]:
        """The keys for a purpose, in the order of the secrets."""
        return [derive_key(secret, purpose) for secret in self.secrets]

    def fingerprints(self, purpose: str) -> tuple[str, ...]:
        """The fingerprints of the secrets, in their order."""
        return tuple(_fingerprint(secret, purpose) for secret in self.secrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprints:
    """What tells secrets apart and says nothing else about them.

    Attributes:
        owners: Of the secret that keys the hash of owners.
        sealing: Of the secrets that open what was sealed; the first one seals. Empty: of a program that seals
            nothing.
        messages: Of the secrets that verify messages; the first one signs. Empty: nothing is signed.
        refuses_unsigned: Whether it is a worker that drops messages which are not signed.
    """

    owners: str = ""
    """Empty: of a program that names no owners."""
    sealing: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    refuses_unsigned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentKeys:
    """What every front end of a deployment must share.

    Attributes:
        sealing: Seals what travels with clients; may be changed, see `KeyRing`.
        owner_secret: Keys the hash that owners are stored under; may not change while tasks matter.
    """

    sealing: KeyRing
    owner_secret: bytes

    @property
    def fingerprints(self) -> Fingerprints:
        """The fingerprints of the secrets, for the store to compare."""
        return Fingerprints(
            owners=_fingerprint(self.owner_secret, "owners"),
            sealing=self.sealing.fingerprints("sealing"),
        )


def load_keys(
    secret: SecretStr | None, accepted: Sequence[SecretStr], owner_secret: SecretStr | None, data_dir: Path
) -> DeploymentKeys:
    """The keys of this deployment.

    Args:
        secret: `TASKS_SECRET`, see `load_secret`.
        accepted: `TASKS_ACCEPTED_SECRETS`: open what they have sealed.
        owner_secret: `TASKS_OWNER_SECRET`; None: the same as `TASKS_SECRET`.
        data_dir: `TASKS_DATA_DIR`.

    Raises:
        ConfigurationError: A secret is too short, unreadable, or readable by others than its owner.
    """
    first = load_secret(secret, data_dir)
    others = [check_secret("TASKS_ACCEPTED_SECRETS", other, may_be_weak=True) for other in accepted]
    return DeploymentKeys(
        sealing=KeyRing((first, *others)),
        owner_secret=first
        if owner_secret is None
        else check_secret("TASKS_OWNER_SECRET", owner_secret, may_be_weak=True),
    )


def existing_keys(
    secret: SecretStr | None, accepted: Sequence[SecretStr], owner_secret: SecretStr | None, data_dir: Path
) -> DeploymentKeys | None:
    """As `load_keys`, but makes no secret; None where there is none yet."""
    if secret is None and not has_secret(data_dir):
        return None
    return load_keys(secret, accepted, owner_secret, data_dir)


def _fingerprint(secret: bytes, purpose: str) -> str:
    return derive_key(secret, f"fingerprint of the secret of {purpose}")[:FINGERPRINT_BYTES].hex()


def existing_owner_secret(
    secret: SecretStr | None, owner_secret: SecretStr | None, data_dir: Path
) -> bytes | None:
    """As `existing_keys`, for a program that only names owners: the owner secret alone is enough."""
    if owner_secret is not None:
        return check_secret("TASKS_OWNER_SECRET", owner_secret, may_be_weak=True)
    keys = existing_keys(secret, (), None, data_dir)
    return None if keys is None else keys.owner_secret


def owners_fingerprint(owner_secret: bytes) -> Fingerprints:
    """The fingerprints of a program that seals nothing, and only names owners."""
    return Fingerprints(owners=_fingerprint(owner_secret, "owners"), sealing=())


def derive_key(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose; it tells neither the secret nor the key for another purpose.

    Args:
        secret: Of any length.
        purpose: What the key is for; each use needs a name of its own.
    """
    return blake2b(purpose.encode(), key=blake2b(secret).digest(), digest_size=KEY_BYTES).digest()
