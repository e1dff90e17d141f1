"""Posts messages to an address, in the form of Alertmanager's webhook."""

import logging
from collections.abc import Mapping
from typing import Any

from mlvlab_jax.config.monitoring import WebhookConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.monitoring.sender import RefusedError, Send, log_message

#: Answers below 500 that mean: not now.
_LATER = (408, 429)


def make_send(config: WebhookConfig) -> Send:
    """Posts to the address, or writes to the log where there is none.

    Raises:
        ConfigError: The extra `serve` is not installed.
    """
    if config.url is None:
        return log_message
    try:
        import httpx
    except ImportError:
        raise ConfigError(
            "httpx is not installed, which posts alerts; pip install 'mlvlab_jax[serve]', or leave the address out",
            path="monitoring.webhook.url",
        ) from None
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs addresses, and theirs often hold a secret
    client, url = httpx.Client(timeout=config.timeout_s, follow_redirects=False), config.url

    def post(message: Mapping[str, Any]) -> None:
        # What the receiver has to say is not read: it may be of any length.
        with client.stream("POST", url, json=message) as answer:
            status = answer.status_code
        if status >= 500 or status in _LATER:
            raise ConnectionError(f"answered {status}")
        if status >= 300:
            raise RefusedError(f"answered {status}")

    return post
