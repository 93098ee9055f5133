"""Slow pools: separate connections, so that quick queries do not wait for slow ones.

May use `connection_created`, routers and execute wrappers, and psycopg in `postgresql`. Must not
know about runs. The settings
file imports this module, so its import must not read the settings.
"""

from django_safe_init.pools.config import Pool, SlowPool, pools
from django_safe_init.pools.router import PoolRouter, using_pool

__all__ = ["Pool", "PoolRouter", "SlowPool", "pools", "using_pool"]
