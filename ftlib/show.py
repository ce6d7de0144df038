"""Show rows as a plain table in a notebook; every cell's text is escaped and stays text.

Left out on purpose: paging and sorting. A table for a reader is short.
"""

import html
from dataclasses import dataclass
from urllib.parse import quote

SHORT = 24  # characters; a cell up to this long stays on one line


@dataclass(frozen=True)
class Link:
    """A table's cell that leads to a cell of a notebook beside this one; JupyterLab scrolls to it.

    Attributes:
        notebook: its name, e.g. "05_validate"; empty for this notebook.
        cell_id: the id of the cell, which papermill keeps.
    """

    notebook: str
    cell_id: str

    def __str__(self) -> str:
        return f"{self.notebook}.ipynb" if self.notebook else "this notebook"

    @property
    def href(self) -> str:
        """A relative address, whatever the fields hold."""
        file = f"{quote(self.notebook, safe='')}.ipynb" if self.notebook else ""
        return f"{file}#cell-id={quote(self.cell_id, safe='')}"


@dataclass(frozen=True)
class Table:
    """Rows with a caption; shows itself as a cell's last line, in a browser and as text."""

    rows: list[dict]
    caption: str = ""

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(key for row in self.rows for key in row))

    def _repr_html_(self) -> str:
        if not self.rows:  # a caption over no columns would be one word wide
            return f"<p>{html.escape(self.caption) or 'no rows'}</p>"
        columns = self._columns()
        head = "".join(f"<th style='text-align:left'>{html.escape(str(c))}</th>" for c in columns)
        body = "".join("<tr>" + "".join(_cell(row.get(c)) for c in columns) + "</tr>" for row in self.rows)
        caption = f"<caption style='text-align:left'>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        lines = [self.caption] if self.caption else []
        lines += [" | ".join(f"{c}: {_text(row.get(c))}" for c in self._columns()) for row in self.rows]
        return "\n".join(lines)


def table(rows: list[dict], caption: str = "") -> Table:
    """Rows (dicts; keys are the columns) as a table."""
    return Table(list(rows), caption)


def _cell(value: object) -> str:
    text = _text(value)
    # Beside long texts a short word would be broken in two, and a column of long ones made as narrow as a letter.
    short = len(text) <= SHORT and "\n" not in text
    wrap = "nowrap" if short else f"pre-wrap;overflow-wrap:anywhere;min-width:{SHORT // 2}em"  # about SHORT letters
    look = f"text-align:left;vertical-align:top;white-space:{wrap};max-width:420px"
    inside = html.escape(text)
    if isinstance(value, Link):
        inside = f'<a href="{html.escape(value.href)}">{inside}</a>'
    return f"<td style='{look}'>{inside}</td>"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value)
