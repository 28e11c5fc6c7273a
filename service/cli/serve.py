"""`fashionbert serve`: the REST service and the page."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import FashionBertError
from service import logs
from service.cli import options
from service.cli.output import note
from service.security import Policy
from service.settings import Settings, load_settings

if TYPE_CHECKING:  # it brings FAISS, for which no --help should wait
    from index.live import LiveSnapshot


def serve(
    bundle: options.Bundle = None,
    snapshots: options.Snapshots = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; 127.0.0.1 by default.", envvar="FASHIONBERT_HOST"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port to listen on; 8080 by default, 0 takes a free one.",
            envvar="FASHIONBERT_PORT",
        ),
    ] = None,
    threads: options.Threads = None,
    device: options.Device = None,
) -> None:
    """Serve the search over REST, with a page to try it on.

    Every other setting is a variable FASHIONBERT_..., such as FASHIONBERT_MAX_K. To let others in,
    --host 0.0.0.0, it wants API keys: see fashionbert key new.

    \b
    Example:
      fashionbert serve --bundle bundle/ --snapshots snapshots/ --port 8080
    """
    from service.api.app import create_app
    from service.live_search import open_live_search
    from service.server import make_server

    settings = load_settings(
        bundle=bundle, snapshots=snapshots, host=host, port=port, threads=threads, device=device
    )
    Policy.of(settings)  # an open network is refused before a model is loaded for it
    # Bound before the model is loaded: a taken port is told at once.
    with _bound(settings.host, settings.port) as listener:
        logs.configure(settings.log_level)  # first, for opening them has things to say
        live = open_live_search(settings)
        server = make_server(create_app(settings, live), settings)
        _listen(listener, settings)
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        note(f"{_described(live.index.latest)}: http://{shown}:{listener.getsockname()[1]}/")
        server.run(sockets=[listener])


def _described(snapshot: LiveSnapshot) -> str:
    """What is served, in words.

    In a function, as a name that held the snapshot in `serve` would keep it from being pruned.
    """
    return f"snapshot {snapshot.name}, {len(snapshot):,} products, model {snapshot.model_id}"


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise _no_port(host, port, error) from error
    return listener


def _listen(listener: socket.socket, settings: Settings) -> None:
    """Listen here already: of several that start at once each can bind, and one can listen."""
    try:
        listener.listen()
    except OSError as error:
        raise _no_port(settings.host, settings.port, error) from error


def _no_port(host: str, port: int, error: OSError) -> FashionBertError:
    return FashionBertError(
        f"cannot listen on {host} port {port}: {error.strerror or error}; choose another with "
        "--host and --port"
    )
