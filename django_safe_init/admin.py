"""Read-only pages for runs, steps and the schemas of tenants in Django's admin.

Only `django.contrib.admin` imports this module. The models are missing from the project's app
registry, so the pages must not depend on permissions, content types or log entries for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import Error
from django.db.models import F, QuerySet
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

from django_safe_init.backends import bounded_reads
from django_safe_init.backends.tenants import is_tenanted
from django_safe_init.conf import get_settings
from django_safe_init.core.schemas import SchemaProgress
from django_safe_init.core.text import format_duration, printable
from django_safe_init.models import Run, Step, TenantSchema, seconds_between

if TYPE_CHECKING:
    ReadOnlyBase = admin.ModelAdmin[Any]
    FilterBase = admin.SimpleListFilter
else:
    ReadOnlyBase, FilterBase = admin.ModelAdmin, admin.SimpleListFilter

PARAMETER = "database"
#: Minimum width of a bar in percent; a narrower one would be invisible.
MIN_WIDTH = 0.5
_END = Coalesce(F("finished_at"), F("heartbeat_at"))


def chosen_alias(request: HttpRequest) -> str:
    """Return the requested alias if `SAFE_INIT["DATABASES"]` has it, else the first alias."""
    aliases = get_settings().databases
    asked = request.GET.get(PARAMETER)
    return asked if asked in aliases else aliases[0]


class DatabaseFilter(FilterBase):
    """Filter that selects the database; hidden in a project with one database."""

    title = _("database")
    parameter_name = PARAMETER

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        self.chosen = chosen_alias(request)
        aliases = get_settings().databases
        return [(alias, alias) for alias in aliases] if len(aliases) > 1 else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset  # `ReadOnlyAdmin.get_queryset` selected the database

    def choices(self, changelist: Any) -> Iterator[Any]:
        for alias, _title in self.lookup_choices:
            yield {
                "selected": alias == self.chosen,
                "query_string": changelist.get_query_string({PARAMETER: alias}),
                "display": alias,
            }


class PrintableValuesFilter(admin.AllValuesFieldListFilter):
    """Filter by the values of a column, whose texts are shown printable."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        for choice in super().choices(changelist):
            yield {**choice, "display": printable(str(choice["display"]))}


class ReadOnlyAdmin(ReadOnlyBase):
    """Changelist that every staff user may read and no user may change."""

    actions = None
    list_display_links = None
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    #: Lookup from a row to the `LOCK_KEY` of its project.
    lock_key_lookup = "lock_key"
    #: Lookup to the column that no page may show or search.
    traceback_lookup = "traceback"

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
        """Return only the changelist's URL, without add, delete and history pages."""
        return [self.url("", self.changelist_view, "changelist")]

    def url(self, route: str, view: Any, name: str) -> URLPattern:
        """Return the pattern of a page for users who may log in to the admin."""
        full_name = f"{self.opts.app_label}_{self.opts.model_name}_{name}"
        bounded: Callable[..., HttpResponse] = self.admin_site.admin_view(
            self._bounded(view)
        )
        return path(route, bounded, name=full_name)

    def _bounded(self, view: Callable[..., HttpResponse]) -> Any:
        """Return the view with bounded reads, rendered while they are bounded.

        Tables that are missing, locked or of another kind become a page that says so.
        """

        @functools.wraps(view)
        def wrapped(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            alias = chosen_alias(request)
            try:
                with bounded_reads(alias):
                    response = _rendered(view(request, **kwargs))
            except (Error, ImproperlyConfigured):  # the second one without a driver
                response = self.unreadable(request, alias)
            response["X-Content-Type-Options"] = "nosniff"
            return response

        return wrapped

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        key = {self.lock_key_lookup: get_settings().lock_key or ""}
        rows = super().get_queryset(request).using(chosen_alias(request))
        own: QuerySet[Any] = rows.filter(**key).defer(self.traceback_lookup)
        return own

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Refuse lookups in the URL that would disclose a traceback."""
        hidden = f"{lookup}__".startswith(f"{self.traceback_lookup}__")
        return not hidden and super().lookup_allowed(lookup, value, request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Return the changelist, if both tables can be read."""
        check_readable(chosen_alias(request))
        title = capfirst(self.opts.verbose_name_plural)
        names = {"app_name": _app_name(), "title": title, **(extra_context or {})}
        return super().changelist_view(request, names)

    def unreadable(self, request: HttpRequest, alias: str) -> HttpResponse:
        """Return a page that explains why the tables cannot be read.

        A table may be missing or locked, lack a column of this version, or deny this role access.
        """
        title = _("No runs can be shown")
        return self.page(request, "unreadable", title=title, alias=alias)

    def page(self, request: HttpRequest, name: str, **context: Any) -> HttpResponse:
        """Return the template `name` of this package, rendered within the admin's layout."""
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


def _rendered(response: HttpResponse) -> HttpResponse:
    """Return the response after its queries, which a template executes late."""
    return response.render() if isinstance(response, TemplateResponse) else response


def _app_name() -> str | Promise:
    return apps.get_app_config("django_safe_init").verbose_name


def check_readable(alias: str) -> None:
    """Raise an error of Django unless this role can read every column that a page shows."""
    Run._default_manager.using(alias).defer("traceback").first()
    Step._default_manager.using(alias).first()


def link_to(run: Run, site: admin.AdminSite) -> str:
    """Return a link to the page of a run, in the database that the run was read from."""
    name = "admin:django_safe_init_run_change"
    url = reverse(name, args=[run.pk], current_app=site.name)
    if query := urlencode(_parameters(run)):
        url += f"?{query}"
    return format_html('<a href="{}">{}</a>', url, run.pk)


def _parameters(run: Run, **others: Any) -> dict[str, Any]:
    """Return the parameters of a URL, with the database of the run if it is not the first one."""
    alias = run._state.db or ""
    is_first = alias == get_settings().databases[0]
    return others if is_first else {**others, PARAMETER: alias}


def moment(when: datetime | None) -> str:
    """Return the time in the project's time zone, formatted to the second as in logs."""
    if when is None:  # not written by this package
        return "?"
    local = localtime(when) if is_aware(when) else when
    return f"{local:%Y-%m-%d %H:%M:%S}"


def badge(result: str) -> str:
    """Return the result as text with the class that the style sheet colors."""
    return format_html(
        '<span class="safe-init-result safe-init-{}">{}</span>', result, result
    )


@dataclass(frozen=True)
class TimelineBar:
    """Bar of a step, placed between the start and the end of its run."""

    step: Step
    #: Seconds from the start of the run to the start of the step.
    offset_seconds: float
    #: Percentages of the full width, formatted as SVG needs them in every language.
    x: str
    width: str

    @property
    def duration(self) -> str:
        """Return the duration of the step as text."""
        return format_duration(self.step.seconds)

    @property
    def offset(self) -> str:
        """Return the time from the start of the run to the start of the step as text."""
        return format_duration(self.offset_seconds)


def timeline(run: Run, steps: Iterable[Step]) -> list[TimelineBar]:
    """Return a bar for each step of the run, in the order of the steps."""
    return [_bar(step, run) for step in steps]


def _bar(step: Step, run: Run) -> TimelineBar:
    offset = seconds_between(run.started_at, step.started_at)
    scale = 100 / run.seconds if run.seconds else 0.0
    width = min(100.0, max(MIN_WIDTH, step.seconds * scale))
    x = min(offset * scale, 100 - width)
    return TimelineBar(step, offset, x=f"{x:.2f}%", width=f"{width:.2f}%")


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    """Changelist of the runs, and a page with the timeline of each run."""

    list_display = (
        "link",
        "result",
        "started",
        "duration",
        "steps_done",
        "command",
        "leader",
    )
    list_filter = (DatabaseFilter, ("outcome", PrintableValuesFilter))
    search_fields = ("=id", "leader", "message", "error")
    ordering = ("-id",)

    def get_urls(self) -> list[URLPattern]:
        detail = self.url("<int:run_id>/", self.run_view, "change")
        return [*super().get_urls(), detail]

    def run_view(self, request: HttpRequest, run_id: int) -> HttpResponse:
        """Return the page of one run."""
        check_readable(chosen_alias(request))
        run = self.get_queryset(request).filter(pk=run_id).first()
        if run is None:
            raise Http404(f"There is no run {run_id}.")
        bars = timeline(run, run.steps.order_by("position", "id"))
        has_schemas = run.schemas and self.admin_site.is_registered(TenantSchema)
        return self.page(
            request,
            "run",
            title=_("Run %(number)d") % {"number": run.pk},
            run=run,
            took=format_duration(run.seconds),
            started=moment(run.started_at),
            last_sign=moment(run.heartbeat_at),
            bars=bars,
            longest=max(bars, key=lambda bar: bar.step.seconds, default=None),
            schemas=SchemaProgress.from_json(run.schemas) if has_schemas else None,
            schemas_query=urlencode(_parameters(run, run__exact=run.pk)),
        )

    @admin.display(description=_("run"), ordering="id")
    def link(self, run: Run) -> str:
        return link_to(run, self.admin_site)

    @admin.display(description=_("started"), ordering="started_at")
    def started(self, run: Run) -> str:
        return moment(run.started_at)

    @admin.display(description=_("took"), ordering=_END - F("started_at"))
    def duration(self, run: Run) -> str:
        return format_duration(run.seconds)

    @admin.display(description=_("result"), ordering="outcome")
    def result(self, run: Run) -> str:
        return badge(run.result)

    @admin.display(description=_("steps"))
    def steps_done(self, run: Run) -> str:
        return f"{run.done}/{run.total}"


@admin.register(Step)
class StepAdmin(ReadOnlyAdmin):
    """Changelist of the steps of all runs, to find slow migrations and when one ran."""

    list_display = ("name", "link", "result", "started", "duration", "kind")
    list_filter = (
        DatabaseFilter,
        ("kind", PrintableValuesFilter),
        ("outcome", PrintableValuesFilter),
    )
    list_select_related = ("run",)
    search_fields = ("name",)
    ordering = ("-id",)
    lock_key_lookup = "run__lock_key"
    traceback_lookup = "run__traceback"

    @admin.display(description=_("run"), ordering="run")
    def link(self, step: Step) -> str:
        return link_to(step.run, self.admin_site)

    @admin.display(description=_("started"), ordering="started_at")
    def started(self, step: Step) -> str:
        return moment(step.started_at)

    @admin.display(description=_("took"), ordering=F("finished_at") - F("started_at"))
    def duration(self, step: Step) -> str:
        return format_duration(step.seconds)

    @admin.display(description=_("result"), ordering="outcome")
    def result(self, step: Step) -> str:
        return badge(step.result)


class TenantSchemaAdmin(ReadOnlyAdmin):
    """Changelist of the tenants' schemas in all runs, which the page of a run filters."""

    list_display = ("schema", "link", "result", "started", "duration", "problem")
    list_filter = (DatabaseFilter, ("state", PrintableValuesFilter))
    list_select_related = ("run",)
    search_fields = ("schema", "migration", "error")
    ordering = ("-id",)
    traceback_lookup = "run__traceback"

    @admin.display(description=_("run"), ordering="run")
    def link(self, row: TenantSchema) -> str:
        # A run that was deleted may leave the newest row of a schema.
        if row.run:
            return link_to(row.run, self.admin_site)
        return str(row.serializable_value("run") or "")

    @admin.display(description=_("result"), ordering="state")
    def result(self, row: TenantSchema) -> str:
        return badge(row.state)

    @admin.display(description=_("started"), ordering="started_at")
    def started(self, row: TenantSchema) -> str:
        return moment(row.started_at) if row.started_at else ""

    @admin.display(description=_("took"), ordering=F("finished_at") - F("started_at"))
    def duration(self, row: TenantSchema) -> str:
        return format_duration(row.seconds) if row.finished_at else ""

    @admin.display(description=_("error"), ordering="error")
    def problem(self, row: TenantSchema) -> str:
        return row.error or ""


if is_tenanted():
    admin.site.register(TenantSchema, TenantSchemaAdmin)
