"""Elements of the page escape their text and render themselves."""

from markupsafe import Markup, escape

from adapad_ray.report.style.blocks import Bullets, Paragraph, Table, code, muted, note, settings_list

HOSTILE = "<b>&"
SAFE = "&lt;b&gt;&amp;"


def test_text_is_escaped_in_every_element():
    blocks = [Paragraph(HOSTILE), note(HOSTILE), Bullets([HOSTILE], HOSTILE), Table([HOSTILE], [[HOSTILE]])]
    for block in [*blocks, muted(HOSTILE), code(HOSTILE), settings_list({HOSTILE: HOSTILE})]:
        html = str(escape(block))
        assert SAFE in html and HOSTILE not in html


def test_a_table_has_line_breaks_styles_and_highlighted_rows():
    table = Table(["a\nb", "c"], [["x", 1], ["y", Markup("<i>2</i>")]], styles={1: "wrap"}, highlighted=frozenset([1]))
    assert str(escape(table)) == (
        '<div class="scroll"><table>\n<thead><tr><th>a<br>b</th><th class="text">c</th></tr></thead>\n<tbody>\n'
        '<tr><td>x</td><td class="wrap">1</td></tr>\n'
        '<tr class="chosen"><td>y</td><td class="wrap"><i>2</i></td></tr>\n</tbody></table></div>'
    )


def test_missing_settings_are_a_dash():
    assert settings_list({}) == "–"
