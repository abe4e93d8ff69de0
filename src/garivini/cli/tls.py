"""TLS to Gearman servers: advice if it fails."""

import ssl
from collections.abc import Sequence
from typing import Final

from garivini.cli.output import note
from garivini.errors import GariviniError, UnreachableError
from garivini.gearman.blocking import Client

#: Seconds that a server may take to answer when it is looked at.
PATIENCE: Final = 3.0
#: OpenSSL's numbers for a certificate of another host, and of another address.
_OTHER_NAME: Final = (62, 64)
_WANTS: Final = "it may want a certificate: name one with --tls-certificate"


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
