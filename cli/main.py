# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Parses the command line, calls, and turns errors that a user can mend into one line."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from retort import __version__
from retort.students.extras import missing
from retort.students.files import FULL_DISK
from retort.students.redaction import redacted

EPILOG = """\
start here:
  retort quickstart                     from this Python's documentation to cited answers, offline, in minutes

then, with your own documents and nothing else:
  retort distill --documents DIR --out runs/mine                      queries are made up; a student is trained

or, with queries and judgements:
  retort train --recipe kd --data DATA --out runs/mine
  retort evaluate bm25 runs/mine/student --data DATA --split dev
  retort export runs/mine/student --data DATA                                            faster on CPUs
  retort index runs/mine/student --documents DATA --store runs/mine/index
  retort ask "your question" --store runs/mine/index
  retort serve --store runs/mine/index                                                   a page in the browser

DATA is a BEIR folder: corpus.jsonl[.gz], queries.jsonl[.gz], qrels/{train,dev,test}.tsv.
`retort COMMAND --help` explains each command.
"""

TRAIN_EPILOG = """\
examples:
  retort train --recipe kd --data my-data --out runs/first
  retort train --recipe kd --data my-data --out runs/first --resume         go on after an interruption
  retort train --recipe kd --data my-data --out runs/long --set stages.1.steps=4000 --set training.precision=auto
  retort train --recipe my-recipe.yaml --data my-data --out runs/own --plan    calls, time, memory and money; then stop
  retort train --recipe my-recipe.yaml --data my-data --out runs/own
  retort train --recipe ranker --data my-data --out runs/ranker
  retort train --recipe cotmae-small --documents handbook/ --out runs/trunk         pre-training; no queries are needed
  accelerate launch -m retort.cli train --recipe kd --data my-data --out runs/many      on all GPUs

DATA is a BEIR folder; or a folder with train.jsonl (and dev.jsonl), or one file, as FlagEmbedding (query, pos, neg,
scores) or sentence-transformers (pairs, triplets, lists with scores) have them: .jsonl, .csv, .tsv or .parquet.
Recipes that train on documents alone (cotmae, master) take a corpus.jsonl without queries, or --documents: files (.txt
.md .html .pdf .docx), which are read once and kept in data/ of the run folder. Nothing is measured then.

The run folder gets recipe.yaml (everything resolved), log.jsonl, checkpoints/, candidates/, student/, metrics.json,
per_query/ and rankings/. student/ is a plain sentence-transformers folder.
"""

RECIPE_EPILOG = """\
examples:
  retort recipe list
  retort recipe show kd --set stages.1.steps=4000            everything resolved, as a run writes it
  retort recipe schema > recipe.schema.json

With the first line

  # yaml-language-server: $schema=recipe.schema.json

in a recipe, editors complete its keys, explain them and underline what is wrong. A recipe that differs from another in
values only names it (`extends: kd`) and holds what differs: mappings are merged, stages by their names, objectives by
their positions; null takes a key out.
"""

EVALUATE_EPILOG = """\
examples:
  retort evaluate bm25 sentence-transformers/all-MiniLM-L6-v2 runs/first/student --data my-data --split dev
  retort evaluate runs/first/student --rerank runs/ranker/student --depth 50 --data my-data --split dev
  retort evaluate TEACHER runs/first/student bm25 --data my-data --split dev --zero-shot other-data third-data

Every model ranks the whole corpus, exactly. ms is the median time of one query from text to its top 100, encoding
alone in brackets; MB are its weights in the precision evaluated. With --rerank the lines of a ranker give the time of
ranking alone, pairs a second, and the change's p by a paired randomisation test. With --zero-shot a second table has
each model's nDCG@10 on data that none was trained on, and its share of the first model's; the run's report shows it.
"""

COMPARE_EPILOG = """\
examples:
  retort compare runs/first runs/second --split dev
  retort compare bm25 runs/first runs/second --data my-data --split dev --json comparison.json

Each is compared with the first, query by query. A run folder has the figures of its dev split; for another split, and
for models and bm25, --data is needed. Forgotten: the first relevant document was at rank 1, and is not any more.
"""

REPORT_EPILOG = """\
examples:
  retort report runs/first
  retort report runs/first --data my-data --others bm25 sentence-transformers/all-MiniLM-L6-v2 --out report.html

One page without scripts or anything to fetch. With --data it shows queries as texts, and others beside the student.
"""

EXPORT_EPILOG = """\
examples:
  retort export runs/first/student --data my-data
  retort export runs/first/student --data my-data --precision int8 --tolerance 0.02 --threads 1

Writes the student as ONNX graphs, in float32 and int8, into its folder: these run without torch. With --data all its
forms are measured, and the fastest that loses no more than --tolerance is what components run from now on, where
nothing else is set. The table is in retort.json. Index and space stay as they are.
"""

DISTILL_EPILOG = """\
examples:
  retort distill --documents handbook/ --out runs/handbook --plan         what it would do and take
  retort distill --documents handbook/ --out runs/handbook
  retort distill --documents handbook/ --out runs/quick --recipe static_lexical      minutes: a table of token vectors
  retort distill --documents handbook/ --out runs/judged --teacher judge.yaml --queries clicks.csv

Reads files (.txt .md .html .pdf .docx) or a BEIR folder, makes queries of them, trains, evaluates against BM25 and the
untrained model, exports, indexes, and writes pipelines/*.yml and report.html. Hidden files are not read. Links
are followed to files within the folder only, never out of it. The same command goes on after an interruption.

--teacher is a model's name, or a YAML file: {type, init_parameters} of a Haystack ranker, chat generator or teacher, or
{text_embedder, document_embedder}. --generator makes up further questions: {type, init_parameters} of a chat generator,
or {generator, prompt, most, revision}. --queries has real queries, which are kept for dev: .jsonl with query and
documents, or .csv with query and document; a document is an id or a file's path.
"""

INDEX_EPILOG = """\
examples:
  retort index runs/first/student --documents handbook/ --store runs/first/index
  retort index runs/first/student --documents my-data --store runs/first/index     a BEIR folder
  retort index runs/first/student --documents handbook/ --store http://localhost:6333/handbook
  retort index runs/images/student --documents photos/ --store runs/images/index    a student of kind image_text

Files (.txt .md .html .pdf .docx) are read by Haystack's converters and cut into passages. Hidden files are
not read. Links are followed to files within the folder only, never out of it. An index that is there is added to;
documents of the same id are replaced, and so are the passages of a file that changed. What files that are gone once
gave stays, unless --prune deletes it. A file of the same name in another folder is refused.

A student of kind image_text reads images alone (.png .jpg .webp .gif .bmp .tif), or a BEIR folder whose records have
an "image". Each becomes a document with its file's name as title. It needs pip install 'retort-haystack[images]'.

A URL is a collection on a Qdrant server: http(s)://HOST:PORT/COLLECTION, port 6333 if none is given. The key of the
server, if it wants one, is read from QDRANT_API_KEY.
"""

ASK_EPILOG = """\
examples:
  retort ask "How do I merge two dictionaries?" --store runs/quickstart/index
  retort ask "..." --store runs/first/index --json
  retort ask "..." --store runs/first/index --filter topic=cats --filter "year>=2020"
  retort ask "..." --store http://localhost:6333/handbook
  retort ask "a red heart" --store runs/images/index --top-k 10          files of images, best first

An index in a folder belongs to one process at a time: where `retort serve` holds it, it is asked over HTTP, with
RETORT_API_KEY of the environment as its key.
"""


STAMP_EPILOG = """\
examples:
  retort stamp my-index --student runs/asymmetric/student
  retort stamp my-index --student runs/asymmetric/student --meta-fields                  only the content was embedded
  retort stamp http://localhost:6333/handbook --student runs/api/student --embedder embedder.yaml

For an index that Haystack's own embedder and DocumentWriter wrote, and a student that was trained to search it: one
whose document side is the embedder's model, or one that encodes queries only and leaves documents to an API. Up to 20
documents are embedded anew and compared; if they agree, every document is stamped with the student's space, by which
StudentRetriever knows the index. Embeddings stay as they are. Without the stamp it refuses the index.

FILE has {type, init_parameters} of the document embedder, with the revision of an API's model beside them; or a
teacher's {text_embedder, document_embedder, revision}.
"""

SERVE_EPILOG = """\
examples:
  retort serve --store runs/quickstart/index
  retort serve --store runs/first/index --other runs/teacher/index          two models beside each other
  retort serve --store runs/first/index --generator llm.yaml --host 0.0.0.0

A page for people at /, chat as OpenAI's clients speak it at /v1/chat/completions (model: chat), the pipelines
extractive_qa and search at /NAME/run, /health and /ready. Without --generator ({type, init_parameters} of a Haystack
chat generator) answers are sentences of the documents. Of an index of images the page shows previews.

RETORT_API_KEY in the environment is the key that callers must send as a bearer token. Without one, name with
--allowed-hosts what the server is called by where --host is another: else a site that leads a browser to it can read
the documents. Behind a proxy, FORWARDED_ALLOW_IPS names its address: else all of its callers count as one client.
"""

ALLOW = "trust types of this module, ask this server, or, with trust_remote_code, run code that models bring along"
TRUST = "run code that a model's folder brings along; only if you trust it"


PASSAGES = "words of a passage, at most (default: 150, or as the student was made for)"
MAX_CALLS = "calls of remote teachers and generators, at most; then stop, keeping what came"
ON_ERROR = "a file that cannot be read or has no text: name it and go on, or stop"


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for those that only say that nothing is set."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        unsaid = action.nargs == 0 or action.default in (None, False, [], " ")  # flags say themselves what they change
        return action.help if unsaid else super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="retort",
        description="Distil small, fast retrievers out of strong, slow ones, and run them in Haystack.",
        epilog=EPILOG,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"retort {__version__}")
    parser.set_defaults(show_help=parser.print_help)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, help_text: str, epilog: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_text, description=help_text, epilog=epilog, formatter_class=_Help)

    quick = add("quickstart", "From the documentation of this Python to cited answers, offline, in minutes.")
    quick.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="where everything is written")

    train = add("train", "Train a student by a recipe.", TRAIN_EPILOG)
    train.add_argument("--recipe", required=True, help="name of a recipe that comes with retort, or a YAML file")
    learned_from = train.add_mutually_exclusive_group(required=True)
    learned_from.add_argument("--data", type=Path, help="BEIR folder, or training data (see below)")
    learned_from.add_argument("--documents", type=Path, help="documents alone, for recipes that need no queries")
    train.add_argument("--out", required=True, type=Path, help="run folder to write")
    train.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change one value of the recipe")
    train.add_argument("--allow", action="append", default=[], metavar="NAME", help=ALLOW)
    train.add_argument("--max-calls", type=not_negative, default=None, metavar="N", help=MAX_CALLS)
    train.add_argument(
        "--no-export", dest="export", action="store_false", help="write no ONNX graph, by which it runs without torch"
    )
    train.add_argument("--resume", action="store_true", help="go on with the run that --out holds")
    train.add_argument("--plan", action="store_true", help="print what it takes, and stop: nobody is asked")

    recipe = add(
        "recipe", "List the recipes that come with retort, show one, or print their JSON Schema.", RECIPE_EPILOG
    )
    recipe.set_defaults(show_help=recipe.print_help)
    actions = recipe.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="names of all recipes, a line each")
    actions.add_parser("schema", help="JSON Schema of recipes, for editors")
    show = actions.add_parser("show", help="one recipe with all its defaults", formatter_class=_Help)
    show.add_argument("name", help="name of a recipe that comes with retort, or a YAML file")
    show.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change one value of the recipe")
    show.add_argument("--allow", action="append", default=[], metavar="NAME", help=ALLOW)

    distill = add("distill", "From a folder of documents to a student, an index and pipelines.", DISTILL_EPILOG)
    distill.add_argument("--documents", required=True, type=Path, help="folder of documents, one file, or BEIR folder")
    distill.add_argument("--out", required=True, type=Path, help="folder to write")
    distill.add_argument("--teacher", default=None, metavar="TEACHER", help="YAML file or model; default: the recipe's")
    distill.add_argument(
        "--recipe",
        default=None,
        help="default: kd_lexical, or kd_scores for a teacher of scores; static_lexical is the quick one",
    )
    distill.add_argument("--queries", type=Path, default=None, metavar="FILE", help="real queries with their documents")
    distill.add_argument(
        "--generator", type=Path, default=None, metavar="YAML", help="chat generator that makes up questions, too"
    )
    distill.add_argument(
        "--split",
        choices=["auto", "passages", "documents"],
        default="auto",
        help="what gets a vector: passages of files, or whole files, several for a long one (default: by their length, "
        "files for fgd)",
    )
    distill.add_argument("--passage-words", type=positive, default=None, metavar="N", help=PASSAGES)
    distill.add_argument("--dev-share", type=float, default=0.1, help="share of the documents that is kept for dev")
    distill.add_argument(
        "--weak-pairs", action="store_true", help="train on titles, headings and the like, too, before the last stage"
    )
    distill.add_argument(
        "--deadline", type=float, default=None, metavar="MINUTES", help="stop then, keeping what is done"
    )
    distill.add_argument("--max-calls", type=not_negative, default=None, metavar="N", help=MAX_CALLS)
    distill.add_argument("--on-error", choices=["skip", "fail"], default="skip", help=ON_ERROR)
    distill.add_argument("--plan", action="store_true", help="print what would be done and what it takes, and stop")
    distill.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change one value of the recipe")
    distill.add_argument("--allow", action="append", default=[], metavar="NAME", help=ALLOW)

    evaluate = add("evaluate", "Measure quality, speed and size of students, models and BM25.", EVALUATE_EPILOG)
    evaluate.add_argument("models", nargs="+", metavar="MODEL", help="student or model folder, Hub id, or bm25")
    evaluate.add_argument("--data", required=True, type=Path, help="BEIR folder, or training data with labels")
    evaluate.add_argument("--split", required=True, help="split to evaluate on: dev, or test once at the very end")
    evaluate.add_argument(
        "--zero-shot", nargs="+", default=[], type=Path, metavar="FOLDER", help="other data, to see what was forgotten"
    )
    evaluate.add_argument("--rerank", default=None, metavar="RANKER", help="rank each model's first documents anew")
    evaluate.add_argument("--depth", type=positive, default=50, help="how many documents --rerank ranks")
    evaluate.add_argument("--max-queries", type=positive, default=None, metavar="N", help="the first N queries only")
    evaluate.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here, too")
    forms = ["float32", "bfloat16", "auto", "int8"]
    evaluate.add_argument("--precision", choices=forms, default="float32", help="arithmetic; int8 is an export")
    evaluate.add_argument("--backend", choices=["auto", "torch", "onnx"], default="auto", help="onnx runs an export")
    evaluate.add_argument("--dim", type=positive, default=None, metavar="D", help="keep the first D entries of vectors")
    evaluate.add_argument(
        "--threads", type=positive, default=None, metavar="N", help="of an export; default: all cores"
    )
    evaluate.add_argument("--empty", choices=["error", "skip"], default="error", help="what to do with empty texts")
    evaluate.add_argument("--trust-remote-code", action="store_true", help=TRUST)

    compare = add("compare", "Tell whether runs differ by more than chance, query by query.", COMPARE_EPILOG)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run folder, model, or bm25; the first is the baseline")
    compare.add_argument("--split", required=True, help="split to compare on")
    compare.add_argument("--data", default=None, type=Path, help="BEIR folder, for what has no figures yet")
    compare.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here, too")
    compare.add_argument("--empty", choices=["error", "skip"], default="error", help="what to do with empty texts")
    compare.add_argument("--trust-remote-code", action="store_true", help=TRUST)

    report = add("report", "Write a page about a run, for people.", REPORT_EPILOG)
    report.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    report.add_argument("--out", type=Path, default=None, metavar="FILE", help="default: report.html in the run folder")
    report.add_argument("--data", type=Path, default=None, help="BEIR folder that the run was trained on")
    report.add_argument("--split", default="dev", help="its split")
    report.add_argument("--others", nargs="+", default=[], metavar="MODEL", help="models or bm25 to show, too")
    report.add_argument("--empty", choices=["error", "skip"], default="error", help="what to do with empty texts")
    report.add_argument("--trust-remote-code", action="store_true", help=TRUST)

    export = add("export", "Make a student faster on CPUs, and measure what that costs.", EXPORT_EPILOG)
    export.add_argument("student", type=Path, help="student folder; exports are written into it")
    export.add_argument("--data", type=Path, default=None, help="BEIR folder, or training data with labels")
    export.add_argument("--split", default="dev", help="its split; not test: the choice is made on it")
    export.add_argument("--precision", choices=["auto", "float32", "int8"], default="auto", help="auto tries all")
    export.add_argument("--tolerance", type=float, default=0.01, help="share of nDCG@10 that may be lost")
    export.add_argument("--threads", type=positive, default=None, metavar="N", help="of a graph; default: all cores")
    export.add_argument("--max-queries", type=positive, default=None, metavar="N", help="the first N queries only")
    export.add_argument("--empty", choices=["error", "skip"], default="error", help="what to do with empty texts")
    export.add_argument("--trust-remote-code", action="store_true", help=TRUST)

    index = add("index", "Embed documents with a student and write them into a Qdrant index.", INDEX_EPILOG)
    index.add_argument("student", help="student or model folder, or Hub id")
    index.add_argument("--documents", required=True, type=Path, help="folder of documents, one file, or BEIR folder")
    index.add_argument("--store", required=True, metavar="STORE", help="folder of the index, or URL of a collection")
    index.add_argument("--passage-words", type=positive, default=None, metavar="N", help=PASSAGES)
    index.add_argument("--sparse", metavar="STUDENT", help="sparse student as well, for hybrid retrieval")
    index.add_argument(
        "--quantization",
        choices=["none", "int8", "binary", "turbo8", "turbo4", "turbo2"],
        help="keep embeddings in a byte a dimension or less as well, to search by; default: turbo4 for a new folder",
    )
    index.add_argument(
        "--storage",
        choices=["float32", "float16", "turbo8"],
        help="how a folder keeps embeddings themselves; default: float16 for a new one",
    )
    index.add_argument(
        "--no-sentences",
        dest="sentences",
        action="store_false",
        help="keep no vectors of sentences: indexing is sooner done, the index smaller, answers slower",
    )
    index.add_argument(
        "--prune", action="store_true", help="delete every document of the index that --documents does not give"
    )
    index.add_argument("--on-error", choices=["skip", "fail"], default="skip", help=ON_ERROR)
    index.add_argument("--trust-remote-code", action="store_true", help=TRUST)

    stamp = add("stamp", "Mark an index made elsewhere as one that a student may search.", STAMP_EPILOG)
    stamp.add_argument("store", metavar="STORE", help="folder of the index, or URL of a collection")
    stamp.add_argument("--student", required=True, metavar="DIR", help="student that is to search it")
    stamp.add_argument(
        "--embedder", type=Path, default=None, metavar="FILE", help="YAML of what embedded it, if not the student"
    )
    stamp.add_argument(
        "--meta-fields",
        nargs="*",
        default=None,
        metavar="NAME",
        help="meta fields that were embedded before the content; default: title; without a name: none",
    )
    stamp.add_argument("--separator", default=" ", help="what stood between them (default: a space)")
    stamp.add_argument("--allow", action="append", default=[], metavar="NAME", help=ALLOW)
    stamp.add_argument("--trust-remote-code", action="store_true", help=TRUST)

    serve = add("serve", "Serve an index: a page, chat for OpenAI clients, pipelines over HTTP.", SERVE_EPILOG)
    serve.add_argument("--store", required=True, metavar="STORE", help="folder of the index, or URL of a collection")
    serve.add_argument("--student", default=None, help="student to ask with; by default the one that built the index")
    serve.add_argument("--other", default=None, metavar="STORE", help="index of another model, to compare with")
    serve.add_argument("--generator", type=Path, default=None, metavar="YAML", help="chat generator that answers")
    serve.add_argument("--allow", action="append", default=[], metavar="NAME", help=ALLOW)
    serve.add_argument(
        "--report", type=Path, default=None, metavar="FILE", help="default: report.html beside the index"
    )
    serve.add_argument("--host", default="localhost", help="address to listen on")
    serve.add_argument(
        "--allowed-hosts",
        nargs="+",
        default=None,
        metavar="NAME",
        help="names that it may be called by beside localhost; default: none, or any with a key or another --host",
    )
    serve.add_argument("--port", type=port, default=1416, help="port to listen on; 0: a free one")
    serve.add_argument("--workers", type=positive, default=2, metavar="N", help="questions worked on at a time")
    serve.add_argument(
        "--max-requests", type=positive, default=256, metavar="N", help="requests at a time, half of one client"
    )
    serve.add_argument("--max-body", type=positive, default=65536, metavar="BYTES", help="longest request")
    serve.add_argument(
        "--body-timeout", type=positive, default=10, metavar="SECONDS", help="that a request may take to arrive"
    )
    serve.add_argument("--trust-remote-code", action="store_true", help=TRUST)

    ask = add("ask", "Ask a question; the answer is cited from the index, or lists its images.", ASK_EPILOG)
    ask.add_argument("question")
    ask.add_argument("--store", required=True, metavar="STORE", help="folder of the index, or URL of a collection")
    ask.add_argument("--student", default=None, help="student to ask with; by default the one that built the index")
    ask.add_argument("--top-k", type=positive, default=3, help="answers or images to give, at most")
    ask.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="only documents where this holds (also != > >= < <=); or a filter of Haystack in JSON; all must hold",
    )
    ask.add_argument("--json", action="store_true", help="print JSON")
    ask.add_argument("--trust-remote-code", action="store_true", help=TRUST)
    return parser


def positive(text: str) -> int:
    """Read a number above 0 from the command line."""
    if (number := int(text)) < 1:
        msg = f"{number} is not above 0"
        raise argparse.ArgumentTypeError(msg)
    return number


def not_negative(text: str) -> int:
    """Read a number from the command line, 0 or more."""
    if (number := int(text)) < 0:
        msg = f"{number} is below 0"
        raise argparse.ArgumentTypeError(msg)
    return number


def port(text: str) -> int:
    """Read a port from the command line."""
    if not 0 <= (number := int(text)) < 2**16:
        msg = f"{number} is no port: 0 to 65535"
        raise argparse.ArgumentTypeError(msg)
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command line.

    :param arguments:
        Arguments; by default those of the process. Errors that a user can mend end it with status 2.
    """
    _print_anything()
    given = build_parser().parse_args(arguments)
    if given.command is None or (given.command == "recipe" and given.action is None):
        given.show_help()
        return
    _quiet()
    try:
        import_module("retort.cli.early").check(given)
        command: Any = import_module(f"retort.cli.{given.command}")
        command.run(given)
    except ModuleNotFoundError as error:
        if (mend := missing(error, f"retort {given.command}")) is None:
            raise
        print(f"retort: error: {mend}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "\nretort: interrupted. Finished work is kept; run it again (train: with --resume).",
            file=sys.stderr,
        )
        sys.exit(130)
    except Exception as error:
        if os.environ.get("RETORT_DEBUG") or not isinstance(error, _mendable()):
            raise
        print(f"retort: error: {redacted(str(error))}{_mend_of(error)}", file=sys.stderr)
        sys.exit(2)


MENDABLE = {
    "haystack.core.errors": ("DeserializationError", "PipelineRuntimeError"),
    "haystack.document_stores.errors": ("DocumentStoreError",),
    "haystack.errors": ("FilterError",),
    "haystack_integrations.components.retrievers.retort": ("SpaceMismatchError",),
    "retort.students": ("DamagedFileError", "ExportError", "ManifestError", "PrecisionError", "RemoteCodeError"),
    "retort.students.images": ("ImageError",),
    "retort.trainers.runtime.errors": ("CacheError", "DataError", "RecipeError", "TeacherError"),
}


def _mend_of(error: Exception) -> str:
    """Say what to do about an error of the system whose words do not."""
    full = isinstance(error, OSError) and error.errno in FULL_DISK
    return ". Free space on the disk, and run the same command again (train: with --resume)." if full else ""


def _print_anything() -> None:
    """Escape what the terminal's encoding lacks: else a document's text ends the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _quiet() -> None:
    """Our own bars and lines are enough; nothing that a command does asks the network unless a Hub id is given."""
    os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("retort: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("retort.trainers.runtime.progress").setLevel(logging.INFO)
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    if sys.modules.get("transformers"):  # else it reads the variables above as it is imported
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


class _Redacting(logging.Formatter):
    """Writes lines of the log without secrets, which other packages' errors may hold."""

    def format(self, record: logging.LogRecord) -> str:
        return str(redacted(super().format(record)))


def _mendable() -> tuple[type[Exception], ...]:
    """Return the errors that a user can mend; a module that was not imported raised none of its own."""
    found = (getattr(sys.modules.get(module), name, None) for module, names in MENDABLE.items() for name in names)
    return (FloatingPointError, OSError, *(kind for kind in found if kind is not None))
