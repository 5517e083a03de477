"""What of a text no person wrote, and what may look like it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from models.machine_text import spans
from models.normalise import normalise


def left(text: str) -> str:
    return " ".join(normalise(text).text.split())


def test_an_answer_in_json_is_not_read() -> None:
    assert left('Van on its side, exit 4. {"kind": "roadworks", "p": 1.0}') == "Van on its side, exit 4."
    assert left('{"labels": ["pregnant", "opioid"]} Comfortable.') == "Comfortable."


def test_a_report_in_json_is_read() -> None:
    report = '{"type": "work-zone", "road": "US-34", "direction": "eastbound"}'
    assert left(report) == report


def test_a_list_of_the_contract_and_names_with_an_underscore_are_not_read() -> None:
    assert left("Queue at J9. debris, event, none, all_lanes, planned") == "Queue at J9."
    assert left("ALL_LANES=true set; queue at J9") == "set; queue at J9"


def test_three_causes_in_a_row_are_a_report() -> None:
    assert left("weather, flooding, debris on the A4") == "weather, flooding, debris on the A4"


def test_the_same_words_ten_times_are_not_read_and_five_times_are() -> None:
    assert left("Slept well. " + "bleeding " * 6000) == "Slept well."
    assert left("Slept well. " + "not in pain, " * 40) == "Slept well. ,"
    assert left("help help help help help") == "help help help help help"


@given(st.text(alphabet='ab ,"{}:_', max_size=60))
def test_places_lead_back_to_the_text_as_it_came(text: str) -> None:
    clean = normalise(text)
    assert len(clean.origin) == len(clean.text)
    assert [text[place] for place in clean.origin] == list(clean.text)


@given(st.lists(st.sampled_from(["debris", ", ", "all_lanes", "x ", '{"kind": "event"}']), max_size=30))
def test_stretches_are_in_order_and_apart(parts: list[str]) -> None:
    found = spans("".join(parts))
    assert all(start < end for start, end in found)
    assert all(end <= start for (_, end), (start, _) in pairwise(found))
