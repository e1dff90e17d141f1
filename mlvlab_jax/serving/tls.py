"""Encryption of connections, tried out at the start rather than by the first client."""

import ssl

from mlvlab_jax.config.serving import TlsConfig
from mlvlab_jax.errors import ConfigError

#: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL.
_DATES = {9: "is not valid yet", 10: "has expired"}


def make_tls_context(config: TlsConfig) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the certificate of `config`; None where it names none.

    Raises:
        ConfigError: One of the two files is missing or unreadable, they do not belong together, or the certificate is
            not valid today.
    """
    if config.cert_file is None and config.key_file is None:
        return None
    if config.cert_file is None or config.key_file is None:
        lacking = "cert_file" if config.cert_file is None else "key_file"
        raise ConfigError("is not set; expected both files or none", path=f"tls.{lacking}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password function, an encrypted key would ask at the terminal.
        context.load_cert_chain(config.cert_file, config.key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{config.cert_file}, {config.key_file}: {_explain(error)}; expected PEM files of a certificate and of its "
            "own key without a password",
            path="tls",
        ) from None
    _check_dates(context, config.cert_file)
    return context


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "cannot be read").lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)


def _check_dates(context: ssl.SSLContext, cert_file: str) -> None:
    """Lets a client that trusts this certificate alone shake hands, in memory."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(cert_file)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in _DATES:
                raise ConfigError(
                    f"{cert_file}: the certificate {_DATES[error.verify_code]}; expected one that is valid today; "
                    "renew it, or set this machine's clock",
                    path="tls.cert_file",
                ) from None
            return  # a client that trusts another one above it may think otherwise
