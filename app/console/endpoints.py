"""The console: one page at `/` and the files it is made of, below `/console/`.

The page is a client of the public API like any other, and asks nothing else of anybody: the policy sent with
it lets a browser load what comes from here alone. The page and its files need no token; what they show does.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.console.files import File, files
from app.errors import NotFound
from app.http import conditional

PAGE = "index.html"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


async def get_page(request: Request) -> Response:
    return _respond(request, (await _files())[PAGE])


async def get_file(request: Request) -> Response:
    file = (await _files()).get(request.path_params["path"])
    if file is None:
        raise NotFound("the console has no such file")
    return _respond(request, file)


routes = [
    Route("/", get_page, methods=["GET"]),
    Route("/console/{path:path}", get_file, methods=["GET"]),
]


async def _files() -> dict[str, File]:
    return await asyncio.to_thread(files)


def _respond(request: Request, file: File) -> Response:
    response = conditional.respond(request, file.document, headers=HEADERS)
    response.headers["Content-Type"] = file.media_type
    return response
