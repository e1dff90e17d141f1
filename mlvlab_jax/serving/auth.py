"""Who may ask: a token on every request, and none needed only where nobody else can reach the server."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import socket
import stat
from collections.abc import Iterable, MutableMapping
from pathlib import Path

from mlvlab_jax.errors import ConfigError

VARIABLE = "MLVLAB_SERVE_TOKEN"
#: What a 401 names: programs send the token as it is; a browser that is shown an address with no page of its own asks a
#: person for it, as the password of any name.
CHALLENGE, BROWSER_CHALLENGE = "Bearer", 'Basic realm="mlvlab", charset="UTF-8"'
_MIN_LENGTH = 16
_MAX_BYTES = 4096


class Token:
    """A secret that is known by its digest alone, so that no message or log can hold it."""

    def __init__(self, text: str) -> None:
        self._digest = _digest(text.encode())

    def admits(self, authorizations: Iterable[bytes]) -> bool:
        """Whether the values of a request's Authorization headers are one, and it carries the token."""
        given = list(authorizations)
        # Compared whatever was given: the time it takes says nothing.
        return hmac.compare_digest(_digest(_read_secret(given[0]) if len(given) == 1 else b""), self._digest)


def read_token(file: str | None, *, environment: MutableMapping[str, str] = os.environ) -> Token | None:
    """The token in `file`, or that of the environment, which is taken out of it; None where neither is given.

    Raises:
        ConfigError: The file cannot be read, others can read it, or the token is too short or not plain.
    """
    from_environment = environment.pop(VARIABLE, None)
    if file is not None:
        return Token(_check(_read_private(Path(file)), place=file))
    return None if from_environment is None else Token(_check(from_environment, place=VARIABLE))


def check_exposure(host: str, *, token: Token | None, insecure: bool) -> None:
    """Refuses an address that others can reach while nobody asks who they are.

    Raises:
        ConfigError: The address is not a loopback one, there is no token, and `insecure` was not said.
    """
    if token is None and not insecure and not is_loopback(host):
        raise ConfigError(
            f"{host!r} can be reached from other machines; expected a token: put {_MIN_LENGTH} or more characters in "
            f"a private file and give --token-file FILE, or set {VARIABLE}; or say --insecure",
            path="host",
        )


def is_loopback(host: str) -> bool:
    """Whether every address of `host` is this machine's own loopback.

    Raises:
        ConfigError: It is neither an address nor a known name.
    """
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{host!r}: no such address ({error}); expected one of this machine", path="host") from None
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)


def _read_private(path: Path) -> str:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a file with the token", path="token_file") from None
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"{path}: open to others (mode {stat.S_IMODE(status.st_mode):04o}); expected a private file; chmod 600 it",
            path="token_file",
        )
    return data.decode("utf-8", "replace")


def _check(text: str, *, place: str) -> str:
    """The token without the line's end; messages hold nothing of it."""
    text = text.strip()
    plain = all("!" <= character <= "~" for character in text)
    if not _MIN_LENGTH <= len(text) <= _MAX_BYTES or not plain:
        raise ConfigError(
            f"{place}: the token has {len(text)} characters{'' if plain else ', some of them not plain'}; expected "
            f"{_MIN_LENGTH} or more visible ASCII characters; for example the output of: openssl rand -hex 32",
            path="token_file",
        )
    return text


def _read_secret(authorization: bytes) -> bytes:
    """What a Bearer or Basic header carries; of the latter, the password."""
    scheme, _, value = authorization.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
