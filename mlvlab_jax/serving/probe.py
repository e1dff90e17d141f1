"""`python -m mlvlab_jax.serving.probe ready`: asks the server of this machine, for the health checks of containers.

Checks that a cluster sends by itself cannot carry a token that lies in a Secret; this one runs beside the server and
has its environment. It imports the standard library alone, as it runs every few seconds.
"""

import argparse
import http.client
import os
import sys
from collections.abc import Sequence

#: What is asked -> its route.
ROUTES = {"live": "/v2/health/live", "ready": "/v2/health/ready"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code is 0 if the server says yes."""
    parser = argparse.ArgumentParser(prog="python -m mlvlab_jax.serving.probe", description=__doc__)
    parser.add_argument("which", choices=ROUTES, help="whether the process lives, or whether it takes requests")
    parser.add_argument("--port", type=int, default=8000, help="of the server (default 8000)")
    parsed = parser.parse_args(arguments)
    token = os.environ.get("MLVLAB_SERVE_TOKEN")
    connection = http.client.HTTPConnection("127.0.0.1", parsed.port, timeout=2)
    try:
        connection.request("GET", ROUTES[parsed.which], headers={"Authorization": f"Bearer {token}"} if token else {})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    print(f"{ROUTES[parsed.which]}: {status}", file=sys.stderr)
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
