"""Token files read as the tokens in memory would, and damage to them is told in one line."""

import json

import numpy as np
import pytest

from gptjax import prepare
from gptjax.config.schema import DataConfig, TokenizerConfig
from gptjax.data import corpora, dataset, token_files
from gptjax.data.batching import get_batches, whole_split
from gptjax.data.token_files import Tokens
from gptjax.errors import UserError
from gptjax.evaluation import baselines, count_models
from gptjax.models.ngram import NGramLanguageModel

V = 11
IDS = np.random.default_rng(3).integers(0, V, 173).astype(np.uint16)


def tokens(*ends):
    return Tokens(np.split(IDS, ends), V)


@pytest.mark.parametrize("ends", [(), (1,), (40, 41, 130), (172,)])
def test_shards_read_as_one_array(ends):
    found, whole = tokens(*ends), IDS.astype(np.int32)
    assert len(found) == 173 and found.dtype == np.int32
    np.testing.assert_array_equal(np.asarray(found), whole)
    assert np.asarray(found, np.int64).dtype == np.int64
    at = np.random.default_rng(4).integers(0, 173, (3, 5, 7))
    assert found[at].dtype == np.int32
    np.testing.assert_array_equal(found[at], whole[at])
    np.testing.assert_array_equal(found[at[:0]], whole[at[:0]])
    for part in (slice(1, None), slice(None, -1), slice(39, 42), slice(90, 20), slice(100, 999)):
        view, expected = found[part], whole[part]
        assert len(view) == len(expected)
        np.testing.assert_array_equal(np.asarray(view), expected)
        np.testing.assert_array_equal(np.asarray(view[2:][:-1]), expected[2:][:-1])
    np.testing.assert_array_equal(found[20:][np.array([[0, 30]])], whole[20:][np.array([[0, 30]])])


def test_an_id_that_the_vocabulary_lacks_is_refused_where_it_is_read():
    damaged = Tokens([IDS[:9], np.array([3, V, 2], np.uint16)], V)
    np.testing.assert_array_equal(np.asarray(damaged[:10]), [*IDS[:9], 3])
    for read in (lambda: np.asarray(damaged), lambda: damaged[np.array([2, 10])]):
        with pytest.raises(UserError, match=f"the id {V}.*ends at {V - 1}.*--verify"):
            read()


@pytest.fixture
def parts(monkeypatch):
    """Everything that is done some tokens at a time is done a few at a time."""
    monkeypatch.setattr(count_models, "_PART", 13)
    monkeypatch.setattr(baselines, "_PART", 17)
    monkeypatch.setattr(baselines, "_ROWS", 3)


@pytest.mark.parametrize("V", [V, 300])  # counted in a table, and by sorting
def test_all_that_is_asked_of_tokens_has_the_same_answer(V, parts):
    def splits(read):
        train, val = read(IDS, V), read(IDS[::-1].copy(), V)
        return {"train": dataset.cut_stream(train, 5, 2), "val": dataset.cut_stream(val, 5, 2)}

    ours = splits(lambda ids, V: Tokens(np.split(ids, (50, 91)), V))
    theirs = splits(lambda ids, V: ids.astype(np.int32))
    for a, b in (
        (get_batches(s["train"], 3, 7, range(4)) for s in (ours, theirs)),
        (next(whole_split(s["val"], 4, 2)) for s in (ours, theirs)),
    ):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    asked = (
        lambda s: count_models.count_bigram_nats(s, V),
        lambda s: count_models.token_counts(s["val"].tokens, V).tolist(),
        lambda s: {n: b.nats.tolist() for n, b in baselines.baselines(s, V).items()},
        lambda s: count_models.fit_ngram(NGramLanguageModel(V, 1), s["train"], 0.5)[
            "token_embedding_table"
        ]["embedding"].tolist(),
    )
    for ask in asked:
        assert ask(ours) == ask(theirs)


def test_a_text_in_parts_has_the_hash_of_the_whole(parts):
    class Tok:
        def to_json(self):
            return {}

    whole = {name: dataset.cut_stream(IDS.astype(np.int32), 5) for name in ("train", "val")}
    cut = {name: dataset.cut_stream(tokens(60), 5) for name in ("train", "val")}
    assert baselines.text_hash(whole, Tok()) == baselines.text_hash(cut, Tok())


# ---- folders ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of several shards."""
    monkeypatch.setattr(token_files, "SHARD_BYTES", 12)
    (tmp_path / "a.txt").write_text("to be or not to be\n" * 2)
    out = str(tmp_path / "tokens")
    prepare.prepare(str(tmp_path / "a.txt"), out, TokenizerConfig(), lambda *_: None)
    return tmp_path / "tokens"


def changed(path, change):
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def test_damage_of_a_size_is_seen_at_once_and_of_a_byte_by_verifying(folder):
    assert len(token_files.verify(str(folder)).shards) == 6 + 1  # 34 and 4 tokens of 2 bytes
    shard = folder / "train-00003.bin"
    data = shard.read_bytes()
    shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    token_files.open_folder(str(folder))
    with pytest.raises(UserError, match=r"train-00003\.bin is damaged.*prepare"):
        token_files.verify(str(folder))
    shard.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"train-00003\.bin has not the 12 bytes"):
        token_files.open_folder(str(folder))
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00003\.bin has not"):
        token_files.open_folder(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(format=2),
        lambda s: s.update(dtype="float64"),
        lambda s: s.update(dtype=["uint16"]),
        lambda s: s.update(sha256="no sum"),
        lambda s: s.update(min_count="1"),
        lambda s: s["tokenizer"].update(kind="x"),
        lambda s: s["splits"].pop("val"),
        lambda s: s["splits"]["val"].update(shards=[]),
        lambda s: s["splits"]["val"].update(characters=True),
        lambda s: s["splits"]["val"]["shards"][0].__setitem__(0, -4),
        lambda s: s["splits"]["val"]["shards"][0].__setitem__(0, "4"),
        lambda s: s.clear(),
    ],
)
def test_contents_that_nobody_wrote_are_refused_in_one_line(folder, change):
    changed(folder / "tokens.json", change)
    with pytest.raises(UserError, match="cannot be used") as error:
        token_files.open_folder(str(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_corpus_of_tokens_says_what_the_text_says_but_has_none(folder):
    text = corpora.load(DataConfig(path=str(folder.parent / "a.txt")), 0)
    found = corpora.load(DataConfig(path=str(folder)), 0)
    assert found.facts() | {"source": ""} == text.facts() | {"source": ""}
    with pytest.raises(UserError, match="no text to look into"):
        found.text  # noqa: B018
    for kind, min_count, said in (("word", 1, "kind='char'"), ("char", 1, "")):
        config = TokenizerConfig(kind, min_count)
        if said:
            with pytest.raises(UserError, match=f"{said}.*'{kind}'.*tokenizer.kind=char"):
                found.tokenizer(config)
        else:
            assert found.tokenizer(config) == text.tokenizer(config)
    with pytest.raises(UserError, match="another vocabulary than the run"):
        found.tokenizer(TokenizerConfig(), corpora.tokenizers.CharTokenizer("abc"))
    with pytest.raises(UserError, match="of a stream: data.kind=items"):
        corpora.load(DataConfig(path=str(folder), kind="items"), 0)
    with pytest.raises(UserError, match=r"a folder without tokens\.json"):
        corpora.load(DataConfig(path=str(folder.parent)), 0)
