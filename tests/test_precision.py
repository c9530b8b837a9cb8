# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Precision, backend, device: values that no model knows are refused, before anything is loaded or trained."""

import pytest
import torch
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.utils import ComponentDevice

from haystack_integrations.components.embedders.retort import (
    StudentDocumentEmbedder,
    StudentMultiViewDocumentEmbedder,
    StudentSparseDocumentEmbedder,
    StudentSparseTextEmbedder,
    StudentTextEmbedder,
)
from haystack_integrations.components.rankers.retort import StudentRanker
from haystack_integrations.components.readers.retort import ExtractiveAnswerer
from retort.students import Ranker, Student
from retort.students.loading import DeviceError, PrecisionError
from retort.trainers.evaluation.exports import export_student
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher
from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher
from retort.trainers.teachers.sparse_encoder import SparseEncoderTeacher
from retort.trainers.teachers.trained_in_run import TrainedInRunRanker

COMPONENTS = (
    StudentTextEmbedder,
    StudentDocumentEmbedder,
    StudentSparseTextEmbedder,
    StudentSparseDocumentEmbedder,
    StudentMultiViewDocumentEmbedder,
    StudentRanker,
    ExtractiveAnswerer,
)
UNKNOWN = ["fp16", "float16", "bf16", "BFLOAT16", "no", "", True, 1.5, ["float32"]]
QUANTIZATIONS = ["binary", "ubinary", "uint8"]


@pytest.mark.parametrize("value", [*UNKNOWN, *QUANTIZATIONS])
def test_unknown_precisions_are_refused_everywhere(value, tiny_student, tiny_ranker, tmp_path):
    """They ran in bfloat16; those of Haystack's own embedders mean something else."""
    calls = [
        lambda: Student.load(tiny_student, device="cpu", precision=value),
        lambda: Student.load(tiny_student, device="cpu", precision=value, backend="onnx"),
        lambda: Ranker.load(tiny_ranker, device="cpu", precision=value),
        *(lambda kind=kind: kind(model="nowhere", precision=value) for kind in COMPONENTS),
        *(
            lambda kind=kind: kind(model="nowhere", precision=value)
            for kind in (BiEncoderTeacher, CrossEncoderTeacher, SparseEncoderTeacher)
        ),
        lambda: TrainedInRunRanker(student={}, stages=[], precision=value),
    ]
    for call in calls:
        with pytest.raises(PrecisionError, match="precision=.*must be one of float32, bfloat16, auto, int8") as refused:
            call()
        both = "model's arithmetic; the `precision` of Haystack's own embedders is the embeddings' quantization"
        assert (both in str(refused.value)) is (value in QUANTIZATIONS)
    with pytest.raises(PrecisionError, match="exports have float32 and int8"):
        export_student(tmp_path, precision=value)


def test_int8_without_an_export_names_both_meanings(tiny_student):
    with pytest.raises(ValueError, match=r"has no int8 export. Make it: .* Here precision is the model's arithmetic"):
        StudentTextEmbedder(model=tiny_student, precision="int8", device=ComponentDevice.from_str("cpu")).warm_up()


@pytest.mark.parametrize("kind", COMPONENTS)
def test_backend_and_threads(kind):
    for parameters, message in (
        ({"backend": "openvino"}, "backend='openvino': must be one of auto, torch, onnx"),
        ({"threads": 0}, "threads must be above 0; it is 0"),
        ({"threads": 1.5}, "threads must be a whole number; it is 1.5"),
        ({"threads": "2"}, "threads must be a whole number; it is '2'"),
        ({"device": 0}, "device=0: must be a ComponentDevice, or a text such as cpu"),
        ({"device": ["cpu"]}, r"device=\['cpu'\]: must be a ComponentDevice, or a text"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(model="nowhere", **parameters)
    known = {"precision": "auto", "backend": "torch", "threads": 2}
    data = component_to_dict(kind(model="nowhere", **known), "c")
    assert data["init_parameters"].items() >= known.items()
    data["init_parameters"]["precision"] = "binary"
    with pytest.raises(Exception, match="precision='binary'"):
        component_from_dict(kind, data, "c")


@pytest.mark.parametrize("device", ["gpu", "CPU", "", "cuda:97"])
def test_a_device_that_is_not_there(device, tiny_student):
    with pytest.raises(DeviceError, match=f"device='{device}': torch cannot use it here .*or set cpu"):
        Student.load(tiny_student, device=device)


def test_what_is_known_runs_as_it_says(tiny_student):
    assert Student.load(tiny_student, device="cpu", precision="float32").model.dtype == torch.float32
    assert Student.load(tiny_student, device="cpu", precision=None).model.dtype == torch.float32
