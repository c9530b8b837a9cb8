# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
from haystack_integrations.components.trainers.retort.distillation_trainer import DistillationTrainer

__all__ = ["DistillationTrainer"]
