"""TLS to Gearman servers: makes the context that the settings describe. Reads files."""

import ssl
from pathlib import Path

from garivini.databases.urls import shown_name
from garivini.errors import UsageError


def make_context(
    ca: str | None, certificate: str | None = None, key: str | None = None, *, verify_host: bool = True
) -> ssl.SSLContext | None:
    """Return the TLS context for Gearman servers, None for plain connections.

    Args:
        ca: a file with the certificates of the trusted authorities; ``system``: those of the system; ``none``
            or None: no TLS.
        certificate: a file with the certificate of this client.
        key: a file with the certificate's key, if the key is not in the same file.
        verify_host: whether a server's certificate must have the host name by which we address the server.

    Raises:
        UsageError: a file cannot be read or used, or the values contradict each other.

    """
    if ca == "none":
        return None
    if ca is None:
        if certificate or key:
            raise UsageError(
                "a certificate needs TLS: name the trusted authorities with --tls-ca, as a file or system"
            )
        return None
    if key and not certificate:
        raise UsageError("--tls-key is the key of a certificate: name the certificate with --tls-certificate")
    context = ssl.create_default_context() if ca == "system" else _trusting(ca)
    context.check_hostname = verify_host
    if certificate:
        _show(context, certificate, key)
    return context


def _trusting(ca: str) -> ssl.SSLContext:
    _check_readable("--tls-ca", ca)
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise UsageError(f"--tls-ca: {ca} has no certificate in PEM form") from None


def _show(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    _check_readable("--tls-certificate", certificate)
    if key:
        _check_readable("--tls-key", key)

    def passphrase() -> str:
        raise UsageError(
            f"the key in {key or certificate} has a passphrase, which is not supported: remove it"
        )

    try:
        context.load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"the key in {key or certificate} is not that of {certificate}") from None
        raise UsageError(
            f"--tls-certificate: {certificate} has no certificate in PEM form, or {key or 'it'} has no key"
        ) from None


def _check_readable(option: str, name: str) -> None:
    try:
        Path(name).open("rb").close()
        return
    except OSError as error:
        reason = error.strerror
    # Raised outside of the except clause: the error caught there quotes the name, which may be a URL.
    raise UsageError(f"{option}: {shown_name(name)!r} cannot be read: {reason}")
