# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a student is: folder, manifest, hashes, encoding."""

from retort.students.manifest import Manifest, ManifestError
from retort.students.student import Student, StudentHandle, save_student

__all__ = ["Manifest", "ManifestError", "Student", "StudentHandle", "save_student"]
