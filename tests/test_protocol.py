"""docs/protocol.md says what the messages declare."""

from pathlib import Path

from cw.net import protocol
from cw.net.schema import SPECS

DOCUMENT = Path(__file__).parents[1] / "docs" / "protocol.md"


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text() == protocol.document(), "run: python -m cw.net.protocol docs/protocol.md"


def test_each_message_and_each_field_is_in_it():
    text = protocol.document()
    for cls, spec in SPECS.items():
        entry = text.split(f"\n### {cls.__name__}\n")[1].split("\n### ")[0]
        assert f"Kind {spec.kind}, " in entry
        assert all(f"| `{field.name}` | " in entry for field in spec.fields), cls


def test_a_field_has_its_comment_and_its_bound():
    text = protocol.document()
    assert "| `secret` | string | needed to resume this session; '' for a worker |" in text
    assert (
        "| `location` | string | a cw.location.Location; must be a line of text, of at most 1000 characters |"
        in text
    )
    assert "| `count` | integer |  |" in text


def test_it_is_written_where_it_is_asked_to(tmp_path, capsys):
    protocol.main([str(tmp_path / "protocol.md")])
    protocol.main([])
    assert capsys.readouterr().out == (tmp_path / "protocol.md").read_text() == protocol.document()
