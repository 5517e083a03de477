"""Site words: a known name gets its class beside it, and every sign still knows where it came from."""

from pathlib import Path

import pytest

from models.lexicon import Lexicon, lexicon
from models.normalise import normalise
from schemas.errors import UsageError


def marked(text: str, classes: dict[str, str]) -> str:
    return Lexicon(classes).mark(normalise(text)).text


def test_a_known_name_gets_its_class_beside_it_in_any_case():
    assert marked("Takes Procoralan, well.", {"procoralan": "ivabradine"}) == "Takes Procoralan (ivabradine), well."


def test_the_longest_name_wins_and_a_name_is_a_whole_word():
    classes = {"insulin": "diabetes drug", "insulin glargine": "long insulin"}
    assert marked("Insulin glargine on, insulins off", classes) == "Insulin glargine (long insulin) on, insulins off"


def test_what_is_put_in_points_to_the_last_sign_of_the_name():
    text = Lexicon({"bisop": "beta blocker"}).mark(normalise("on bisop od"))
    assert text.text == "on bisop (beta blocker) od"
    assert len(text.origin) == len(text.text)
    assert set(text.origin[8 : 8 + len(" (beta blocker)")]) == {7}
    assert text.origin[-2:] == [9, 10]


def test_an_empty_lexicon_changes_nothing_and_has_no_digest():
    assert marked("on bisop od", {}) == "on bisop od"
    assert Lexicon({}).digest == ""


def test_a_site_file_adds_to_the_words_that_ship_and_wins(tmp_path: Path):
    site = tmp_path / "ours.csv"
    site.write_text("word,class\nzelvorin,beta blocker\nBisoprolol,site says so\n")
    words = lexicon("ward", site)
    assert words.classes["zelvorin"] == "beta blocker"
    assert words.classes["bisoprolol"] == "site says so"
    assert words.digest != lexicon("ward").digest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,kind\na,b\n", "does not begin with"),
        ("word,class\nonly\n", "line 2"),
        ("word,class\na b c d,e\n", "line 2"),
        ("word,class\nabc,\n", "line 2"),
    ],
)
def test_a_wrong_word_list_is_refused_by_file_and_line(tmp_path: Path, content: str, said: str):
    site = tmp_path / "ours.csv"
    site.write_text(content)
    with pytest.raises(UsageError, match=said):
        lexicon("ward", site)


def test_a_missing_word_list_is_refused():
    with pytest.raises(UsageError, match="cannot be read"):
        lexicon("ward", Path("/nowhere/words.csv"))


def test_the_words_that_ship_are_readable_and_of_many_classes():
    words = lexicon("ward").classes
    assert len(words) > 1000
    assert words["eliquis"] == "anticoagulant"
    told = lexicon("roadside").mark(normalise("MVA cleared, junk rmvd, q 2 mi EB"))
    assert told.text == "MVA (vehicle collision) cleared, junk rmvd (removed), q (queue) 2 mi EB (eastbound)"
    assert lexicon("desk").classes == {}


def test_look_alike_letters_in_a_latin_word_are_read_as_the_latin_ones():
    assert normalise("s\u0435psis").text == "sepsis"
    assert normalise("\u0440neumonia").text == "pneumonia"


def test_words_of_another_script_and_single_greek_letters_stay_as_they_are():
    assert normalise("\u0441\u0435\u0440\u0434\u0446\u0435").text == "\u0441\u0435\u0440\u0434\u0446\u0435"
    assert normalise("\u03b2-blocker").text == "\u03b2-blocker"
