# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a student is: folder, manifest, hashes, encoding."""

from retort.students.backends.sessions import ExportError
from retort.students.files import DamagedFileError
from retort.students.handle import StudentHandle, read_manifest, read_space
from retort.students.loading import PrecisionError, RemoteCodeError
from retort.students.manifest import Manifest, ManifestError
from retort.students.ranker import Ranker
from retort.students.student import Student, save_student
from retort.students.towers import document_string

# Document metadata that begins so is ours, all other is the user's.
STAMP_PREFIX = "_retort_"
# The space that an embedding lies in, and the model that made it.
SPACE_STAMP = "_retort_space"
STUDENT_STAMP = "_retort_student"
# The same of its sparse embedding: a document may have both.
SPARSE_SPACE_STAMP = "_retort_sparse_space"
SPARSE_STUDENT_STAMP = "_retort_sparse_student"
# Vectors of its passages and sentences, as `students/sentences.py` packs them.
SENTENCES_STAMP = "_retort_sentences"
# The id of the document that this one is a view of.
VIEW_OF = "_retort_view_of"
# The folder that a passage was read from, and the file in it. Documents of a BEIR folder have neither.
ROOT_STAMP = "_retort_root"
FILE_STAMP = "_retort_file"
# The image that a document is: `root`, a folder; `file`, its path there; `item`, the key of its bytes in hexadecimal.
IMAGE_STAMP = "_retort_image"

__all__ = [
    "FILE_STAMP",
    "IMAGE_STAMP",
    "ROOT_STAMP",
    "SENTENCES_STAMP",
    "SPACE_STAMP",
    "SPARSE_SPACE_STAMP",
    "SPARSE_STUDENT_STAMP",
    "STAMP_PREFIX",
    "STUDENT_STAMP",
    "VIEW_OF",
    "DamagedFileError",
    "ExportError",
    "Manifest",
    "ManifestError",
    "PrecisionError",
    "Ranker",
    "RemoteCodeError",
    "Student",
    "StudentHandle",
    "document_string",
    "read_manifest",
    "read_space",
    "save_student",
]
