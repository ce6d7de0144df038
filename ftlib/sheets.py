"""Rows as CSV that a spreadsheet opens as text: no cell can start a formula.

Titles, reasons and mitigations come from people and from runs. A cell that begins like a formula is kept, behind an
apostrophe, which spreadsheets read as "this is text" (OWASP, CSV injection). A text that looks as if it stood behind
such an apostrophe already gets one more, so `unguarded` gives every text back as it was.

Left out on purpose: reading CSV files (`exchange` does, for votes). JSON is the file that programs read; the CSV is for
people.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence

_STARTS_FORMULA = re.compile(r"'*(?:\s*[=+\-@＝＋－＠]| *[\t\r\n])")


def csv_text(rows: Sequence[Mapping[str, object]], *, columns: Sequence[str]) -> str:
    """CSV (RFC 4180) with a header line; lists are joined by "; ", None is empty.

    Args:
        rows: column -> value.
        columns: which, in order.

    Raises:
        ValueError: a row lacks one of the columns.

    Example:
        >>> csv_text([{"a": "=1+1", "b": -2}], columns=("a", "b"))
        "a,b\\r\\n'=1+1,-2\\r\\n"
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([_cell(column) for column in columns])
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if column not in row]
        if missing:
            raise ValueError(f"row {number}: expected the columns {list(columns)}, {missing} missing; add them")
        writer.writerow([_cell(row[column]) for column in columns])
    return out.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value)  # a number is no formula, also when it is negative
    text = "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = text.replace("\0", "")
    return f"'{text}" if _STARTS_FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """The text that a cell of `csv_text` was made of.

    Example:
        >>> unguarded("'=1+1"), unguarded("''=1+1"), unguarded("'tis")
        ('=1+1', "'=1+1", "'tis")
    """
    return cell[1:] if cell.startswith("'") and _STARTS_FORMULA.match(cell) else cell
