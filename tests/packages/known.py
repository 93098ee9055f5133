"""The packages, and the settings that a project needs for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Package:
    """A package on PyPI and its settings."""

    name: str
    apps: Sequence[str]
    settings: dict[str, Any] = field(default_factory=dict)
    #: A module of the package whose constants are settings, too.
    constants: str = ""
    #: Models for the project's app `probe`, for packages with base classes only.
    models: str = ""
    #: Further packages that its migrations import.
    requires: Sequence[str] = ()
    #: The engines that the package does not support.
    without: Sequence[str] = ()
    #: The package's backend for PostgreSQL.
    backend: str = ""
    #: Migrations of `probe` that follow the first one, by their names.
    migrations: dict[str, str] = field(default_factory=dict)
    #: The command that writes the first migration of `probe`.
    makemigrations: str = "makemigrations"
    #: What pip installs; empty for the name, None for nothing.
    distribution: str | None = ""

    @property
    def distributions(self) -> list[str]:
        """Return what pip installs."""
        own = [] if self.distribution is None else [self.distribution or self.name]
        return [*own, *self.requires]


PACKAGES = [
    Package(
        "django-allauth[mfa,socialaccount]",
        [
            "allauth",
            "allauth.account",
            "allauth.socialaccount",
            "allauth.mfa",
            "allauth.usersessions",
        ],
        {"MIDDLEWARE": ["allauth.account.middleware.AccountMiddleware"]},
    ),
    Package("django-auditlog", ["auditlog"]),
    Package("django-axes", ["axes"]),
    Package("django-celery-beat", ["django_celery_beat"]),
    Package("django-celery-results", ["django_celery_results"]),
    Package(
        "django-cms",
        ["cms", "menus", "treebeard", "sekizai"],
        {"CMS_CONFIRM_VERSION4": True},
    ),
    Package(
        "django-constance",
        ["constance", "constance.backends.database"],
        {"CONSTANCE_CONFIG": {}},
        requires=["redis"],
    ),
    Package("django-debug-toolbar", ["debug_toolbar"]),
    Package("django-filer", ["easy_thumbnails", "filer", "mptt"]),
    Package("django-guardian", ["guardian"]),
    Package(
        "django-mptt",
        ["mptt"],
        models="""
from mptt.models import MPTTModel, TreeForeignKey

class Genre(MPTTModel):
    name = models.CharField(max_length=50, unique=True)
    parent = TreeForeignKey("self", models.CASCADE, null=True, related_name="children")
""",
    ),
    Package("django-oauth-toolkit", ["oauth2_provider"]),
    Package(
        "django-otp",
        [
            "django_otp",
            "django_otp.plugins.otp_email",
            "django_otp.plugins.otp_hotp",
            "django_otp.plugins.otp_static",
            "django_otp.plugins.otp_totp",
        ],
    ),
    Package(
        "django-polymorphic",
        ["polymorphic"],
        models="""
from polymorphic.models import PolymorphicModel

class Project(PolymorphicModel):
    topic = models.CharField(max_length=30, unique=True)

class ArtProject(Project):
    artist = models.CharField(max_length=30)
""",
    ),
    Package("django-q2", ["django_q"]),
    Package("django-reversion", ["reversion"]),
    Package("django-silk", ["silk"]),
    Package(
        "django-simple-history",
        ["simple_history"],
        models="""
from simple_history.models import HistoricalRecords

class Poll(models.Model):
    question = models.CharField(max_length=200, unique=True)
    voters = models.ManyToManyField("auth.User")
    history = HistoricalRecords(m2m_fields=[voters])
""",
    ),
    Package(
        "django-taggit",
        ["taggit"],
        models="""
from taggit.managers import TaggableManager

class Food(models.Model):
    tags = TaggableManager()
""",
    ),
    Package(
        "django-treebeard",
        ["treebeard"],
        models="""
from treebeard.al_tree import AL_Node
from treebeard.mp_tree import MP_Node
from treebeard.ns_tree import NS_Node

class Path(MP_Node):
    pass

class Nested(NS_Node):
    pass

class Adjacent(AL_Node):
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")
    sib_order = models.PositiveIntegerField()
""",
    ),
    Package("django-waffle", ["waffle"]),
    Package("djangorestframework", ["rest_framework", "rest_framework.authtoken"]),
    Package(
        "djangorestframework-simplejwt",
        ["rest_framework_simplejwt", "rest_framework_simplejwt.token_blacklist"],
    ),
    Package("easy-thumbnails", ["easy_thumbnails"]),
    Package("procrastinate", ["procrastinate.contrib.django"], without=["sqlite"]),
    Package("social-auth-app-django", ["social_django"]),
    Package(
        "wagtail",
        [
            "wagtail.contrib.forms",
            "wagtail.contrib.redirects",
            "wagtail.contrib.search_promotions",
            "wagtail.contrib.settings",
            "wagtail.contrib.simple_translation",
            "wagtail.embeds",
            "wagtail.sites",
            "wagtail.users",
            "wagtail.snippets",
            "wagtail.documents",
            "wagtail.images",
            "wagtail.search",
            "wagtail.admin",
            "wagtail",
            "modelcluster",
            "taggit",
        ],
        {"WAGTAIL_SITE_NAME": "probe", "WAGTAILADMIN_BASE_URL": "http://127.0.0.1"},
    ),
]
