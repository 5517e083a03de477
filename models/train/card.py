"""The model card: figures from the metrics, limits in plain words."""

from typing import Any

_INTRO = """# ward-reader

Reads one English ward note and says which of 14 closed labels hold for this patient now, with a probability
for each and the words that carried it. It is a first version. It proposes; a rule (NEWS2) and a gate that the
model cannot lower decide. It is not a medical device and was never tested on real patients' notes.

## What it is

- Base: {base}. 6 layers, 384 wide, uncased WordPiece.
- Head: one score per token and label; a label's logit is the log-sum-exp over the tokens, so the tokens that
  carried a label are its evidence. Word vectors stay as they were; the rest was fine-tuned.
- File: ONNX, dynamic int8 with 7-bit weights (embeddings too), activations smoothed first, {size_mb:.1f} MB. One
  text a call, one thread: the same text gives the same probabilities whatever was read before it.
- Texts of more than 256 word pieces are not acted on (`too_long`), nor texts that are not in English
  (`language`), nor texts where a label's probability lies in its band of doubt (`low_confidence`).

## Data

{files}: texts written and labelled for this project, no real
patient, invented names. {texts_trained_on} texts were trained on; {texts_held_out} of the first file were held out
in runs of neighbours, so that contrast pairs are seldom split; temperatures, thresholds and the band of doubt come from
those. The dev file (80 texts, none shared with these) was never trained on; it was measured on, and a few choices
were made with its figures in view.

## Recipe

`python -m models.train.ward --data {paths} --out DIR`: batches of {batch}, AdamW, {rate} at the top
layer and {layer_decay} of that a layer further down, running average of the weights, at most {epochs} epochs or
a budget of minutes. Texts are varied while training: a drug becomes another of its class, two notes
become one, letters slip. A run that ends by its minutes is not repeatable bit for bit. Runs: {runs}.
"""

_LIMITS = """
## Where it falls short

- The dev file is small: 80 texts, 5 to 12 of each label. One text more or less right moves the macro-F1 by
  about a point.
- The keyword lists were written by someone who had seen the dev texts, so their dev figure flatters them; on
  the held-out texts, hardly any of which was looked at, they show what they are worth.
- The held-out texts come from the same writers as the training texts, and they decided thresholds: their
  figures for this model are a little too good as well.
- Notes that say a thing only by what is done about it, rare brand names, drugs just stopped or not yet
  started, other people's illnesses and questions are where it errs most.
- Medical prose that is about no patient draws labels: {prose}.
- It does not know long notes, dictated text with recognition errors, or a site's own shorthand. Short
  Spanish, and other languages without function words, can pass as English.
- Probabilities are calibrated on these texts, not on a ward's mix, where most notes carry no label.
"""


def card_text(
    metrics: dict[str, Any], data: dict[str, Any], recipe: dict[str, Any], size_mb: float, prose: str = "not measured"
) -> str:
    """Markdown. `metrics` is what `models.train.ward.measure` returned with a dev file; `prose`: how often it does."""
    hashed = zip(data["train"], data["train_sha256"], strict=True)
    files = ", ".join(f"`{name}` (SHA-256 `{sha}`)" for name, sha in hashed)
    paths = " ".join(f"models/corpus/{name}" for name in data["train"])
    intro = _INTRO.format(size_mb=size_mb, files=files, paths=paths, **data, **recipe)
    return "\n".join(
        [
            intro,
            "## Figures\n",
            _summary(metrics),
            _by_label(metrics),
            _sentences(metrics) + _LIMITS.format(prose=prose),
        ]
    )


def _summary(metrics: dict[str, Any]) -> str:
    rows = [
        ("int8, shipped", metrics["dev"], metrics["held_out"]),
        ("fp32, same network", metrics["dev_fp32"], None),
        ("TF-IDF + logistic regression", metrics["dev_tfidf"], metrics["held_out_tfidf"]),
        ("keywords", metrics["dev_keywords"], metrics["held_out_keywords"]),
    ]
    lines = [
        "| | dev macro-F1 | all labels right | false labels a text | held-out macro-F1 | all labels right |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, dev, held in rows:
        right = f"{held['macro_f1']:.3f} | {held['all_labels_right']:.0%}" if held else "- | -"
        dev_cells = f"{dev['macro_f1']:.3f} | {dev['all_labels_right']:.0%} | {dev['false_labels_per_text']:.2f}"
        lines.append(f"| {name} | {dev_cells} | {right} |")
    return "\n".join(lines) + "\n"


def _by_label(metrics: dict[str, Any]) -> str:
    columns = ("dev", "dev_fp32", "dev_tfidf", "dev_keywords", "held_out", "held_out_tfidf")
    names = ("dev int8", "dev fp32", "dev TF-IDF", "dev keywords", "held-out int8", "held-out TF-IDF")
    lines = [f"| F1 | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for label in metrics["dev"]["f1"]:
        cells = [f"{metrics[column]['f1'][label]:.2f}" for column in columns]
        lines.append(f"| `{label}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _sentences(metrics: dict[str, Any]) -> str:
    dev, held, agree = metrics["dev"], metrics["held_out"], metrics["int8_agrees_with_fp32"]
    dull, bare, evidence = metrics["dull_held_out"], metrics["no_label_held_out"], metrics["evidence_dev"]
    speed = ", ".join(f"{ms} ms for about {words} words" for words, ms in metrics["ms_per_text"].items())
    lines = [
        f"Abstains on {dev['abstained']:.0%} of the dev texts; acted on, all labels are right in "
        f"{dev['all_labels_right_acted_on']:.0%} (macro-F1 {dev['macro_f1_acted_on']:.3f}). Held out: "
        f"{held['abstained']:.0%}, {held['all_labels_right_acted_on']:.0%} ({held['macro_f1_acted_on']:.3f}).",
        f"Held-out texts without a label: {bare['with_a_false_label']} of {bare['texts']} get one, "
        f"{bare['with_a_false_label_acted_on']} acted on. Of these, dull clinical texts (world 6): "
        f"{dull['with_a_false_label']} of {dull['texts']}, {dull['with_a_false_label_acted_on']} acted on.",
        f"int8 and fp32 give the same set of labels on {agree['same_labels']:.1%} of {agree['texts']} texts, and on "
        f"{agree['same_labels_acted_on']:.1%} of those that are acted on.",
        f"Calibration error (10 bins, all labels): {dev['calibration_error']:.3f} on dev, "
        f"{held['calibration_error']:.3f} held out.",
        f"Evidence on dev covers {evidence['share_of_text']:.0%} of a text; "
        f"{evidence['label_goes_without_its_evidence']:.0%} of the labels go when those words are cut, "
        f"{evidence['label_goes_without_as_many_other_words']:.0%} when as many others are.",
        f"One thread of a shared AMD EPYC without AVX-512, other jobs running: {speed}.",
    ]
    return "".join(f"- {line}\n" for line in lines)
