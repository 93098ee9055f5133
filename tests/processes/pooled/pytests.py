"""The tests of a project, for pytest-django."""

import pytest

from django_safe_init import ReadOnlyPool
from reports.models import Sale
from reports.turnover import forbidden, turnover


@pytest.mark.django_db
def test_in_a_transaction():
    Sale.objects.create(amount=3)
    assert turnover() == 3
    with pytest.raises(ReadOnlyPool):
        forbidden()


@pytest.mark.django_db(transaction=True)
def test_committed():
    Sale.objects.create(amount=4)
    assert turnover() == 4
    with pytest.raises(ReadOnlyPool):
        forbidden()


@pytest.mark.django_db(transaction=True, databases=["default", "default_analytics"])
def test_through_the_pool(settings):
    settings.SAFE_INIT = {"IN_TESTS": True}
    Sale.objects.create(amount=5)
    assert turnover() == 5
