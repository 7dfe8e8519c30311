"""Names of models and data sets on the hub, and doing without it where it cannot be reached."""

import os
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from launch.runs.console import console
from launch.runs.run_folder import user_path

CONNECT_TIMEOUT = 5.0  # seconds


def folder_or_hub(name: str) -> str:
    """Resolve a model for `from_pretrained`: the user's path if it is a folder, otherwise the name on the hub."""
    folder = user_path(name)
    if folder.is_dir():
        return str(folder)
    check_hub()
    return name


@cache  # once a process
def check_hub() -> None:
    """Look only into the cache of earlier downloads from now on if the hub cannot be reached, and say so.

    Without this each file is asked for six times with pauses, a minute or more for a model. Nothing is checked behind
    a proxy, or where HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    host = address.hostname or ""
    proxied = address.scheme in getproxies() and not proxy_bypass(host)
    port = address.port or (80 if address.scheme == "http" else 443)
    if constants.is_offline_mode() or proxied or _answers(host, port):
        return
    console.print(f"{host} cannot be reached: only earlier downloads are used")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that this one starts


def _answers(host: str, port: int) -> bool:
    """Whether a connection can be made."""
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT).close()
    except OSError:
        return False
    return True
