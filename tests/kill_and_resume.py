"""Kill runs at random moments, resume them, and compare every loss with that of a run left alone.

    python tests/kill_and_resume.py FOLDER

The last line printed is a JSON summary. Lives are forked from one server that has imported everything, so that a kill
costs a fraction of a second; each is a real process with its own JAX runtime, killed with SIGKILL.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor


KILLS = {"memory": 8, "grain": 8, "workers": 5}


def begin(context, kind, folder, cache, pause, *, saves=True):
    folder.mkdir(exist_ok=True)
    process = context.Process(
        target=importlib.import_module("kill_worker").live, args=(kind, str(folder), str(cache), pause, saves)
    )
    process.start()
    return process


def end(process):
    """SIGKILL for the run, then for the workers that it leaves behind."""
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def wait_for_news(process, ledger, lines):
    """Until the ledger is so many lines longer, or the run has ended."""
    count = lambda: ledger.read_bytes().count(b"\n") if ledger.exists() else 0  # noqa: E731
    enough = count() + lines
    until = time.monotonic() + 30
    while process.exitcode is None and count() < enough and time.monotonic() < until:
        time.sleep(0.01)


def finish(process, folder):
    process.join(200)
    if process.exitcode != 0 or not (folder / "finished").exists():
        end(process)
        raise RuntimeError(f"{folder}: the run did not finish (exit code {process.exitcode}).")


def torture(context, kind, base, cache):
    alone, killed = base / f"{kind}-alone", base / f"{kind}-killed"
    run = begin(context, kind, alone, cache, 0.0, saves=False)
    finish(run, alone)
    clock, kills, early = random.Random(kind), 0, 0
    while kills < KILLS[kind]:
        run = begin(context, kind, killed, cache, 0.05)
        if kills % 4 == 3:  # while starting, restoring or compiling
            run.join(clock.uniform(0.1, 1.5))
        else:  # while training or saving
            wait_for_news(run, killed / "losses", lines=clock.randint(2, 4))
            run.join(clock.uniform(0.0, 0.3))
        if run.exitcode is not None:
            break  # finished before all the kills
        end(run)
        kills += 1
        early += not any(path.name.isdigit() for path in (killed / "run").glob("*"))
    else:
        run = begin(context, kind, killed, cache, 0.0)
        finish(run, killed)
    expected = dict(line.split() for line in (alone / "losses").read_text().splitlines())
    seen = [line.split() for line in (killed / "losses").read_text().splitlines()]
    wrong = [(step, loss, expected.get(step)) for step, loss in seen if expected.get(step) != loss]
    if wrong:
        print(kind, "differs:", wrong[:5])
    return {
        "kills": kills,
        "kills_before_first_checkpoint": early,
        "dispatches_repeated": len(seen) - len(expected),
        "identical": not wrong and {step for step, _ in seen} == set(expected) and len(expected) > 0,
    }


def main():
    base = pathlib.Path(sys.argv[1])
    here = str(pathlib.Path(__file__).parent)
    sys.path.insert(0, here)
    # The server ignores what it cannot import, and every life would then import it all again.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    importlib.import_module("kill_worker")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_worker"])
    began = time.time()
    with ThreadPoolExecutor(len(KILLS)) as pool:
        jobs = {kind: pool.submit(torture, context, kind, base, base / "cache") for kind in KILLS}
        summary = {kind: job.result() for kind, job in jobs.items()}
    print(f"{time.time() - began:.0f} s")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
