"""Models with features that each engine has."""

from django.db import models
from django.db.models import F, Q, UniqueConstraint
from django.db.models.functions import Length, Lower


class Unstored(models.Field):
    """A field without a column."""

    def db_type(self, connection):
        return None


class Abstract(models.Model):
    code = models.CharField(max_length=20, unique=True)

    class Meta:
        abstract = True
        constraints = [
            UniqueConstraint(
                Lower("code"), name="%(app_label)s_%(class)s_code_in_any_case"
            )
        ]


class Author(Abstract):
    name = models.CharField(max_length=50)
    born = models.DateField(null=True)
    friends = models.ManyToManyField("self")
    sum_of_all = Unstored(unique=True)

    class Meta(Abstract.Meta):
        unique_together = [("name", "born")]


class Book(models.Model):
    title = models.CharField(max_length=50)
    draft = models.BooleanField(default=True)
    pages = models.PositiveIntegerField(default=1)
    shelf = models.CharField(max_length=10, null=True)
    number = models.CharField(max_length=20, db_column="ISBN Number", unique=True)
    author = models.ForeignKey(Author, models.CASCADE)
    editors = models.ManyToManyField(Author, related_name="edited")
    readers = models.ManyToManyField(Author, through="Reading", related_name="read")
    length = models.GeneratedField(
        expression=Length("title"), output_field=models.IntegerField(), db_persist=True
    )

    class Meta:
        constraints = [
            UniqueConstraint(fields=["author", "title"], name="book_title"),
            UniqueConstraint(
                fields=["title"], condition=Q(draft=False), name="book_published"
            ),
            UniqueConstraint(Lower("title"), F("author"), name="book_lower"),
            UniqueConstraint(
                fields=["pages", "title"],
                name="book_later",
                deferrable=models.Deferrable.DEFERRED,
            ),
            UniqueConstraint(
                fields=["shelf", "pages"], include=["draft"], name="book_covering"
            ),
            UniqueConstraint(
                fields=["shelf", "title"], nulls_distinct=False, name="book_nulls"
            ),
            UniqueConstraint(
                fields=["pages"], condition=Q(shelf="new"), name="long_" * 15
            ),
        ]


class Novel(Book):
    """A child model with a separate table, without the columns of its parent."""

    genre = models.CharField(max_length=20, unique=True, null=True)


class Paperback(Book):
    class Meta:
        proxy = True


class Reading(models.Model):
    book = models.ForeignKey(Book, models.CASCADE)
    author = models.ForeignKey(Author, models.CASCADE)
    at = models.DateTimeField(auto_now_add=True)


class Loan(models.Model):
    pk = models.CompositePrimaryKey("book", "day")
    book = models.ForeignKey(Book, models.CASCADE)
    day = models.DateField()


class Reader(models.Model):
    """A swappable model: the settings name another model."""

    books = models.ManyToManyField(Book)

    class Meta:
        swappable = "LIBRARY_READER_MODEL"


class Outside(models.Model):
    """An unmanaged model."""

    books = models.ManyToManyField(Book)

    class Meta:
        managed = False


class Elsewhere(models.Model):
    """A model for another database engine."""

    class Meta:
        required_db_vendor = "oracle"
