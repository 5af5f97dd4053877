"""The snapshot's values: their way over the wire, and what is refused there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cw.errors import ProtocolError
from cw.observer.bounds import clean
from cw.observer.model import Snapshot, from_dict, to_dict
from tests.snapshots import sample, shaped


@pytest.mark.parametrize("sent", [sample(), shaped()])
def test_a_snapshot_is_the_same_after_its_way_through_json(sent: Snapshot) -> None:
    received = from_dict(Snapshot, json.loads(json.dumps(to_dict(sent))))
    assert received == sent


def test_names_of_a_later_version_are_ignored() -> None:
    state = to_dict(sample())
    state["mood"] = state["totals"]["mood"] = state["workers"][0]["mood"] = "sunny"
    assert from_dict(Snapshot, state) == sample()


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("totals", "slots"), -1, "Snapshot.totals.slots: not int"),
        (("totals", "slots"), True, "Snapshot.totals.slots: not int"),
        (("totals", "rate"), float("nan"), "Snapshot.totals.rate: not float"),
        (("workers", 0, "host"), None, "Snapshot.workers.host: not str"),
        (("workers", 0, "is_away"), 1, "Snapshot.workers.is_away: not bool"),
        (("workers", 0), 7, "Snapshot.workers: not an object"),
        (("running",), [{}] * 1001, "Snapshot.running: not a list of at most 1000 entries"),
        (("master",), None, "Snapshot.master: not an object"),
    ],
)
def test_what_is_no_snapshot_is_refused_and_says_where(
    path: tuple[object, ...], value: object, complaint: str
) -> None:
    state = place = to_dict(sample())
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ProtocolError, match=complaint.replace(".", r"\.")):
        from_dict(Snapshot, state)


def test_texts_are_one_line_without_control_characters() -> None:
    state = to_dict(sample())
    state["failures"][0]["first"] = "\x1b[31mred\nand more" + "x" * 1000
    first = from_dict(Snapshot, state).failures[0].first
    assert first.startswith(" [31mred and more") and len(first) == 200 and first.endswith("…")
    assert clean("plain") == "plain"


def test_a_notebook_shows_the_sums_and_the_functions() -> None:
    shown = sample()
    odd = replace(shown, functions=(replace(shown.functions[0], name="<b>"),))
    found = odd._repr_html_()
    assert found is not None and "&lt;b&gt;" in found and "<td>1170</td>" in found and "<td>330</td>" in found
    assert "apacity" not in found and "needs" not in found
    found = shaped()._repr_html_()
    assert found is not None and "<td>10/16</td>" in found and "<td>8 CPUs, 0.5 GPU or 16 CPUs</td>" in found
