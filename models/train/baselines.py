"""What a model has to beat: the commonest answer, keywords, and TF-IDF with logistic regression on the same texts."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union

from models.train.corpus import Example
from models.train.keywords import keyword_labels
from models.train.measure import Read
from schemas.reading import Reading
from schemas.texts import FIELDS, TextField


def majority(examples: Sequence[Example], domain: str) -> Read:
    """Each field's commonest answer; of a field with many labels, those that most texts carry."""
    counts = Counter(label for row in examples for label in row.labels or ())
    given: list[str] = []
    for field in FIELDS[domain]:
        common = [label for label in field.labels if counts[label] > len(examples) / 2]
        given += common if field.many else [max(field.labels, key=lambda label: counts[label])]
    return lambda text: Reading(tuple(given))


def keywords(domain: str) -> Read:
    """Rules written by hand."""
    return lambda text: Reading(keyword_labels(text, domain))


def tfidf(examples: Sequence[Example], domain: str) -> Read:
    """Words, pairs of words, and pieces of 2 to 5 characters; one classifier a field, balanced."""
    models = {field.name: _fitted(examples, field) for field in FIELDS[domain]}

    def read(text: str) -> Reading:
        given: list[str] = []
        for field in FIELDS[domain]:
            said = models[field.name].predict([text])[0]
            given += [label for label, holds in zip(field.labels, said, strict=True) if holds] if field.many else [said]
        return Reading(tuple(given))

    return read


def _fitted(examples: Sequence[Example], field: TextField) -> object:
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True),
    )
    linear = LogisticRegression(C=20, class_weight="balanced", max_iter=1000)
    answers = [[label for label in field.labels if label in (row.labels or ())] for row in examples]
    if field.many:
        linear = OneVsRestClassifier(linear)
        wanted = np.array([[label in answer for label in field.labels] for answer in answers]).astype(int)
    else:
        wanted = np.array([answer[0] for answer in answers])
    return make_pipeline(features, linear).fit([row.text for row in examples], wanted)
