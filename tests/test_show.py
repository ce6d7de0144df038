"""Tables in a notebook: a customer's text stays text, whatever is in it."""

from html.parser import HTMLParser

from ftlib.show import Link, table


class Cells(HTMLParser):
    """Tags in order, and the text of each cell."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in ("td", "th", "caption"):
            self.cells.append("")

    def handle_data(self, data):
        self.cells[-1] += data


def test_columns_are_those_of_all_rows_in_order():
    shown = table([{"a": 1, "b": 2}, {"c": 3, "a": 4}])
    assert Cells(shown._repr_html_()).cells == ["a", "b", "c", "1", "2", "", "4", "", "3"]
    assert repr(shown) == "a: 1 | b: 2 | c: \na: 4 | b:  | c: 3"


def test_everything_is_escaped():
    nasty = "<script>alert('x')</script> & \"quoted\""
    shown = Cells(table([{nasty: nasty}], caption=nasty)._repr_html_())
    assert shown.cells == [nasty, nasty, nasty]
    assert shown.tags == ["table", "caption", "thead", "tr", "th", "tbody", "tr", "td"]


def test_numbers_are_short_and_none_is_empty():
    shown = Cells(table([{"x": 0.123456, "y": 1234567.0, "z": None, "n": 12345678, "ok": True}])._repr_html_())
    assert shown.cells[5:] == ["0.1235", "1.235e+06", "", "12345678", "True"]


def test_caption():
    assert repr(table([{"a": 1}], caption="Scores")) == "Scores\na: 1"
    assert "<caption" not in table([{"a": 1}])._repr_html_()


def test_no_rows():
    assert repr(table([])) == ""
    assert table([])._repr_html_() == "<p>no rows</p>"
    assert table([], caption="answers with <leaks>: 0")._repr_html_() == "<p>answers with &lt;leaks&gt;: 0</p>"


def test_line_breaks_are_kept():
    html = table([{"a": "one\ntwo"}])._repr_html_()
    assert "one\ntwo" in html and "white-space:pre-wrap" in html


def test_a_table_keeps_its_own_list():
    rows = [{"a": 1}]
    shown = table(rows)
    rows.append({"a": 2})
    assert repr(shown) == "a: 1"


def test_a_short_word_is_not_broken_by_long_neighbours():
    shown = table([{"task": "summary", "text": "word " * 80}])._repr_html_()
    short, long = shown.split("<td ")[1:]
    assert "white-space:nowrap" in short and "white-space:pre-wrap" in long
    assert "min-width" in long and "min-width" not in short


def test_a_link_leads_to_a_cell_and_stays_on_this_server():
    shown = table([{"made in": Link("05_validate", "c1")}, {"made in": Link("", "c2")}])
    html = shown._repr_html_()
    assert '<a href="05_validate.ipynb#cell-id=c1">05_validate.ipynb</a>' in html
    assert '<a href="#cell-id=c2">this notebook</a>' in html
    assert repr(shown) == "made in: 05_validate.ipynb\nmade in: this notebook"
    for nasty in ("javascript:alert(1)//", "//evil.example/", "https://evil.example/", '"><script>alert(1)</script>'):
        html = table([{"a": Link(nasty, nasty)}])._repr_html_()
        href = html.split('href="')[1].split('"')[0]
        assert not {":", "/", "<"} & set(href) and "<script" not in html
