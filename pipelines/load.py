# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Loading the pipelines that come with retort, bound to a student, a store and a ranker."""

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from retort.students.files import resolve_model
from retort.students.manifest import Manifest, ManifestError

if TYPE_CHECKING:
    from haystack import Pipeline

STUDENT = "runs/quickstart/student"
INDEX = "runs/quickstart/index"
RANKER = "runs/ranker/student"
SPARSE = "runs/sparse/student"
IMAGE_STUDENT = "runs/images/student"
IMAGE_INDEX = "runs/images/index"

EDGE_STORE = "haystack_integrations.document_stores.retort.qdrant_edge_document_store.QdrantEdgeDocumentStore"
SERVER_STORE = "haystack_integrations.document_stores.qdrant.document_store.QdrantDocumentStore"


def is_url(store: str) -> bool:
    """Tell the URL of a collection on a Qdrant server from the folder of an index."""
    return store.startswith(("http://", "https://"))


# How an index compares what a model compares by, by sentence-transformers' names.
SIMILARITIES = {"cosine": "cosine", "dot": "dot_product", "euclidean": "l2"}
SERVER_QUANTIZATIONS: dict[str, dict[str, Any]] = {  # as `QdrantEdgeDocumentStore` has them
    "int8": {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}},
    "binary": {"binary": {"always_ram": True}},
    "turbo8": {"turbo": {"bits": "bits8", "always_ram": True}},
    "turbo4": {"turbo": {"bits": "bits4", "always_ram": True}},
    "turbo2": {"turbo": {"bits": "bits2", "always_ram": True}},
}


def missing_index(store: str) -> str | None:
    """
    Say what is to be done where there is no folder of an index; None where there is one, or of a server.

    :param store:
        Folder of the index, or URL of a collection on a Qdrant server.
    """
    if is_url(store) or Path(store).is_dir():
        return None
    return f"There is no index at {store}. {how_to_build(store)}"


def how_to_build(store: str) -> str:
    """Name the command that builds an index."""
    return f"Build one: retort index STUDENT --documents DIR --store {store}"


def similarity_for(student: str, index: str) -> str:
    """
    Say how embeddings are compared: as a folder's index does, else as the student's manifest has it, else by cosine.

    :param student:
        The student.
    :param index:
        Folder of the index, or URL of a collection on a Qdrant server.
    :returns:
        As `QdrantEdgeDocumentStore` has it.
    """
    from haystack_integrations.document_stores.retort.shared_shard import built_similarity

    if not is_url(index) and (built := built_similarity(index)):
        return built
    try:
        manifest = Manifest.read(Path(resolve_model(student)))
    except (ManifestError, OSError):  # the loading says what is wrong
        return "cosine"
    return SIMILARITIES.get(manifest.similarity if manifest else "", "cosine")


def store_spec(
    store: str,
    *,
    similarity: str = "cosine",
    embedding_dim: int | None = None,
    sparse: bool = False,
    quantization: str | None = None,
    storage: str | None = None,
) -> dict[str, Any]:
    """
    Describe a document store as pipelines in YAML do.

    :param store:
        Folder of an index, or URL of a collection: `http://HOST:6333/COLLECTION`. The server's key, if it wants one,
        is taken from the environment variable QDRANT_API_KEY.
    :param similarity:
        How embeddings are compared, as `QdrantEdgeDocumentStore` has it.
    :param embedding_dim:
        Dimension of the embeddings; only a server's collection must be told.
    :param sparse:
        Whether there are sparse embeddings; only a server's collection must be told.
    :param quantization:
        How embeddings are also kept, see `QdrantEdgeDocumentStore`; None takes what is there. On a server it holds for
        a collection that is created; the turbo ones need Qdrant 1.18 and were not run on one.
    :param storage:
        How a folder keeps embeddings themselves, see there.
    :returns:
        Its `type` and `init_parameters`.
    :raises DocumentStoreError:
        If a URL names no collection or is none, or a storage is asked of a server.
    """
    from haystack.document_stores.errors import DocumentStoreError

    if not is_url(store):
        kept = {"quantization": quantization, "storage": storage}
        kept |= {} if similarity == "cosine" else {"similarity": similarity}
        return {"type": EDGE_STORE, "init_parameters": {"path": store} | {k: v for k, v in kept.items() if v}}
    if storage:
        msg = f"{store}: a server keeps embeddings by its collection's own settings; storage is for folders."
        raise DocumentStoreError(msg)
    url, _, collection = store.rstrip("/").rpartition("/")
    try:
        place = urlsplit(url)
        _ = place.port  # read late: what is no number is found only now
    except ValueError as error:
        msg = f"{store} is no URL: {error}. Give http://HOST:6333/COLLECTION."
        raise DocumentStoreError(msg) from error
    if not place.netloc:
        msg = f"{store} names no collection. Give http://HOST:6333/COLLECTION."
        raise DocumentStoreError(msg)
    parameters = {
        "url": url,
        "index": collection,
        "similarity": similarity,
        "api_key": {"type": "env_var", "env_vars": ["QDRANT_API_KEY"], "strict": False},
        "progress_bar": False,
    }
    if embedding_dim is not None:
        parameters["embedding_dim"] = embedding_dim
    if quantization:
        parameters["quantization_config"] = SERVER_QUANTIZATIONS[quantization]
    if sparse:
        parameters["use_sparse_embeddings"] = True
    return {"type": SERVER_STORE, "init_parameters": parameters}


def pipeline_yaml(
    name: str,
    *,
    student: str | None = None,
    index: str | None = None,
    ranker: str = RANKER,
    sparse: str = SPARSE,
    images: str | None = None,
    similarity: str | None = None,
    embedding_dim: int | None = None,
    quantization: str | None = None,
    storage: str | None = None,
    sentences: bool = True,
    trust_remote_code: bool = False,
) -> str:
    """
    Return the YAML of a pipeline with its places filled in.

    :param name:
        Name of a YAML file of this package, such as `extractive_qa`.
    :param student:
        Takes the place of the quickstart's student, or of the one of images.
    :param index:
        Takes the place of its index: a folder, or a URL (see `store_spec`).
    :param ranker:
        Takes the place of the ranker.
    :param sparse:
        Takes the place of the sparse student.
    :param images:
        Folder that the paths of images are relative to, for pipelines that read them; None: the working directory.
    :param similarity:
        How the index compares embeddings; None: see `similarity_for`.
    :param embedding_dim:
        Dimension of the student's embeddings, for an index on a server.
    :param quantization:
        See `store_spec`; for pipelines that write.
    :param storage:
        Likewise.
    :param sentences:
        Whether an index keeps the vectors of sentences, for the answerer; for pipelines that write.
    :param trust_remote_code:
        Let components run code that their models bring along.
    :raises FileNotFoundError:
        If there is no such pipeline.
    """
    path = Path(__file__).parent / f"{name}.yml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.yml")))
        msg = f"There is no pipeline {name!r}; there are: {names}."
        raise FileNotFoundError(msg)
    hybrid = "hybrid" in name
    models = {STUDENT: student or STUDENT, IMAGE_STUDENT: student or IMAGE_STUDENT, RANKER: ranker, SPARSE: sparse}

    def filled(node: Any) -> Any:
        for shipped in (INDEX, IMAGE_INDEX):
            if node == store_spec(shipped):
                return store_spec(
                    index or shipped,
                    similarity=similarity or similarity_for(student or STUDENT, index or shipped),
                    embedding_dim=embedding_dim,
                    sparse=hybrid,
                    quantization=quantization,
                    storage=storage,
                )
        if isinstance(node, dict):
            named = any(isinstance(value, str) and value in models for value in node.values())
            trust = {"trust_remote_code": True} if trust_remote_code and named else {}
            kept: dict[str, Any] = {"sentences": sentences} if "sentences" in node else {}
            kept |= {"root_path": images} if "root_path" in node and images is not None else {}
            return {key: filled(value) for key, value in node.items()} | kept | trust
        if isinstance(node, list):
            return [filled(value) for value in node]
        return models.get(node, node) if isinstance(node, str) else node

    return yaml.safe_dump(filled(yaml.safe_load(path.read_text(encoding="utf-8"))), sort_keys=False)


def load_pipeline(name: str, **places: Any) -> "Pipeline":
    """Load a pipeline with its places filled in; parameters as of `pipeline_yaml`."""
    from haystack import Pipeline

    return Pipeline.loads(pipeline_yaml(name, **places))
