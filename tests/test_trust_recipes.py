# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Recipes of strangers: nothing of what they name is called unless it is of the right role."""

import pkgutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from types import SimpleNamespace

import pytest
import tiny_components
import yaml
from haystack import Document
from haystack.tools import Tool
from test_recipe import changed

from retort.cli.main import build_parser
from retort.cli.serve import open_serving
from retort.students import create
from retort.students.makers import is_student_maker
from retort.trainers.build import build_recipe
from retort.trainers.changes import changed_recipe, recipe_for
from retort.trainers.data.beir import read_beir
from retort.trainers.data.documents import documents_to_data
from retort.trainers.recipe import Component, Recipe, trusts_code
from retort.trainers.recipe.trust import check_component
from retort.trainers.runtime.errors import RecipeError
from retort.workflows import generated_questions

SEND = "haystack.utils.requests_utils.request_with_retry"
LIVE = "retort.trainers.teachers.live.LiveTeacher"
FITTED = "retort.trainers.teachers.trained_in_run.TrainedInRunRanker"
VIEWS = "retort.trainers.methods.dual_cross_encoder.QuestionViews"
HAYSTACKS = "haystack.components.rankers.lost_in_the_middle.LostInTheMiddleRanker"


@pytest.fixture
def server():
    """A server on loopback that keeps what it is sent."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append(self.rfile.read(int(self.headers["Content-Length"] or 0)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{httpd.server_port}/"
    yield SimpleNamespace(
        requests=requests,
        post={"type": SEND, "init_parameters": {"method": "POST", "url": url, "content": "mine", "attempts": 1}},
    )
    httpd.shutdown()
    httpd.server_close()


def test_the_request_would_be_sent(server):
    """What the tests below refuse is harm that Haystack's function does."""
    from haystack.utils import request_with_retry

    request_with_retry(**server.post["init_parameters"])
    assert server.requests == [b"mine"]


def place(name, spec):
    """Put what is to be called somewhere in a recipe: its path there, and what stands there then."""
    within = {"type": LIVE, "init_parameters": {"student": spec}}
    stages = [
        {
            "name": "s",
            "steps": 1,
            "batches": "texts",
            "objectives": [{"type": "retort.trainers.objectives.Contrastive"}],
        }
    ]
    fitted = {"type": FITTED, "init_parameters": {"student": spec, "stages": stages}}
    lists = {"sources": ["bm25"], "text": spec}
    queries = {"sources": ["bm25"], "text": {"type": VIEWS, "init_parameters": {"queries": spec}}}
    places = {
        "student": ("student", spec),
        "teacher": ("teachers.teacher", spec),
        "miner": ("candidates.bm25", spec),
        "objective": ("stages.0.objectives.0", spec),
        "temperature": ("stages.1.temperature", spec),
        "selector": ("stages.1.selector", spec),
        "text": ("stages.1.candidates", lists),
        "queries": ("stages.1.candidates", queries),
        "a live teacher's student": ("teachers.live", within),
        "a fitted teacher's student": ("teachers.fitted", fitted),
    }
    return places[name]


class TestNothingIsCalled:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("student", f"student.type: '{SEND}' is no student"),
            ("teacher", f"teachers.teacher.type: '{SEND}' is no teacher"),
            ("miner", f"candidates.bm25.type: '{SEND}' is no miner"),
            ("objective", f"stages.0.objectives.0.type: '{SEND}' is no objective"),
            ("temperature", f"stages.1.temperature.type: '{SEND}' is no temperature"),
            ("selector", f"stages.1.selector.type: '{SEND}' is no selector"),
            ("text", f"stages.1.candidates.text.type: '{SEND}' is no text transform"),
            ("queries", f"stages.1.candidates.text.init_parameters.queries.type: '{SEND}' is no query source"),
            ("a live teacher's student", f"teachers.live.student.type: '{SEND}' is no student"),
            ("a fitted teacher's student", f"teachers.fitted.init_parameters.student.type: '{SEND}' is no student"),
        ],
    )
    def test_a_function_of_haystacks(self, server, recipe_tree, beir, tmp_path, name, message):
        with pytest.raises(RecipeError) as error:
            build_recipe(
                Recipe.from_dict(changed(recipe_tree, *place(name, server.post))), read_beir(beir, "train"), tmp_path
            )
        assert message in str(error.value)
        assert "\n" not in str(error.value)
        assert not server.requests

    def test_a_tower(self, server, recipe_tree):
        recipe = Recipe.from_dict(recipe_tree)
        spec = Component(
            type="retort.students.create.two_towers", init_parameters={"query": server.post, "document": server.post}
        )
        with pytest.raises(RecipeError, match="query.type: .* is no maker, such as retort.students.create.pretrained"):
            recipe.create(spec, "student", "student")
        assert not server.requests

    def test_the_teacher_of_a_call(self, server, recipe_tree):
        for ask in (
            lambda: recipe_for(None, server.post),
            lambda: recipe_for("kd", server.post),
            lambda: changed_recipe(Recipe.from_dict(recipe_tree), teacher=server.post),
            lambda: changed_recipe(Recipe.from_dict(recipe_tree), student=server.post),
        ):
            with pytest.raises(RecipeError, match=f"'{SEND}' is no (teacher|student)"):
                ask()
        assert not server.requests


class TestRoles:
    @pytest.mark.parametrize("name", ["student", "teacher", "miner", "objective"])
    def test_a_class_of_haystacks_fills_none(self, recipe_tree, name):
        """Whatever methods it has: the name decides, before anything is imported."""
        path, spec = place(name, {"type": HAYSTACKS})
        with pytest.raises(RecipeError, match=f"{path}.type: '{HAYSTACKS}' is no {name}: .*RankerTeacher's `ranker`"):
            Recipe.from_dict(changed(recipe_tree, path, spec))

    @pytest.mark.parametrize(
        ("path", "called"),
        [
            ("stages.1.batches", "batch source"),
            ("stages.1.weighting", "teacher weighting"),
            ("stages.1.queries", "query source"),
            ("stages.1.selector", "selector"),
            ("data.corpus", "corpus source"),
        ],
    )
    def test_nor_any_other(self, recipe_tree, path, called):
        with pytest.raises(RecipeError, match=f"{path}.type: '{HAYSTACKS}' is no {called}: Haystack's own"):
            Recipe.from_dict(changed(recipe_tree | {"data": {}}, path, {"type": HAYSTACKS}))

    @pytest.mark.parametrize(
        ("role", "base"),
        [
            ("teacher", "Teacher"),
            ("miner", "Miner"),
            ("selector", "Selector"),
            ("text", "TextTransform"),
            ("queries", "QuerySource"),
        ],
    )
    def test_a_base_fills_none(self, recipe_tree, role, base):
        path = f"retort.trainers.roles.{base}"
        with pytest.raises(RecipeError, match=f"here.type: '{path}' is no "):
            Recipe.from_dict(recipe_tree).create(Component(type=path), role, "here")

    def test_what_retort_imports_of_haystacks_fills_none(self, recipe_tree, monkeypatch):
        from haystack.utils import request_with_retry

        monkeypatch.setattr(create, "borrowed", request_with_retry, raising=False)
        spec = Component(type="retort.students.create.borrowed", init_parameters={"url": "http://127.0.0.1:9/"})
        with pytest.raises(RecipeError, match=f"student.type: '{SEND}' is no student"):
            Recipe.from_dict(recipe_tree).create(spec, "student", "student")

    def test_makers_are_marked(self):
        marked = {f.__name__ for f in vars(create).values() if is_student_maker(f)}
        assert marked == set(create.__all__)
        for module in pkgutil.iter_modules(create.__path__, f"{create.__name__}."):
            there = vars(import_module(module.name)).values()
            assert {f.__name__ for f in there if is_student_maker(f)} <= marked

    def test_an_allowed_module_needs_no_marks(self, recipe_tree, tokenizer_path):
        tree = changed(recipe_tree, "student.type", "two_ranks.double_student")
        with pytest.raises(
            RecipeError, match=r"student.type: .* not in a trusted module \(retort\).*--allow two_ranks"
        ):
            Recipe.from_dict(tree)
        recipe = Recipe.from_dict(tree, allow=["two_ranks"])
        assert recipe.create(recipe.student, "student", "student").dtype.itemsize == 8

    @pytest.mark.parametrize("kind", ["pseudo_queries.GeneratedQuestions", "proposals.Proposals"])
    def test_what_asks_a_generator_for_queries_may_call_what_the_user_allowed(self, recipe_tree, kind):
        generator = {"type": GENERATOR, "init_parameters": {"response_fn": "tiny_components.judge"}}
        source = Component(type=f"retort.trainers.data.{kind}", init_parameters={"generator": generator})
        with pytest.raises(RecipeError, match="trusted-module allowlist"):
            Recipe.from_dict(recipe_tree).create(source, "queries", "queries")
        Recipe.from_dict(recipe_tree, allow=["tiny_components"]).create(source, "queries", "queries")

    def test_haystacks_environment_variable_is_about_components(self, recipe_tree, monkeypatch):
        monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", "two_ranks.*")
        with pytest.raises(RecipeError, match="student.type: .* not in a trusted module .*--allow two_ranks"):
            Recipe.from_dict(changed(recipe_tree, "student.type", "two_ranks.double_student"))


TEACHERS = "retort.trainers.teachers"
GENERATOR = "haystack.components.generators.chat.mock.MockChatGenerator"
STORE = "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore"
BM25 = "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever"


def component(path, **parameters):
    return {"type": path, "init_parameters": parameters}


class TestComponents:
    """What teachers and miners have within their parameters."""

    @pytest.mark.parametrize(
        ("teacher", "name"),
        [
            ("ranker.RankerTeacher", "ranker"),
            ("chat_generator.ChatGeneratorTeacher", "generator"),
            ("retriever.RetrieverTeacher", "retriever"),
            ("embedder.EmbedderTeacher", "text_embedder"),
        ],
    )
    @pytest.mark.parametrize("within", [False, True])
    def test_a_function_is_not_called(self, server, recipe_tree, teacher, name, within):
        right = {
            "generator": GENERATOR,
            "retriever": BM25,
            "ranker": "haystack.components.rankers.llm_ranker.LLMRanker",
        }
        right["text_embedder"] = "haystack.components.embedders.openai_text_embedder.OpenAITextEmbedder"
        slot = {"generator": "model", "retriever": "document_store", "ranker": "chat_generator"}.get(name, "api_key")
        parameters = {"document_embedder": component(right["text_embedder"])} if name == "text_embedder" else {}
        parameters[name] = component(right[name], **{slot: server.post}) if within else server.post
        with pytest.raises(RecipeError) as error:
            Recipe.from_dict(recipe_tree).create(
                Component(type=f"{TEACHERS}.{teacher}", init_parameters=parameters), "teacher", "teachers.t"
            )
        assert str(error.value).startswith("teachers.t")
        assert f"{name}{f'.init_parameters.{slot}.type' if within else ''}: " in str(error.value)
        assert not server.requests

    @pytest.mark.parametrize(
        ("name", "spec", "message"),
        [
            ("ranker", component(BM25), "ranker: .* is no ranker: its run takes filters, query, scale_score, top_k"),
            (
                "generator",
                component("haystack.components.builders.chat_prompt_builder.ChatPromptBuilder"),
                "no chat gen",
            ),
            ("text_embedder", component(GENERATOR), "is no text embedder"),
            ("document_embedder", component(STORE), "is no document embedder: its run takes nothing"),
            ("retriever", component("haystack.components.retrievers.InMemoryBM25Retriever"), f"write {BM25}"),
            ("generator", component("os.system"), "generator.type: 'os.system' is not in a trusted module"),
            ("generator", {"model": "x"}, "generator: it needs a type"),
            (
                "generator",
                component(GENERATOR, streaming_callback="haystack.utils.requests_utils.request_with_retry"),
                "streaming_callback: .* would be imported and called; .*--allow haystack.utils.requests_utils",
            ),
            ("generator", component(GENERATOR, response_fn="builtins.print"), "response_fn: 'builtins.print' would be"),
            (
                "generator",
                component(
                    "haystack.components.agents.agent.Agent",
                    chat_generator=component(GENERATOR),
                    tools=[{"type": "haystack.tools.tool.Tool", "data": {"function": SEND}}],
                ),
                "generator.init_parameters.tools.0.type: .* is neither a document store nor an embedder",
            ),
            ("generator", component(GENERATOR, unsafe=True), "generator.init_parameters.unsafe: it would run code"),
            (
                "retriever",
                component(BM25, document_store=component(STORE, deep=[{"unsafe": True}])),
                "retriever.init_parameters.document_store.init_parameters.deep.0.unsafe: it would run code",
            ),
        ],
    )
    def test_refused(self, name, spec, message):
        """Whatever else the user allowed."""
        with pytest.raises(RecipeError, match=message):
            check_component(spec, name, ["two_ranks"])

    def test_no_index_is_deleted(self):
        """A store of Qdrant deletes a collection as soon as it is opened."""
        store = "haystack_integrations.document_stores.qdrant.document_store.QdrantDocumentStore"
        retriever = "haystack_integrations.components.retrievers.qdrant.retriever.QdrantEmbeddingRetriever"
        spec = component(retriever, document_store=component(store, location=":memory:", recreate_index=True))
        with pytest.raises(RecipeError, match=r"document_store.init_parameters.recreate_index: it would delete an ind"):
            check_component(spec, "retriever")
        spec["init_parameters"]["document_store"]["init_parameters"]["recreate_index"] = False
        check_component(spec, "retriever")

    def test_accepted(self):
        check_component(component(BM25, document_store=component(STORE, bm25_algorithm="BM25L")), "retriever")
        ranker = component(
            "haystack.components.rankers.llm_ranker.LLMRanker",
            chat_generator=component(GENERATOR, model="haystack. No name, e.g. a sentence", meta={"type": "plain"}),
        )
        check_component(ranker, "ranker")
        key = {"type": "env_var", "env_vars": ["KEY"], "strict": False}
        check_component(
            component("haystack.components.embedders.openai_text_embedder.OpenAITextEmbedder", api_key=key),
            "text_embedder",
        )

    def test_what_the_user_allowed(self):
        spec = component(GENERATOR, response_fn="haystack.utils.requests_utils.request_with_retry")
        check_component(spec, "generator", ["haystack.utils"])
        for flag in ("unsafe", "recreate_index"):
            check_component(component("tiny_components.WordRanker", **{flag: True}), "ranker", ["tiny_components"])

    def test_what_stands_within_what_the_user_allowed(self, monkeypatch):
        """It is Haystack's own again, also where the allowed module imports it."""
        monkeypatch.setattr(tiny_components, "Borrowed", Tool, raising=False)
        for within, message in (
            (component(STORE, unsafe=True), "ranker.init_parameters.inner.init_parameters.unsafe: it would run code"),
            (
                component("tiny_components.Borrowed"),
                "inner.type: 'tiny_components.Borrowed' is neither a document store",
            ),
        ):
            with pytest.raises(RecipeError, match=message):
                check_component(component("tiny_components.WordRanker", inner=within), "ranker", ["tiny_components"])

    def test_what_our_modules_import_of_others(self, monkeypatch):
        """It is judged by where it is defined, and by all that it can do."""
        half = type("Half", (), {"__module__": create.__name__, "count_documents": len})
        monkeypatch.setattr(create, "Half", half, raising=False)
        monkeypatch.setattr(create, "Borrowed", tiny_components.WordRanker, raising=False)
        for name, message in (
            ("Half", "inner.type: .* is neither a document store"),
            ("Borrowed", "inner.type: 'tiny_components.WordRanker' is not in a trusted module"),
        ):
            with pytest.raises(RecipeError, match=message):
                check_component(component(BM25, inner=component(f"{create.__name__}.{name}")), "retriever")

    @pytest.mark.parametrize("allowed", ["other, tiny_components.*", "tiny_comp*"])
    def test_what_the_environment_allows(self, monkeypatch, allowed):
        monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", allowed)
        check_component(component("tiny_components.WordRanker"), "ranker")

    @pytest.mark.parametrize("command", ["serve", "distill"])
    def test_the_generator_of_a_command(self, server, tmp_path, command):
        file = tmp_path / "llm.yaml"
        file.write_text(yaml.safe_dump(server.post))
        folders = {"serve": ["--store", "x", "--student", "y"], "distill": ["--documents", "x", "--out", str(tmp_path)]}
        arguments = build_parser().parse_args([command, *folders[command], "--generator", str(file)])
        with pytest.raises(RecipeError, match=f"generator: {SEND} is no chat generator"):
            open_serving(arguments) if command == "serve" else generated_questions(arguments.generator, tmp_path)
        assert not server.requests


class TestWhatOnlyTheUserAllows:
    """A recipe cannot let models' code run, nor have texts and keys sent to a server of its choice."""

    @pytest.mark.parametrize(
        ("line", "place"),
        [
            ("student: {init_parameters: {trust_remote_code: true}}", "student.init_parameters"),
            ("student: {init_parameters: {trust_remote_code: 'yes'}}", "student.init_parameters"),
            ("student: {init_parameters: {a: [{b: {trust_remote_code: 1}}]}}", "student.init_parameters.a.0.b"),
            ("teachers: {teacher: {init_parameters: {trust_remote_code: true}}}", "teachers.teacher.init_parameters"),
            (
                "teachers: {t: {type: retort.x.T, init_parameters: {ranker: {model_kwargs: {trust_remote_code: 1}}}}}",
                "teachers.t.init_parameters.ranker.model_kwargs",
            ),
        ],
    )
    def test_code_of_models(self, tmp_path, line, place):
        (tmp_path / "r.yaml").write_text(f"extends: kd\n{line}\n")
        message = f"r.yaml:2: {place}.trust_remote_code: code that a model brings along would run; .*--allow trust_remo"
        with pytest.raises(RecipeError, match=message):
            Recipe.from_yaml(tmp_path / "r.yaml", allow=["trust_remote_code.x", "*"])
        assert Recipe.from_yaml(tmp_path / "r.yaml", allow=["trust_remote_code"]).allow == ["trust_remote_code"]

    def test_what_a_teacher_in_the_run_is_made_of(self, recipe_tree, beir, tmp_path):
        path, spec = place("a fitted teacher's student", component("retort.students.create.pretrained", model="x"))
        spec["init_parameters"]["student"]["init_parameters"]["trust_remote_code"] = True
        with pytest.raises(RecipeError, match="fitted.init_parameters.student.init_parameters.trust_remote_code: code"):
            Recipe.from_dict(changed(recipe_tree, path, spec))

    @pytest.mark.parametrize("arguments", [{"weights_only": False}, {"allow_all_kernels": True}])
    def test_pickles_and_kernels(self, arguments):
        embedder = (
            "haystack_integrations.components.embedders.sentence_transformers.sentence_transformers_text_embedder"
        )
        spec = component(f"{embedder}.SentenceTransformersTextEmbedder", model="x", model_kwargs=arguments)
        with pytest.raises(
            RecipeError, match=f"^text_embedder.*model_kwargs.{next(iter(arguments))}: code that a model brings along"
        ):
            check_component(spec, "text_embedder")
        check_component(spec, "text_embedder", ["trust_remote_code"])

    def test_of_a_list(self):
        assert trusts_code({"towers": [{"trust_remote_code": False}, {"trust_remote_code": True}]})
        assert not trusts_code({"towers": [{"trust_remote_code": False}, {"trust_remote_code": None}]})

    @pytest.mark.parametrize(
        ("parameters", "server"),
        [
            ({"api_base_url": "http://evil.example:9/v1"}, "evil.example"),
            ({"api_base_url": "HTTPS://user:word@EVIL.example"}, "evil.example"),
            ({"api_base_url": "http://localhost@evil.example"}, "evil.example"),
            ({"api_base_url": "http://localhost.evil.example"}, "localhost.evil.example"),
            ({"http_client_kwargs": {"proxy": "http://10.0.0.7:1"}}, "10.0.0.7"),
            ({"meta": {"host": "evil.example:9"}}, "evil.example"),
            ({"meta": {"hosts": ["localhost", "evil.example"]}}, "evil.example"),
            ({"api_base_url": " http://evil.example/v1?x= y"}, "evil.example"),
            ({"meta": {"host": "evil.example "}}, "evil.example"),
        ],
    )
    def test_servers(self, parameters, server):
        spec = component(GENERATOR, **parameters)
        with pytest.raises(RecipeError, match=f"would be sent to {server}; if you trust it, pass --allow {server}."):
            check_component(spec, "generator", ["other.example"])
        check_component(spec, "generator", [server])

    @pytest.mark.parametrize("host", [r"evil.example\@127.0.0.1", r"127.0.0.1\@evil.example"])
    def test_what_clients_read_in_two_ways(self, host):
        with pytest.raises(RecipeError, match="would be sent to .*evil.example"):
            check_component(component(GENERATOR, api_base_url=f"http://{host}/v1"), "generator")

    @pytest.mark.parametrize(
        "parameters",
        [
            {"api_base_url": "http://localhost:9/v1"},
            {"api_base_url": "http://127.0.0.2:9/v1"},
            {"api_base_url": "http://[::1]:9"},
            {"api_base_url": "http://[no address"},
            {"location": ":memory:"},
            {"model": "org/model"},
            {"prompt": "Go by http://evil.example, and answer."},
        ],
    )
    def test_no_servers(self, parameters):
        check_component(component(GENERATOR, **parameters), "generator")


class TestFiles:
    """YAML that is made to hang or to crash what reads it: one line says what is wrong, at once."""

    @pytest.fixture
    def read(self, tmp_path):
        def write(text: str, name: str = "r.yaml", **options):
            (tmp_path / name).write_text(text)
            return Recipe.from_yaml(tmp_path / name, **options)

        return write

    @pytest.mark.parametrize(
        "grows", ["a{}: &a{} [{}]", "a{}: &a{} {{<<: [{}]}}"], ids=["anchors in lists", "merged anchors"]
    )
    def test_anchors_that_grow(self, read, grows):
        lines = ["a0: &a0 {x: 1}", *(grows.format(i, i, ",".join([f"*a{i - 1}"] * 10)) for i in range(1, 10))]
        with pytest.raises(RecipeError, match=r"r.yaml:7: a recipe may hold 100,000 values; anchors make more"):
            read("\n".join(["extends: kd", *lines]))
        with pytest.raises(RecipeError, match="100,000 values|not valid YAML"):
            read("extends: kd", overrides=["student.init_parameters.x={" + ",".join(lines) + "}"])

    @pytest.mark.parametrize("levels", [64, 100_000])
    def test_deep(self, read, levels):
        """The recipe itself is a level."""
        with pytest.raises(RecipeError, match="student: expected keys with values"):
            read(f"extends: kd\nstudent: {'[' * 63}{']' * 63}")
        with pytest.raises(RecipeError, match=r"r.yaml.*: lists and mappings may nest 64 levels deep; there are more."):
            read(f"extends: kd\nstudent: {'[' * levels}{']' * levels}")

    def test_deep_by_anchors(self, read):
        """No line is deep; what anchors make of them is."""
        lines = ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {'[' * 20}*a{i - 1}{']' * 20}" for i in range(1, 100))]
        with pytest.raises(RecipeError, match=r"r.yaml:5: lists and mappings may nest 64 levels deep; there are more."):
            read("\n".join(["extends: kd", *lines]))

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            ("9" * 5000, "int"),
            ("!!int foo", "int"),
            ("!!int [1]", "int"),
            ("!!float ''", "float"),
            ("!!bool foo", "bool"),
            ("!!timestamp foo", "timestamp"),
            ("!!timestamp 2024-99-99", "timestamp"),
        ],
        ids=lambda value: value[:20],
    )
    def test_values_that_are_not_what_their_tags_say(self, read, value, kind):
        with pytest.raises(RecipeError, match=rf"r.yaml:2: not valid YAML: a value cannot be read as {kind}."):
            read(f"extends: kd\ntraining: {{seed: {value}}}")

    def test_digits_that_are_no_numbers(self, read):
        with pytest.raises(RecipeError, match="r.yaml:2: teachers.².type: .* not in a trusted module"):
            read("extends: kd\nteachers: {'²': {type: os.system}}")
        with pytest.raises(RecipeError, match="'²' is not an index below"):
            read("extends: kd", overrides=["stages.²=1"])

    def test_extends(self, read):
        with pytest.raises(RecipeError, match="r.yaml:1: extends: There is no recipe 'aaaaaa"):
            read(f"extends: {'a' * 5000}")

    def test_a_long_chain(self, read, tmp_path):
        for i in range(40):
            (tmp_path / f"{i}.yaml").write_text(f"extends: {i + 1}.yaml")
        with pytest.raises(RecipeError, match=r"31.yaml:1: extends: more than 32 recipes extend one another."):
            read("extends: 0.yaml")


class TestAnswers:
    """What a generator answers is a stranger's, too: it is written into files of answers, and no others."""

    def test_other_files_are_left_alone(self, recipe_tree, tmp_path):
        for name in ("profile", "sitecustomize.py", "new"):
            with pytest.raises(RecipeError, match=rf"q .*cache: .*{name}: answers are kept in a .jsonl file"):
                self.questions(recipe_tree, tmp_path / name)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("text", ["mine\n", '{"_id": "d0", "text": "mine"}\n', "5\n", '"ab"\n'])
    def test_a_corpus_is_left_alone(self, recipe_tree, tmp_path, text):
        (file := tmp_path / "corpus.jsonl").write_text('["0", "an answer"]\n' + text + '["1", "another"]\n')
        with pytest.raises(RecipeError, match=r"corpus.jsonl:2: this is no answer"):
            self.questions(recipe_tree, file).of(documents_to_data("x", [Document(content="ship")]))
        assert file.read_text().endswith('["1", "another"]\n')

    @staticmethod
    def questions(tree, cache):
        spec = component("retort.trainers.data.pseudo_queries.GeneratedQuestions", cache=str(cache))
        spec["init_parameters"]["generator"] = component(GENERATOR)
        return Recipe.from_dict(tree).create(Component(**spec), "queries", "q")
