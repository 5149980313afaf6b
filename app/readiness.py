"""What a service that starts is still waiting for, asked over HTTP as a probe asks."""

import http.client
import json
from urllib.parse import urlsplit


def what_is_missing(url: str, path: str) -> str | None:
    """Why the service is not ready, as its own problem says; None when it is."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=2)
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
