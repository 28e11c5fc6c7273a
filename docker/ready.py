"""Exit code 0 if the service in this container is ready; what the image's HEALTHCHECK runs."""

import http.client
import os
import sys

# http.client and not urllib, which would ask a proxy from the environment.
connection = http.client.HTTPConnection(
    "127.0.0.1", int(os.environ.get("FASHIONBERT_PORT") or "8080"), timeout=4
)
try:
    connection.request("GET", "/readyz")
    status = connection.getresponse().status
except OSError as error:
    sys.exit(f"not reachable: {error}")
sys.exit(None if status == 200 else f"not ready: {status}")
