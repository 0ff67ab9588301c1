"""Seals the secrets of projects, so that the database holds nothing readable."""

import json
from collections.abc import Mapping

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from agent.errors import SettingsError

KEY_VARIABLE = "MIMO_SECRETS_KEY"
"""One or more Fernet keys, separated by commas: the first seals, all of them open, so that a key can be replaced."""


class SecretBox:
    """Seals with authenticated encryption (Fernet: AES-128-CBC and HMAC-SHA256)."""

    def __init__(self, keys: str) -> None:
        """
        Raises:
            SettingsError: a key is none; the message does not repeat it.
        """
        try:
            self._fernet = MultiFernet([Fernet(key.strip()) for key in keys.split(",")])
        except ValueError as error:
            raise SettingsError(
                f"{KEY_VARIABLE} holds something that is no Fernet key: 32 random bytes in URL-safe base64, "
                "as `openssl rand -base64 32 | tr +/ -_` prints them"
            ) from error

    def seal(self, project_id: str, name: str, value: str) -> bytes:
        """The secret, bound to its place: put elsewhere in the database it cannot be opened."""
        return self._fernet.encrypt(json.dumps([project_id, name, value]).encode())

    def open(self, project_id: str, name: str, sealed: bytes) -> str:
        """
        Raises:
            SettingsError: none of the keys sealed this, or it was sealed for another place.
        """
        try:
            *place, value = json.loads(self._fernet.decrypt(sealed))
        except InvalidToken as error:
            raise SettingsError(f"secret {name} of project {project_id} opens with no key in {KEY_VARIABLE}") from error
        if place != [project_id, name]:
            raise SettingsError(f"secret {name} of project {project_id} was sealed for another place")
        return str(value)


def secret_box_of(environment: Mapping[str, str]) -> SecretBox | None:
    """With the keys in ``MIMO_SECRETS_KEY``; None where it is unset or empty.

    Raises:
        SettingsError: a key is none.
    """
    keys = environment.get(KEY_VARIABLE)
    return SecretBox(keys) if keys else None
