"""What the processes of a run exchange: sums, values of the first process, rows, and the wish to stop.

Everything here is the identity for one process, which never imports torch.distributed. Processes share the rows of every batch by
position, so that neither data order nor plan depends on their number.
"""

import atexit
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from mtlcli.distributed.heartbeat import Heartbeat
from mtlcli.distributed.launch import Launch, find_launch
from mtlcli.errors import MtlError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

T = TypeVar("T")

MEET_SECONDS = 300.0
"""Seconds in which all processes must have started."""
WAIT_SECONDS = 3600.0
"""Seconds that processes wait for each other outside of a step: while one reads data, evaluates or saves."""
STEP_SECONDS = 25.0
"""Seconds that a process waits for the others within a step, unless MTL_STEP_SECONDS says otherwise."""
HANG_STEPS = 3
"""How many times as long, between steps, a process waits for another one that gives no sign of life. It is long because a mistake would
end a healthy run."""


class ProcessLost(MtlError):
    """Report that another process of the run ended or does not answer. The command line exits with code 1."""


class World:
    """The processes of a run. They connect at the first exchange, so that mistakes are found before.

    Attributes:
        launch: what started this process.
        rank: number of this process, from 0.
        size: number of processes.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch, self.rank, self.size = launch, launch.rank, launch.size
        self._store: Any = None
        self._step_group: Any = None
        self._heartbeat: Heartbeat | None = None
        self._where = "before the first step"

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files and prints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Return whether there is no other process."""
        return self.size == 1

    def at(self, where: str) -> None:
        """Say what the run is doing, for the message about a process that ended."""
        self._where = where

    def share(self, count: int) -> slice:
        """Return the positions of a list of `count` that this process works on.

        Every `size`-th position: rows of a batch are sorted by length, so consecutive ones would give one process the longest.
        """
        return slice(self.rank, count, self.size)

    def sum_(self, tensor: "Tensor", *, in_step: bool = False) -> None:
        """Replace a tensor by its sum over the processes."""
        if self.size > 1:
            import torch.distributed as dist

            with self._connected():
                dist.all_reduce(tensor, group=self._step_group if in_step else None)

    def start_sum(self, tensor: "Tensor") -> Callable[[], None]:
        """Start to replace a tensor by its sum, and return a function that waits for the end."""
        if self.size == 1:
            return lambda: None
        import torch.distributed as dist

        with self._connected():
            work = dist.all_reduce(tensor, group=self._step_group, async_op=True)

        def wait() -> None:
            with self._connected():
                work.wait()

        return wait

    def same(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the first process, the only one that calls it.

        Raises:
            MtlError: in every process, where `make` raises it.
        """
        if self.size == 1:
            return make()
        outcome: tuple[Any, tuple[str, ...] | None] = (None, None)
        if self.is_main:
            try:
                outcome = (make(), None)
            except MtlError as error:
                outcome = (None, error.lines)
        value, lines = self._broadcast(outcome)
        if lines is not None:
            raise MtlError(*lines)
        made: T = value
        return made

    def _broadcast(self, value: Any) -> Any:
        import torch.distributed as dist

        box = [value]
        with self._connected():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def same_tensors(self, make: Callable[[], Mapping[str, "Tensor"]]) -> Mapping[str, "Tensor"]:
        """Return the tensors, on the CPU, that `make` returns in the first process, the only one that calls it.

        Raises:
            MtlError: in every process, where `make` raises it.
        """
        if self.size == 1:
            return make()
        import torch

        held: Mapping[str, Tensor] = {}

        def shapes() -> list[tuple[str, torch.Size, torch.dtype]]:
            nonlocal held
            held = make()
            return [(name, tensor.shape, tensor.dtype) for name, tensor in held.items()]

        layout = self.same(shapes)
        if not self.is_main:
            held = {name: torch.empty(shape, dtype=dtype) for name, shape, dtype in layout}
        # In the order of the first process, because broadcasts are matched by their order alone.
        sent = {name: held[name].detach().cpu().contiguous() for name, _, _ in layout}
        self.copy_(sent.values())
        return sent

    def copy_(self, tensors: Iterable["Tensor"]) -> None:
        """Copy these tensors from the first process into those of the others."""
        if self.size > 1:
            import torch
            import torch.distributed as dist

            with self._connected():
                for tensor in tensors:
                    # Not every version of gloo supports booleans; the view has the same bytes.
                    dist.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, src=0)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self._connected():
            dist.all_gather_object(values, value)
        return values

    def in_order(self, parts: Sequence[T], count: int) -> list[T]:
        """Return a list of `count` items from the items of every process, which it computed for the positions of its share."""
        if self.size == 1:
            return list(parts)
        items: list[Any] = [None] * count
        for rank, of_rank in enumerate(self.gather(list(parts))):
            items[rank :: self.size] = of_rank
        return items

    def must_agree(self, what: Mapping[str, object]) -> None:
        """Raise MtlError in every process if the values of one differ from those of the first; the values are compared as text."""
        if self.size == 1:
            return
        texts = {name: str(value) for name, value in what.items()}
        host = socket.gethostname()
        values = self.gather((host, texts))
        for rank, (host, of_rank) in enumerate(values):
            for name, text in values[0][1].items():
                if of_rank.get(name) != text:
                    raise MtlError(
                        f"process {rank} ({host}): {name}: not the same as in process 0; give every machine the same files, "
                        "packages and command"
                    )

    def first_to_report(self, text: str) -> bool:
        """Return whether this process is the first one to report an error of this text."""
        if self._heartbeat is None or self._heartbeat.has_lost:
            return True
        # Without a store, a repeated line is better than none.
        with suppress(Exception):
            return int(self._store.add(f"reported/{hash_of(text)}", 1)) == 1
        return True

    def leave(self) -> None:
        """Wait until every process has come to its end: the first one holds what the others still use."""
        if self._heartbeat is not None:
            self.gather(None)
            self._heartbeat.end()

    def _disconnect(self) -> None:
        """End the thread and the connections; the interpreter must not end while they are in use."""
        import torch.distributed as dist

        if self._heartbeat is not None:
            self._heartbeat.end()
        if dist.is_initialized():
            dist.destroy_process_group()
        atexit.unregister(self._disconnect)

    @contextmanager
    def _connected(self) -> "Iterator[None]":
        """Connect at the first use. Raise ProcessLost where an exchange fails.

        Raises:
            ProcessLost: with the number of the process that ended, as far as it can be found out.
        """
        heartbeat = self._heartbeat = self._heartbeat or self._connect()
        try:
            with heartbeat.waiting():
                yield
        # gloo, NCCL and the store raise it for a lost connection and for a timeout.
        except RuntimeError as error:
            raise ProcessLost(f"{heartbeat.find_lost()} ({first_sentence(error)})") from error

    @contextmanager
    def in_passes(self) -> "Iterator[None]":
        """Detect lost processes while the layers of an encoder are gathered, which FSDP does by calls of its own.

        Raises:
            ProcessLost: an exchange failed, and a process is lost.
        """
        if self._heartbeat is None:
            yield
            return
        try:
            with self._heartbeat.waiting():
                yield
        except RuntimeError as error:
            lost = self._heartbeat.find_lost()
            # Any other error of the computation stays as it is.
            if not self._heartbeat.has_lost:
                raise
            raise ProcessLost(f"{lost} ({first_sentence(error)})") from error

    def _connect(self) -> Heartbeat:
        import torch
        import torch.distributed as dist

        place = self.launch
        # The rendezvous below reads these, and srun does not set them.
        os.environ.update(
            RANK=f"{place.rank}", WORLD_SIZE=f"{place.size}", MASTER_ADDR=place.address, MASTER_PORT=f"{place.port}"
        )
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            if place.local_rank >= torch.cuda.device_count():
                raise MtlError(
                    f"{place.local_size} processes on a machine with {torch.cuda.device_count()} GPUs: start at most one for each "
                    f"GPU (--nproc-per-node {torch.cuda.device_count()}), or hide the GPUs with CUDA_VISIBLE_DEVICES="
                )
            torch.cuda.set_device(place.local_rank)
        elif os.environ.get("OMP_NUM_THREADS") in (None, "1"):
            # torchrun sets one thread a process, whatever the machine has.
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(max(1, cores // place.local_size))
        seconds = step_seconds()
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=MEET_SECONDS)))
            store.set_timeout(timedelta(seconds=MEET_SECONDS))
            # torchrun keeps its store over restarts, so keys of an earlier attempt must not be found.
            self._store = dist.PrefixStore(f"mtl/{place.restarts}", store)
            dist.init_process_group(
                # Objects and k x k numbers are on the CPU also in a run on GPUs.
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                store=dist.PrefixStore(f"groups/{place.restarts}", store),
                rank=place.rank,
                world_size=place.size,
                timeout=timedelta(seconds=WAIT_SECONDS),
            )
            # A timeout belongs to a group: a step is short, while an evaluation or a save may take long.
            self._step_group = dist.new_group(timeout=timedelta(seconds=seconds))
            # The first process, or torchrun, listens already. Calls to a store block each other, so the heartbeats have their own client.
            of_heartbeat = dist.TCPStore(place.address, place.port, is_master=False, wait_for_workers=False)
        except (RuntimeError, ValueError) as error:
            raise ProcessLost(
                f"process {place.rank}: cannot reach the others at {place.address}:{place.port} ({first_sentence(error)}); on "
                "machines with several networks, set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the one between them, such as "
                "eth0"
            ) from error
        by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        heartbeat = Heartbeat(
            dist.PrefixStore(f"heartbeat/{place.restarts}", of_heartbeat),
            self.rank,
            self.size,
            holder=f"torchrun at {place.address}:{place.port}" if by_torchrun else 0,
            patience=HANG_STEPS * seconds,
            where=lambda: self._where,
        )
        heartbeat.start()
        atexit.register(self._disconnect)
        return heartbeat


def hash_of(text: str) -> str:
    """Return a short key for a text."""
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def step_seconds() -> float:
    """Return how long a process waits for the others within a step.

    Raises:
        MtlError: MTL_STEP_SECONDS is no number above 0.
    """
    text = os.environ.get("MTL_STEP_SECONDS") or f"{STEP_SECONDS}"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise MtlError(f'MTL_STEP_SECONDS: found "{text}": expected a number of seconds above 0')
    return seconds


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error of torch.distributed, without the place in its source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[\S+:\d+\] ", "", lines[0]).partition(". ")[0][:200]


@cache
def world() -> World:
    """Return the processes of this run; one where nothing has started several.

    Raises:
        MtlError: the environment variables of the starter contradict each other.
    """
    return World(find_launch())


def is_connected() -> bool:
    """Return whether this process has met the others of its run."""
    return world.cache_info().currsize == 1 and world()._heartbeat is not None
