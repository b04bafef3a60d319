"""Where requests come in: HTTP, gRPC, and if asked a port of its own for health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

import grpc  # type: ignore[import-untyped]
import uvicorn
from fastapi import FastAPI

from predictor.api.app import AppOptions, create_admin_app, create_app
from predictor.api.auth import KeyRing
from predictor.api.client_secrets import ClientSecrets
from predictor.api.connections import ConnectionLimits, Connections
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.descriptors import RESERVED, fit_to_descriptors
from predictor.api.give_back import give_back_memory
from predictor.api.grpc_server import AsrServicer, GrpcLimits, create_grpc_server
from predictor.api.handshake import SecuredListener
from predictor.api.held_bytes import HeldBytes
from predictor.api.jobs import JobDoor
from predictor.api.key_file import KeyFile
from predictor.api.middleware import LOG_AFTER_S
from predictor.api.realtime import LiveDoor
from predictor.api.spool import Spool
from predictor.api.tls import Certificate
from predictor.api.websocket import MAX_MESSAGE_BYTES, GuardedWebSocket
from predictor.live.hub import LiveHub
from predictor.metrics import Metrics
from predictor.ports import listen
from predictor.server.jobs import Jobs
from predictor.settings.fields import Settings
from predictor.settings.listening import authority, port_problem
from predictor.text.languages import parse_language

_KEEP_ALIVE_S: Final = 65  # longer than the proxies in front, so that they close first
_PING_TIMEOUT_S: Final = 60  # a client's answer may stand behind audio that is not read yet


@dataclass(frozen=True, slots=True)
class Behind:
    """What the doors lead to."""

    dataplane: AsrDataPlane
    repository: ClosedRepository
    metrics: Metrics
    live: LiveHub
    jobs: Jobs | None
    spool: Spool | None


class Doors:
    """Closed until `open`."""

    def __init__(self, settings: Settings, behind: Behind, *, shares_ports: bool) -> None:
        """`shares_ports`: other fronts of a pod listen there as well."""
        self._settings = settings
        self._behind = behind
        self._shares_ports = shares_ports
        pending = settings.max_pending_bytes
        self._held = HeldBytes(pending, max_promised=pending // 2)  # gRPC's messages
        keys = KeyRing(settings.api_keys, _key_file(settings))
        self._live = LiveDoor(
            dataplane=behind.dataplane,
            hub=behind.live,
            keys=keys,
            secrets=ClientSecrets(keys),
            max_session_s=settings.max_live_session_s,
            default_language=parse_language(settings.language),
        )
        self.app = self._create_app(keys)
        self._certificate = _certificate(settings)
        self._limits = ConnectionLimits(
            max_connections=fit_to_descriptors(settings.max_connections),
            client_timeout_s=settings.client_timeout_s,
            idle_timeout_s=_KEEP_ALIVE_S,
        )
        connections = Connections(self._limits)
        secured = None
        if self._certificate is not None:
            context, timeout_s = self._certificate.context, settings.client_timeout_s
            secured = SecuredListener(connections, context, timeout_s)
        self._http = _HttpServer(_http_config(settings, self.app, connections, self._held), secured)
        self._admin = _HttpServer(
            uvicorn.Config(
                create_admin_app(behind.dataplane, behind.metrics),
                http=_guarded(Connections(replace(self._limits, max_connections=RESERVED))),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        self._beside: list[asyncio.Task[None]] = []
        self._close_grpc: Callable[[], Awaitable[None]] | None = None
        self.serving: asyncio.Task[None]  # HTTP; it ends only when told to

    def _create_app(self, keys: KeyRing) -> FastAPI:
        settings, behind = self._settings, self._behind
        jobs = behind.jobs
        return create_app(
            behind.dataplane,
            behind.repository,
            behind.metrics,
            keys,
            self._live,
            self._held,
            AppOptions(
                max_body_bytes=settings.max_body_bytes,
                request_timeout_s=settings.request_timeout_s,
                client_timeout_s=settings.client_timeout_s,
                cors_origins=settings.cors_origins,
                has_metrics=settings.admin_port is None,
                has_page=settings.enable_page,
                recognize_details=settings.output_format == "json",
            ),
            behind.spool,
            None
            if jobs is None
            else JobDoor(jobs.store, jobs.runner, keys, jobs.sources, jobs.webhooks),
        )

    def new_loop(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """What makes the event loop that HTTP is served best in."""
        return self._http.config.get_loop_factory()

    async def open(self) -> dict[str, int | None]:
        """Listen; the ports by setting. Raises OSError that names the setting of one that is
        taken."""
        settings, shared = self._settings, self._shares_ports
        listener = listen(settings.host, settings.http_port, shared=shared)
        self.serving = asyncio.create_task(self._http.serve(sockets=[listener]))
        ports = {"http_port": listener.getsockname()[1], "grpc_port": await self._open_grpc()}
        self._beside.append(asyncio.create_task(give_back_memory()))
        if settings.admin_port is not None:
            admin = listen(settings.host, settings.admin_port, shared=shared, setting="admin_port")
            ports["admin_port"] = admin.getsockname()[1]
            self._beside.append(asyncio.create_task(self._admin.serve(sockets=[admin])))
        if self._certificate is not None:
            self._beside.append(asyncio.create_task(self._certificate.keep_fresh()))
        return ports

    async def close(self) -> None:
        """Take no more requests, and return when those in flight are answered, or late."""
        self._http.should_exit = True
        closing: list[Awaitable[None]] = [self.serving]
        if self._close_grpc is not None:
            closing.append(self._close_grpc())
        await asyncio.gather(*closing)
        await asyncio.sleep(2 * LOG_AFTER_S)  # for the lines of the last requests

    async def close_admin(self) -> None:
        """Health and metrics end last."""
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)

    async def _open_grpc(self) -> int | None:
        if not self._settings.enable_grpc:
            return None
        server = self.grpc_server()
        port = self._grpc_port(server)
        await server.start()
        self._close_grpc = lambda: server.stop(self._settings.shutdown_grace_s)
        return port

    def _grpc_port(self, server: grpc.aio.Server) -> int:
        host, port = self._settings.host, self._settings.grpc_port
        try:
            if self._certificate is None:
                return int(server.add_insecure_port(authority(host, port)))
            credentials = self._certificate.grpc_credentials()
            return int(server.add_secure_port(authority(host, port), credentials))
        except RuntimeError as error:
            said = port_problem(host, "grpc_port", port) or f"grpc_port={port}: {error}"
            raise OSError(said) from None

    def grpc_server(self) -> grpc.aio.Server:
        """V2 over gRPC, without a port yet."""
        behind, settings = self._behind, self._settings
        servicer = AsrServicer(
            behind.dataplane,
            behind.repository,
            behind.metrics,
            self._live,
            settings.max_grpc_streams,
        )
        limits = GrpcLimits(
            max_message_bytes=settings.max_body_bytes,
            max_connections=self._limits.max_connections,
            client_timeout_s=settings.client_timeout_s,
            request_timeout_s=settings.request_timeout_s,
            shares_port=self._shares_ports,
        )
        return create_grpc_server(servicer, self._held, limits)


class _HttpServer(uvicorn.Server):
    """Leaves signals to us: one handler decides the order in which things end. Connections that
    begin with TLS are accepted by `secured`."""

    def __init__(self, config: uvicorn.Config, secured: SecuredListener | None = None) -> None:
        super().__init__(config)
        self._secured = secured

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._secured is None:
            await super().startup(sockets)
            return
        await super().startup([])
        protocol = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        state, app_state = self.server_state, self.lifespan.state
        for listener in sockets or ():
            make = partial(protocol, config=self.config, server_state=state, app_state=app_state)
            self._secured.open(listener, make)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._secured is not None:
            self._secured.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http_config(
    settings: Settings, app: FastAPI, connections: Connections, held: HeldBytes
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_guarded(connections),
        ws=cast(Any, partial(GuardedWebSocket, held)),
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # a few bytes would be megabytes
        log_config=None,
        access_log=False,
        lifespan="on",  # where FastAPI sets up tracing, if the environment asks
        timeout_keep_alive=_KEEP_ALIVE_S,
        ws_ping_timeout=_PING_TIMEOUT_S,
        timeout_graceful_shutdown=round(settings.shutdown_grace_s),
    )


def _guarded(connections: Connections) -> Any:
    return cast(Any, connections.protocol)


def _key_file(settings: Settings) -> KeyFile | None:
    return None if settings.api_keys_file is None else KeyFile(settings.api_keys_file)


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificate(settings.tls_cert_file, settings.tls_key_file)
