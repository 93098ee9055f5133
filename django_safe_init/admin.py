"""What happened, in Django's admin: runs and their steps, for staff to read.

Only `django.contrib.admin` imports this module. The models are not in the registry of the
project, so nothing here may need a permission, a content type or a log entry of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import Error, transaction
from django.db.models import F, Model, QuerySet
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.text import capfirst
from django.utils.timezone import is_aware, localtime
from django.utils.translation import gettext_lazy as _

from django_safe_init.conf import get_settings
from django_safe_init.core.text import format_duration
from django_safe_init.models import Run, Step
from django_safe_init.timeline import (
    run_result,
    run_seconds,
    step_result,
    step_seconds,
    timeline,
)

if TYPE_CHECKING:
    ReadOnlyBase = admin.ModelAdmin[Any]
    FilterBase = admin.SimpleListFilter
else:
    ReadOnlyBase, FilterBase = admin.ModelAdmin, admin.SimpleListFilter

PARAMETER = "database"
_END = Coalesce(F("finished_at"), F("heartbeat_at"))


def chosen_alias(request: HttpRequest) -> str:
    """The database of `SAFE_INIT["DATABASES"]` that the request asks for, or the first."""
    aliases = get_settings().databases
    asked = request.GET.get(PARAMETER)
    return asked if asked in aliases else aliases[0]


class DatabaseFilter(FilterBase):
    """Which database to look at; not shown where there is only one."""

    title = _("database")
    parameter_name = PARAMETER

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        self.chosen = chosen_alias(request)
        aliases = get_settings().databases
        return [(alias, alias) for alias in aliases] if len(aliases) > 1 else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset  # `ReadOnlyAdmin.get_queryset` has chosen

    def choices(self, changelist: Any) -> Iterator[Any]:
        for alias, _title in self.lookup_choices:
            yield {
                "selected": alias == self.chosen,
                "query_string": changelist.get_query_string({PARAMETER: alias}),
                "display": alias,
            }


class ReadOnlyAdmin(ReadOnlyBase):
    """A list that all of the staff may read and nobody may change."""

    actions = None
    list_display_links = None
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    #: Where a row finds the `LOCK_KEY` of its project.
    lock_key_lookup = "lock_key"

    class Media:
        css = {"all": ["django_safe_init/admin.css"]}

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.admin_site.has_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.admin_site.has_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        """The list alone: there is nothing to add, to delete, or to have a history."""
        return [self.url("", self.changelist_view, "changelist")]

    def url(self, route: str, view: Any, name: str) -> URLPattern:
        """A page of this model for those who may log in to the admin."""
        full_name = f"{self.opts.app_label}_{self.opts.model_name}_{name}"
        wrapped: Callable[..., HttpResponse] = self.admin_site.admin_view(view)
        return path(route, wrapped, name=full_name)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        key = {self.lock_key_lookup: get_settings().lock_key or ""}
        rows = super().get_queryset(request).using(chosen_alias(request))
        own: QuerySet[Any] = rows.filter(**key)
        return own

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list, or the reason why there is none."""
        title = capfirst(self.opts.verbose_name_plural)
        names = {"app_name": _app_name(), "title": title, **(extra_context or {})}
        return self.unreadable(request) or super().changelist_view(request, names)

    def unreadable(self, request: HttpRequest) -> HttpResponse | None:
        """A page that says so, if the tables are missing or this role may not read them."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        alias = chosen_alias(request)
        if all(_is_readable(model, alias) for model in (Run, Step)):
            return None
        title = _("No runs can be shown")
        return self.page(request, "unreadable", title=title, alias=alias)

    def page(self, request: HttpRequest, name: str, **context: Any) -> HttpResponse:
        """A page of ours in the admin's frame."""
        return TemplateResponse(
            request,
            f"admin/django_safe_init/{name}.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "app_name": _app_name(),
                "media": self.media,
                **context,
            },
        )


def _app_name() -> str | Promise:
    return apps.get_app_config("django_safe_init").verbose_name


def _is_readable(model: type[Model], alias: str) -> bool:
    """Whether the table is there, with all columns of this version, and may be read."""
    try:
        with transaction.atomic(using=alias):  # a failure must not spoil the request's
            model._default_manager.using(alias).first()
    except Error:
        return False
    return True


def link_to(run: Run, site: admin.AdminSite) -> str:
    """A link to the page of a run, in the database that it was read from."""
    name = "admin:django_safe_init_run_change"
    url = reverse(name, args=[run.pk], current_app=site.name)
    alias = run._state.db or ""
    if alias != get_settings().databases[0]:
        url += "?" + urlencode({PARAMETER: alias})
    return format_html('<a href="{}">{}</a>', url, run.pk)


def moment(when: datetime) -> str:
    """The time in the project's time zone, to the second, as logs have it."""
    local = localtime(when) if is_aware(when) else when
    return f"{local:%Y-%m-%d %H:%M:%S}"


def badge(result: str) -> str:
    """A result as text, which the style sheet colours."""
    return format_html(
        '<span class="safe-init-result safe-init-{}">{}</span>', result, result
    )


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    """The runs, and on a page of its own what happened in each, and when."""

    list_display = (
        "link",
        "result",
        "started",
        "took",
        "steps_done",
        "command",
        "leader",
    )
    list_filter = (DatabaseFilter, "outcome")
    search_fields = ("=id", "leader", "message", "error")
    ordering = ("-id",)

    def get_urls(self) -> list[URLPattern]:
        detail = self.url("<int:run_id>/", self.run_view, "change")
        return [*super().get_urls(), detail]

    def run_view(self, request: HttpRequest, run_id: int) -> HttpResponse:
        """One run with its timeline, or the reason why there is none."""
        return self.unreadable(request) or self._run_page(request, run_id)

    def _run_page(self, request: HttpRequest, run_id: int) -> HttpResponse:
        run = self.get_queryset(request).filter(pk=run_id).first()
        if run is None:
            raise Http404(f"There is no run {run_id}.")
        bars = timeline(run, run.steps.order_by("position", "id"))
        return self.page(
            request,
            "run",
            title=_("Run %(number)d") % {"number": run.pk},
            run=run,
            result=run_result(run),
            took=format_duration(run_seconds(run)),
            started=moment(run.started_at),
            last_sign=moment(run.heartbeat_at),
            bars=bars,
            longest=max(bars, key=lambda bar: bar.seconds, default=None),
        )

    @admin.display(description=_("run"), ordering="id")
    def link(self, run: Run) -> str:
        return link_to(run, self.admin_site)

    @admin.display(description=_("started"), ordering="started_at")
    def started(self, run: Run) -> str:
        return moment(run.started_at)

    @admin.display(description=_("took"), ordering=_END - F("started_at"))
    def took(self, run: Run) -> str:
        return format_duration(run_seconds(run))

    @admin.display(description=_("result"), ordering="outcome")
    def result(self, run: Run) -> str:
        return badge(run_result(run))

    @admin.display(description=_("steps"))
    def steps_done(self, run: Run) -> str:
        return f"{run.done}/{run.total}"


@admin.register(Step)
class StepAdmin(ReadOnlyAdmin):
    """The steps of all runs: to find when a migration ran, and which took long."""

    list_display = ("name", "link", "result", "started", "took", "kind")
    list_filter = (DatabaseFilter, "kind", "outcome")
    list_select_related = ("run",)
    search_fields = ("name",)
    ordering = ("-id",)
    lock_key_lookup = "run__lock_key"

    @admin.display(description=_("run"), ordering="run")
    def link(self, step: Step) -> str:
        return link_to(step.run, self.admin_site)

    @admin.display(description=_("started"), ordering="started_at")
    def started(self, step: Step) -> str:
        return moment(step.started_at)

    @admin.display(description=_("took"), ordering=F("finished_at") - F("started_at"))
    def took(self, step: Step) -> str:
        return format_duration(step_seconds(step, step.run))

    @admin.display(description=_("result"), ordering="outcome")
    def result(self, step: Step) -> str:
        return badge(step_result(step, step.run))
