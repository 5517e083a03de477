"""Commands about readers, as a user gives them, where torch is not installed and where a model is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow.conftest import Tidegate, records, write_jsonl


@pytest.mark.parametrize("domain", ["ward", "roadside", "desk"])
def test_the_corpus_in_the_tree_is_sound_and_says_what_is_in_it(tidegate: Tidegate, domain: str) -> None:
    counted = tidegate("corpus", domain, "--check").stdout
    assert {"ward": "labels: ", "roadside": "kind: ", "desk": "topic: "}[domain] in counted


def test_composed_texts_are_the_same_for_the_same_seed(tidegate: Tidegate) -> None:
    first, again, other = (tidegate("corpus", "desk", "--seed", seed).stdout for seed in (4, 4, 5))
    assert first == again != other
    assert set(json.loads(first.splitlines()[0])) == {"text", "topic", "direction", "certainty"}


def test_a_text_for_measuring_that_got_into_the_corpus_is_found(tidegate: Tidegate, tmp_path: Path) -> None:
    stolen = json.loads(tidegate("corpus", "desk", "--seed", 0).stdout.splitlines()[3])["text"]
    dev = write_jsonl(tmp_path / "dev.jsonl", [{"text": stolen}])
    done = tidegate("corpus", "desk", "--check", "--dev", dev, code=1)
    assert "nearly a text for measuring" in done.stdout


def test_an_unknown_domain_is_refused_with_the_known_ones(tidegate: Tidegate) -> None:
    assert "ward, roadside, desk" in tidegate("corpus", "kitchen", "--check", code=2).stderr


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from flows.cli import main; main()"


def test_training_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "train", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "torch is not installed: pip install 'tidegate[train]'" in done.stderr


def test_a_model_that_is_not_there_is_refused_by_name_and_a_flow_runs_on_its_rules(
    tidegate: Tidegate, ward: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "no-such-model"
    assert "manifest.json is missing" in tidegate("read", "ward", "--model", missing, input="{}", code=2).stderr
    done = tidegate("run", "ward", "--source", ward, "--sink", tmp_path / "t.db", "--model", missing)
    assert "the rules carry on alone" in done.stderr
    assert {record["model"]["abstain"] for record in records(tidegate, tmp_path / "t.db")} <= {
        "model_refused",
        "no_text",
    }


def test_a_word_of_the_site_is_read_and_the_list_stands_in_the_record(tidegate: Tidegate, tmp_path: Path) -> None:
    words = tmp_path / "words.csv"
    words.write_text("word,class\nzelvorin,beta blocker\n")
    config = tmp_path / "site.toml"
    config.write_text(f'words_file = "{words}"\n')
    line = json.dumps({"id": "a", "text": "Takes Zelvorin 5 mg every morning."})
    taught = json.loads(tidegate("read", "ward", "--json", "--config", config, input=line).stdout)
    assert "rate_limiting_drug" in taught["labels"]
    words.write_text("nonsense\n")
    assert "word,class" in tidegate("read", "ward", "--config", config, input=line, code=2).stderr
