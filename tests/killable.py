# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Runs commands that are killed at a given moment, each in a fork of a process that has imported everything.

A process of its own, started by `Killable`: it reads `{arguments, folder, traced, event, seconds}` a line and answers
with `{status, events, seconds, said}`. A command is killed by SIGKILL at its `event`-th change of names or contents
below `folder`, or after `seconds` of processor time. ONNX graphs are traced once and kept in `traced`: that takes far
longer than all else, and writes nothing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psutil

NAMES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killable:
    """Commands of retort in processes that can be killed at any moment."""

    def __enter__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait()

    def run(self, arguments, folder, traced, *, event=None, seconds=None) -> dict:
        """Run a command: its status, how often it changed something below `folder`, seconds and what it said."""
        asked = {"arguments": list(map(str, arguments)), "folder": str(folder), "traced": str(traced)}
        asked |= {"event": event, "seconds": seconds}
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def execute(asked: dict, said, counted) -> None:
    """Run the command in this process, which ends here."""
    from retort.cli import main
    from retort.students.backends import onnx

    real, kept = onnx._trace, os.path.join(asked["traced"], "traced.onnx")

    def trace(modules, output, path, *more):
        if not os.path.exists(kept):
            real(modules, output, path, *more)
            shutil.copyfile(path, kept)
        modules[0].preprocess(onnx._SAMPLE)  # as tracing does: the tokenizer keeps how it was last called
        shutil.copyfile(kept, path)

    onnx._trace = trace
    events = 0

    def seen(name, given):
        nonlocal events
        changes = name in NAMES or (name == "open" and isinstance(given[2], int) and given[2] & WRITES)
        if changes and isinstance(given[0], str | os.PathLike) and os.fspath(given[0]).startswith(asked["folder"]):
            events += 1
            if events == asked["event"]:
                os.kill(os.getpid(), signal.SIGKILL)

    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    sys.addaudithook(seen)
    status = 0
    try:
        main(asked["arguments"])
    except SystemExit as stopped:
        status = stopped.code
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(counted, str(events).encode())
    os._exit(status)


def serve() -> None:
    import onnxruntime.quantization
    import onnxscript
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer

    import haystack_integrations.document_stores.retort
    import retort.cli.ask
    import retort.cli.compare
    import retort.cli.distill
    import retort.cli.export
    import retort.cli.index
    import retort.cli.train

    _ = (onnxruntime.quantization, onnxscript, CrossEncoder, SentenceTransformer, haystack_integrations, retort)
    torch.set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        counts, counted = os.pipe()
        with tempfile.TemporaryFile("w+") as said:
            if (child := os.fork()) == 0:
                os.close(counts)
                execute(asked, said, counted)
            os.close(counted)
            process, seconds = psutil.Process(child), 0.0
            while process.status() != psutil.STATUS_ZOMBIE:
                seconds = sum(process.cpu_times()[:2])
                if asked["seconds"] is not None and seconds > asked["seconds"]:
                    os.kill(child, signal.SIGKILL)
                    break
                time.sleep(0.002)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said.seek(0)
            events = int(os.read(counts, 100) or 0)
            os.close(counts)
            answer = {"status": status, "events": events, "seconds": seconds, "said": said.read()[-3000:]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
