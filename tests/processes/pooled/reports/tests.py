"""The tests of a project, for Django's test runner. Most of them do not name the pool."""

from asgiref.sync import sync_to_async
from django.db import connections, router
from django.test import TestCase, TransactionTestCase, override_settings

from django_safe_init import ReadOnlyPool, using_pool

from .models import Sale
from .turnover import forbidden, turnover


class InATransaction(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        Sale.objects.create(amount=3)

    def test_reading(self) -> None:
        self.assertEqual(turnover(), 3)

    async def test_reading_in_an_event_loop(self) -> None:
        self.assertEqual(await sync_to_async(turnover)(), 3)
        with using_pool("analytics"):
            self.assertEqual((await Sale.objects.aget()).amount, 3)

    def test_writing(self) -> None:
        with self.assertRaises(ReadOnlyPool):
            forbidden()


class Committed(TransactionTestCase):
    def test_reading(self) -> None:
        Sale.objects.create(amount=4)
        self.assertEqual(turnover(), 4)

    def test_writing(self) -> None:
        with self.assertRaises(ReadOnlyPool):
            forbidden()


@override_settings(SAFE_INIT={"IN_TESTS": True})
class ThroughThePool(TransactionTestCase):
    databases = {"default", "default_analytics"}

    def test_reading(self) -> None:
        Sale.objects.create(amount=5)
        self.assertEqual(turnover(), 5)
        with using_pool("analytics"):
            self.assertEqual(router.db_for_read(Sale), "default_analytics")
        self.assertIsNotNone(connections["default_analytics"].connection)
