# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`python -m retort.cli`, also under `accelerate launch -m`."""

from retort.cli.main import main

main()
