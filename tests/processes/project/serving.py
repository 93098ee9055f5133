"""The project under an ASGI server: async views that initialize, and sync views."""

import asyncio
import os

from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path

import acts
from django_safe_init import aget_status, ainitialize

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"


async def initialized(request: HttpRequest) -> JsonResponse:
    return JsonResponse((await ainitialize()).as_json())


async def status(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"state": (await aget_status()).state})


def sync(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sync")


async def beside(request: HttpRequest) -> JsonResponse:
    """Run sync code, for which asgiref has one thread, while the same request waits."""
    waiting = asyncio.create_task(ainitialize())
    await sync_to_async(acts.wait_for, thread_sensitive=True)("sync")
    acts.note("sync done")
    return JsonResponse((await waiting).as_json())


def entries(request: HttpRequest) -> JsonResponse:
    """Return the entries of all migrations."""
    from shop.models import Entry

    return JsonResponse({"entries": list(Entry.objects.values_list("text", flat=True))})


urlpatterns = [
    path("", include("django_safe_init.urls")),
    path("initialized/", initialized),
    path("status/", status),
    path("sync/", sync),
    path("beside/", beside),
    path("entries/", entries),
]
application = get_asgi_application()

if acts.chosen("REAPS"):
    acts.reap_children()
