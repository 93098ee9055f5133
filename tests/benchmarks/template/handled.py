"""Print the cost of a request without any middleware and with this package's, in turn."""

import sys
import time

import django
from django.core.handlers.base import BaseHandler
from django.test import RequestFactory

REQUESTS = 2000


def handler(middleware: list[str]) -> BaseHandler:
    from django.conf import settings

    settings.MIDDLEWARE = middleware
    made = BaseHandler()
    made.load_middleware()
    return made


def cost(of: BaseHandler) -> float:
    """Return the average seconds of one request."""
    request = RequestFactory().get("/empty")
    handle = of._middleware_chain
    started = time.perf_counter()
    for _ in range(REQUESTS):
        handle(request)
    return (time.perf_counter() - started) / REQUESTS


if __name__ == "__main__":
    django.setup()
    from django_safe_init.serving.background.readiness import readiness

    bare = handler([])
    gated = handler(["django_safe_init.middleware.InitializationMiddleware"])
    cost(bare), cost(gated)
    readiness.wait(10)
    assert readiness.ready()
    for _ in range(int(sys.argv[1])):
        sys.stdout.write(f"{cost(bare)} {cost(gated)}\n")
