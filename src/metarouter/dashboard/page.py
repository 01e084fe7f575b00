"""The shell of the dashboard and its static files, with the headers that keep it to itself."""

from __future__ import annotations

from importlib.resources import files

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SECURITY_HEADERS", "read_shell", "shell", "static_app"]

# Nothing from elsewhere, no script or style in the page, in nobody's frame.
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def read_shell() -> str:
    """The page, which holds no data: everything it shows is asked for with the caller's key."""
    return files("metarouter.dashboard").joinpath("static", "index.html").read_text("utf-8")


async def shell(request: Request) -> Response:
    """``GET /dashboard``."""
    headers = {**SECURITY_HEADERS, "cache-control": "no-cache"}
    return Response(read_shell(), media_type="text/html", headers=headers)


def static_app() -> ASGIApp:
    """Scripts, styles and licences."""
    folder = str(files("metarouter.dashboard").joinpath("static"))
    return _Secured(GZipMiddleware(StaticFiles(directory=folder)))


class _Secured:
    """Adds the headers; a browser asks each time whether a file has changed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update({**SECURITY_HEADERS, "cache-control": "no-cache"})
            await send(message)

        await self._app(scope, receive, secured)
