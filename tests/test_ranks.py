# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Several processes: all ranks learn the same, and what one process would have learned."""

import copy
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import TINY_VISION, pool, spec, stage, write_pictures
from two_ranks import run_all

from retort.trainers.context import TrainingContext
from retort.trainers.data.read import read_data
from retort.trainers.engine.checkpoints import list_checkpoints
from retort.trainers.runtime import distributed
from retort.trainers.runtime.distributed import ProcessGroup

SCRIPT = Path(__file__).parent / "two_ranks.py"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
# gloo on CPUs: without the variable Accelerate would look for GPUs and leave each process alone.
ENV = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)}
EXACT = [
    "whole",
    "cached",
    "small",
    "ranker",
    "ranker_cached",
    "ctkd",
    "lead",
    "ar2",
    "views",
    "sparse",
    "towers",
    "adam",
    "ca_mkd",
    "ckd",
    "master",
    "capstone",
    "cerberus",
    "cerberus_ranker",
    "simcse",
    "led",
    "nkd",
    "mtd",
    "dcd",
    "leaf",
    "cotmae",
    "fgd",
    "cudfkd",
    "e5",
    "images",
]
FITTED = ["prod", "r2anker"]
# Steps of a stage, by its place, where a few show all: what turns, is drawn again or starts anew needs the more.
FEWER = dict.fromkeys(
    (
        "ranker_cached",
        "adam",
        "ca_mkd",
        "ckd",
        "led",
        "nkd",
        "mtd",
        "dcd",
        "cerberus",
        "cerberus_ranker",
        "sparse",
        "lead",
    ),
    (-1, 4),
) | dict.fromkeys(("ctkd", "views", "towers"), (0, 2))


@pytest.fixture
def data(beir):
    """Half of the queries have no positive, so that ranks and parts count differently."""
    path = beir / "qrels" / "train.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line.replace("\t1\n", "\t0\n") if i % 2 else line for i, line in enumerate(lines)))
    write_pictures(beir / "pictures")
    return beir


@pytest.fixture
def jobs(recipe_tree, prod_tree, r2anker_tree, trunk, tiny_ranker, tiny_student):
    """The recipe with all kinds of objectives, heads and a learned temperature, in float64 without dropout."""
    whole = copy.deepcopy(recipe_tree)
    whole["student"]["type"] = "two_ranks.double_student"
    config = whole["student"]["init_parameters"]["config"]
    config["hidden_dropout_prob"] = config["attention_probs_dropout_prob"] = 0.0
    whole["teachers"]["ranker"] = spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu")
    whole["stages"][1]["temperature"] = spec("LearnedTemperature", initial=1.5)
    from_scores = [
        spec(name, teacher="ranker", weight=0.2) for name in ("ListwiseKL", "MarginMSE", "RankNet", "ListMLE")
    ]
    whole["stages"][1]["objectives"] += from_scores
    whole["training"] |= {"clip": 0.5, "batch_size": 6}
    ranker = copy.deepcopy(whole)
    ranker["student"] = spec("two_ranks.double_ranker", trunk=trunk, layers=[0, 3], max_tokens=32)
    ranker["candidates"].pop("own")
    ranker["stages"] = [ranker["stages"][1]]
    ranker["stages"][0]["candidates"]["sources"] = ["bm25"]
    ranker["stages"][0]["objectives"] = [spec("Contrastive", scope="list"), *from_scores[:2]]

    # Anchors, a selection, a refresh, and teachers that are trained within the run, one of them on its own errors.
    prod = copy.deepcopy(prod_tree)
    own = stage("own-errors", 2, spec("Contrastive"), candidates=pool("dual", negatives=2))
    prod["teachers"]["dual"] = spec(
        "TrainedInRunBiEncoder", student=spec("pretrained", model=tiny_student), stages=[own]
    )
    prod["candidates"]["dual"] = spec("DenseMiner", model="dual", depth=6)
    prod["stages"][0]["candidates"]["sources"] = ["dual"]
    prod["student"] = whole["student"]
    prod["stages"][2]["selector"]["init_parameters"]["teacher"] = "teacher"

    # Three retrievers' joint negatives, for a teacher that is trained within the run as well.
    r2anker = r2anker_tree | {"student": whole["student"]}

    # Temperatures that the divergences of a stage turn up, one a query.
    ctkd = copy.deepcopy(whole)
    ctkd["training"] |= {"accumulation": 2}
    ctkd["stages"][1]["temperature"] = spec("CurriculumTemperature", granularity="per_query", rise=0.3)

    # A live teacher that learns with the student, looked at in its layers; and one that learns in turns with it.
    lead = copy.deepcopy(whole)
    lead["training"] |= {"accumulation": 2, "cache_gradients": True, "tokens_per_chunk": 24}
    model = copy.deepcopy(whole["student"])
    model["init_parameters"]["seed"] = 6
    lead["teachers"]["live"] = spec("LiveTeacher", student=model, train=True, lr=2e-3)
    objectives = [
        spec("Contrastive", scope="list"),
        spec("TeacherContrastive", scope="in_batch"),
        spec("MutualKL", both=True),
        spec("LayerKL", redraw=2, weight_temperature=1.0),
    ]
    lead["stages"] = [whole["stages"][1] | {"teacher": "live", "objectives": objectives}]
    ar2 = copy.deepcopy(lead)
    ar2["stages"][0] |= {"refresh": 3}
    ar2["teachers"]["live"] = spec("LiveTeacher", student=copy.deepcopy(ranker["student"]))
    ar2["stages"][0]["objectives"] = [
        spec("Contrastive", scope="list"),
        spec("ListwiseKL"),
        spec("Adversarial", reduction="sum", weight=0.1),
        spec("TeacherContrastive", turn={"steps": 1, "cycle": 3}, lr=2e-3),
    ]

    # Documents with their list's question; and sparse vectors with their regulariser.
    views = copy.deepcopy(whole)
    text = spec("QuestionViews", queries=spec("TrainingQuestions"), plain=0.3)
    views["stages"][1]["candidates"]["text"] = text
    sparse = copy.deepcopy(ranker)
    lengths = {"query": 16, "document": 32}
    sparse["student"] = spec("two_ranks.double_sparse", trunk=trunk, layers=[0], max_tokens=lengths)
    sparse["stages"][0]["candidates"]["sampling"] = "multiset"
    sparse["stages"][0]["objectives"] = [spec("Contrastive"), spec("Flops")]

    # A table for queries, documents that stay, batches without them; vectors that may be cut.
    towers = copy.deepcopy(whole)
    frozen = spec("pretrained", model=tiny_student) | {"frozen": True}
    towers["student"] = spec("two_ranks.double_towers", query=spec("static", teacher=tiny_student), document=frozen)
    towers["training"] |= {"dims": [8, 3], "accumulation": 2}
    towers["stages"][0] |= {"batches": "queries", "objectives": [spec("Alignment")]}

    # Roles filled from outside: derived candidates, several teachers, what is fixed when a stage opens.
    skeletons = {}
    for name, change in (
        ("adam", {"candidates": pool("bm25", negatives=3, text=spec("retort.trainers.methods.adam.DarkExamples"))}),
        ("ca_mkd", {"weighting": spec("retort.trainers.methods.ca_mkd.Confidence")}),
        ("ckd", {}),
    ):
        skeletons[name] = copy.deepcopy(whole) | {"stages": [whole["stages"][1] | change]}
        skeletons[name]["training"] |= {"accumulation": 2}
    kl = spec("ListwiseKL", teacher="ranker")
    skeletons["adam"]["stages"][0]["objectives"] = [kl, spec("retort.trainers.methods.adam.DarkKL", teacher="ranker")]
    two = {"teacher": ["teacher", "ranker"], "teacher_temperature": {"teacher": 1.0, "ranker": 2.0}}
    features = spec(
        "retort.trainers.methods.ca_mkd.FeatureDistance", teacher=["teacher", "other"], detach_weights=False
    )
    skeletons["ca_mkd"]["teachers"]["other"] = skeletons["ca_mkd"]["teachers"]["teacher"]
    skeletons["ca_mkd"]["stages"][0]["objectives"] = [spec("ListwiseKL", **two), features]
    # Order and negatives of a lexical teacher; normalised divergences, half of the queries without labels.
    led, nkd = (copy.deepcopy(whole) | {"stages": [copy.deepcopy(whole["stages"][1])]} for _ in range(2))
    led["stages"][0]["objectives"] = [
        spec("Contrastive"),
        spec("retort.trainers.methods.led.RankConsistency", teacher="ranker", min_gap=0.01, protect_positives=True),
    ]
    nkd["stages"][0]["objectives"] = [
        spec("retort.trainers.methods.nkd.NKD", teacher="ranker"),
        spec("retort.trainers.methods.nkd.TeacherFreeNKD"),
    ]
    led["training"] |= {"accumulation": 2}
    mtd = copy.deepcopy(nkd)
    mtd["stages"][0]["objectives"] = [
        spec(
            "retort.trainers.methods.mtd.ConsensusAndDifference",
            teacher=["teacher", "ranker"],
            confidence=0.0,
            margin=0.0,
        )
    ]
    # The ranker's best of a pool; weights that sum to 1 over a step that is cut into parts.
    dcd = copy.deepcopy(led)
    dcd["stages"][0]["candidates"] = pool("bm25", "own", negatives=2, pool={"size": 5, "teacher": "ranker"})
    dcd["stages"][0]["objectives"] = [
        spec("retort.trainers.methods.dcd.DynamicContrastive", teacher="teacher", teacher_scale=500.0, centred=True)
    ]
    filtration = spec("retort.trainers.methods.ckd.KnowledgeFiltration", teacher="ranker")
    skeletons["ckd"]["stages"][0]["objectives"] = [kl, filtration]
    # Batches of documents alone; queries of a stage's own, made anew; a head a teacher, seen as a view.
    master, capstone, cerberus = (copy.deepcopy(whole) for _ in range(3))
    tasks = spec("retort.trainers.methods.master.MultiTaskReconstruction", layers=1, shuffle_every=2)
    forms = spec("retort.trainers.methods.master.PassageBatches", length=16)
    master["stages"] = [stage("pre-train", 4, tasks, batches=forms)]
    master["training"] |= {"accumulation": 2, "cache_gradients": True, "tokens_per_chunk": 24}
    distil = {name: value for name, value in whole["stages"][1].items() if name != "temperature"}
    expansion = spec("retort.trainers.methods.capstone.Expansion", queries=[spec("TrainingQuestions")], views=2)
    lists = {"sources": ["own"], "negatives": 2, "text": expansion}
    capstone["stages"] = [
        distil | {"queries": spec("retort.trainers.data.proposals.Proposals"), "refresh": 4, "candidates": lists}
    ]
    cerberus["student"] = spec("two_ranks.double_heads", trunk=trunk, layers=[0, 2], heads=2, dim=4)
    heads = spec("retort.trainers.methods.cerberus.HeadKL", teacher=list(whole["teachers"]))
    cerberus["stages"] = [distil | {"objectives": [heads]}]
    cerberus["training"] |= {"dims": [3], "cache_gradients": True, "batch_size": 1}  # a rank has no query
    head_ranker = spec("two_ranks.double_heads", maker="ranker_with_heads", trunk=tiny_ranker, heads=2)
    cerberus_ranker = copy.deepcopy(cerberus) | {"student": head_ranker, "candidates": ranker["candidates"]}
    cerberus_ranker["stages"][0]["candidates"] = pool("bm25", negatives=1)
    cerberus_ranker["training"].pop("dims")

    # Pieces of documents inside these documents' encodings, of which a process may have none.
    fgd = copy.deepcopy(skeletons["adam"])
    fgd["stages"][0]["candidates"]["text"] = spec("retort.trainers.methods.fgd.Pieces", passage_tokens=4, sentences=3)
    fgd["stages"][0]["objectives"] = [
        spec("Contrastive"),
        spec("retort.trainers.methods.fgd.PieceKL", teacher="ranker", scope="both"),
    ]
    fgd["training"] |= {"cache_gradients": True, "tokens_per_chunk": 24, "batch_size": 2}

    # A head that stays, which takes a narrower student to its teacher's width; queries and documents in one batch.
    leaf = copy.deepcopy(whole) | {"candidates": {}}
    leaf["student"]["init_parameters"]["dim"] = 16
    leaf["stages"] = [
        whole["stages"][0]
        | {"objectives": [spec("retort.trainers.methods.leaf.VectorRegression", head="fitted")], "steps": 5}
    ]
    leaf["training"] |= {"accumulation": 2, "cache_gradients": True, "tokens_per_chunk": 24, "lr_floor": 0.1}

    # Masked spans, as token ids, and a decoder over the vectors; the head and the student's embeddings are tied.
    cotmae = copy.deepcopy(whole) | {"candidates": {}, "teachers": {}}
    cotmae["student"]["init_parameters"]["pooling"] = "cls"
    mae = spec("retort.trainers.methods.cotmae.ContextReconstruction", shuffle_every=2)
    spans = spec("retort.trainers.batches.spans.SpanBatches", length=16, group=r"(d\d)\d")
    cotmae["stages"] = [stage("pre-train", 4, mae, batches=spans)]
    cotmae["training"] |= {"accumulation": 2, "cache_gradients": True, "tokens_per_chunk": 24}
    # Queries that are proposed anew, and chosen; weights by a pace that stays.
    cudfkd = copy.deepcopy(whole)
    cudfkd["candidates"]["random"] = spec("retort.trainers.candidates.drawn.RandomMiner", depth=2)
    cudfkd["stages"] = [
        distil
        | {
            "objectives": [spec("retort.trainers.methods.cudfkd.SelfPacedKL", teacher="ranker")],
            "queries": spec("retort.trainers.data.proposals.Proposals", pool=16),
            "selector": spec("retort.trainers.methods.cudfkd.UsefulQueries", teacher="ranker", clusters=4),
            "candidates": pool("own", "random", negatives=5),
            "refresh": 4,
        }
    ]
    # Pairs, of which a selector keeps some.
    e5 = copy.deepcopy(whole) | {"candidates": {}}
    e5["stages"] = [
        whole["stages"][0]
        | {
            "batches": "pairs",
            "selector": spec("retort.trainers.methods.e5.ConsistencyFilter", model="teacher", top=8),
            "objectives": [spec("retort.trainers.methods.e5.PairContrastive", parity="code")],
        }
    ]
    del e5["stages"][0]["teacher"]
    e5["training"] |= {"accumulation": 2, "cache_gradients": True, "tokens_per_chunk": 24}

    # Lists that a batch source brings along.
    simcse = copy.deepcopy(whole) | {"candidates": {}, "teachers": {}}
    simcse["stages"] = [
        whole["stages"][0] | {"batches": spec("skeletons.simcse.OwnPositives"), "objectives": [spec("Contrastive")]}
    ]
    del simcse["stages"][0]["teacher"]

    def changed(tree, **training):
        tree = copy.deepcopy(tree)
        tree["training"] |= training
        return tree

    # Images and captions, by contrast in the batch and in lists.
    images = copy.deepcopy(whole)
    images["student"] = spec(
        "two_ranks.double_images",
        text=spec("pretrained", model=tiny_student) | {"frozen": True},
        image={"config": TINY_VISION},
    )
    images["candidates"] = {"random": spec("RandomMiner", depth=8)}
    images["teachers"] = {}
    images["stages"] = [
        stage(
            "match", 4, spec("Contrastive"), spec("Contrastive", scope="list"), candidates=pool("random", negatives=3)
        )
    ]

    found = {
        "whole": whole,
        "cached": changed(whole, cache_gradients=True, tokens_per_chunk=24),
        "small": changed(whole, batch_size=1),  # fewer texts than ranks
        "ranker": ranker,
        "ranker_cached": changed(ranker, accumulation=2, cache_gradients=True, tokens_per_chunk=24),
        "prod": prod,
        "r2anker": r2anker,
        "ctkd": ctkd,
        "lead": lead,
        "ar2": ar2,
        "views": views,
        "sparse": sparse,
        "towers": towers,
        **skeletons,
        "master": master,
        "capstone": capstone,
        "cerberus": cerberus,
        "cerberus_ranker": cerberus_ranker,
        "simcse": simcse,
        "led": led,
        "nkd": nkd,
        "mtd": mtd,
        "dcd": dcd,
        "leaf": leaf,
        "cotmae": cotmae,
        "fgd": fgd,
        "cudfkd": cudfkd,
        "e5": e5,
        "images": images,
    }
    for name in found.keys() - {"whole", "small", "ranker", "prod"}:  # these evaluate and save on the way
        found[name] = changed(found[name], evaluate_every=0, checkpoint_every=100)
    for name, (place, steps) in FEWER.items():
        assert found[name]["stages"][place]["steps"] > steps
        found[name]["stages"][place]["steps"] = steps
    return found | {
        # Float32 with dropout: the ranks must agree, and a killed run must come back to it.
        "dropout": long(recipe_tree),
    }


def long(tree):
    tree = copy.deepcopy(tree)
    tree["stages"][1]["steps"] = 20
    return tree


def states(out: Path, rank: int) -> dict[str, torch.Tensor]:
    paths = sorted(out.glob(f"rank-{rank}-*.safetensors"))
    assert paths
    return {name: t for path in paths for name, t in load_file(path).items()}


@pytest.mark.integration
def test_two_ranks(jobs, data, tmp_path):
    """One launch for all, the run that is killed at its end: starting processes is what costs."""
    (tmp_path / "jobs.json").write_text(json.dumps(jobs | {"killed": jobs["dropout"]}))
    two, one = tmp_path / "two", tmp_path / "one"
    launch_and_kill(tmp_path, data, two)
    work = [json.loads((two / f"work-{rank}.json").read_text()) for rank in (0, 1)]
    assert work[0].keys() == work[1].keys() >= {"student document", "teacher document", "teacher query", "ranker"}
    assert all(work[1][task] > 0.3 * work[0][task] for task in work[0])  # the first rank has the odd ones
    for kind in ("vectors", "scores"):  # float32, of other batches: equal to rounding alone
        shutil.copytree(two / ".retort-cache" / kind, one / ".retort-cache" / kind)
    run_all({name: jobs[name] for name in (*EXACT, *FITTED)}, data, one)
    for name in jobs:
        first, second = states(two / name, 0), states(two / name, 1)
        assert [k for k in first if not torch.equal(first[k], second[k])] == [], name
    for name in EXACT:
        ours, theirs = states(one / name, 0), states(two / name, 0)
        assert ours.keys() == theirs.keys()
        worst = {k: float((ours[k] - theirs[k]).abs().max()) for k in ours if ours[k].is_floating_point()}
        assert all(gap < 1e-10 for gap in worst.values()), (name, max(worst, key=lambda k: worst[k]))  # NaN, too
        lines = [[json.loads(line) for line in (o / name / "log.jsonl").read_text().splitlines()] for o in (one, two)]
        for mine, other in zip(*lines, strict=True):
            assert mine.get("terms", {}) == pytest.approx(other.get("terms", {}), abs=1e-9)
            assert mine["queries_without_positive"] == other["queries_without_positive"]
    # The teacher that is trained on the way learns and teaches in float32.
    for name in FITTED:
        ours, theirs = states(one / name, 0), states(two / name, 0)
        assert ours.keys() == theirs.keys()
        assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours if ours[k].is_floating_point()) < 1e-5, name
    log = [json.loads(line) for line in (one / "whole" / "log.jsonl").read_text().splitlines()]
    assert 0 < log[-1]["queries_without_positive"] < 7 * 6
    # Something was learned, the temperature too; and memory tricks change nothing.
    start, end = states(one / "whole", 0), states(one / "cached", 0)
    moved = start["2.temperatures.stage_distil.log_temperature"] - torch.tensor(1.5).double().log()
    assert abs(float(moved)) > 1e-4
    assert max(float((start[k] - end[k]).abs().max()) for k in start if start[k].is_floating_point()) < 1e-10

    comes_back(jobs["dropout"], data, two)


def launch_and_kill(tmp_path, data, out) -> None:
    """Run all jobs in two processes, and SIGKILL both when the last one has written a checkpoint."""
    with (tmp_path / "launch.log").open("w+") as said:
        command = [*LAUNCH, SCRIPT, tmp_path / "jobs.json", data, out]
        process = subprocess.Popen(list(map(str, command)), env=ENV, stdout=said, stderr=subprocess.STDOUT)
        while not list_checkpoints(out / "killed" / "checkpoints"):
            assert process.poll() is None, (tmp_path / "launch.log").read_text()
            time.sleep(0.005)
        for worker in psutil.Process(process.pid).children(recursive=True):
            worker.kill()
        assert process.wait() != 0
    assert not (out / "killed" / "metrics.json").exists()


def comes_back(tree, data, out) -> None:
    """`retort train --resume` ends where the uninterrupted run did, bit for bit."""
    recipe, killed = out / "recipe.yaml", out / "killed"
    recipe.write_text(yaml.safe_dump(tree))
    command = [*LAUNCH, *"-m retort.cli train --no-export --resume --recipe".split(), recipe, "--data", data, "--out"]
    found = subprocess.run([*command, killed], capture_output=True, text=True, env=ENV, check=False)
    assert found.returncode == 0, found.stderr
    whole = out / "dropout"
    finished = [load_file(list_checkpoints(o / "checkpoints")[-1] / "state.safetensors") for o in (whole, killed)]
    assert finished[0].keys() == finished[1].keys()
    assert {k for k in finished[0] if k.startswith("rng::")} == {"rng::0::cpu", "rng::1::cpu"}
    assert [k for k in finished[0] if not torch.equal(finished[0][k], finished[1][k])] == []
    students = [load_file(o / "student" / "model.safetensors") for o in (whole, killed)]
    assert all(torch.equal(students[0][k], students[1][k]) for k in students[0])


class TestSharing:
    """The first of two processes, and what the second one would answer."""

    @pytest.fixture
    def group(self, monkeypatch):
        group = ProcessGroup()
        group.world_size, group.theirs, group.sent = 2, [], []
        monkeypatch.setattr(group, "broadcast", group.sent.append)
        monkeypatch.setattr(group, "all_gather", lambda own: [own, group.theirs.pop(0)])
        return group

    def test_each_does_its_own(self, group, monkeypatch):
        monkeypatch.setattr(distributed, "SHARED", 2)
        items = ["a", "bbb", "cc", "d", "eeeee"]
        group.theirs = [["cc", "d"], None]
        with group.main_first(lambda task, own: [task, *own]):
            assert group.leads
            found = [(rows.tolist(), answer) for rows, answer in group.share("upper", items, items)]
        assert found == [([1, 0], ["upper", "bbb", "a"]), ([2, 3], ["cc", "d"]), ([4], ["upper", "eeeee"])]
        shares = [[["bbb", "a"], ["cc", "d"]], [["eeeee"], []]]
        assert group.sent == [*(("upper", own) for own in shares), None]  # then the others follow
        assert not group.leads

    def test_what_one_raises_is_raised_after_what_the_others_gave(self, group):
        group.theirs = [ValueError("theirs")]
        found = []
        with group.main_first(lambda _, own: own), pytest.raises(ValueError, match="theirs"):
            for rows, _ in group.share("x", ["a", "b"], ["a", "b"]):
                found.append(rows.tolist())
        assert found == [[0]]

    def test_contexts_made_on_the_way_work_alone_afterwards(self, group, beir, tmp_path):
        """Else the first rank would ask others that do not listen."""
        context = TrainingContext(read_data(beir, "train"), {}, tmp_path)
        context.processes = group
        with group.main_first(context.work):
            derived = context.over(context.data)
            assert derived._team() is group
        assert derived._team() is None is context._team()

    @pytest.mark.parametrize("held", [threading.Lock(), None])
    def test_an_error_that_cannot_be_sent_names_its_cause(self, group, held):
        class OddError(Exception):
            def __init__(self, why, held):
                super().__init__(why)
                self.held = held

        group.theirs = [["b"]]

        def fail(*_):
            msg = "the cause"
            raise OddError(msg, held)

        with group.main_first(fail), pytest.raises(RuntimeError, match="OddError: the cause") as caught:
            list(group.share("x", ["a", "b"], ["a", "b"]))
        assert "in fail" in caught.value.__notes__[0]

    def test_the_first_ones_own_error_does_not_leave_the_others_waiting(self, group):
        group.theirs = [["b"]]

        def fail(*_):
            msg = "own"
            raise ValueError(msg)

        with group.main_first(fail), pytest.raises(ValueError, match="own"):
            list(group.share("x", ["a", "b"], ["a", "b"]))
        assert group.theirs == []  # it took part in collecting the answers
