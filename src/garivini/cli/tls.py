"""TLS to Gearman servers: the context that the settings describe, and what to change where it fails."""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from garivini.cli.output import note
from garivini.errors import GariviniError, UnreachableError, UsageError
from garivini.gearman.blocking import Client

#: Seconds that a server may take to answer when it is looked at.
PATIENCE: Final = 3.0
#: OpenSSL's numbers for a certificate of another host, and of another address.
_OTHER_NAME: Final = (62, 64)
_WANTS: Final = "it may want a certificate: name one with --tls-certificate"


def make_context(
    ca: str | None, certificate: str | None = None, key: str | None = None, *, verify_host: bool = True
) -> ssl.SSLContext | None:
    """Return how to talk to Gearman servers, None where that is without TLS.

    Args:
        ca: a file with the certificates of the authorities to trust; ``system``: those of the system;
            ``none``, or None where nothing is said: no TLS.
        certificate: a file with the certificate to show.
        key: a file with its key, if that is not in the same file.
        verify_host: whether a server's certificate must name the host it is reached by.

    Raises:
        UsageError: a file cannot be read or used, or the values do not go together.

    """
    if ca == "none":
        return None
    if ca is None:
        if certificate or key:
            raise UsageError("a certificate is for TLS: say whom to trust with --tls-ca, a file or system")
        return None
    if key and not certificate:
        raise UsageError("--tls-key is the key of a certificate: name that with --tls-certificate")
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
            f"the key in {key or certificate} has a passphrase, which is not supported: take it out"
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
    except OSError as error:
        raise UsageError(f"{option}: {name!r} cannot be read: {error.strerror}") from None


def warn_of_servers(addresses: Sequence[str], tls: ssl.SSLContext) -> None:
    """Say on standard error what is wrong with the servers that cannot be talked to now.

    They may come later; but what the settings have wrong is best said at the start.
    """
    for address in addresses:
        try:
            with Client(address, timeout=PATIENCE, tls=tls) as client:
                client.echo()
        except GariviniError as error:
            note(f"{explain(error, tls)}; trying on")


def explain(error: GariviniError, tls: ssl.SSLContext | None) -> str:
    """Return what is wrong with a server, and what to change about TLS where that may be the reason."""
    hint = _hint(error, tls)
    return f"{error}: {hint}" if hint else str(error)


def _hint(error: GariviniError, tls: ssl.SSLContext | None) -> str:
    match error.__cause__:
        case None if isinstance(error, UnreachableError):  # it took the connection and closed it
            if tls is None:
                return "if it speaks TLS, say whom to trust with --tls-ca"
            return _WANTS
        case _ if tls is None:
            return ""
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_NAME:
            return "write --job-server as its certificate names it, or say --tls-no-verify-host"
        case ssl.SSLCertVerificationError():
            return "--tls-ca must name the authority that signed its certificate"
        case ssl.SSLError() | TimeoutError() | ConnectionResetError():
            return (
                f"it may speak no TLS there: name the port where it does, or say --tls-ca none. Or {_WANTS}"
            )
    return ""
