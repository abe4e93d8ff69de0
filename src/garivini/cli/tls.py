"""TLS to Gearman servers: advice if it fails."""

import ssl
from collections.abc import Sequence
from typing import Final

from garivini.cli.output import note
from garivini.errors import GariviniError, UnreachableError
from garivini.gearman.blocking import Client

#: Maximum seconds for a server to answer a check.
PATIENCE: Final = 3.0
#: OpenSSL's numbers for a certificate of another host, and of another address.
_OTHER_NAME: Final = (62, 64)
_WANTS: Final = "it may require a certificate: name one with --tls-certificate"


def warn_of_servers(addresses: Sequence[str], tls: ssl.SSLContext) -> None:
    """Report on standard error which servers cannot be reached now, and why.

    A server may come back, but a mistake in the settings is best reported at the start.
    """
    for address in addresses:
        try:
            with Client(address, timeout=PATIENCE, tls=tls) as client:
                client.echo()
        except GariviniError as error:
            note(f"{explain(error, tls)}; retrying")


def explain(error: GariviniError, tls: ssl.SSLContext | None) -> str:
    """Return the error of a server, with advice on TLS if that may be the reason."""
    hint = _hint(error, tls)
    return f"{error}: {hint}" if hint else str(error)


def _hint(error: GariviniError, tls: ssl.SSLContext | None) -> str:
    match error.__cause__:
        case None if isinstance(error, UnreachableError):  # the server accepted the connection and closed it
            if tls is None:
                return "if it has TLS, name the trusted authorities with --tls-ca"
            return _WANTS
        case _ if tls is None:
            return ""
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_NAME:
            return "write --job-server as its certificate names it, or give --tls-no-verify-host"
        case ssl.SSLCertVerificationError():
            return "--tls-ca must name the authority that signed its certificate"
        case ssl.SSLError() | TimeoutError() | ConnectionResetError():
            return f"it may have no TLS on this port: name another port, or give --tls-ca none. Or {_WANTS}"
    return ""
