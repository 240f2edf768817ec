"""Several processes on one batch, on one machine: a GPU each, or cores of the CPU. torch.distributed does the talking.

Each process has the same network and takes its share of every batch; gradients are averaged before the optimiser's step. As all
processes draw the same batches, augmentation and start vectors, and as hardest positives and negatives are looked for in the
whole batch, the gradients are those of one process up to rounding, but for what a layer takes from its own share alone: the
statistics of batch normalisation (unless it is synchronised) and dropout.
"""

import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed
import torch.multiprocessing

from reidlib import progress
from reidlib.errors import ReidError

PATIENCE = timedelta(hours=2)  # for a process that waits while the first one scores; NCCL's own ten minutes are too short


@dataclass(frozen=True)
class Share:
    """What one process does of a batch. Alone (rank 0 of 1) it does all, and nothing here needs torch.distributed."""

    rank: int = 0
    count: int = 1

    def of(self, batch: int) -> slice:
        """The rows of a batch that are this process's."""
        size, rest = divmod(batch, self.count)
        if rest:
            raise ReidError(f"A batch of {batch} cannot be shared evenly among {self.count} processes.")
        return slice(self.rank * size, (self.rank + 1) * size)

    def gathered(self, own: torch.Tensor) -> torch.Tensor:
        """(b, D) of each process → (B, D), the same everywhere; a gradient flows to the own rows only (see `scaled`)."""
        if self.count == 1:
            return own
        everyone = [torch.empty_like(own) for _ in range(self.count)]
        torch.distributed.all_gather(everyone, own.detach().contiguous())
        everyone[self.rank] = own
        return torch.cat(everyone)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """A loss of gathered rows with its gradient times the number of processes.

        Each process has the gradient towards its own rows; their sum is the whole, where the mean is taken afterwards.
        """
        return loss if self.count == 1 else loss.detach() + self.count * (loss - loss.detach())

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over processes of a tensor without gradient, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
            values /= self.count
        return values

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Puts the mean over processes in place of each parameter's gradient, in one message for each type of number."""
        if self.count == 1:
            return
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            mean = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
                gradient.copy_(part.view(gradient.shape))

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            torch.distributed.barrier()


ALONE = Share()


def require_devices(count: int, device: torch.device) -> None:
    """Raises ReidError where there are fewer GPUs than processes; cores of a CPU are shared."""
    if device.type == "cuda" and count > torch.cuda.device_count():
        raise ReidError(
            f"processes = {count}, but this machine has {torch.cuda.device_count()} GPUs, and each process needs one. "
            f"Set processes to {torch.cuda.device_count()} or fewer."
        )


def run_in_processes(count: int, device: torch.device, work: Callable[..., None], *arguments: object) -> None:
    """work(share, device, *arguments) in `count` new processes that can talk to each other; returns when all are done.

    Args:
        device: "cuda" gives each process a GPU of its own; on "cpu" they share the threads of this one.
        work: a function of a module, since it is called by name in the new processes.

    Raises:
        ReidError: too few GPUs, a process was killed, or the error that one of them raised.
    """
    require_devices(count, device)
    with tempfile.TemporaryDirectory(prefix="reidlib-") as place:
        threads = max(1, torch.get_num_threads() // count)
        try:
            settings = (count, device.type, threads, place, os.getpid(), work, arguments)
            context = torch.multiprocessing.spawn(_process, settings, nprocs=count, join=False)
            try:
                while not context.join():
                    pass
            finally:  # an interrupt, too, ends those that are still there
                for process in context.processes:
                    process.kill()
                    process.join()
        except torch.multiprocessing.ProcessExitedException as error:
            number = -error.exit_code
            how = f"killed by {signal.Signals(number).name}" if number > 0 else f"ended with exit status {error.exit_code}"
            raise ReidError(
                f"Process {error.error_index + 1} of {count} was {how}. If nobody did that, the machine ran out of memory: set a "
                "smaller batch_size or fewer processes. What was saved is there; the same command goes on from it."
            ) from None
        except torch.multiprocessing.ProcessRaisedException:
            raised = sorted(Path(place).glob("error-*"))
            if not raised:
                raise
            raise pickle.loads(raised[0].read_bytes()) from None  # written by a process of this very call


def _process(
    rank: int, count: int, kind: str, threads: int, place: str, parent: int, work: Callable[..., None], arguments: tuple
) -> None:
    """One of the processes of `run_in_processes`, from its start to its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    if rank:
        progress.silence()
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    store = torch.distributed.FileStore(str(Path(place) / "rendezvous"), count)  # a URL would not do for every folder's name
    store.set_timeout(PATIENCE)
    torch.distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )
    try:
        work(Share(rank, count), device, *arguments)
    except ReidError as error:
        unfinished = Path(place) / f"{rank}.tmp"
        unfinished.write_bytes(pickle.dumps(error))
        unfinished.rename(Path(place) / f"error-{rank:04d}")
        raise
    # Not after an error: NCCL would wait there for what the others never send, and this process is to end and be noticed.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _end_with(parent: int) -> None:
    """Ends this process, wherever it is waiting, once the one that started it is gone, however that ended."""
    while psutil.pid_exists(parent) and os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)
