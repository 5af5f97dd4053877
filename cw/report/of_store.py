"""The report on a store: `page_of('sweep.cw', Choice())` gives the page.

the store --> reader: Figures, and the texts of some calls --> page
"""

from __future__ import annotations

import datetime
import os

from cw.errors import StoreError
from cw.report import library, reader
from cw.report.reader import Choice

WHAT_IS_KNOWN = (
    "A store has for each call when its result arrived, how long it ran and on which host. That is what this page is "
    "made of: calls that were not stored are not in it, and a slot is a row that calls of its host fit into without "
    "overlap."
)


def page_of(path: str | os.PathLike[str], choice: Choice) -> str:
    """Return the page about what a store has. Raises StoreError, also if it has nothing; ModuleNotFoundError without
    matplotlib."""
    library.check()
    store, figures = reader.read(path, choice)
    if not figures.totals.durations.count:
        which = "no results" if choice == Choice(is_described=choice.is_described) else "no such results"
        raise StoreError(f"the store {store.path} has {which}: there is nothing to report")
    from cw.report import page  # it loads matplotlib

    describe = reader.describer(store) if choice.is_described else reader.undescribed
    remarks = [WHAT_IS_KNOWN]
    if store.damaged:
        remarks.append(f"{store.damaged:,} bytes of the store are damaged, and were passed over.")
    report = page.Report(
        os.path.basename(store.path) + (f", {choice.function}()" if choice.function is not None else ""),
        figures,
        describe(figures.slowest()),
        describe(figures.failures()),
        datetime.datetime.now().astimezone(),
        remarks,
    )
    store.close()
    return page.page(report)
