"""``GET /health`` and ``/metrics``."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from registry.serving.description import answers_with
from registry.serving.replies import Health
from registry.serving.service import caller_of, service_of

router = APIRouter()


@router.get("/health", responses={503: {"model": Health, "description": "It was told to stop."}})
async def health(request: Request, response: Response) -> Health:
    """Say whether the server takes requests; no key is needed."""
    service = service_of(request)
    if service.is_draining:
        response.status_code = 503
    return Health(
        status="draining" if service.is_draining else "ready",
        running=service.engine.counts.running,
        waiting=service.waiting,
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses=answers_with(401, 403, 503, 504)
    | {200: {"description": "Numbers for Prometheus.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Show the server's numbers, for Prometheus."""
    caller_of(request).require("metrics")
    body, content_type = service_of(request).metrics.page(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})
