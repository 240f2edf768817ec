"""Trains in several processes of one machine, with a GPU each or on cores of the CPU (torch.distributed).

Each process has the same network and takes its share of every batch. Gradients are averaged before the
optimiser's step. All processes draw the same batches, augmentation and start vectors, and hardest positives
and negatives come from the whole batch. So the gradients are those of one process up to rounding, with two
exceptions, where a process only knows its share: batch normalisation (unless synchronised) and dropout.
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

from reidlib.errors import ReidError
from reidlib.progress import silence

# How long processes wait while the first one scores. NCCL's default of ten minutes is too short.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Share:
    """One process's part of every batch. A single process (rank 0 of 1) does not need torch.distributed."""

    rank: int = 0
    count: int = 1

    def of(self, batch: int) -> slice:
        """This process's rows of a batch. Raises ReidError if the batch cannot be shared evenly."""
        size, rest = divmod(batch, self.count)
        if rest:
            raise ReidError(f"A batch of {batch} cannot be shared evenly among {self.count} processes.")
        return slice(self.rank * size, (self.rank + 1) * size)

    def gathered(self, own: torch.Tensor) -> torch.Tensor:
        """(b, D) of each process → (B, D) in all. Only a process's own rows get a gradient (see `scaled`)."""
        if self.count == 1:
            return own
        everyone = [torch.empty_like(own) for _ in range(self.count)]
        torch.distributed.all_gather(everyone, own.detach().contiguous())
        everyone[self.rank] = own
        return torch.cat(everyone)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """A loss of gathered rows, with its gradient multiplied by the number of processes.

        Each process only has the gradient of its own rows, so the whole gradient is the sum over processes.
        `average_gradients` takes the mean later; the factor makes it a sum.
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
        """Replaces each parameter's gradient by its mean over processes, with one message per dtype."""
        if self.count == 1:
            return
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            mean = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(
                gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True
            ):
                gradient.copy_(part.view(gradient.shape))

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()


ALONE = Share()


def require_devices(count: int, device: torch.device) -> None:
    """Raises ReidError if there are fewer GPUs than processes. On a CPU, processes share the cores."""
    if device.type == "cuda" and count > torch.cuda.device_count():
        raise ReidError(
            f"processes = {count}, but this machine has {torch.cuda.device_count()} GPUs, and each process "
            f"needs one. Set processes to {torch.cuda.device_count()} or fewer."
        )


def run_in_processes(count: int, device: torch.device, work: Callable[..., None], *arguments: object) -> None:
    """Runs work(share, device, *arguments) in `count` new, connected processes. Returns when all are done.

    Args:
        device: "cuda" gives each process its own GPU; on "cpu" they share this process's threads.
        work: a function at the top level of a module: the new processes import it by name.

    Raises:
        ReidError: there are too few GPUs, a process was killed, or a process raised this error.
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
            finally:  # after an interrupt, too, no process may be left
                for process in context.processes:
                    process.kill()
                    process.join()
        except torch.multiprocessing.ProcessExitedException as error:
            number = -error.exit_code
            how = (
                f"killed by {signal.Signals(number).name}"
                if number > 0
                else f"ended with exit status {error.exit_code}"
            )
            raise ReidError(
                f"Process {error.error_index + 1} of {count} was {how}. If nobody did that, the machine ran "
                "out of memory: set a smaller batch_size or fewer processes. What was saved is there; the "
                "same command goes on from it."
            ) from None
        except torch.multiprocessing.ProcessRaisedException:
            raised = sorted(Path(place).glob("error-*"))
            if not raised:
                raise
            raise pickle.loads(raised[0].read_bytes()) from None  # safe: a process of this call wrote it


def _process(
    rank: int,
    count: int,
    kind: str,
    threads: int,
    place: str,
    parent: int,
    work: Callable[..., None],
    arguments: tuple,
) -> None:
    """Runs one process of `run_in_processes`, from its start to its end."""
    # Background jobs of a shell start with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    if rank:
        silence()
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    # Not a file:// URL, which fails for some folder names.
    store = torch.distributed.FileStore(str(Path(place) / "rendezvous"), count)
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
    # Not after an error: NCCL would wait for data that never comes, and the parent could not see the error.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _end_with(parent: int) -> None:
    """Ends this process, even while it waits, when its parent process is gone for any reason."""
    while psutil.pid_exists(parent) and os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)
