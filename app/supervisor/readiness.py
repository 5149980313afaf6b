"""What a service that starts is still waiting for, asked over HTTP as a probe asks."""

import http.client
import json
import ssl
from urllib.parse import urlsplit


def what_is_missing(url: str, path: str) -> str | None:
    """Why the service is not ready, as its own problem says; None when it is."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        # Our own process, on this machine, while the certificate has the name that others know it by.
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=2, context=unverified
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status == 200:
            return None
        return str(json.loads(answer.read()).get("detail"))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"the API does not answer: {error}"
    finally:
        connection.close()
