from django.db import models


class Sale(models.Model):
    amount = models.IntegerField()
