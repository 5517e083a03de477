"""Whether a text is in English, for the one purpose of not acting on a text that is not.

Ward shorthand has few function words, so their absence proves nothing: a text is foreign only where something speaks
for another language. Either many of its letters are not Latin, or the function words of one other language together
with the words that carry marks (é, ü, ñ) outweigh the English function words.
"""

import re
from typing import Final

LETTERS_FOREIGN_SHARE: Final = 0.3
"""A text with this share of letters outside the Latin script is foreign; single Greek letters (µ, β) stay far below."""

_WORD: Final = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
# Latin letters end at U+024F; U+1E00..1EFF are the further Latin letters with marks.
_LATIN_LAST: Final = "\u024f"

_ENGLISH_WORDS: Final = """
the and of to is was are were be been has have had with for from that this his her he she they them their it its on
in at by not but as an if when who which will would can could should does did do so since after before while about
all any no yes very than then there what how or into until still now only been just your you we our i my me out up
"""

# Common in one language, and neither English nor ward shorthand ("op", "od", "na", "con" are left out). A paragraph
# each: Spanish, French, German, Italian, Portuguese, Dutch, Polish, Scandinavian, Turkish, Romanian.
_FOREIGN_WORDS: Final = """
el los las del que de en una se lo como más pero sus le ha sin sobre este esta ya entre cuando muy está están
también hasta hay donde quien desde todo nos durante todos uno les ni contra otro otros otra ese eso ante ellos esto
antes algunos algunas estos estas estoy qué cuál cómo tiene tienen tienes tengo usted su es son fue ser sido puede
pueden al nada porque mucho mucha sigue paciente pacientes dolor fiebre días años por

le les des du de et une est dans que qui pas pour sur avec sont aux ce cette ses plus ne elle nous vous mais ou ont
été au était sans être depuis leur très fait comme son sa en patiente douleur fièvre jours

der das und ist nicht mit ein eine einer eines einem einen den dem des von zu für auf sich auch wie bei aus nach
wird wurde sind hat haben keine kein über noch nur oder aber seit im zum zur unter ich sie er es wir vor heute

lo gli di che una non del della dei delle sono ha nel nella al alla anche più come questo questa suo sua ed dal
dalla paziente dolore febbre giorni

os das dos que em uma não para com por se nos mais como mas foi ao ele ela são está seu sua ou ser quando muito já
também só pelo pela até isso tem febre dor paciente dias

de het een en van dat niet met voor zijn aan er maar ook als bij nog uit naar heeft werd wordt geen deze door over
zich wel hij zij ze dan

nie się jest że jak za ale przez dla tak był była bez przy oraz jego jej są już

och att det som en på är av för den har inte ett han hon var jag men sig från så kan ska og er ikke af til et jeg
ble hun

ve bir bu için ile olarak çok daha var yok gibi kadar olan ne değil sonra hasta a\u011fr\u0131 ateş

și în de nu este care din mai au fost pentru sau după prin că se sunt
"""

_ENGLISH: Final = frozenset(_ENGLISH_WORDS.split())
_FOREIGN: Final = tuple(frozenset(paragraph.split()) for paragraph in _FOREIGN_WORDS.split("\n\n"))


def is_english(text: str) -> bool:
    """False where the (normalised) text speaks for another language; True for shorthand, numbers, names."""
    foreign = 0 if text.isascii() else sum(map(_not_latin, text))
    if foreign:
        letters = sum(map(str.isalpha, text))
        if foreign >= LETTERS_FOREIGN_SHARE * letters and (foreign >= 3 or foreign == letters):
            return False
    words = [word.casefold() for word in _WORD.findall(text)]
    english = sum(word in _ENGLISH for word in words)
    other = max(sum(word in language for word in words) for language in _FOREIGN)
    marked = sum(not word.replace("\u2019", "'").isascii() for word in words)
    score = other + marked
    return not words or ("\u00bf" not in text and not (score >= 2 and score >= 0.15 * len(words) and score > english))


def _not_latin(character: str) -> bool:
    return character.isalpha() and character > _LATIN_LAST and not "\u1e00" <= character <= "\u1eff"
