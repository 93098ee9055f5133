"""Pools of one database: quick queries and slow ones do not wait for each other.

The settings file may import this module: nothing here needs settings before it is used.
"""

from django_safe_init.pools.config import Pool, SlowPool, pools
from django_safe_init.pools.router import PoolRouter, using_pool

__all__ = ["Pool", "PoolRouter", "SlowPool", "pools", "using_pool"]
