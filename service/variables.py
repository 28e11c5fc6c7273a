"""Which `FASHIONBERT_*` variables there are, so that a mistyped one does not go unnoticed."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping

from service.settings import PREFIX, Settings

#: What others read: the compose files, the balancer, clients, tests. These may stand in the
#: environment or the .env file that the service is started with.
_OF_OTHERS = frozenset(
    {
        "ADDRESS",
        "BALANCER_IMAGE",
        "BUNDLE_DIR",
        "CATALOGUE_DIR",
        "CERTIFICATES",
        "CRASH_AT",
        "DEMO",
        "FEED",
        "GPU_IMAGE",
        "GRAFANA_IMAGE",
        "GRAFANA_PORT",
        "IMAGE",
        "INDEX_OPTIONS",
        "KEY",
        "OPEN_STATUS",
        "OUTER_PROXY",
        "PROMETHEUS_IMAGE",
        "PROMETHEUS_KEEP",
        "PROMETHEUS_PORT",
        "REDIS_IMAGE",
        "REDIS_MEMORY",
        "SNAPSHOTS_DIR",
        "TEST_IMAGES",
        "TLS_ADDRESS",
        "TLS_PORT",
    }
)

_logger = logging.getLogger("fashionbert.settings")


def warn_of_unknown_variables(variables: Mapping[str, str]) -> None:
    """Log one warning that names the variables of an environment that nobody reads, each with the
    known one that is most like it. Empty ones count as not set.
    """
    known = {name.upper() for name in Settings.model_fields} | _OF_OTHERS
    unknown = []
    for variable, value in sorted(variables.items()):
        name = variable.upper()  # the case does not matter to the settings
        if not value or not name.startswith(PREFIX) or name.removeprefix(PREFIX) in known:
            continue
        like = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)
        unknown.append(variable + (f" (did you mean {PREFIX}{like[0]}?)" if like else ""))
    if unknown:
        _logger.warning("not known, and so without effect: %s", ", ".join(unknown))
