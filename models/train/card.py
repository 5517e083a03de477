"""The model card: what it is, what it was made of, figures, limits in plain words."""

from collections.abc import Mapping
from typing import Any

from models.train.evaluate import table
from schemas.texts import FIELDS

_INTRO = """# The reader `{name}`

Reads one English text of a ward (a note), of a roadside unit (an incident report) or of a trading desk (a headline)
and answers a few closed questions about it, with a probability for each answer and the words that carried it. It
proposes; a rule and a gate that no model can lower decide. It is not a medical device, was never tested on real
patients' notes, and gives no advice to trade.

## What it is

- Network: {shape}; {parameters:.1f} M parameters. Started from {base}{teacher}.
- A score for each word piece and label, summed over the pieces: log-sum-exp where several labels may hold, weighted by
  an attention of each question where one does. One network for all three domains; a domain uses its own labels'
  columns.
- Beside it, and added to it, a linear half: logistic regression over words, pairs of words and runs of two to five
  letters, hashed to {ngrams:,} places. The words that carried a label, in both halves, are its evidence.
- File: ONNX, dynamic int8 with 7-bit weights (word vectors too), activations smoothed first, {size_mb:.1f} MB. One
  text a call, one thread: the same text gives the same probabilities whatever was read before it.
- Probabilities are scaled on texts that were held out. From the same texts comes how much doubt keeps an answer
  possible (split conformal, 90 %): the reader acts on a text only where one answer is left to each question.
- It does not act on texts of more than {tokens_max} word pieces (`too_long`), texts that are not in English
  (`language`), texts without a letter or a digit (`no_text`), or where more than one answer is possible
  (`low_confidence`, with the labels that are open in `unsure`).

## Data

{texts_trained_on} texts were trained on and {texts_held_out} held out, in runs of neighbours so that contrast pairs
are seldom split. Texts written for this project (no real person, invented names) are in `models/corpus`. Real texts
are not copied into the project; their labels are kept by digest: {real}.
Without those folders the recipe leaves them out, and this very file cannot be made again.
Nothing of the files for measuring was trained on.

## Recipe

`tidegate train --out DIR --real DATA --jars JARS --seed {seed}` (`--device cuda` where there is a GPU) and
`tidegate compress --out DIR --real DATA`; {epochs} epochs. A
run that is stopped and goes on is as good and not the same bit for bit; this one went on {resumed} times. Texts vary
while training: another drug of the same class, two notes joined, slips of the pen, steering lines that say nothing,
names explained by the word list.

## Figures
"""

_LIMITS = """
## Where it falls short

- The files for measuring are small (65 to 260 texts): one text more or less right moves a macro-F1 by about a point.
- Real texts were labelled by one annotator, and many leave room: `sure` counts those that do not. No real ward notes
  could be had. Almost all real reports and tweets are `active` or `confirmed`.
- The held-out texts come from the same writers as the training texts, and they decided the calibration: their
  figures for this model are a little too good.
- Long texts, dictation with recognition errors, a site's own shorthand and what only knowledge of the world tells
  (which way a headline cuts) are where it errs most.
- Probabilities are calibrated on these texts, not on a site's own mix.
"""


def card_text(name: str, metrics: Mapping[str, Any], data: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Markdown. metrics: of `models.train.report.measure`; facts: shape, parameters, ngrams, size_mb, tokens_max."""
    taught = " and ".join(f"`{teacher}`" for teacher in data["teachers"])
    teacher = f", taught by {taught}" if taught else ""
    after = f", went on from `{data['after']}`" if data["after"] else ""
    real = "; ".join(data["real"].values()) or "none were used"
    values = {**data, **facts, "name": name, "teacher": after + teacher, "real": real}
    parts = [_INTRO.format(**values)]
    for domain in FIELDS:
        parts.append(_held_out(metrics["held_out"][domain], domain))
    for file, rows in metrics["dev"].items():
        domain = file.split(".")[0]
        parts.append(f"\n### {file}, {rows[0]['texts']} texts\n\n{table(rows, domain)}\n{_labels(rows, domain)}")
    return "\n".join([*parts, _checks(metrics), _LIMITS])


def _held_out(both: Mapping[str, Any], domain: str) -> str:
    found = both["int8"]
    fields = ", ".join(
        f"{name} {field['macro_f1']:.3f} (fp32 {both['fp32']['fields'][name]['macro_f1']:.3f})"
        for name, field in found["fields"].items()
    )
    return (
        f"- Held out, {domain} ({found['texts']} texts): macro-F1 {fields}; all right {found['exact']:.0%}; acted on "
        f"{found['acted_on']:.0%}, all right there {_share(found['exact_acted_on'])}; truth in the "
        f"set {found['covered']:.0%}."
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _labels(rows: list[Mapping[str, Any]], domain: str) -> str:
    by_name = {row["system"]: row for row in rows}
    shown = by_name["int8"]
    lines = ["| label | texts | precision | recall | F1 | F1 TF-IDF + LR |", "| --- " * 6 + "|"]
    for field in FIELDS[domain]:
        for label, score in shown["fields"][field.name]["labels"].items():
            rival = by_name["TF-IDF + LR"]["fields"][field.name]["labels"][label]["f1"]
            lines.append(
                f"| {field.name}: {label} | {score['texts']} | {score['p']:.2f} | {score['r']:.2f} | {score['f1']:.2f} "
                f"| {rival:.2f} |"
            )
    return "\n".join(lines) + "\n"


def _checks(metrics: Mapping[str, Any]) -> str:
    lines = ["### What it withstands\n"]
    for domain in FIELDS:
        evidence, agree = metrics["evidence"][domain], metrics["agreement"][domain]
        lines.append(
            f"- {domain}: {evidence['goes_without_its_evidence']:.0%} of the labels go when the words that carried "
            f"them are cut ({evidence['share_of_text']:.0%} of a text), "
            f"{evidence['goes_without_as_many_other_words']:.0%} when as many others are. int8 and fp32 give the same "
            f"labels on {agree['same_labels']:.1%} of {agree['texts']} texts, "
            f"{_share(agree['same_labels_acted_on'])} of those acted on."
        )
        hostile = metrics["hostile"][domain]
        turned = ", ".join(
            f"{kind.replace('_', ' ')} {row['flipped']:.0%} ({row['flipped_and_acted_on']:.0%} acted on)"
            for kind, row in hostile.items()
            if kind != "plain"
        )
        lines.append(f"- {domain}, hostile copies whose labels differ from the plain text's: {turned}.")
        exact = ", ".join(f"{kind.replace('_', ' ')} {row['exact']:.0%}" for kind, row in hostile.items())
        lines.append(f"- {domain}, all right on those copies: {exact}.")
        if domain in metrics["without_words"]:
            bare = ", ".join(f"{name} {score:.3f}" for name, score in metrics["without_words"][domain].items())
            lines.append(f"- {domain}, without the word list that ships, macro-F1 on the texts above: {bare}.")
    if "prose" in metrics:
        prose = metrics["prose"]
        lines.append(
            f"- {prose['sentences']} English sentences of TICO-19 (CC0) about no patient: "
            f"{prose['with_a_label']:.1%} get a label, {prose['acted_on']:.1%} are acted on. Abstains on Spanish "
            f"{prose['abstains_es']:.1%}, Russian {prose['abstains_ru']:.1%}, Hindi {prose['abstains_hi']:.1%}."
        )
    names = metrics["names"]
    lines.append(
        f"- {names['texts']} held-out notes with their drugs renamed to invented names: macro-F1 "
        f"{names['without']:.3f}, and {names['with']:.3f} with a line for each name in the word list."
    )
    return "\n".join(lines) + "\n"
