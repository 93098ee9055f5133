"""Checks of aliases."""

from __future__ import annotations

import pytest

from django_safe_init.core.databases import check_alias
from django_safe_init.exceptions import ConfigurationError


def test_check_alias() -> None:
    """An unknown alias is an error that lists the known aliases."""
    check_alias("default")
    with pytest.raises(ConfigurationError) as caught:
        check_alias("nowhere")
    assert str(caught.value) == (
        "There is no database 'nowhere' in DATABASES. Use one of: default."
    )
