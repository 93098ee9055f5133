"""The same project with pools: four connections for quick queries, two for slow ones."""

from django_safe_init.pools import SlowPool, pools

from .settings import *  # noqa: F403

DATABASES = pools(
    {**DATABASES["default"], "OPTIONS": {"pool": {"max_size": 4, "timeout": 60}}},  # noqa: F405
    analytics=SlowPool(size=2, wait=60),
)
DATABASE_ROUTERS = ["django_safe_init.pools.PoolRouter"]
