"""One view, which answers with the boxes of its tenant."""

from django.http import HttpRequest, JsonResponse
from django.urls import path


def boxes(request: HttpRequest) -> JsonResponse:
    from stock.models import Box

    return JsonResponse({"boxes": list(Box.objects.values_list("label", flat=True))})


urlpatterns = [path("boxes", boxes)]
