"""Tables of the panel: rows that are looked at and chosen, not written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt


def lay_out_table(
    table,
    columns: Sequence[str],
    on_cell: Callable[[int, int], object] | None = None,
    stretches=True,
    narrow: Sequence[int] = (),
) -> None:
    """Give a table its columns.

    Args:
        table: QTableWidget.
        columns: their headings.
        on_cell: told (row, column) of a click, which chooses a row; without it nothing can be chosen.
        stretches: whether all columns share the width, or the last one takes what is left.
        narrow: numbers of columns that have the width of their words; the others share the rest.
    """
    table.setColumnCount(len(columns))
    table.setHorizontalHeaderLabels(list(columns))
    table.verticalHeader().setVisible(False)
    if stretches:
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
    else:
        table.horizontalHeader().setStretchLastSection(True)
    for column in narrow:
        table.horizontalHeader().setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
    table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
    if on_cell is None:
        table.setSelectionMode(qt.QAbstractItemView.NoSelection)
        return
    table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
    table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
    table.connect("cellClicked(int,int)", on_cell)
