"""The texts of the page, in the active language."""

from __future__ import annotations

from django.utils import translation
from django.utils.formats import number_format
from django.utils.translation import gettext, gettext_lazy, ngettext, pgettext

#: The heading and the explanation of each public state. Any other state has `UNKNOWN`.
HEADINGS = {
    "not_initialized": (
        gettext_lazy("Waiting for the update to begin"),
        gettext_lazy(
            "This site is being brought to a new version. Its database has not been prepared"
            " for it yet."
        ),
    ),
    "initializing": (
        gettext_lazy("The update is about to begin"),
        gettext_lazy(
            "This site is being brought to a new version. Preparing its database begins in a"
            " moment."
        ),
    ),
    "migrating": (
        gettext_lazy("This site is being updated"),
        gettext_lazy("Its database is being prepared for the new version."),
    ),
    "ready": (
        gettext_lazy("The update is complete"),
        gettext_lazy("The page that you asked for is opening."),
    ),
    "error": (
        gettext_lazy("The update did not succeed"),
        gettext_lazy(
            "Preparing the database stopped before it was complete. Somebody has to look at"
            " that; waiting alone may not help."
        ),
    ),
}
UNKNOWN = (
    gettext_lazy("One moment, please"),
    gettext_lazy("This site is starting, and checks whether its database is ready."),
)
#: The explanation of "ready" on the status page itself.
IN_USE = gettext_lazy("This site runs the new version.")
#: The explanation of "ready" after a form was sent.
SEND_AGAIN = gettext_lazy("Please go back, and send your form again.")
CHECKING = gettext_lazy("All steps are done, and the result is being checked.")


def language() -> str:
    """Return the code of the language that these texts are in.

    It may differ from the active language: a catalog translates `en` to its own code, and
    without a catalog the texts are English.
    """
    return pgettext("the code of the language of this catalogue", "en")


def steps(done: int, total: int) -> str:
    return ngettext(
        "%(done)d of %(total)d step", "%(done)d of %(total)d steps", total
    ) % {"done": done, "total": total}


def sites(done: int, total: int) -> str:
    """Return how many tenants' schemas are done. A visitor knows a tenant as a site."""
    with translation.override(language()):  # the numbers in the language of the text
        numbers = {
            "done": number_format(done, force_grouping=True),
            "total": number_format(total, force_grouping=True),
        }
    return (
        ngettext(
            "%(done)s of %(total)s site updated",
            "%(done)s of %(total)s sites updated",
            total,
        )
        % numbers
    )


def title(heading: str, progress: int | None) -> str:
    """Return the title of the window, with the progress first: a tab shows few letters."""
    return heading if progress is None else f"{percent(progress)} · {heading}"


def percent(progress: int) -> str:
    return gettext("%(progress)d%%") % {"progress": progress}


def time_ago(seconds: float) -> str:
    """Return the time since the last heartbeat in words.

    A heartbeat comes every 2 seconds, so less than 5 seconds needs no number.
    """
    if seconds < 5:
        return gettext("just now")
    if seconds < 60:
        return ngettext("%d second ago", "%d seconds ago", int(seconds)) % seconds
    return ngettext("%d minute ago", "%d minutes ago", int(seconds // 60)) % (
        seconds // 60
    )


def approximate_duration(seconds: float) -> str:
    """Return the remaining time in words, rounded because it is an estimate."""
    if seconds < 60:
        return gettext("less than a minute")
    minutes = round(seconds / 60)
    if minutes < 90:
        return ngettext("about %d minute", "about %d minutes", minutes) % minutes
    hours = round(minutes / 60)
    return ngettext("about %d hour", "about %d hours", hours) % hours


def clock(seconds: float) -> str:
    """Return the time as on a clock: 1:05, or 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def outlook(state: str) -> str:
    """Return the sentence about the page's next action."""
    if state == "ready":
        return gettext("Nothing happens?")
    if state == "error":
        return gettext(
            "This page keeps checking, and goes on by itself once that is solved."
        )
    return gettext("The page that you asked for opens by itself.")


def form_lost() -> str:
    """Return the sentence for a browser that has sent a form, which was not received."""
    return gettext(
        "What you sent has not been received. Please go back and send it again once the update"
        " is complete."
    )


def link(state: str) -> str:
    return gettext("Open the page") if state == "ready" else gettext("Check now")


def run(number: int) -> str:
    return gettext("Run %(number)d") % {"number": number}


def advice() -> str:
    return gettext("Please give this number to the operator of this site.")


def elapsed_label(over: bool) -> str:
    return gettext("Stopped after") if over else gettext("Time elapsed")


def silence_label() -> str:
    return gettext("Last sign of life")


def remaining_label() -> str:
    return gettext("Time left")


def operation_label() -> str:
    return gettext("Operation")


def operation(number: int, total: int) -> str:
    return gettext("%(number)d of %(total)d") % {"number": number, "total": total}


def unanswered() -> str:
    return gettext("No answer from the site just now. Trying again …")


# For developers


def debug_heading() -> str:
    return gettext("For developers, because DEBUG is on")


def pending(count: int) -> str:
    return ngettext("%d step is pending:", "%d steps are pending:", count) % count


def work(name: str) -> str:
    return gettext("Now: %(name)s") % {"name": name}


def debug_advice() -> str:
    return gettext("To initialize the database, run:")


def leader(name: str) -> str:
    return gettext("The leader is %(name)s.") % {"name": name}
