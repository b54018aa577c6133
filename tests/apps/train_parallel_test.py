"""gsa train in several processes on the CPU, started by mpirun: what they compute and how they end."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest
from conftest import PROGRAM, Result

MPIRUN = shutil.which("mpirun")
pytestmark = pytest.mark.skipif(MPIRUN is None, reason="needs mpirun (Debian package openmpi-bin)")

# The sums are f32 in another order: 1e-6 at a loss of 6, and steps make more of it. (With bf16, every micro-batch
# rounds its gradients, which is 1e-3.)
TOLERANCE = 2e-5
FAR = 1e-2  # what another batch, a lost or a doubled row would do


@pytest.fixture(scope="module")
def shard(gsa, model, tmp_path_factory):
    """Token ids of random sentences."""
    folder = tmp_path_factory.mktemp("text")
    words = "the quick brown fox jumps over a lazy dog and one more cat sees it all".split()
    draw = random.Random(3)
    (folder / "text.txt").write_text(" ".join(draw.choice(words) for _ in range(4000)))
    done = gsa("train", "prepare", "cpt", "--model", model, "--row-len", 64, "--out", folder / "text.shard",
               folder / "text.txt", "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    return folder / "text.shard"


class Training:
    """One training, in a folder of its own."""

    def __init__(self, model, shard, out, steps):
        self.out = out
        self.arguments = [
            PROGRAM, "train", "cpt", "--model", model, "--data", shard, "--out", out, "--steps", steps, "--rows", 4,
            "--row-len", 64, "--dtype", "f32", "--chunks", "4,8,4-4", "--train", "full", "--lr", 1e-3, "--max-spike", 100,
            "--threads", 1, "--loader-threads", 1, "--quiet",
        ]  # fmt: skip

    def start(self, processes, *options):
        launcher = []
        if processes > 1:
            launcher = [MPIRUN, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", processes]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:  # LeakSanitizer would name what OpenMPI keeps
            environment["ASAN_OPTIONS"] = "detect_leaks=0"
        command = [str(part) for part in [*launcher, *self.arguments, *options]]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=environment)  # fmt: skip

    def end(self, started):
        out, err = started.communicate(timeout=60)
        return Result(subprocess.CompletedProcess(started.args, started.returncode, out, err))

    def run(self, processes, *options):
        done = self.end(self.start(processes, *options))
        assert done.code == 0, done.err
        return self.losses()

    def losses(self):
        """Loss by step; the steps are complete and in order."""
        records = [json.loads(line) for line in (self.out / "log.jsonl").read_text().splitlines()]
        losses = [record["loss"] for record in records if isinstance(record.get("loss"), float)]
        assert [record["step"] for record in records if isinstance(record.get("loss"), float)] == list(
            range(1, len(losses) + 1)
        )
        return losses

    def wait_for_checkpoint(self, started, step):
        """Returns once there is a checkpoint of this step or a later one."""
        deadline = time.monotonic() + 60
        while not any(int(re.search(r"\d+", path.name)[0]) >= step for path in (self.out / "checkpoints").glob("*")):
            assert started.poll() is None, started.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)


def child_of_rank(mpirun, rank):
    """The process that mpirun gave this rank."""
    mark = f"OMPI_COMM_WORLD_RANK={rank}\0".encode()
    for child in open(f"/proc/{mpirun.pid}/task/{mpirun.pid}/children").read().split():
        if mark in open(f"/proc/{child}/environ", "rb").read():
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


@pytest.fixture
def training(model, shard, tmp_path):
    return lambda name, steps=5: Training(model, shard, tmp_path / name, steps)


def test_processes_and_micro_batches_leave_the_losses_alone(training):
    expected = training("one").run(1)
    assert len(expected) == 5
    assert abs(expected[0] - expected[-1]) > FAR  # it does learn
    for processes, micro_batches in [(1, 2), (2, 1), (2, 2)]:
        run = training(f"{processes}-{micro_batches}")
        assert run.run(processes, "--micro-batches", micro_batches) == pytest.approx(expected, abs=TOLERANCE)


def test_a_run_goes_on_with_other_numbers_of_processes(training):
    steps = 60
    run = training("parts", steps)
    # SIGTERM to any process: all stop behind the same step, and the first saves.
    started = run.start(2, "--save-minutes", 0)
    run.wait_for_checkpoint(started, 2)
    os.kill(child_of_rank(started, 1), signal.SIGTERM)
    stopped = run.end(started)
    assert stopped.code != 0
    assert "--resume" in stopped.err
    num_done = len(run.losses())
    assert 2 <= num_done < steps

    # A process that is killed takes the others with it, and mpirun names it.
    started = run.start(4, "--save-minutes", 0, "--resume")
    run.wait_for_checkpoint(started, num_done + 2)
    os.kill(child_of_rank(started, 3), signal.SIGKILL)
    killed = run.end(started)
    assert killed.code != 0
    assert re.search(r"rank 3 .*signal 9", killed.err), killed.err

    losses = run.run(1, "--resume")
    expected = training("whole", steps).run(1)
    assert len(losses) == len(expected) == steps
    assert losses[: num_done + 2] == pytest.approx(expected[: num_done + 2], abs=TOLERANCE)
    assert losses == pytest.approx(expected, abs=FAR)  # differences of rounding have grown for 60 steps


def test_torchrun_is_for_gpus(training):
    run = training("torchrun")
    environment = {**os.environ, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    done = subprocess.run([str(part) for part in run.arguments], capture_output=True, env=environment, timeout=60)
    result = Result(done)
    assert result.code == 2
    assert "mpirun -n 2 gsa train" in result.error_line()
    assert not run.out.exists()


def test_rows_that_cannot_be_divided_are_refused(training):
    run = training("odd")
    result = run.end(run.start(2, "--micro-batches", 3))
    assert result.code != 0
    assert "gsa: error: train: 4 rows per step cannot be shared by 2 workers in 3 micro-batches" in result.err


def test_workers_share_the_validation(training, shard):
    expected = None
    for processes in (1, 2):
        run = training(f"scored-{processes}", steps=2)
        # Three windows: one worker of two has more of them.
        run.run(processes, "--validation", shard, "--eval-windows", 3, "--eval-chunks", "full,8", "--eval-every", 1)
        records = [json.loads(line) for line in (run.out / "log.jsonl").read_text().splitlines()]
        scores = [value for record in records if "eval" in record for value in record["eval"].values()]
        assert len(scores) == 3 * 2  # before the first step and behind both, two policies
        expected = expected or scores
        assert scores == pytest.approx(expected, abs=TOLERANCE)
