"""TF-IDF with logistic regression, the baseline that learns from the same texts."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union

from models.train.measure import Marks


def tfidf_labels(train_texts: list[str], train_marks: Marks, texts: list[str]) -> Marks:
    """Fit on (n, labels) marks, give (len(texts), labels): words, pairs of words, and pieces of 2 to 5 characters."""
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True),
    )
    model = make_pipeline(
        features, OneVsRestClassifier(LogisticRegression(C=20, class_weight="balanced", max_iter=1000))
    )
    model.fit(train_texts, train_marks.astype(int))
    return np.asarray(model.predict(texts), dtype=np.bool_)
