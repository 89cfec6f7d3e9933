"""API keys: who may ask. They are compared by their digests, all of them, in a time that tells nothing."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from ..errors import ConfigError
from .settings import ServerSettings, check_key

MAX_FILE_BYTES = 1_000_000


class Keys:
    """The keys of the settings and of their file. Without any, everybody may ask."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._digests: tuple[bytes, ...] = ()
        self.load()

    @property
    def are_needed(self) -> bool:
        return bool(self._digests) or self._settings.api_key_file is not None

    def load(self) -> None:
        """Read the file again. Raises ConfigError, and the keys stay as they were."""
        keys = [*self._settings.api_key]
        path = self._settings.api_key_file
        if path is not None:
            try:
                with Path(path).open(encoding="utf-8") as file:
                    lines = file.read(MAX_FILE_BYTES).splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"api_key_file: {path} cannot be read", param="api_key_file") from error
            written = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
            if not written:
                raise ConfigError(f"api_key_file: expected at least one key in {path}, got none", param="api_key_file")
            for key in written:
                check_key(key, "api_key_file")
            keys += written
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def opens(self, given: bytes) -> bool:
        """Whether it is one of the keys."""
        digest = hashlib.sha256(given).digest()
        found = [hmac.compare_digest(digest, each) for each in self._digests]
        return any(found)


def given_key(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """What the headers bring: Authorization: Bearer, or X-Api-Key. None: nothing, or more than one thing."""
    brought = [(name, value) for name, value in headers if name in (b"authorization", b"x-api-key")]
    if len(brought) != 1:
        return None
    name, value = brought[0][0], brought[0][1].strip(b" \t")  # blanks around it are no part of it
    if name == b"x-api-key":
        return value
    scheme, _, key = value.partition(b" ")
    return key if scheme.lower() == b"bearer" and key else None
